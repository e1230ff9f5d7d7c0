"""Device memory: out of the host's reach, limited, and checked at every call that names an address of it."""

from __future__ import annotations

import ctypes
import re
import signal
import struct
import subprocess
import sys
from typing import Any

import pytest

from .driver import MIB, CudaError, Driver, image, words

PROPERTIES = struct.Struct("<iiiiQ8s")
PINNED_ON_DEVICE_0 = PROPERTIES.pack(1, 0, 1, 0, 0, bytes(8))
TOUCH = """
import ctypes
from tests.simulator.driver import *
driver = Driver()
driver.open()
address = {address}
driver.cuCtxSynchronize()
print("before", flush=True)
ctypes.memmove({to}, {source}, 1)
print("after", flush=True)
"""


@pytest.mark.parametrize("address", ['driver.upload(b"1")', 'driver.made("cuMemAlloc", 1 << 21)'])
@pytest.mark.parametrize("is_write", [False, True])
def test_the_host_cannot_touch_device_memory(address: str, is_write: bool, python: Any, root: Any) -> None:
    to, source = ("address", "b'x'") if is_write else ("ctypes.create_string_buffer(1)", "address")
    program = f"import sys; sys.path.insert(0, {str(root)!r})\n" + TOUCH.format(address=address, to=to, source=source)
    finished = python("-c", program)
    assert (finished.stdout, finished.returncode) == ("before\n", -signal.SIGSEGV), finished.stderr


def test_what_is_copied_there_and_back_is_the_same(driver: Driver) -> None:
    data = bytes(range(256)) * 1000
    first = driver.upload(data)
    second = driver.made("cuMemAlloc", len(data))
    driver.cuMemcpyAsync(second, first, len(data), 0)
    assert driver.download(second, len(data)) == data


def test_memory_has_an_end(driver: Driver) -> None:
    first = driver.made("cuMemAlloc", 60 * MIB)
    out = ctypes.c_uint64()
    assert driver.result("cuMemAlloc", ctypes.byref(out), 5 * MIB) == "CUDA_ERROR_OUT_OF_MEMORY"
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    driver.cuMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    assert (free.value, total.value) == (4 * MIB, 64 * MIB)
    driver.cuMemFree(first)
    driver.cuMemFree(driver.made("cuMemAlloc", 64 * MIB))
    assert driver.live("bytes") == 0


def test_memory_in_pieces_is_whole_again_when_it_is_free(driver: Driver) -> None:
    blocks = [driver.made("cuMemAlloc", MIB) for _ in range(64)]
    assert len(set(blocks)) == 64
    for block in blocks[::2] + blocks[1::2]:
        driver.cuMemFree(block)
    driver.cuMemFree(driver.made("cuMemAlloc", 64 * MIB))


def test_addresses_of_two_devices_are_apart(driver: Driver) -> None:
    first = [driver.made("cuMemAlloc", MIB) for _ in range(8)]
    driver.open(1)
    second = [driver.made("cuMemAlloc", MIB) for _ in range(8)]
    assert max(first) < min(second) or max(second) < min(first)


@pytest.mark.parametrize(("offset", "size"), [(0, 65537), (65536, 1), (1 << 20, 1), (-1, 2)])
def test_a_copy_beyond_an_allocation_is_refused_at_once(driver: Driver, offset: int, size: int) -> None:
    address = driver.made("cuMemAlloc", 65536)
    host = ctypes.create_string_buffer(size)
    for arguments in ((address + offset, ctypes.addressof(host)), (ctypes.addressof(host), address + offset)):
        assert driver.result("cuMemcpyAsync", *arguments, size, 0) == "CUDA_ERROR_INVALID_VALUE"
    assert driver.result("cuMemsetD8Async", address + offset, 0, size, 0) == "CUDA_ERROR_INVALID_VALUE"


def test_freed_memory_is_no_memory(driver: Driver) -> None:
    address = driver.upload(b"12345678")
    driver.cuMemFree(address)
    assert driver.result("cuMemFree", address) == "CUDA_ERROR_INVALID_VALUE"
    assert driver.result("cuMemsetD8Async", address, 0, 8, 0) == "CUDA_ERROR_INVALID_VALUE"
    assert driver.result("cuMemFree", 0) == "CUDA_SUCCESS"


def test_fills_write_values_of_their_width(driver: Driver) -> None:
    address = driver.made("cuMemAlloc", 64)
    driver.cuMemsetD32Async(address, 0x01020304, 16, 0)
    driver.cuMemsetD16Async(address, 0x0506, 2, 0)
    driver.cuMemsetD8Async(address, 7, 1, 0)
    assert driver.download(address, 8).hex() == "0705060504030201"
    assert driver.result("cuMemsetD32Async", address + 2, 0, 1, 0) == "CUDA_ERROR_INVALID_VALUE"
    host = ctypes.create_string_buffer(8)
    assert driver.result("cuMemsetD8Async", ctypes.addressof(host), 0, 8, 0) == "CUDA_ERROR_INVALID_VALUE"


def test_rows_are_copied_by_their_pitches(driver: Driver) -> None:
    source = driver.upload(bytes(range(64)))
    out = ctypes.create_string_buffer(12)
    copy = struct.pack(
        "<QQi4xQQQQ" + "QQi4xQQQQ" + "QQ", 2, 1, 2, 0, source, 0, 16, 0, 0, 1, ctypes.addressof(out), 0, 0, 4, 4, 3
    )
    driver.cuMemcpy2DAsync(copy, 0)
    assert out.raw == bytes([18, 19, 20, 21, 34, 35, 36, 37, 50, 51, 52, 53])
    beyond = struct.pack(
        "<QQi4xQQQQ" + "QQi4xQQQQ" + "QQ", 2, 3, 2, 0, source, 0, 16, 0, 0, 1, ctypes.addressof(out), 0, 0, 4, 4, 3
    )
    assert driver.result("cuMemcpy2DAsync", beyond, 0) == "CUDA_ERROR_INVALID_VALUE"


def test_pinned_and_managed_memory_is_the_hosts_too(driver: Driver) -> None:
    function = driver.function(image("add", "((float*)args[0])[i] += 1.0f;"), "add")
    for address in (driver.made("cuMemHostAlloc", 16, 1), driver.made("cuMemAllocManaged", 16, 1)):
        values = (ctypes.c_float * 4).from_address(address)
        values[:] = [1, 2, 3, 4]
        driver.launch(function, words(address), 4)
        driver.cuCtxSynchronize()
        assert list(values) == [2, 3, 4, 5]
    assert driver.live("pinned_bytes") == driver.live("managed_bytes") == 4096


def test_the_range_of_an_address_is_what_was_asked_for(driver: Driver) -> None:
    address = driver.made("cuMemAlloc", 1000)
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    driver.cuMemGetAddressRange(ctypes.byref(base), ctypes.byref(size), address + 999)
    assert (base.value, size.value) == (address, 1000)
    assert driver.result("cuMemGetAddressRange", None, None, 4096) == "CUDA_ERROR_NOT_FOUND"


# ---- addresses and memory apart ----


def access(device: int, flags: int = 3) -> bytes:
    return struct.pack("<iii", 1, device, flags)


def test_memory_is_mapped_at_reserved_addresses(driver: Driver) -> None:
    granularity = driver.made("cuMemGetAllocationGranularity", PINNED_ON_DEVICE_0, 0)
    assert granularity == 2 * MIB
    base = driver.made("cuMemAddressReserve", 8 * MIB, 0, 0, 0)
    blocks = [driver.made("cuMemCreate", 2 * MIB, PINNED_ON_DEVICE_0, 0) for _ in range(2)]
    for index, block in enumerate(blocks):
        driver.cuMemMap(base + index * 2 * MIB, 2 * MIB, 0, block, 0)
        driver.cuMemRelease(block)
    driver.cuMemSetAccess(base, 4 * MIB, access(0), 1)
    driver.cuMemsetD8Async(base + 2 * MIB - 2, 5, 4, 0)  # over the border of two blocks
    assert driver.download(base + 2 * MIB - 4, 8) == bytes([0, 0, 5, 5, 5, 5, 0, 0])
    function = driver.function(image("add", "((char*)args[0])[i] += 1;"), "add")
    driver.launch(function, words(base + 2 * MIB - 2), 4)
    assert driver.download(base + 2 * MIB - 4, 8) == bytes([0, 0, 6, 6, 6, 6, 0, 0])
    assert driver.result("cuMemsetD8Async", base + 4 * MIB - 1, 5, 2, 0) == "CUDA_ERROR_INVALID_VALUE"
    assert driver.result("cuMemAddressFree", base, 8 * MIB) == "CUDA_ERROR_INVALID_VALUE"
    assert driver.live("bytes") == 4 * MIB
    driver.cuMemUnmap(base, 4 * MIB)
    assert driver.live("bytes") == 0
    driver.cuMemAddressFree(base, 8 * MIB)
    assert driver.live("reservations") == 0


def test_mapped_memory_needs_access_to_be_used(driver: Driver) -> None:
    base = driver.made("cuMemAddressReserve", 2 * MIB, 0, 0, 0)
    block = driver.made("cuMemCreate", 2 * MIB, PINNED_ON_DEVICE_0, 0)
    driver.cuMemMap(base, 2 * MIB, 0, block, 0)
    function = driver.function(image("add", "((char*)args[0])[i] += 1;"), "add")
    driver.launch(function, words(base))
    with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
        driver.cuCtxSynchronize()
    driver.cuDevicePrimaryCtxReset(0)
    driver.cuMemUnmap(base, 2 * MIB)
    driver.cuMemRelease(block)
    driver.cuMemAddressFree(base, 2 * MIB)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("cuMemAddressReserve", (ctypes.byref(ctypes.c_uint64()), 100, 0, 0, 0)),
        ("cuMemCreate", (ctypes.byref(ctypes.c_uint64()), MIB, PINNED_ON_DEVICE_0, 0)),
        ("cuMemMap", (1 << 40, 2 * MIB, 0, 12345, 0)),
        ("cuMemUnmap", (1 << 40, 2 * MIB)),
        ("cuMemRelease", (1 << 40,)),
        ("cuMemAddressFree", (1 << 40, 2 * MIB)),
    ],
)
def test_what_was_never_made_is_an_invalid_value(driver: Driver, call: str, arguments: tuple[Any, ...]) -> None:
    assert driver.result(call, *arguments) == "CUDA_ERROR_INVALID_VALUE"


# ---- peers ----


def test_a_kernel_follows_pointers_to_a_peer_that_was_enabled(driver: Driver) -> None:
    context = driver.made("cuCtxGetCurrent")
    data = driver.upload(struct.pack("<2f", 1, 2))
    other = driver.open(1)
    assert driver.made("cuDeviceCanAccessPeer", 1, 0) & 0xFFFFFFFF == 1
    driver.cuCtxEnablePeerAccess(context, 0)
    assert driver.result("cuCtxEnablePeerAccess", context, 0) == "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED"
    assert driver.result("cuCtxEnablePeerAccess", other, 0) == "CUDA_ERROR_INVALID_CONTEXT"
    function = driver.function(image("add", "((float*)args[0])[i] += 1.0f;"), "add")
    driver.launch(function, words(data), 2)
    driver.cuCtxSynchronize()
    assert struct.unpack("<2f", driver.download(data, 8)) == (2, 3)


def test_a_kernel_does_not_follow_pointers_to_a_peer_otherwise(driver: Driver) -> None:
    data = driver.upload(struct.pack("<2f", 1, 2))
    driver.open(1)
    function = driver.function(image("add", "((float*)args[0])[i] += 1.0f;"), "add")
    driver.launch(function, words(data), 2)
    assert driver.result("cuCtxSynchronize") == "CUDA_ERROR_ILLEGAL_ADDRESS"


def test_copies_between_devices_need_no_peer_access(driver: Driver) -> None:
    context = driver.made("cuCtxGetCurrent")
    data = driver.upload(b"12345678")
    driver.cuCtxSynchronize()
    other = driver.open(1)
    there = driver.made("cuMemAlloc", 8)
    driver.cuMemcpyPeerAsync(there, other, data, context, 8, 0)
    assert driver.download(there, 8) == b"12345678"
    assert driver.result("cuMemcpyPeerAsync", there, 77, data, context, 8, 0) == "CUDA_ERROR_INVALID_CONTEXT"


class Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_char * 64),)


EXPORTER = """
import sys; sys.path.insert(0, {root!r})
from tests.simulator.driver import *
driver = Driver(); driver.open()
address = driver.upload(b"from the other")
handle = ctypes.create_string_buffer(64); driver.cuIpcGetMemHandle(handle, address)
event = driver.event(2 | 4); shared = ctypes.create_string_buffer(64); driver.cuIpcGetEventHandle(shared, event)
driver.cuCtxSynchronize()
print(handle.raw.hex(), shared.raw.hex(), flush=True)
assert input() == "written"
assert driver.download(address, 4) == b"here"
driver.cuEventRecord(event, 0)
driver.cuEventSynchronize(event)
print("recorded", flush=True)
input()
"""


MORTAL = """
import sys; sys.path.insert(0, {root!r})
from tests.simulator.driver import *
driver = Driver(); driver.open()
event = driver.event(2 | 4); shared = ctypes.create_string_buffer(64); driver.cuIpcGetEventHandle(shared, event)
driver.fail("cuMemsetD8Async:0:hang")
driver.cuMemsetD8Async(driver.made("cuMemAlloc", 16), 7, 16, 0)
driver.cuEventRecord(event, 0)
print(shared.raw.hex(), flush=True)
input()
"""


@pytest.mark.parametrize("waits", ["host", "stream"])
def test_a_record_of_a_process_that_ended_before_it_is_an_error(driver: Driver, root: Any, waits: str) -> None:
    command = [sys.executable, "-c", MORTAL.format(root=str(root))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        event = driver.made("cuIpcOpenEventHandle", Handle.from_buffer_copy(bytes.fromhex(process.stdout.readline())))
        assert driver.result("cuEventQuery", event) == "CUDA_ERROR_NOT_READY"
        if waits == "stream":
            driver.cuStreamWaitEvent(0, event, 0)
        process.kill()
        call = ("cuEventSynchronize", event) if waits == "host" else ("cuStreamSynchronize", 0)
        assert driver.result(*call) == "CUDA_ERROR_UNKNOWN"


STALE = """
import sys; sys.path.insert(0, {root!r})
from tests.simulator.driver import *
driver = Driver(); driver.open()
address = driver.upload(b"memory")
handle = ctypes.create_string_buffer(64); driver.cuIpcGetMemHandle(handle, address)
event = driver.event(2 | 4); shared = ctypes.create_string_buffer(64); driver.cuIpcGetEventHandle(shared, event)
driver.cuEventDestroy(event)
ledgers = [open({ledger!r}, "r+b") for _ in range(100)]  # one of them has the event's descriptor now
others = [driver.event(2 | 4) for _ in range(3)]
print(shared.raw.hex(), flush=True)
input()
"""


def test_a_handle_of_an_event_that_is_gone_opens_no_other_file(driver: Driver, root: Any, tmp_path: Any) -> None:
    ledger = tmp_path / "ledger"
    ledger.write_bytes(b"A" * 8192)
    command = [sys.executable, "-c", STALE.format(root=str(root), ledger=str(ledger))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        handle = Handle.from_buffer_copy(bytes.fromhex(process.stdout.readline()))
        event = ctypes.c_uint64()
        result = driver.result("cuIpcOpenEventHandle", ctypes.byref(event), handle)
        process.kill()
    assert result == "CUDA_ERROR_INVALID_HANDLE"
    assert ledger.read_bytes() == b"A" * 8192


RECORDER = """
import sys; sys.path.insert(0, {root!r})
from tests.simulator.driver import *
driver = Driver(); driver.open()
event = driver.event(2 | 4); shared = ctypes.create_string_buffer(64); driver.cuIpcGetEventHandle(shared, event)
stream = driver.stream()
driver.cuEventRecord(event, 0)
driver.cuEventSynchronize(event)
driver.fail("cuEventRecord:0:CUDA_ERROR_OUT_OF_MEMORY")
legacy, blocking = 1, driver.stream(0)
driver.cuStreamBeginCapture(blocking, 2)
assert driver.result("cuEventRecord", event, stream) == "CUDA_ERROR_OUT_OF_MEMORY"
assert driver.result("cuEventRecord", event, legacy) == "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"
print(shared.raw.hex(), flush=True)
input()
"""


def test_a_record_that_was_refused_is_not_waited_for(driver: Driver, root: Any) -> None:
    command = [sys.executable, "-c", RECORDER.format(root=str(root))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        event = driver.made("cuIpcOpenEventHandle", Handle.from_buffer_copy(bytes.fromhex(process.stdout.readline())))
        result = driver.result("cuEventQuery", event)
        process.kill()
    assert result == "CUDA_SUCCESS"


def test_memory_and_events_of_another_process(driver: Driver, root: Any) -> None:
    own = driver.upload(b"own")
    handle = Handle()
    driver.cuIpcGetMemHandle(ctypes.byref(handle), own)
    assert driver.result("cuIpcOpenMemHandle", ctypes.byref(ctypes.c_uint64()), handle, 1) == (
        "CUDA_ERROR_INVALID_CONTEXT"
    )
    command = [sys.executable, "-c", EXPORTER.format(root=str(root))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        memory, event = (Handle.from_buffer_copy(bytes.fromhex(h)) for h in process.stdout.readline().split())
        address = driver.made("cuIpcOpenMemHandle", memory, 1)
        assert driver.made("cuIpcOpenMemHandle", memory, 1) == address
        assert driver.download(address, 14) == b"from the other"
        function = driver.function(image("put", '((char*)args[0])[i] = "here"[i];'), "put")
        driver.launch(function, words(address), 4)
        driver.cuCtxSynchronize()
        opened = driver.made("cuIpcOpenEventHandle", event)
        print("written", file=process.stdin, flush=True)
        assert process.stdout.readline() == "recorded\n"
        driver.cuStreamWaitEvent(0, opened, 0)
        driver.cuCtxSynchronize()
        driver.cuEventSynchronize(opened)
        driver.cuIpcCloseMemHandle(address)
        driver.cuIpcCloseMemHandle(address)
        assert driver.result("cuIpcCloseMemHandle", address) == "CUDA_ERROR_INVALID_VALUE"
        print("end", file=process.stdin, flush=True)
    assert process.returncode == 0
    assert re.fullmatch("[0-9a-f]+", bytes(memory).hex())
