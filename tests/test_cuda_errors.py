"""What is told of a fault of a CUDA device, at each call until a reset. Whom it blames: test_device_errors.py."""

from __future__ import annotations

from .programs import Program

PRELUDE = """
import unify as un

simulation = un.simulate("cuda:90", memory_bytes=256 << 20)
device = un.device("cuda:0")

"""


def test_a_fault_without_a_suspect_still_tells_the_driver_s_error_each_time(program: Program) -> None:
    first, second = program("""
        x = un.zeros(1000, device=device)
        device.synchronize()
        simulation.fail("cuStreamSynchronize", error="CUDA_ERROR_LAUNCH_FAILED")
        for _ in range(2):
            error = told(device.synchronize)
            print(error.native_name, error.kernel, str(error).splitlines()[0])
    """)
    reason = "unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED, 719)"
    assert first == f"CUDA_ERROR_LAUNCH_FAILED None cuda:0: waiting for the device: {reason}."
    assert second == (
        f"CUDA_ERROR_LAUNCH_FAILED None cuda:0 is unusable since waiting for the device: {reason}. "
        "device.reset() brings it back without its memory."
    )


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
    reason = "unknown error (CUDA_ERROR_UNKNOWN, 999)."
    cause = f"DeviceLost CUDA_ERROR_UNKNOWN cuda:0 is lost since waiting for the device: {reason}"
    assert lost.startswith(cause)
    assert lost.endswith("device.reset() may not bring it back: then use another device, or start the process again.")
    assert reset.startswith(f"DeviceLost CUDA_ERROR_UNKNOWN cuda:0: reset: {reason}")
    assert after.startswith(cause)
    assert after.endswith("device.reset() failed. Use another device, or start the process again.")


def test_a_reset_that_a_fault_hits_tells_the_driver_s_error_and_may_be_repeated(program: Program) -> None:
    first, state, after = program("""
        un.zeros(1000, device=device)
        device.synchronize()
        simulation.fail("cuCtxSynchronize", error="CUDA_ERROR_LAUNCH_FAILED")
        error = told(device.reset)
        print(type(error).__name__, error.native_name, str(error).splitlines()[0])
        print(device.state)
        device.reset()
        print(un.ones(2, device=device).tolist())
    """)
    assert first.startswith("DeviceLost CUDA_ERROR_LAUNCH_FAILED cuda:0: reset: unspecified launch failure (")
    assert state == "gone"
    assert after == "[1.0, 1.0]"
