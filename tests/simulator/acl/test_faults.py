"""Faults on demand, what a failed stream takes along, and how a program brings its device back."""

from __future__ import annotations

import ctypes
import struct
import time

import pytest

from ..driver import MIB
from .driver import D2D, Acl, image, told_to_who_waits, words

WRONG = "((char*)args[3])[1 << 30] = 1;"
ADD = "((float*)args[3])[i] += 1.0f;"


def allocate(acl: Acl) -> str:
    return acl.result("aclrtMalloc", ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(4096), 0)


def break_stream(acl: Acl, stream: int) -> None:
    acl.launch(acl.function(image("wrong", WRONG), "wrong"), words(acl.malloc(16)), 1, stream)


def test_a_call_fails_after_so_many_others_of_its_name(acl: Acl) -> None:
    acl.fail("aclrtMalloc:2:out_of_memory")
    acl.event()
    answers = [allocate(acl) for _ in range(4)]
    assert answers == ["SUCCESS", "SUCCESS", "RT_MEMORY_ALLOCATION", "SUCCESS"]


def test_any_call_can_be_meant(acl: Acl) -> None:
    acl.fail("*:1:ACL_ERROR_RT_NO_PERMISSION")
    acl.event()
    assert [allocate(acl), allocate(acl)] == ["RT_NO_PERMISSION", "SUCCESS"]


@pytest.mark.parametrize("error", ["aicore", "vector_core", "timeout", "ACL_ERROR_RT_AICORE_TRAP_EXCEPTION"])
def test_an_error_of_work_belongs_to_its_stream_and_is_told_once(acl: Acl, error: str) -> None:
    stream, other, data = acl.stream(), acl.stream(), acl.malloc(16)
    acl.fail(f"aclrtMemsetAsync:0:{error}")
    assert acl.fill_later(data, 1, 16, stream) == acl.fill_later(data, 2, 16, stream) == "SUCCESS"
    acl.aclrtSynchronizeStream(other)
    assert acl.result("aclrtSynchronizeStream", stream) != "SUCCESS"
    acl.aclrtSynchronizeStream(stream)
    assert acl.download(data, 16) == bytes([2]) * 16  # what came behind it was done
    assert allocate(acl) == "SUCCESS"


def test_to_stop_on_failure_stops_the_context(acl: Acl) -> None:
    stream, other, data = acl.stream(stops=True), acl.stream(), acl.upload(bytes(16))
    event = acl.event()
    break_stream(acl, stream)
    # The first may or may not see the fault yet; it is not done in either case.
    acl.fill_later(data, 2, 16, stream)
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_VECTOR_CORE_EXCEPTION"
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_VECTOR_CORE_EXCEPTION"
    for answer in (
        acl.fill_later(data, 3, 16, stream),
        acl.fill_later(data, 3, 16, other),
        acl.result("aclrtSynchronizeStream", other),
        acl.result("aclrtSynchronizeDevice"),
        acl.result("aclrtRecordEvent", event, other),
        acl.result("aclrtStreamQuery", other, ctypes.byref(ctypes.c_int())),
        acl.result("aclrtQueryEventStatus", event, ctypes.byref(ctypes.c_int())),
    ):
        assert answer == "RT_VECTOR_CORE_EXCEPTION"
    assert acl.download(data, 16) == bytes(16)
    assert allocate(acl) == "SUCCESS"
    acl.aclrtSetDevice(1)
    assert acl.download(acl.upload(b"well"), 4) == b"well"


def test_a_task_abort_brings_a_stopped_context_back(acl: Acl) -> None:
    stream, data = acl.stream(stops=True), acl.upload(bytes(4))
    break_stream(acl, stream)
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_VECTOR_CORE_EXCEPTION"
    acl.aclrtDeviceTaskAbort(0, 1000)
    acl.launch(acl.function(image("add", ADD), "add"), words(data), 1, stream)
    acl.aclrtSynchronizeStream(stream)
    assert acl.download(data, 4) == struct.pack("<f", 1)


def test_a_reset_brings_a_stopped_context_back(acl: Acl) -> None:
    stream = acl.stream(stops=True)
    break_stream(acl, stream)
    acl.result("aclrtSynchronizeStream", stream)
    acl.aclrtResetDeviceForce(0)
    acl.aclrtSetDevice(0)
    assert acl.live("bytes") == 0
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_INVALID_HANDLE"
    assert acl.download(acl.upload(b"well"), 4) == b"well"


def test_an_abort_ends_what_hangs_and_tells_who_waits(acl: Acl) -> None:
    stream, data = acl.stream(), acl.upload(bytes(16))

    def hang() -> None:
        acl.fail("aclrtMemsetAsync:0:hang")
        assert acl.fill_later(data, 1, 16, stream) == acl.fill_later(data, 2, 16, stream) == "SUCCESS"

    assert told_to_who_waits(acl, stream, hang, lambda: acl.aclrtDeviceTaskAbort(0, 0)) == "RT_DEVICE_TASK_ABORT"
    acl.aclrtSynchronizeStream(stream)
    assert acl.download(data, 16) == bytes(16)


def test_an_abort_has_its_time_and_its_callbacks(acl: Acl) -> None:
    stages: list[int] = []
    type_ = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.c_uint, ctypes.c_uint32, ctypes.c_void_p)
    callback = type_(lambda device, stage, timeout, data: stages.append(stage) or 0)
    acl.aclrtSetDeviceTaskAbortCallback(b"test", callback, None)
    acl.aclrtDeviceTaskAbort(0, 100)
    assert stages == [0, 1]
    acl.aclrtSetDeviceTaskAbortCallback(b"test", None, None)
    busy = acl.function(image("busy", "volatile int* stop = (int*)args[3]; while (*stop == 0) {}"), "busy")
    stop = acl.pinned(4)
    ctypes.c_int.from_address(stop).value = 0
    acl.launch(busy, words(stop), 1, acl.stream())
    while acl.result("aclrtDeviceTaskAbort", 0, 50) == "SUCCESS":  # until the kernel runs
        acl.launch(busy, words(stop), 1, acl.stream())
    ctypes.c_int.from_address(stop).value = 1
    acl.aclrtDeviceTaskAbort(0, 0)


@pytest.mark.parametrize(
    ("error", "name", "reason", "type_"),
    [
        ("ecc", "RT_HBM_MULTI_BIT_ECC_ERROR", "hbm Multi-bit ECC error", 1),
        ("ACL_ERROR_RT_DEVICE_MEM_ERROR", "RT_DEVICE_MEM_ERROR", "device mem error", 1),
        ("ACL_ERROR_RT_SUSPECT_DEVICE_MEM_ERROR", "RT_SUSPECT_DEVICE_MEM_ERROR", "suspect device mem error", 1),
        ("link", "RT_LINK_ERROR", "link error", 4),
        ("ACL_ERROR_RT_SUSPECT_REMOTE_ERROR", "RT_SUSPECT_REMOTE_ERROR", "suspect remote error", 0xFFFF),
    ],
)
def test_errors_of_memory_and_links_stop_the_device(acl: Acl, error: str, name: str, reason: str, type_: int) -> None:
    stream, other, data = acl.stream(), acl.stream(), acl.malloc(16)
    acl.fail(f"aclrtMemsetAsync:0:{error}")
    assert acl.fill_later(data, 1, 16, stream) == "SUCCESS"
    assert acl.result("aclrtSynchronizeStream", stream) == name
    acl.message()
    assert acl.result("aclrtSynchronizeStream", other) == name
    assert f"reason=[{reason}]" in acl.message()  # what torch_npu looks for
    info = (ctypes.c_uint8 * 4096)()
    acl.aclrtGetErrorVerbose(0, info)
    assert int.from_bytes(bytes(info[4:8]), "little") == type_
    acl.aclrtDeviceTaskAbort(0, 0)
    assert acl.result("aclrtRepairError", 0, info) == ("SUCCESS" if type_ != 0xFFFF else "RT_FEATURE_NOT_SUPPORT")
    assert acl.fill_later(data, 1, 16, stream) == "SUCCESS"
    acl.aclrtSynchronizeStream(stream)
    acl.aclrtSetDevice(1)
    acl.aclrtSynchronizeDevice()


def test_an_error_of_the_memory_has_an_address_until_it_is_repaired(acl: Acl) -> None:
    stream, data = acl.stream(), acl.malloc(16)
    acl.fail("aclrtMemsetAsync:0:ecc")
    acl.fill_later(data, 1, 16, stream)
    acl.result("aclrtSynchronizeStream", stream)
    found, count = (ctypes.c_uint64 * 16)(), ctypes.c_size_t()
    assert acl.result("aclrtGetMemUceInfo", 0, found, ctypes.c_size_t(0), ctypes.byref(count)) == "INVALID_PARAM"
    acl.aclrtGetMemUceInfo(0, found, ctypes.c_size_t(1), ctypes.byref(count))
    assert (count.value, found[0]) == (1, data)
    acl.aclrtMemUceRepair(0, found, ctypes.c_size_t(1))
    acl.aclrtGetMemUceInfo(0, found, ctypes.c_size_t(1), ctypes.byref(count))
    assert count.value == 0


def test_who_asked_is_told_of_an_exception(acl: Acl) -> None:
    told: list[tuple[int, ...]] = []
    getters = ["Stream", "Device"]
    type_ = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def note(info: int) -> None:
        pointer = ctypes.c_void_p(info)
        values = [getattr(acl.library, f"aclrtGet{each}IdFromExceptionInfo")(pointer) for each in getters]
        told.append((*values, acl.library.aclrtGetErrorCodeFromExceptionInfo(pointer)))

    callback = type_(note)
    acl.aclrtSetExceptionInfoCallback(callback)
    stream, number = acl.stream(), ctypes.c_int()
    acl.aclrtStreamGetId(stream, ctypes.byref(number))
    break_stream(acl, stream)
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_VECTOR_CORE_EXCEPTION"
    acl.aclrtSetExceptionInfoCallback(None)
    assert told == [(number.value, 0, 507035)]


def test_a_lost_device_never_comes_back(python: object, root: object) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(root)!r})
from tests.simulator.acl.driver import *
acl = Acl(count=2)
acl.aclrtSetDevice(0)
stream = acl.stream()
acl.fail("time:0:lost")
status = ctypes.c_int()
print(acl.result("aclrtSynchronizeStream", stream), acl.result("aclrtMalloc", ctypes.byref(ctypes.c_uint64()),
      ctypes.c_size_t(16), 0), acl.result("aclrtDeviceTaskAbort", 0, 0), acl.result("aclrtResetDeviceForce", 0),
      acl.result("aclrtSetDevice", 0), acl.told("aclrtQueryDeviceStatus", 0) & 0xffffffff)
acl.aclrtSetDevice(1)
print(acl.download(acl.upload(b"well"), 4))
"""
    finished = python("-c", program)  # type: ignore[operator]
    lost = "RT_LOST_HEARTBEAT"
    assert finished.stdout == f"{lost} {lost} {lost} SUCCESS {lost} 1\nb'well'\n", finished.stderr


def test_work_hangs_until_it_is_released(acl: Acl) -> None:
    data, stream = acl.upload(bytes(16)), acl.stream()
    acl.fail("aclrtMemsetAsync:0:hang")
    assert acl.fill_later(data, 7, 16, stream) == "SUCCESS"
    acl.aclrtSynchronizeStream(acl.stream())
    assert acl.told("aclrtStreamQuery", stream) & 0xFFFFFFFF == 1
    acl.library.unify_simulator_release(0)
    acl.aclrtSynchronizeStream(stream)
    assert acl.download(data, 16) == bytes([7]) * 16


def test_a_device_fails_by_time_while_somebody_waits(acl: Acl) -> None:
    stream, data = acl.stream(), acl.malloc(16)
    acl.fail("aclrtMemsetAsync:0:hang")
    acl.fill_later(data, 7, 16, stream)
    acl.fail("time:0.05:ecc")
    assert acl.result("aclrtSynchronizeStream", stream) == "RT_HBM_MULTI_BIT_ECC_ERROR"


def test_copies_take_the_time_of_a_bandwidth(acl: Acl) -> None:
    source, target = acl.malloc(MIB), acl.malloc(MIB)
    acl.library.unify_simulator_slow(0, ctypes.c_double(10 * MIB))
    begin = time.monotonic()
    assert acl.copy_later(target, source, MIB, D2D) == "SUCCESS"
    assert acl.told("aclrtStreamQuery", None) & 0xFFFFFFFF == 1
    acl.aclrtSynchronizeStream(None)
    assert time.monotonic() - begin >= 0.1


def test_a_copy_is_corrupt_and_says_nothing(acl: Acl) -> None:
    data = acl.upload(bytes(16))
    acl.fail("aclrtMemcpy:0:corrupt")
    first = acl.download(data, 16)
    assert sum(bin(byte).count("1") for byte in first) == 1
    assert acl.download(data, 16) == bytes(16)


@pytest.mark.parametrize(
    ("plan", "part"),
    [
        ("aclrtMalloc", "CALL:AFTER:WHAT"),
        ("aclrtMalloc:x:ecc", "'x' is not a number"),
        (
            "aclrtMalloc:0:eccc",
            "'eccc' is neither an aclError, an HcclResult nor one of lost, aicore, vector_core, ecc",
        ),
    ],
)
def test_a_plan_that_cannot_be_read_says_why(acl: Acl, plan: str, part: str) -> None:
    assert acl.library.unify_simulator_fail(0, plan.encode()) == -1
    assert part in acl.library.unify_simulator_error().decode()
