"""Faults on demand: each kind, when it comes, and what is left of the device."""

from __future__ import annotations

import ctypes
import time

import pytest

from .driver import MIB, Driver, image, words


def allocate(driver: Driver) -> str:
    return driver.result("cuMemAlloc", ctypes.byref(ctypes.c_uint64()), 4096)


def test_a_call_fails_after_so_many_others_of_its_name(driver: Driver) -> None:
    driver.fail("cuMemAlloc:2:CUDA_ERROR_OUT_OF_MEMORY")
    driver.event()
    answers = [allocate(driver) for _ in range(4)]
    assert answers == ["CUDA_SUCCESS", "CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_SUCCESS"]


def test_any_call_can_be_meant(driver: Driver) -> None:
    driver.fail("*:1:CUDA_ERROR_NOT_SUPPORTED")
    driver.event()
    assert allocate(driver) == "CUDA_ERROR_NOT_SUPPORTED"
    assert allocate(driver) == "CUDA_SUCCESS"


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ("cuMemsetD8Async:0:CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("cuMemsetD8Async:0:ecc", "CUDA_ERROR_ECC_UNCORRECTABLE"),
        ("cuMemsetD8Async:0:launch_failure", "CUDA_ERROR_LAUNCH_FAILED"),
    ],
)
def test_a_fault_of_enqueued_work_shows_at_a_later_call_and_stays(driver: Driver, plan: str, name: str) -> None:
    data, stream = driver.made("cuMemAlloc", 16), driver.stream()
    driver.fail(plan)
    driver.cuMemsetD8Async(data, 0, 16, stream)
    assert driver.result("cuStreamSynchronize", stream) == name
    assert allocate(driver) == name
    driver.open(1)
    assert allocate(driver) == "CUDA_SUCCESS"
    driver.cuDevicePrimaryCtxReset(0)
    driver.open(0)
    assert allocate(driver) == "CUDA_SUCCESS"


def test_work_behind_a_fault_is_not_done(driver: Driver) -> None:
    host = driver.made("cuMemHostAlloc", 16, 1)
    stream = driver.stream()
    driver.fail("cuMemsetD8Async:0:ecc")
    driver.cuMemsetD8Async(host, 1, 16, stream)
    driver.result("cuMemsetD8Async", host, 2, 16, stream)
    driver.result("cuStreamSynchronize", stream)
    assert ctypes.string_at(host, 16) == bytes(16)


def test_a_lost_device_never_comes_back(python: object, root: object) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(root)!r})
from tests.simulator.driver import *
driver = Driver(count=2)
driver.open()
stream = driver.stream()
driver.fail("time:0:lost")
print(driver.result("cuStreamSynchronize", stream), driver.result("cuDevicePrimaryCtxReset", 0),
      driver.result("cuDevicePrimaryCtxRetain", ctypes.byref(ctypes.c_uint64()), 0))
driver.open(1)
print(driver.download(driver.upload(b"well"), 4))
"""
    finished = python("-c", program)  # type: ignore[operator]
    assert finished.stdout == "CUDA_ERROR_UNKNOWN CUDA_ERROR_UNKNOWN CUDA_ERROR_UNKNOWN\nb'well'\n", finished.stderr


def test_work_hangs_until_it_is_released(driver: Driver) -> None:
    data, stream = driver.upload(bytes(16)), driver.stream()
    driver.fail("cuMemsetD8Async:0:hang")
    driver.cuMemsetD8Async(data, 7, 16, stream)
    other = driver.stream()
    driver.cuStreamSynchronize(other)
    assert driver.result("cuStreamQuery", stream) == "CUDA_ERROR_NOT_READY"
    driver.library.unify_simulator_release(0)
    assert driver.download(data, 16, stream) == bytes([7]) * 16


def test_a_reset_ends_what_hangs(driver: Driver) -> None:
    data, stream = driver.upload(bytes(16)), driver.stream()
    driver.fail("cuMemsetD8Async:0:hang")
    driver.cuMemsetD8Async(data, 7, 16, stream)
    driver.cuDevicePrimaryCtxReset(0)
    driver.open(0)
    driver.cuCtxSynchronize()


def test_a_device_fails_by_time_while_somebody_waits(driver: Driver) -> None:
    stream, data = driver.stream(), driver.made("cuMemAlloc", 16)
    driver.fail("cuMemsetD8Async:0:hang")
    driver.cuMemsetD8Async(data, 7, 16, stream)
    driver.fail("time:0.05:ecc")
    assert driver.result("cuStreamSynchronize", stream) == "CUDA_ERROR_ECC_UNCORRECTABLE"


def test_copies_take_the_time_of_a_bandwidth(driver: Driver) -> None:
    source, target = driver.made("cuMemAlloc", MIB), driver.made("cuMemAlloc", MIB)
    driver.library.unify_simulator_slow(0, ctypes.c_double(10 * MIB))
    begin = time.monotonic()
    driver.cuMemcpyAsync(target, source, MIB, 0)
    assert driver.result("cuStreamQuery", 0) == "CUDA_ERROR_NOT_READY"
    driver.cuStreamSynchronize(0)
    assert time.monotonic() - begin >= 0.1


def test_a_copy_is_corrupt_and_says_nothing(driver: Driver) -> None:
    data = driver.upload(bytes(16))
    driver.fail("cuMemcpyAsync:0:corrupt")
    first = driver.download(data, 16)
    assert sum(bin(byte).count("1") for byte in first) == 1
    assert driver.download(data, 16) == bytes(16)


def test_a_launch_can_hang_too(driver: Driver) -> None:
    function = driver.function(image("add", "((float*)args[0])[i] += 1.0f;"), "add")
    driver.fail("cuLaunchKernelEx:0:hang")
    driver.launch(function, words(driver.made("cuMemAlloc", 16)))
    assert driver.result("cuStreamQuery", 0) == "CUDA_ERROR_NOT_READY"
    driver.library.unify_simulator_clear(0)
    driver.cuCtxSynchronize()


@pytest.mark.parametrize(
    ("plan", "part"),
    [
        ("cuMemAlloc", "CALL:AFTER:WHAT"),
        ("cuMemAlloc:x:ecc", "'x' is not a number"),
        ("cuMemAlloc:-1:ecc", "'-1' is not a number"),
        ("cuMemAlloc:0:eccc", "'eccc' is neither a CUresult"),
    ],
)
def test_a_plan_that_cannot_be_read_says_why(driver: Driver, plan: str, part: str) -> None:
    assert driver.library.unify_simulator_fail(0, plan.encode()) == -1
    assert part in driver.library.unify_simulator_error().decode()


def test_a_device_that_is_not_there_is_named(driver: Driver) -> None:
    assert driver.library.unify_simulator_fail(7, b"*:0:ecc") == -1
    assert driver.library.unify_simulator_error() == b"no device 7; there are 2"
    assert driver.live("unknown") == -1
