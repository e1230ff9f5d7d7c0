"""Device memory: out of the host's reach, limited, freed at once; copies by kind; addresses apart; other processes."""

from __future__ import annotations

import ctypes
import signal
import struct
import subprocess
import sys
import threading
from typing import Any

import pytest

from ..driver import MIB
from .driver import D2D, D2H, H2D, H2H, ON_DEVICE_0, Acl, AclError, image, words

TOUCH = """
import ctypes, sys
sys.path.insert(0, {root!r})
from tests.simulator.acl.driver import *
acl = Acl()
acl.aclrtSetDevice(0)
address = acl.upload(b"1")
print("before", flush=True)
ctypes.memmove({to}, {source}, 1)
"""


@pytest.mark.parametrize("is_write", [False, True])
def test_the_host_cannot_touch_device_memory(is_write: bool, python: Any, root: Any) -> None:
    to, source = ("address", "b'x'") if is_write else ("ctypes.create_string_buffer(1)", "address")
    finished = python("-c", TOUCH.format(root=str(root), to=to, source=source))
    assert (finished.stdout, finished.returncode) == ("before\n", -signal.SIGSEGV), finished.stderr


def test_what_is_copied_there_and_back_is_the_same(acl: Acl) -> None:
    data = bytes(range(256)) * 1000
    first = acl.upload(data)
    second = acl.malloc(len(data))
    assert acl.copy_later(second, first, len(data), D2D) == "SUCCESS"
    acl.aclrtSynchronizeStream(None)
    assert acl.download(second, len(data)) == data


def test_memory_has_an_end_and_says_how_much_is_free(acl: Acl) -> None:
    first = acl.malloc(60 * MIB)
    out = ctypes.c_uint64()
    assert acl.result("aclrtMalloc", ctypes.byref(out), ctypes.c_size_t(5 * MIB), 0) == "RT_MEMORY_ALLOCATION"
    text = acl.message()
    assert "EL0004" in text
    assert "reason=[driver error:out of memory]" in text
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    acl.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total))
    assert total.value == 64 * MIB
    assert free.value <= 4 * MIB
    acl.aclrtFree(first)
    assert acl.live("bytes") == 0
    acl.aclrtGetMemInfo(0, ctypes.byref(free), ctypes.byref(total))
    assert (free.value, total.value) == (0, 0)


def test_a_block_begins_at_64_bytes_and_has_32_more_than_was_asked_for(acl: Acl) -> None:
    block = acl.malloc(100)
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    acl.aclrtMemGetAddressRange(block + 50, ctypes.byref(base), ctypes.byref(size))
    assert (base.value, size.value) == (block, 160)
    assert block % 64 == 0


@pytest.mark.parametrize("call", ["aclrtMalloc", "aclrtMallocAlign32", "aclrtMallocCached"])
def test_nothing_is_no_memory(acl: Acl, call: str) -> None:
    assert acl.result(call, ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(0), 0) == "INVALID_PARAM"


def test_freed_memory_is_no_memory(acl: Acl) -> None:
    address = acl.upload(b"12345678")
    acl.aclrtFree(address)
    assert acl.result("aclrtFree", address) == "RT_PARAM_INVALID"
    assert acl.result("aclrtFree", None) == "INVALID_PARAM"
    assert acl.fill_later(address, 0, 8) == "RT_PARAM_INVALID"


def test_a_free_waits_for_nothing(acl: Acl) -> None:
    stream, data = acl.stream(), acl.malloc(16)
    acl.fail("aclrtMemsetAsync:0:hang")
    assert acl.fill_later(data, 1, 16, stream) == "SUCCESS"
    acl.aclrtFree(data)  # it would hang if it waited
    acl.library.unify_simulator_release(0)
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_SYS_DMA"


def test_a_copy_says_how_much_room_there_is(acl: Acl) -> None:
    data = acl.malloc(64)
    size = ctypes.c_size_t(32)
    assert acl.result("aclrtMemcpy", data, ctypes.c_size_t(16), b"x" * 32, size, H2D) == "RT_PARAM_INVALID"
    assert "cannot exceed the maximum value destMax 16" in acl.message()
    assert acl.result("aclrtMemcpy", None, size, b"x" * 32, size, H2D) == "INVALID_PARAM"


@pytest.mark.parametrize(("offset", "size"), [(0, 65537), (65536, 64), (-1, 2)])
def test_a_copy_beyond_an_allocation_is_refused(acl: Acl, offset: int, size: int) -> None:
    address = acl.made("aclrtMallocAlign32", ctypes.c_size_t(65536), 0)
    host, length = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
    assert acl.result("aclrtMemcpy", address + offset, length, host, length, H2D) == "RT_DRV_INTERNAL_ERROR"
    assert acl.copy_later(ctypes.addressof(host), address + offset, size, D2H) == "RT_PARAM_INVALID"
    acl.aclrtSynchronizeStream(None)


def test_between_addresses_of_the_device_the_chip_finds_out(acl: Acl) -> None:
    stream, data = acl.stream(), acl.malloc(16)
    assert acl.copy_later(data, data + 4096, 16, D2D, stream) == "SUCCESS"
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_SYS_DMA"
    assert "reason=[sys dma transfer failed]" in acl.message()


def test_within_a_device_copies_begin_anywhere(acl: Acl) -> None:
    """acl_rt.h asks for multiples of 64; the runtime does not, and torch_npu copies views without them."""
    data, host = acl.upload(bytes(range(256))), ctypes.create_string_buffer(16)
    assert acl.copy_later(data + 1, data + 130, 16, D2D) == "SUCCESS"
    acl.aclrtSynchronizeStream(None)
    assert acl.result("aclrtMemcpy", host, ctypes.c_size_t(16), data + 1, ctypes.c_size_t(16), D2H) == "SUCCESS"
    assert host.raw == bytes(range(130, 146))


def test_from_host_to_host_there_is_no_stream(acl: Acl) -> None:
    first, second = acl.pinned(16), acl.pinned(16)
    assert acl.copy_later(first, second, 16, H2H) == "RT_FEATURE_NOT_SUPPORT"
    acl.aclrtMemcpy(first, ctypes.c_size_t(16), second, ctypes.c_size_t(16), H2H)


@pytest.mark.parametrize("is_pinned", [True, False])
def test_an_asynchronous_copy_returns_before_it_is_done_from_pinned_memory_alone(acl: Acl, is_pinned: bool) -> None:
    stream, data = acl.stream(), acl.malloc(16)
    buffer = ctypes.create_string_buffer(16)
    host = acl.pinned(16) if is_pinned else ctypes.addressof(buffer)
    acl.library.unify_simulator_slow(0, ctypes.c_double(200))  # 16 bytes in 0.08 s
    assert acl.copy_later(data, host, 16, H2D, stream) == "SUCCESS"
    assert acl.told("aclrtStreamQuery", stream) & 0xFFFFFFFF == int(is_pinned)
    acl.aclrtSynchronizeStream(stream)


def test_fills_write_values_of_their_width(acl: Acl) -> None:
    address = acl.malloc(64)
    acl.aclrtMemsetD32(address, ctypes.c_size_t(64), 0x01020304, ctypes.c_size_t(16))
    acl.aclrtMemset(address, ctypes.c_size_t(64), 7, ctypes.c_size_t(1))
    acl.aclrtMemsetD32Async(address + 8, ctypes.c_size_t(56), 5, ctypes.c_size_t(1), None)
    acl.aclrtSynchronizeStream(None)
    assert acl.download(address, 12).hex() == "07030201" + "04030201" + "05000000"
    assert acl.fill_later(address, 0, 4096) == "RT_PARAM_INVALID"
    host = ctypes.create_string_buffer(8)
    assert acl.fill_later(ctypes.addressof(host), 0, 8) == "RT_PARAM_INVALID"
    size_t = ctypes.c_size_t
    for place, most in ((address + 2, 60), (address, 8), (ctypes.addressof(host), 64)):
        assert acl.result("aclrtMemsetD32", place, size_t(most), 5, size_t(3)) == "INVALID_PARAM"
        assert acl.result("aclrtMemsetD32Async", place, size_t(most), 5, size_t(3), None) == "INVALID_PARAM"


def test_rows_are_copied_by_their_pitches(acl: Acl) -> None:
    source, out = acl.upload(bytes(range(64))), ctypes.create_string_buffer(12)
    size_t = ctypes.c_size_t
    acl.aclrtMemcpy2d(out, size_t(4), source + 18, size_t(16), size_t(4), size_t(3), D2H)
    assert out.raw == bytes([18, 19, 20, 21, 34, 35, 36, 37, 50, 51, 52, 53])
    wide = acl.result("aclrtMemcpy2d", out, size_t(3), source, size_t(16), size_t(4), size_t(3), D2H)
    assert wide == "INVALID_PARAM"
    acl.aclrtMemcpy2dAsync(out, size_t(4), source, size_t(16), size_t(4), size_t(3), D2H, None)
    assert out.raw == bytes([0, 1, 2, 3, 16, 17, 18, 19, 32, 33, 34, 35])


@pytest.mark.parametrize("name", ["aclrtMemcpy2d", "aclrtMemcpy2dAsync"])
def test_rows_have_their_limits(acl: Acl, name: str) -> None:
    source, out, size_t = acl.malloc(4096), ctypes.create_string_buffer(64), ctypes.c_size_t
    stream = () if name == "aclrtMemcpy2d" else (None,)

    def rows(to: object, width: int, height: int, kind: int) -> str:
        pitch = size_t(max(width, 16))
        return acl.result(name, to, pitch, source, pitch, size_t(width), size_t(height), kind, *stream)

    assert rows(out, 5_000_001, 2, D2H) == rows(out, 8, 5_242_881, D2H) == "RT_PARAM_INVALID"
    assert rows(out, 8, 2, H2H) == "INVALID_PARAM"
    at_once = name == "aclrtMemcpy2d"
    assert rows(source + 1024, 16, 2, D2D) == ("RT_FEATURE_NOT_SUPPORT" if at_once else "SUCCESS")
    acl.aclrtSynchronizeStream(None)


def test_a_batch_is_several_copies(acl: Acl) -> None:
    target, pieces = acl.malloc(64), [b"12345678", b"abcdefgh"]
    hosts = [ctypes.create_string_buffer(piece, 8) for piece in pieces]
    pointers = (ctypes.c_void_p * 2)(target, target + 32)
    sources = (ctypes.c_void_p * 2)(*[ctypes.addressof(host) for host in hosts])
    sizes, indexes, failed = (ctypes.c_size_t * 2)(8, 8), (ctypes.c_size_t * 1)(0), ctypes.c_size_t()
    attributes = struct.pack("<IIII16x", 0, 1, 0, 0)
    count, one = ctypes.c_size_t(2), ctypes.c_size_t(1)
    common = (pointers, sizes, sources, sizes, count, attributes, indexes, one, ctypes.byref(failed))
    acl.aclrtMemcpyBatch(*common)
    assert (acl.download(target, 8), acl.download(target + 32, 8)) == tuple(pieces)
    pointers[1] = target + 4096 * 16
    assert acl.result("aclrtMemcpyBatch", *common) == "RT_DRV_INTERNAL_ERROR"
    assert failed.value == 1


def test_pinned_and_managed_memory_is_the_hosts_too(acl: Acl) -> None:
    function = acl.function(image("add", "((float*)args[3])[i] += 1.0f;"), "add")
    for address in (acl.pinned(16), acl.made("aclrtMemAllocManaged", ctypes.c_uint64(16), 1)):
        values = (ctypes.c_float * 4).from_address(address)
        values[:] = [1, 2, 3, 4]
        acl.launch(function, words(address), 4)
        acl.aclrtSynchronizeStream(None)
        assert list(values) == [2, 3, 4, 5]


def test_host_memory_can_be_registered(acl: Acl) -> None:
    import mmap

    with mmap.mmap(-1, 8192) as memory:
        address = ctypes.addressof(view := ctypes.c_char.from_buffer(memory))
        device = acl.told("aclrtHostRegister", address, ctypes.c_uint64(8192), 0)
        function = acl.function(image("put", "((char*)args[3])[i] = 7;"), "put")
        acl.launch(function, words(device), 4)
        acl.aclrtSynchronizeStream(None)
        assert memory[:5] == b"\x07\x07\x07\x07\0"
        acl.aclrtHostUnregister(address)
        assert acl.result("aclrtHostUnregister", address) == "HOST_MEMORY_NOT_REGISTERED"
        del view


def test_pointers_say_where_they_lead(acl: Acl) -> None:
    attributes = (ctypes.c_uint32 * 7)()
    host = ctypes.create_string_buffer(8)
    places = []
    for address in (acl.malloc(8), acl.pinned(8), ctypes.addressof(host)):
        acl.aclrtPointerGetAttributes(address, attributes)
        places.append(attributes[1])
    assert places == [1, 0, 2]


# ---- addresses and memory apart ----


def test_memory_is_mapped_at_reserved_addresses(acl: Acl) -> None:
    granularity = ctypes.c_size_t()
    acl.aclrtMemGetAllocationGranularity(ON_DEVICE_0, 0, ctypes.byref(granularity))
    assert granularity.value == 2 * MIB
    base = acl.reserve(8 * MIB)
    blocks = [acl.physical(2 * MIB) for _ in range(2)]
    for index, block in enumerate(blocks):
        assert acl.map(base + index * 2 * MIB, 2 * MIB, block) == "SUCCESS"
        acl.aclrtFreePhysical(block)
    acl.aclrtMemset(base + 2 * MIB - 2, ctypes.c_size_t(4), 5, ctypes.c_size_t(4))  # over the border of two blocks
    function = acl.function(image("add", "((char*)args[3])[i] += 1;"), "add")
    acl.launch(function, words(base + 2 * MIB - 2), 4)
    acl.aclrtSynchronizeStream(None)
    assert acl.download(base + 2 * MIB - 4, 8) == bytes([0, 0, 6, 6, 6, 6, 0, 0])
    assert acl.result("aclrtReleaseMemAddress", base) == "RT_PARAM_INVALID"
    assert acl.live("physical") == 0
    for index in range(2):
        acl.aclrtUnmapMem(base + index * 2 * MIB)
    assert acl.result("aclrtUnmapMem", base) == "RT_PARAM_INVALID"
    acl.aclrtReleaseMemAddress(base)
    assert acl.live("reservations") == 0


def test_addresses_are_reserved_without_a_context(acl: Acl) -> None:
    def reserve(codes: list[str]) -> None:  # a new thread has no context
        codes.append(acl.result("aclrtGetCurrentContext", ctypes.byref(ctypes.c_void_p())))
        acl.aclrtReleaseMemAddress(acl.reserve(512))

    codes: list[str] = []
    thread = threading.Thread(target=reserve, args=(codes,))
    thread.start()
    thread.join()
    assert codes == ["RT_CONTEXT_NULL"]
    assert acl.live("reservations") == 0


def test_another_device_needs_access_to_mapped_memory(acl: Acl) -> None:
    base, block = acl.reserve(2 * MIB), acl.physical(2 * MIB)
    assert acl.map(base, 4 * MIB, block) == "RT_PARAM_INVALID"
    assert acl.map(base, 2 * MIB, block) == "SUCCESS"
    acl.aclrtSetDevice(1)
    function = acl.function(image("add", "((char*)args[3])[i] += 1;"), "add")
    acl.launch(function, words(base))
    assert acl.result("aclrtSynchronizeStream", None) == "RT_VECTOR_CORE_EXCEPTION"
    access = struct.pack("<III12x", 3, 1, 1)
    acl.aclrtMemSetAccess(base, ctypes.c_size_t(2 * MIB), access, ctypes.c_size_t(1))
    acl.launch(function, words(base))
    acl.aclrtSynchronizeStream(None)
    assert acl.told("aclrtMemGetAccess", base, struct.pack("<II", 1, 1)) == 3
    acl.aclrtUnmapMem(base)
    acl.aclrtFreePhysical(block)
    acl.aclrtReleaseMemAddress(base)


# ---- peers ----


def test_a_peer_is_reached_once_it_is_enabled(acl: Acl) -> None:
    assert acl.made("aclrtDeviceCanAccessPeer", 0, 1) & 0xFFFFFFFF == 1
    assert acl.made("aclrtDeviceCanAccessPeer", 0, 0) & 0xFFFFFFFF == 0
    data = acl.upload(struct.pack("<2f", 1, 2))
    acl.aclrtSetDevice(1)
    there = acl.malloc(8)
    assert acl.copy_later(there, data, 8, D2D) == "SUCCESS"
    assert acl.result("aclrtSynchronizeStream", None) == "RT_SYS_DMA"
    size = ctypes.c_size_t(8)
    assert acl.result("aclrtMemcpy", there, size, data, size, D2D) == "RT_DRV_INTERNAL_ERROR"
    acl.aclrtDeviceEnablePeerAccess(0, 0)
    assert acl.told("aclrtDevicePeerAccessStatus", 1, 0) & 0xFFFFFFFF == 1
    assert acl.copy_later(there, data, 8, D2D) == "SUCCESS"
    acl.aclrtSynchronizeStream(None)
    assert struct.unpack("<2f", acl.download(there, 8)) == (1, 2)
    assert acl.result("aclrtDeviceEnablePeerAccess", 1, 0) == "RT_PARAM_INVALID"


# ---- other processes ----

EXPORTER = """
import sys; sys.path.insert(0, {root!r})
from tests.simulator.acl.driver import *
acl = Acl(); acl.aclrtSetDevice(0)
address = acl.upload(b"from the other")
key = ctypes.create_string_buffer(65)
acl.aclrtIpcMemGetExportKey(address, ctypes.c_size_t(14), key, ctypes.c_size_t(65), ctypes.c_uint64(0))
event = acl.event(IPC)
shared = ctypes.create_string_buffer(64); acl.aclrtIpcGetEventHandle(event, shared)
base, block = acl.reserve(2 << 20), acl.physical(2 << 20)
acl.map(base, 2 << 20, block)
acl.aclrtMemcpy(base, ctypes.c_size_t(8), b"physical", ctypes.c_size_t(8), H2D)
name = acl.told("aclrtMemExportToShareableHandle", block, 0, ctypes.c_uint64(0))
print(key.value.decode(), shared.raw.hex(), name, flush=True)
process = int(input())
pids = (ctypes.c_int32 * 1)(process)
acl.aclrtIpcMemSetImportPid(key, pids, ctypes.c_size_t(1))
acl.aclrtMemSetPidToShareableHandle(ctypes.c_uint64(name), pids, ctypes.c_size_t(1))
print("allowed", flush=True)
assert input() == "written"
assert acl.download(address, 4) == b"here", acl.download(address, 4)
assert acl.download(base, 4) == b"here", acl.download(base, 4)
acl.aclrtRecordEvent(event, None)
acl.aclrtSynchronizeEvent(event)
print("recorded", flush=True)
input()
"""


class Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_char * 64),)


def test_memory_and_events_of_another_process(acl: Acl, root: Any) -> None:
    command = [sys.executable, "-c", EXPORTER.format(root=str(root))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        key, event, name = process.stdout.readline().split()
        out = ctypes.c_uint64()
        imported = ("aclrtIpcMemImportByKey", ctypes.byref(out), key.encode(), ctypes.c_uint64(1))
        opened = ("aclrtMemImportFromShareableHandle", ctypes.c_uint64(int(name)), 0, ctypes.byref(out))
        assert acl.result(*imported) == acl.result(*opened) == "RT_NO_PERMISSION"
        print(acl.made("aclrtDeviceGetBareTgid") & 0xFFFFFFFF, file=process.stdin, flush=True)
        assert process.stdout.readline() == "allowed\n"
        acl.aclrtIpcMemImportByKey(*imported[1:])
        address = out.value
        assert acl.result(*imported) == "RT_PARAM_INVALID"
        assert acl.download(address, 14) == b"from the other"
        acl.aclrtMemImportFromShareableHandle(*opened[1:])
        base = acl.reserve(2 * MIB)
        assert acl.map(base, 2 * MIB, out.value) == "SUCCESS"
        assert acl.download(base, 8) == b"physical"
        function = acl.function(image("put", '((char*)args[3])[i] = "here"[i];'), "put")
        for target in (address, base):
            acl.launch(function, words(target), 4)
        acl.aclrtSynchronizeStream(None)
        handle = Handle.from_buffer_copy(bytes.fromhex(event))
        theirs = ctypes.c_uint64()
        acl.aclrtIpcOpenEventHandle(handle, ctypes.byref(theirs))
        print("written", file=process.stdin, flush=True)
        assert process.stdout.readline() == "recorded\n"
        acl.aclrtStreamWaitEvent(None, theirs.value)
        acl.aclrtSynchronizeStream(None)
        acl.aclrtSynchronizeEvent(theirs.value)
        acl.aclrtIpcMemClose(key.encode())
        assert acl.result("aclrtIpcMemClose", key.encode()) == "RT_PARAM_INVALID"
        acl.aclrtUnmapMem(base)
        acl.aclrtFreePhysical(out.value)
        acl.aclrtReleaseMemAddress(base)
        print("end", file=process.stdin, flush=True)
    assert process.returncode == 0


def test_a_key_is_for_other_processes(acl: Acl) -> None:
    key = ctypes.create_string_buffer(65)
    sizes = ctypes.c_size_t(3), key, ctypes.c_size_t(65), ctypes.c_uint64(1)
    acl.aclrtIpcMemGetExportKey(acl.upload(b"own"), *sizes)
    with pytest.raises(AclError, match="PARAM_INVALID"):
        acl.aclrtIpcMemImportByKey(ctypes.byref(ctypes.c_uint64()), key, ctypes.c_uint64(0))
    assert acl.result("aclrtIpcGetEventHandle", acl.event(), key) == "RT_PARAM_INVALID"
