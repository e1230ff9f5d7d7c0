"""What is told of a fault of an Ascend device, whoever noticed it first. Whom it blames: test_device_errors.py too."""

from __future__ import annotations

import pytest

from .installed import NEEDS_ASCEND
from .programs import SUSPECTS, Program

pytestmark = NEEDS_ASCEND

PRELUDE = """
import time
import unify as un

simulation = un.simulate("ascend:910B3", count=2, memory_bytes=256 << 20)
device = un.device("ascend:0")
LAUNCH = "aclrtLaunchKernelWithHostArgs"

"""
KERNELS = SUSPECTS


@pytest.mark.parametrize("code", ["", "with un.Graph.capture(stream): innocent_kernel[(8,)](x, 1000, BLOCK=128)"])
def test_what_a_recording_holds_and_what_was_refused_is_no_suspect(program: Program, code: str) -> None:
    (kernel,) = program(f"""
        x, stream = un.zeros(1000, device=device), un.Stream(device)
        innocent_kernel[(8,)](x, 1000, BLOCK=128)
        device.synchronize()
        {code}
        simulation.fail(LAUNCH, error="ACL_ERROR_RT_PARAM_INVALID")
        assert type(told(lambda: innocent_kernel[(8,)](x, 1000, BLOCK=128))) is un.InvalidArgument
        simulation.fail(LAUNCH, error="aicore")
        print(told(lambda: (guilty_kernel[(8,)](x, 1000, BLOCK=128), device.synchronize())).kernel)
    """)
    assert kernel == "kernel guilty_kernel (kernels.py:10), grid 8×1×1, stream 0"


MEETING = {
    "the device": "device.synchronize()",
    "another stream": "others[0].synchronize()",
    "a question": "others[0].is_idle",
    "a launch": "innocent_kernel[(8,)](y, 1000, BLOCK=128)",
    "an allocation": "un.zeros(1 << 24, device=device)",
}


@pytest.mark.parametrize("who", MEETING)
def test_acl_s_words_about_the_task_are_told_by_whoever_meets_the_fault(program: Program, who: str) -> None:
    (words,) = program(f"""
        x, y, others = un.zeros(1000, device=device), un.zeros(1000, device=device), [un.Stream(device) for _ in "abcd"]
        for kernel in (guilty_kernel, innocent_kernel):
            kernel[(8,)](x, 1000, BLOCK=128)
        device.synchronize()
        simulation.fail(LAUNCH, error="aicore")
        guilty_kernel[(8,)](x, 1000, BLOCK=128)
        print("fault kernel_name=guilty_kernel" in str(told_at_last(lambda: {MEETING[who]})))
    """)
    assert words == "True"


def test_a_fault_without_a_suspect_still_tells_acl_s_error_each_time(program: Program) -> None:
    first, second = program("""
        x = un.zeros(1000, device=device)
        device.synchronize()
        simulation.fail("aclrtSynchronizeStream", error="aicore")
        for _ in range(2):
            error = told(device.synchronize)
            print(error.native_name, error.kernel, str(error).splitlines()[0])
    """)
    reason = "aicore exception: EZ9999: Inner Error!"
    assert first == f"ACL_ERROR_RT_AICORE_EXCEPTION None ascend:0: waiting for the device: {reason}"
    assert second == (f"ACL_ERROR_RT_AICORE_EXCEPTION None ascend:0 is unusable since waiting for the device: {reason}")


def test_a_lost_device_keeps_its_cause_through_a_reset_that_fails(program: Program) -> None:
    lost, reset, after = program("""
        x = un.zeros(1000, device=device)
        device.synchronize()
        simulation.lose()
        told_at_last(device.synchronize)
        for call in (device.synchronize, device.reset, device.synchronize):
            error = told(call)
            print(type(error).__name__, error.native_name, str(error).splitlines()[0])
    """)
    assert lost.startswith("DeviceLost ACL_ERROR_RT_LOST_HEARTBEAT ascend:0 is lost since waiting for the device: ")
    assert reset.startswith("DeviceLost ACL_ERROR_RT_LOST_HEARTBEAT ascend:0: reset: ")
    assert after.startswith("DeviceLost ACL_ERROR_RT_LOST_HEARTBEAT ascend:0 is lost since waiting for the device: ")


@pytest.mark.parametrize("name", ["ACL_ERROR_RT_AICORE_EXCEPTION", "ACL_ERROR_RT_DRV_INTERNAL_ERROR"])
def test_a_reset_that_a_fault_hits_tells_acl_s_error_and_may_be_repeated(program: Program, name: str) -> None:
    first, state, after = program(f"""
        un.zeros(1000, device=device)
        device.synchronize()
        simulation.fail("aclrtMemcpy", error={name!r})
        error = told(device.reset)
        print(type(error).__name__, error.native_name, str(error).splitlines()[0])
        print(device.state)
        device.reset()
        print(un.ones(2, device=device).tolist())
    """)
    assert first.startswith(f"DeviceLost {name} ascend:0: reset: ")
    assert state == "gone"
    assert after == "[1.0, 1.0]"


def test_a_device_whose_memory_others_have_is_well_after_a_reset(program: Program) -> None:
    (state,) = program("""
        un.zeros(1000, device=device)
        device.synchronize()
        simulation.fail("aclrtMalloc", error="out_of_memory")
        device.reset()
        print(device.state)
    """)
    assert state == "healthy"


def test_what_failed_without_an_error_is_not_told_with_the_next_one(program: Program) -> None:
    (has_other_s_words,) = program("""
        x = un.zeros(1000, device=device)
        simulation.fail("aclrtGetHardwareSyncAddr", error="ACL_ERROR_RT_FEATURE_NOT_SUPPORT")
        innocent_kernel[(8,)](x, 1000, BLOCK=128)  # a chip without that address takes none
        device.synchronize()
        simulation.fail("aclrtCreateEventExWithFlag", error="ACL_ERROR_RT_NO_EVENT_RESOURCE")
        print("aclrtGetHardwareSyncAddr" in str(told(lambda: un.Event(device, timing=True))))
    """)
    assert has_other_s_words == "False"


# ---- host functions of a context that failed ----

WAITS = ["stream.synchronize()", "device.synchronize()", "event.synchronize()", "stream.synchronize(timeout_s=30)"]


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_that_fails_ends_after_the_host_functions_that_were_enqueued(program: Program, wait: str) -> None:
    (ran,) = program(f"""
        x, stream, event, ran = un.zeros(1000, device=device), un.Stream(device), un.Event(device), []
        device.synchronize()
        simulation.hang(LAUNCH)
        for _ in range(2):
            guilty_kernel[(8,)](x, 1000, BLOCK=128, stream=stream)
            simulation.fail(LAUNCH, error="aicore")
        for number in range(5):
            stream.host_call(lambda number=number: (time.sleep(0.02), ran.append(number)))
        event.record(stream)
        simulation.release()
        error = told(lambda: {wait})
        print(type(error).__name__, ran)
    """)
    assert ran == "KernelFault [0, 1, 2, 3, 4]"
