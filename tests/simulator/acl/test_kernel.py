"""Binaries and launches: what a chip takes, what it refuses, and what becomes of a kernel that does wrong."""

from __future__ import annotations

import ctypes
import random
import struct

import pytest

from unify.simulator.section import ASCEND_NAME, empty_elf, with_section

from .driver import AICORE, CUBE, PREFIX, VECTOR, Acl, image, launch_arguments, load_options, words

ADD = "((float*)args[3])[i] += 1.0f;"


def loaded(acl: Acl, content: bytes, magic: int = VECTOR) -> str:
    out, size = ctypes.c_uint64(), ctypes.c_size_t(len(content))
    return acl.result("aclrtBinaryLoadFromData", content, size, load_options(magic), ctypes.byref(out))


def test_a_kernel_runs_over_its_blocks(acl: Acl) -> None:
    function = acl.function(image("add", ADD), "add")
    data = acl.upload(struct.pack("<1000f", *range(1000)))
    acl.launch(function, words(data), 1000)
    acl.aclrtSynchronizeStream(None)
    assert struct.unpack("<1000f", acl.download(data, 4000)) == tuple(range(1, 1001))


def test_arguments_are_copied_when_the_launch_is_enqueued(acl: Acl) -> None:
    function, data = acl.function(image("set", "*(uint64_t*)args[3] = args[4];", ("*i64", "i64")), "set"), acl.malloc(8)
    args = bytearray(words(data, 77))
    acl.fail("aclrtLaunchKernelWithHostArgs:0:hang")
    buffer = (ctypes.c_char * len(args)).from_buffer(args)
    acl.aclrtLaunchKernelWithHostArgs(*launch_arguments(function, buffer))
    args[:] = bytes(len(args))
    acl.library.unify_simulator_release(0)
    acl.aclrtSynchronizeStream(None)
    assert acl.download(data, 8) == struct.pack("<Q", 77)


def test_arguments_can_lie_in_device_memory(acl: Acl) -> None:
    function, data = acl.function(image("set", "*(uint64_t*)args[3] = args[4];", ("*i64", "i64")), "set"), acl.malloc(8)
    args = acl.upload(words(data, 78))
    acl.aclrtLaunchKernel(function, 1, args, ctypes.c_size_t(40), None)
    acl.aclrtSynchronizeStream(None)
    assert acl.download(data, 8) == struct.pack("<Q", 78)
    acl.aclrtLaunchKernelV2(function, 1, args + (1 << 20), ctypes.c_size_t(40), None, None)
    assert acl.result("aclrtSynchronizeStream", None) == "RT_VECTOR_CORE_EXCEPTION"


def test_arguments_can_be_given_one_by_one(acl: Acl) -> None:
    function = acl.function(image("set", "*(uint64_t*)args[3] = args[4];", ("*i64", "i64")), "set")
    data, values = acl.malloc(8), acl.told("aclrtKernelArgsInit", function)
    parts = []
    for value in (0, 0, 0, data, 5):
        part = ctypes.c_uint64()
        acl.aclrtKernelArgsAppend(values, ctypes.byref(ctypes.c_uint64(value)), ctypes.c_size_t(8), ctypes.byref(part))
        parts.append(part.value)
    acl.aclrtKernelArgsParaUpdate(values, parts[4], ctypes.byref(ctypes.c_uint64(79)), ctypes.c_size_t(8))
    assert acl.result("aclrtLaunchKernelWithConfig", function, 1, None, None, values, None) == "RT_PARAM_INVALID"
    acl.aclrtKernelArgsFinalize(values)
    acl.aclrtLaunchKernelWithConfig(function, 1, None, None, values, None)
    acl.aclrtSynchronizeStream(None)
    assert acl.download(data, 8) == struct.pack("<Q", 79)


def test_what_lies_behind_the_arguments_goes_to_the_device_with_them(acl: Acl) -> None:
    body = "*(uint64_t*)args[3] = *(uint64_t*)args[4];"
    function, data = acl.function(image("set", body, ("*i64", "*i64")), "set"), acl.malloc(8)
    args = words(data, 0) + struct.pack("<Q", 80)
    holder, before = struct.pack("<II", 32, 40), acl.live("bytes")
    size, one = ctypes.c_size_t(len(args)), ctypes.c_size_t(1)
    acl.aclrtLaunchKernelWithHostArgs(function, 1, None, None, args, size, holder, one)
    acl.aclrtSynchronizeStream(None)
    assert acl.download(data, 8) == struct.pack("<Q", 80)
    assert acl.live("bytes") == before
    wrong = struct.pack("<II", 44, 40)
    assert acl.result("aclrtLaunchKernelWithHostArgs", function, 1, None, None, args, size, wrong, one) == (
        "RT_PARAM_INVALID"
    )


def test_scratch_memory_is_there_and_aligned(acl: Acl) -> None:
    body = "((uint64_t*)args[3])[0] = (uint64_t)call->scratch % 64 + (((char*)call->scratch)[99999] = 5);"
    function, data = acl.function(image("scratch", body, scratch=100000), "scratch"), acl.malloc(8)
    acl.launch(function, words(data))
    acl.aclrtSynchronizeStream(None)
    assert acl.download(data, 8) == struct.pack("<Q", 5)


def test_where_cores_meet_is_told_apart_by_device(acl: Acl) -> None:
    first = acl.made("aclrtGetHardwareSyncAddr")
    acl.aclrtSetDevice(1)
    assert acl.made("aclrtGetHardwareSyncAddr") != first != 0


@pytest.mark.parametrize(("magic", "fault"), [(VECTOR, "RT_VECTOR_CORE_EXCEPTION"), (CUBE, "RT_AICORE_EXCEPTION")])
def test_the_launcher_s_words_are_looked_at(acl: Acl, magic: int, fault: str) -> None:
    address = acl.made("aclrtGetHardwareSyncAddr")
    acl.aclrtSetDevice(1)
    foreign, foreign_address = acl.malloc(64), acl.made("aclrtGetHardwareSyncAddr")
    acl.aclrtSetDevice(0)
    data = acl.malloc(64)
    function = acl.function(image("add", ADD, prefix=PREFIX), "add", magic)

    def launched(*prefix: int) -> str:
        acl.launch(function, struct.pack("<4Q", *prefix, data))
        return acl.result("aclrtSynchronizeStream", None)

    assert launched(address, 0, 0) == launched(address, data, data) == "SUCCESS"
    assert launched(0, 0, 0) == ("SUCCESS" if magic == VECTOR else fault)  # vector cores meet nobody
    for wrong in ((foreign_address, 0, 0), (0xDEAD0000, 0, 0), (address, foreign, 0), (address, 0, 0xDEAD2000)):
        assert launched(*wrong) == fault, wrong


# ---- binaries ----


def test_what_is_no_binary_is_invalid(acl: Acl) -> None:
    for content in (b"\0" * 64, b"no binary", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(100)):
        assert loaded(acl, content) == "RT_PARAM_INVALID", content[:8]


def test_a_binary_for_a_real_chip_is_refused_in_words(acl: Acl) -> None:
    assert loaded(acl, empty_elf()) == "RT_FEATURE_NOT_SUPPORT"
    assert "only code for a real chip: compile it while the simulation is on" in acl.message()


def test_a_truncated_binary_is_refused_wherever_it_ends(acl: Acl) -> None:
    whole = image("add", ADD)
    for size in [*range(1, 200, 3), *range(200, len(whole) - 64, 97), len(whole) - 64]:
        assert loaded(acl, whole[:size]) != "SUCCESS", size
    assert loaded(acl, whole) == "SUCCESS"


def test_random_changes_of_a_binary_never_crash(acl: Acl) -> None:
    whole, chance = image("add", ADD), random.Random(7)
    for _ in range(2000):
        changed = bytearray(whole)
        where = len(whole) - 320 if chance.random() < 0.5 else 0
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(where, min(where + 320, len(whole)))] = chance.randrange(256)
        out, size = ctypes.c_uint64(), ctypes.c_size_t(len(changed))
        answer = acl.result("aclrtBinaryLoadFromData", bytes(changed), size, None, ctypes.byref(out))
        if answer == "SUCCESS":
            acl.aclrtBinaryUnLoad(out.value)


def test_a_damaged_section_is_refused(acl: Acl) -> None:
    good = image("add", ADD)
    content = good[good.index(b"UNIFYHST") :]
    for offset, value in [(0, 0), (8, 2), (12, 8), (12, 1 << 31), (16, 1 << 20), (20, 1 << 30), (32, 1 << 62), (40, 0)]:
        wrong = bytearray(content)
        struct.pack_into("<Q" if offset == 32 else "<I", wrong, offset, value)
        answer = loaded(acl, with_section(empty_elf(), ASCEND_NAME, bytes(wrong)))
        assert answer == "RT_PARAM_INVALID", (offset, value)


def test_options_of_a_binary(acl: Acl) -> None:
    content, out = image("add", ADD), ctypes.c_uint64()
    size = ctypes.c_size_t(len(content))
    for options, name in [
        (load_options(AICORE, (1, 1)), "SUCCESS"),
        (load_options(1234), "RT_PARAM_INVALID"),
        (load_options(AICORE, (3, 1)), "RT_FEATURE_NOT_SUPPORT"),
        (load_options(AICORE, (9, 1)), "RT_PARAM_INVALID"),
    ]:
        assert acl.result("aclrtBinaryLoadFromData", content, size, options, ctypes.byref(out)) == name


def test_a_kernel_is_found_by_its_name(acl: Acl) -> None:
    binary = acl.binary(image("add", ADD))
    function = acl.told("aclrtBinaryGetFunction", binary, b"add")
    assert acl.result("aclrtBinaryGetFunction", binary, b"ad", ctypes.byref(ctypes.c_uint64())) == "RT_KERNEL_LOOKUP"
    assert acl.told("aclrtFunctionGetBinary", function) == binary
    name = ctypes.create_string_buffer(4)
    acl.aclrtGetFunctionName(function, 4, name)
    assert name.value == b"add"
    acl.aclrtBinaryUnLoad(binary)
    assert acl.result("aclrtBinaryUnLoad", binary) == "RT_INVALID_HANDLE"
    assert acl.result("aclrtLaunchKernelWithHostArgs", *launch_arguments(function, words(0))) == "RT_INVALID_HANDLE"
    assert acl.live("modules") == 0


def test_a_binary_can_lie_in_a_file(acl: Acl, tmp_path: object) -> None:
    path = str(tmp_path) + "/add.o"
    with open(path, "wb") as file:
        file.write(image("add", ADD))
    assert acl.told("aclrtBinaryLoadFromFile", path.encode(), None) != 0
    out = ctypes.c_uint64()
    assert acl.result("aclrtBinaryLoadFromFile", b"/nowhere", None, ctypes.byref(out)) == "RT_FILE_OPEN"


@pytest.mark.parametrize(("magic", "kind", "where"), [(VECTOR, 2, (0, 1)), (CUBE, 1, (1, 0)), (AICORE, 3, (1, 1))])
def test_a_kernel_is_for_the_cores_of_its_binary(acl: Acl, magic: int, kind: int, where: tuple[int, int]) -> None:
    function = acl.function(image("add", ADD), "add", magic)
    value, cube, vector = ctypes.c_int64(), ctypes.c_uint64(), ctypes.c_uint64()
    acl.aclrtGetFunctionAttribute(function, 1, ctypes.byref(value))
    acl.aclrtGetFunctionAddr(function, ctypes.byref(cube), ctypes.byref(vector))
    assert value.value == kind
    assert (int(cube.value != 0), int(vector.value != 0)) == where


# ---- launches ----


@pytest.mark.parametrize(("blocks", "name"), [(1, "SUCCESS"), (65535, "SUCCESS"), (0, "RT_P"), (65536, "RT_PARAM")])
def test_a_launch_has_1_to_65535_blocks(acl: Acl, blocks: int, name: str) -> None:
    function = acl.function(image("nothing", ";"), "nothing")
    answer = acl.result("aclrtLaunchKernelWithHostArgs", *launch_arguments(function, words(0), blocks))
    assert answer.startswith(name)


def test_too_few_arguments_are_refused(acl: Acl) -> None:
    function = acl.function(image("add", ADD), "add")
    arguments = launch_arguments(function, words(0)[:-1])
    assert acl.result("aclrtLaunchKernelWithHostArgs", *arguments) == "RT_PARAM_INVALID"
    assert "The kernel's arguments have 32 bytes, 31 are given." in acl.message()


def test_a_launch_is_on_a_stream_of_the_current_context(acl: Acl) -> None:
    function, stream = acl.function(image("add", ADD), "add"), acl.stream()
    acl.aclrtSetDevice(1)
    for where, name in ((stream, "RT_STREAM_CONTEXT"), (0, "RT_PARAM_INVALID")):
        arguments = launch_arguments(function, words(0), 1, where)
        assert acl.result("aclrtLaunchKernelWithHostArgs", *arguments) == name


def test_the_attributes_of_a_launch_are_checked(acl: Acl) -> None:
    function, data = acl.function(image("add", ADD), "add"), acl.malloc(16)

    def launched(*attributes: tuple[int, int]) -> str:
        listed = b"".join(struct.pack("<II12x", id_, value) for id_, value in attributes)
        buffer = ctypes.create_string_buffer(listed, len(listed))
        config = struct.pack("<QQ", ctypes.addressof(buffer), len(attributes))
        size, none = ctypes.c_size_t(32), ctypes.c_size_t(0)
        return acl.result("aclrtLaunchKernelWithHostArgs", function, 1, None, config, words(data), size, None, none)

    assert launched((1, 1), (2, 1024), (7, 5)) == "SUCCESS"
    assert launched((7, 5), (8, 5)) == launched((99, 0)) == "RT_PARAM_INVALID"
    assert launched((4, 1)) == "RT_FEATURE_NOT_SUPPORT"


def test_triton_s_own_launcher_finds_its_functions(acl: Acl) -> None:
    content, stub = ctypes.create_string_buffer(image("add", ADD)), ctypes.create_string_buffer(1)
    binary = struct.pack("<IIQQ", VECTOR, 0, ctypes.addressof(content), len(content) - 1)
    handle, data = acl.told("rtDevBinaryRegister", binary), acl.upload(bytes(4))
    acl.rtFunctionRegister(handle, stub, b"add_0", b"add", 0)
    args = words(data)
    acl.rtKernelLaunch(stub, 1, args, len(args), None, None)
    acl.aclrtSynchronizeStream(None)
    assert acl.download(data, 4) == struct.pack("<f", 1)
    address, length = ctypes.c_uint64(), ctypes.c_uint32()
    acl.rtGetC2cCtrlAddr(ctypes.byref(address), ctypes.byref(length))
    assert address.value == acl.made("aclrtGetHardwareSyncAddr")


# ---- kernels that do wrong ----

ASSERTION = 'fault->kind = 1; fault->message = "x > 0"; fault->file = "kernel.py"; fault->line = 7; return 1;'


@pytest.mark.parametrize(
    ("body", "vector", "cube"),
    [
        ("((char*)args[3])[1 << 30] = 1;", "RT_VECTOR_CORE_EXCEPTION", "RT_AICORE_EXCEPTION"),
        ("*(volatile char*)0 = 1;", "RT_VECTOR_CORE_EXCEPTION", "RT_AICORE_EXCEPTION"),
        ("__builtin_trap();", "RT_VECTOR_CORE_EXCEPTION", "RT_AICORE_EXCEPTION"),
        (ASSERTION, "RT_VECTOR_CORE_TRAP_EXCEPTION", "RT_AICORE_TRAP_EXCEPTION"),
    ],
)
@pytest.mark.parametrize("is_vector", [True, False])
def test_a_fault_shows_when_its_stream_is_waited_for(
    acl: Acl, body: str, vector: str, cube: str, is_vector: bool
) -> None:
    stream, data = acl.stream(), acl.malloc(4096)
    function = acl.function(image("wrong", body), "wrong", VECTOR if is_vector else AICORE)
    acl.message()
    acl.launch(function, words(data), 1, stream)
    assert acl.result("aclrtSynchronizeStream", stream) == (vector if is_vector else cube)
    text = acl.message()
    assert "fault kernel_name=wrong" in text
    assert "reason=[" + ("vector core" if is_vector else "aicore") in text
    acl.aclrtSynchronizeStream(stream)  # it was told


def test_an_assertion_says_what_and_where(acl: Acl, capfd: pytest.CaptureFixture[str]) -> None:
    acl.launch(acl.function(image("wrong", ASSERTION), "wrong"), words(0))
    acl.result("aclrtSynchronizeStream", None)
    assert "kernel.py:7: wrong: program [0,0,0] Assertion failed: `x > 0`." in capfd.readouterr().err


def test_a_pointer_into_the_hosts_memory_faults_when_it_is_followed(acl: Acl) -> None:
    host = ctypes.create_string_buffer(4096)
    unused = acl.function(image("unused", ";"), "unused")
    acl.launch(unused, words(ctypes.addressof(host)))
    acl.aclrtSynchronizeStream(None)
    acl.launch(acl.function(image("add", ADD), "add"), words(ctypes.addressof(host)))
    assert acl.result("aclrtSynchronizeStream", None) == "RT_VECTOR_CORE_EXCEPTION"
    assert host.raw == bytes(4096)
