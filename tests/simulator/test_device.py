"""The driver itself, its devices and their primary contexts."""

from __future__ import annotations

import ctypes
import threading

import pytest

from .driver import MIB, Driver, image, words


def test_before_cuInit_nothing_works(python: object, root: object) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(root)!r})
from tests.simulator.driver import *
driver = Driver()
print(driver.result("cuDeviceGetCount", ctypes.byref(ctypes.c_int())), driver.result("cuInit", 1))
driver.cuInit(0)
print(driver.result("cuMemAlloc", ctypes.byref(ctypes.c_uint64()), 1), driver.result("cuCtxSynchronize"))
"""
    finished = python("-c", program)  # type: ignore[operator]
    assert finished.stdout.split() == [
        *("CUDA_ERROR_NOT_INITIALIZED", "CUDA_ERROR_INVALID_VALUE"),
        *("CUDA_ERROR_INVALID_CONTEXT", "CUDA_ERROR_INVALID_CONTEXT"),
    ], finished.stderr


def test_no_device_is_a_result_of_its_own() -> None:
    driver = Driver(count=0)
    assert driver.result("cuInit", 0) == "CUDA_ERROR_NO_DEVICE"
    Driver(count=1)


@pytest.mark.parametrize(
    ("capability", "name", "processors", "shared"),
    [
        (80, "NVIDIA A100-SXM4-80GB (simulated)", 108, 166912),
        (86, "NVIDIA A10 (simulated)", 72, 101376),
        (89, "NVIDIA L40S (simulated)", 142, 101376),
        (90, "NVIDIA H100 80GB HBM3 (simulated)", 132, 232448),
        (100, "NVIDIA B200 (simulated)", 148, 232448),
        (120, "NVIDIA GeForce RTX 5090 (simulated)", 170, 101376),
    ],
)
def test_a_chip_is_itself_but_for_its_name(capability: int, name: str, processors: int, shared: int) -> None:
    driver = Driver(capability=capability, memory_bytes=128 * MIB)
    driver.cuInit(0)
    text = ctypes.create_string_buffer(64)
    driver.cuDeviceGetName(text, 64, 0)
    assert text.value.decode() == name
    attributes = [driver.made("cuDeviceGetAttribute", number, 0) for number in (16, 97, 75, 76, 10)]
    assert attributes == [processors, shared, capability // 10, capability % 10, 32]
    assert driver.made("cuDeviceTotalMem", 0) == 128 * MIB
    out = ctypes.c_int()
    assert driver.result("cuDeviceGetAttribute", ctypes.byref(out), 10000, 0) == "CUDA_ERROR_INVALID_VALUE"
    assert driver.result("cuDeviceGet", ctypes.byref(out), 1) == "CUDA_ERROR_INVALID_DEVICE"


def test_devices_are_told_apart(driver: Driver) -> None:
    seen = set()
    for device in (0, 1):
        uuid, bus = ctypes.create_string_buffer(16), ctypes.create_string_buffer(16)
        driver.cuDeviceGetUuid(uuid, device)
        driver.cuDeviceGetPCIBusId(bus, 16, device)
        seen |= {uuid.raw, bus.value}
    assert len(seen) == 4


def test_a_context_lives_as_long_as_it_is_retained(driver: Driver) -> None:
    context = driver.made("cuDevicePrimaryCtxRetain", 0)
    assert context == driver.made("cuCtxGetCurrent")
    stream = driver.stream()
    driver.cuDevicePrimaryCtxRelease(0)
    driver.cuStreamSynchronize(stream)
    driver.cuDevicePrimaryCtxRelease(0)
    assert driver.result("cuDevicePrimaryCtxRelease", 0) == "CUDA_ERROR_INVALID_CONTEXT"
    assert driver.result("cuCtxSynchronize") == "CUDA_ERROR_CONTEXT_IS_DESTROYED"
    assert driver.result("cuStreamSynchronize", stream) == "CUDA_ERROR_INVALID_HANDLE"
    assert driver.made("cuDevicePrimaryCtxRetain", 0) == context
    driver.cuCtxSynchronize()


def test_a_reset_takes_all_and_releases_nothing(driver: Driver) -> None:
    driver.upload(b"1234")
    driver.made("cuMemHostAlloc", 16, 1)
    driver.stream()
    driver.event()
    driver.cuDevicePrimaryCtxReset(0)
    kinds = ("bytes", "allocations", "pinned_bytes", "streams", "events", "modules", "graph_execs")
    assert {driver.live(kind) for kind in kinds} == {0}
    assert driver.live("retained") == 1


@pytest.mark.parametrize("work", ["a fill", "a kernel without end", "a hang"])
def test_a_reset_waits_for_what_runs(driver: Driver, work: str) -> None:
    if work == "a kernel without end":
        binary = image("busy", "for (;;) ((volatile char*)args[0])[0] += 1;")
    for _ in range(5):
        stream, data, size = driver.stream(), driver.made("cuMemAlloc", 48 * MIB), 48 * MIB
        if work == "a kernel without end":
            driver.launch(driver.function(binary, "busy"), words(data), 1, stream)
        elif work == "a hang":
            driver.fail("cuMemsetD8Async:0:hang")
        for _ in range(3):  # what waits behind it is dropped
            driver.cuMemsetD8Async(data, 7, size, stream)
        driver.cuDevicePrimaryCtxReset(0)
        driver.made("cuDevicePrimaryCtxRetain", 0)
        driver.cuMemFree(driver.made("cuMemAlloc", 60 * MIB))


def test_the_current_context_is_a_threads_own(driver: Driver) -> None:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(driver.made("cuCtxGetCurrent")))
    thread.start()
    thread.join()
    assert seen == [0]
    assert driver.result("cuCtxSetCurrent", 12345) == "CUDA_ERROR_INVALID_CONTEXT"
    driver.cuCtxSetCurrent(None)
    assert driver.made("cuCtxGetCurrent") == 0
    assert driver.result("cuCtxSynchronize") == "CUDA_ERROR_INVALID_CONTEXT"


def test_cuGetProcAddress_knows_names_and_versions(driver: Driver) -> None:
    pointer, status = ctypes.c_void_p(), ctypes.c_int(7)

    def ask(name: bytes, version: int) -> tuple[str, int, bool]:
        result = driver.result(
            "cuGetProcAddress_v2", name, ctypes.byref(pointer), version, ctypes.c_uint64(0), ctypes.byref(status)
        )
        return result, status.value, bool(pointer.value)

    assert ask(b"cuMemAlloc", 3020) == ("CUDA_SUCCESS", 0, True)
    assert pointer.value == ctypes.cast(driver.library.cuMemAlloc_v2, ctypes.c_void_p).value
    assert ask(b"cuMemAlloc", 2000) == ("CUDA_ERROR_NOT_FOUND", 2, False)
    assert ask(b"cuMemAlloc_v2", 12000) == ("CUDA_ERROR_NOT_FOUND", 1, False)
    assert ask(b"cuNoSuch", 12000) == ("CUDA_ERROR_NOT_FOUND", 1, False)
    assert ask(b"cuMemAlloc", 13010)[0] == "CUDA_ERROR_INVALID_VALUE"
    assert driver.made("cuDriverGetVersion") == 13000


def test_results_have_their_names_and_texts(driver: Driver) -> None:
    text = ctypes.c_char_p()
    driver.cuGetErrorName(700, ctypes.byref(text))
    assert text.value == b"CUDA_ERROR_ILLEGAL_ADDRESS"
    driver.cuGetErrorString(700, ctypes.byref(text))
    assert text.value == b"an illegal memory access was encountered"
    assert driver.result("cuGetErrorString", 12345, ctypes.byref(text)) == "CUDA_ERROR_INVALID_VALUE"
    assert text.value is None


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((17, 90, 1 << 30), "count is 17"),
        ((1, 91, 1 << 30), "known: 80, 86, 89, 90, 100, 120"),
        ((1, 90, 1), "memory_bytes is 1"),
    ],
)
def test_a_configuration_that_is_not_possible_says_why(arguments: tuple[int, int, int], part: str) -> None:
    driver = Driver()
    count, capability, size = arguments
    assert driver.library.unify_simulator_configure(count, capability, ctypes.c_uint64(size), None) == -1
    assert part in driver.library.unify_simulator_error().decode()


def test_devices_in_use_stay_as_they_are(driver: Driver) -> None:
    assert driver.library.unify_simulator_configure(1, 90, ctypes.c_uint64(64 * MIB), None) == -1
    assert b"configure before" in driver.library.unify_simulator_error()
