"""Images and launches: what a chip takes, what it refuses, and what becomes of a kernel that does wrong."""

from __future__ import annotations

import ctypes
import random
import struct

import pytest

from unify.simulator.section import NAME, with_section

from .driver import Attribute, Driver, cubin, image, launch_arguments, words

ADD = "((float*)args[0])[i] += 1.0f;"


def loaded(driver: Driver, content: bytes) -> str:
    return driver.result("cuModuleLoadDataEx", ctypes.byref(ctypes.c_uint64()), content, 0, None, None)


def test_a_kernel_runs_over_its_grid(driver: Driver) -> None:
    function = driver.function(image("add", ADD), "add")
    data = driver.upload(struct.pack("<1000f", *range(1000)))
    driver.launch(function, words(data), 1000)
    assert struct.unpack("<1000f", driver.download(data, 4000)) == tuple(range(1, 1001))


def test_parameters_come_one_by_one_too(driver: Driver) -> None:
    function = driver.function(image("set", "((uint64_t*)args[0])[0] = args[1];", ("*i64", "i64")), "set")
    data = driver.made("cuMemAlloc", 8)
    config = launch_arguments(function, b"")[0]
    values = (ctypes.c_uint64 * 4)(data, 77, 0, 0)
    each = (ctypes.c_void_p * 4)(*[ctypes.addressof(values) + 8 * i for i in range(4)])
    driver.cuLaunchKernelEx(config, function, each, None)
    assert driver.download(data, 8) == words(77)


def test_scratch_memory_is_there_and_aligned(driver: Driver) -> None:
    body = "((uint64_t*)args[0])[0] = (uint64_t)call->scratch % 64 + (((char*)call->scratch)[99999] = 5);"
    function = driver.function(image("scratch", body, scratch=100000), "scratch")
    data = driver.made("cuMemAlloc", 8)
    driver.launch(function, words(data))
    assert driver.download(data, 8) == words(5)


# ---- images ----


def test_what_is_no_image_is_invalid(driver: Driver) -> None:
    for content in (b"\0" * 64, b"no image", bytes(range(1, 255)), b"\x7fELF", b"\x7fELF\x02\x01" + bytes(100)):
        assert loaded(driver, content + b"\0") == "CUDA_ERROR_INVALID_IMAGE", content[:8]


def test_what_only_a_real_chip_runs_has_no_binary_here(driver: Driver) -> None:
    for content in (
        cubin(),
        b"//\n// Generated\n.version 8.0\n.target sm_90\n",
        struct.pack("<I", 0xBA55ED50) + bytes(60),
    ):
        assert loaded(driver, content) == "CUDA_ERROR_NO_BINARY_FOR_GPU", content[:8]


@pytest.mark.parametrize(("built_for", "name"), [(90, "SUCCESS"), (80, "NO_BINARY"), (100, "NO_BINARY"), (89, "NO_BI")])
def test_an_image_is_for_its_architecture(driver: Driver, built_for: int, name: str) -> None:
    assert name in loaded(driver, image("add", ADD, capability=built_for))


def test_a_cubin_runs_on_later_chips_of_its_major_version() -> None:
    driver = Driver(capability=89)
    driver.open()
    assert loaded(driver, image("add", ADD, capability=86)) == "CUDA_SUCCESS"
    assert loaded(driver, image("add", ADD, capability=90)) == "CUDA_ERROR_NO_BINARY_FOR_GPU"
    driver.cuDevicePrimaryCtxRelease(0)


def test_a_truncated_image_is_refused_wherever_it_ends(driver: Driver) -> None:
    whole = image("add", ADD)
    for size in [*range(0, 200, 3), *range(200, len(whole) - 64, 97), len(whole) - 64]:
        # Behind it there is what a caller's memory happens to hold.
        assert loaded(driver, whole[:size] + b"\xff" * (len(whole) - size)) != "CUDA_SUCCESS", size
    assert loaded(driver, whole) == "CUDA_SUCCESS"


def test_an_image_that_ends_with_its_memory_is_refused(driver: Driver) -> None:
    import mmap

    whole = image("add", ADD)
    with mmap.mmap(-1, 8192) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        guard = ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + 4096), 4096, 0)
        assert guard == 0
        ctypes.memmove(address + 4096 - 100, whole, 100)
        result = driver.library.cuModuleLoadDataEx(
            ctypes.byref(ctypes.c_uint64()), ctypes.c_void_p(address + 4096 - 100), 0, None, None
        )
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + 4096), 4096, 3)
        assert result == 200


def test_random_changes_of_an_image_never_crash(driver: Driver) -> None:
    whole = image("add", ADD)
    chance = random.Random(7)
    for _ in range(3000):
        changed = bytearray(whole)
        where = len(whole) - 320 if chance.random() < 0.5 else 0
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(where, min(where + 320, len(whole)))] = chance.randrange(256)
        module = ctypes.c_uint64()
        if driver.result("cuModuleLoadDataEx", ctypes.byref(module), bytes(changed), 0, None, None) == "CUDA_SUCCESS":
            driver.cuModuleUnload(module.value)


def test_a_damaged_section_is_refused(driver: Driver) -> None:
    good = image("add", ADD)
    content = good[good.index(b"UNIFYHST") :]
    for offset, value in [(0, 0), (8, 2), (12, 8), (12, 1 << 31), (16, 1 << 20), (20, 1 << 30), (32, 1 << 62), (40, 0)]:
        wrong = bytearray(content)
        struct.pack_into("<Q" if offset == 32 else "<I", wrong, offset, value)
        assert loaded(driver, with_section(cubin(), NAME, bytes(wrong))) == "CUDA_ERROR_INVALID_IMAGE", (offset, value)


def test_a_function_is_found_by_its_name(driver: Driver) -> None:
    module = driver.made("cuModuleLoadDataEx", image("add", ADD), 0, None, None)
    out = ctypes.c_uint64()
    assert driver.result("cuModuleGetFunction", ctypes.byref(out), module, b"add") == "CUDA_SUCCESS"
    assert driver.result("cuModuleGetFunction", ctypes.byref(out), module, b"ad") == "CUDA_ERROR_NOT_FOUND"
    driver.cuModuleUnload(module)
    assert driver.result("cuModuleUnload", module) == "CUDA_ERROR_INVALID_HANDLE"
    assert driver.result("cuLaunchKernelEx", *launch_arguments(out.value, words(0))) == "CUDA_ERROR_INVALID_HANDLE"
    assert driver.live("modules") == 0


# ---- launches ----


def launched(driver: Driver, function: int, programs: int = 1, **shape: object) -> str:
    data = driver.made("cuMemAlloc", 4096)
    return driver.result("cuLaunchKernelEx", *launch_arguments(function, words(data), programs, **shape))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ({}, "CUDA_SUCCESS"),
        ({"programs": 0}, "CUDA_ERROR_INVALID_VALUE"),
        ({"programs": 1 << 31}, "CUDA_ERROR_INVALID_VALUE"),
        ({"block": (0, 1, 1)}, "CUDA_ERROR_INVALID_VALUE"),
        ({"block": (1025, 1, 1)}, "CUDA_ERROR_INVALID_VALUE"),
        ({"block": (1, 1, 65)}, "CUDA_ERROR_INVALID_VALUE"),
        ({"block": (64, 32, 1)}, "CUDA_ERROR_INVALID_VALUE"),
        ({"shared_bytes": 49152}, "CUDA_SUCCESS"),
        ({"shared_bytes": 49153}, "CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_a_launch_has_the_chips_limits(driver: Driver, shape: dict[str, object], name: str) -> None:
    function = driver.function(image("add", ADD), "add")
    assert launched(driver, function, **shape) == name  # type: ignore[arg-type]


def test_more_shared_memory_must_be_asked_for(driver: Driver) -> None:
    function = driver.function(image("add", ADD), "add")
    assert driver.result("cuFuncSetAttribute", function, 8, 232449) == "CUDA_ERROR_INVALID_VALUE"
    driver.cuFuncSetAttribute(function, 8, 232448)
    assert launched(driver, function, shared_bytes=232448) == "CUDA_SUCCESS"
    assert driver.made("cuFuncGetAttribute", 8, function) == 232448
    assert driver.result("cuFuncGetAttribute", ctypes.byref(ctypes.c_int()), 99, function) == "CUDA_ERROR_INVALID_VALUE"


def cluster(x: int) -> Attribute:
    return Attribute(4, 0, (ctypes.c_uint * 16)(x, 1, 1))


def test_clusters_have_their_sizes(driver: Driver) -> None:
    function = driver.function(image("add", ADD), "add")
    for size, programs, name in [(2, 4, "SUCCESS"), (16, 16, "INVALID_CLUSTER_SIZE"), (3, 4, "INVALID_VALUE")]:
        assert launched(driver, function, programs, attributes=(cluster(size),)).endswith(name), size
    driver.cuFuncSetAttribute(function, 14, 1)
    assert launched(driver, function, 16, attributes=(cluster(16),)) == "CUDA_SUCCESS"


def test_a_cluster_is_one_program(driver: Driver) -> None:
    function = driver.function(image("add", ADD), "add")
    data = driver.upload(bytes(32))
    driver.launch(function, words(data), 8, attributes=(cluster(2),))
    assert struct.unpack("<8f", driver.download(data, 32)) == (1, 1, 1, 1, 0, 0, 0, 0)


def test_blocks_that_work_together_are_all_on_the_chip(driver: Driver) -> None:
    function = driver.function(image("add", ADD), "add")
    together = Attribute(2, 0, (ctypes.c_uint * 16)(1))
    assert launched(driver, function, 132 * 2, block=(1024, 1, 1), attributes=(together,)) == "CUDA_SUCCESS"
    assert launched(driver, function, 132 * 2 + 1, block=(1024, 1, 1), attributes=(together,)) == (
        "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"
    )


def test_too_few_parameters_are_an_invalid_value(driver: Driver) -> None:
    function = driver.function(image("add", ADD), "add")
    assert driver.result("cuLaunchKernelEx", *launch_arguments(function, b"1234567")) == "CUDA_ERROR_INVALID_VALUE"


def test_a_launch_needs_a_stream_and_a_function_of_the_current_context(driver: Driver) -> None:
    function, stream = driver.function(image("add", ADD), "add"), driver.stream()
    driver.open(1)
    for arguments in ((function, 0), (driver.function(image("add", ADD), "add"), stream)):
        assert driver.result("cuLaunchKernelEx", *launch_arguments(arguments[0], words(0), 1, arguments[1])) == (
            "CUDA_ERROR_INVALID_HANDLE"
        )


# ---- kernels that do wrong ----

ASSERTION = 'fault->kind = 1; fault->message = "x > 0"; fault->file = "kernel.py"; fault->line = 7; return 1;'


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("((char*)args[0])[1 << 30] = 1;", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("*(volatile char*)0 = 1;", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("((char*)args[0])[4096] = 1;", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (ASSERTION, "CUDA_ERROR_ASSERT"),
        ("__builtin_trap();", "CUDA_ERROR_ILLEGAL_INSTRUCTION"),
    ],
)
def test_a_fault_ends_the_context_until_it_is_reset(driver: Driver, body: str, name: str) -> None:
    stream, event, data = driver.stream(), driver.event(), driver.made("cuMemAlloc", 4096)
    function = driver.function(image("wrong", body), "wrong")
    driver.launch(function, words(data), 1, stream)
    assert driver.result("cuStreamSynchronize", stream) == name
    for call, *arguments in (
        ("cuMemAlloc", ctypes.byref(ctypes.c_uint64()), 16),
        ("cuMemFree", data),
        ("cuEventRecord", event, stream),
        ("cuEventQuery", event),
        ("cuStreamQuery", stream),
        ("cuCtxSynchronize",),
        ("cuMemcpyAsync", data, data, 4, stream),
        ("cuModuleGetFunction", ctypes.byref(ctypes.c_uint64()), 1, b"x"),
    ):
        assert driver.result(call, *arguments) == name, call
    driver.open(1)
    assert driver.download(driver.upload(b"well"), 4) == b"well"
    driver.cuDevicePrimaryCtxReset(0)
    driver.open(0)
    assert driver.live("bytes") == 0
    assert driver.result("cuStreamQuery", stream) == "CUDA_ERROR_INVALID_HANDLE"
    assert driver.download(driver.upload(b"well"), 4) == b"well"


def test_an_assertion_says_what_and_where(driver: Driver, capfd: pytest.CaptureFixture[str]) -> None:
    driver.launch(driver.function(image("wrong", ASSERTION), "wrong"), words(0))
    driver.result("cuCtxSynchronize")
    assert "kernel.py:7: wrong: block: [0,0,0] Assertion failed: `x > 0`." in capfd.readouterr().err


def test_a_pointer_into_the_hosts_memory_faults_when_it_is_followed(driver: Driver) -> None:
    host = ctypes.create_string_buffer(4096)
    unused = driver.function(image("unused", ";"), "unused")
    driver.launch(unused, words(ctypes.addressof(host)))
    driver.cuCtxSynchronize()
    driver.launch(driver.function(image("add", ADD), "add"), words(ctypes.addressof(host)))
    assert driver.result("cuCtxSynchronize") == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert host.raw == bytes(4096)
