"""Who is blamed for a fault of a CUDA device, and what every call says about it, whichever noticed it first."""

from __future__ import annotations

import pytest

from .programs import SUSPECTS, Program

PRELUDE = """
import threading
import unify as un

simulation = un.simulate("cuda:90", memory_bytes=256 << 20)
device = un.device("cuda:0")
gate = threading.Event()

def wait_until_idle():
    while simulation.live()["busy_streams"]:
        pass

"""
KERNELS = SUSPECTS


def test_a_graph_that_fails_is_named_with_its_kernels(program: Program) -> None:
    (kernel,) = program("""
        x = un.zeros(1000, device=device)
        guilty_kernel[(1,)](x, 10, BLOCK=128)
        with un.Graph.capture(device=device) as graph:
            guilty_kernel[(8,)](x, 1000, BLOCK=128)
        device.synchronize()
        simulation.fail("cuGraphLaunch", error="CUDA_ERROR_LAUNCH_FAILED")
        print(told(lambda: (graph.launch(), x[0].item())).kernel)
    """)
    assert kernel == "graph of guilty_kernel (kernels.py:10), stream 0"


def test_a_graph_is_one_of_the_suspects(program: Program) -> None:
    (kernel,) = program("""
        x, y = un.zeros(1000, device=device), un.zeros(1000, device=device)
        with un.Graph.capture(device=device) as graph:
            for kernel in (guilty_kernel, innocent_kernel, guilty_kernel):
                kernel[(8,)](x, 1000, BLOCK=128)
        graph.launch()
        device.synchronize()
        device.default_stream.host_call(gate.wait)
        simulation.fail("cuGraphLaunch", error="CUDA_ERROR_LAUNCH_FAILED")
        innocent_kernel[(8,)](y, 1000, BLOCK=128)
        graph.launch()
        gate.set()
        print(told(device.synchronize).kernel)
    """)
    graph = "graph of guilty_kernel (kernels.py:10) and innocent_kernel (kernels.py:5)"
    assert kernel == f"one of 2 launches since the last wait: innocent_kernel (kernels.py:5), {graph}"


def test_launches_that_were_waited_for_are_no_suspects_though_older_work_of_another_stream_is(program: Program) -> None:
    (kernel,) = program("""
        x, stream = un.zeros(1000, device=device), un.Stream(device)
        device.synchronize()
        device.default_stream.host_call(gate.wait)
        guilty_kernel[(8,)](x, 1000, BLOCK=128)  # nobody waits for it
        with stream:
            y = un.zeros(1000, device=device)
            for _ in range(40):
                innocent_kernel[(8,)](y, 1000, BLOCK=128)
        stream.synchronize()
        simulation.fail("cuLaunchKernelEx", error="CUDA_ERROR_LAUNCH_FAILED")
        guilty_kernel[(8,)](x, 1000, BLOCK=128)
        gate.set()
        print(told(device.synchronize).kernel)
    """)
    assert kernel == "kernel guilty_kernel (kernels.py:10), one of its 2 launches since the last wait"


def test_what_a_recording_holds_is_no_suspect(program: Program) -> None:
    (kernel,) = program("""
        x, stream = un.zeros(1000, device=device), un.Stream(device)
        device.synchronize()
        with un.Graph.capture(stream):
            innocent_kernel[(8,)](x, 1000, BLOCK=128)
        simulation.fail("cuLaunchKernelEx", error="CUDA_ERROR_LAUNCH_FAILED")
        print(told(lambda: (guilty_kernel[(8,)](x, 1000, BLOCK=128), device.synchronize())).kernel)
    """)
    assert kernel == "kernel guilty_kernel (kernels.py:10), grid 8×1×1, stream 0"


DROPPED = {
    "a module": "del module",
    "an event": "del event",
    "a stream": "del stream",
    "memory": "del memory; un.trim_memory(device)",
    "a graph": "del graph",
}


@pytest.mark.parametrize("what", DROPPED)
def test_the_first_error_is_whole_though_the_end_of_something_met_the_fault_first(program: Program, what: str) -> None:
    whole, again = program(f"""
        types = {{"x": "*fp32", "n": "i32"}}
        binary = un.compile(innocent_kernel, "cuda:90", types, {{"BLOCK": 128}})
        module, stream, event = un.Module.from_binary(binary, device), un.Stream(device), un.Event(device)
        x, memory = un.zeros(1000, device=device), un.zeros(1 << 24, device=device)
        module["innocent_kernel"][(8,)](x, 1000)
        event.record()
        with un.Graph.capture(device=device) as graph:
            innocent_kernel[(8,)](x, 1000, BLOCK=128)
        device.synchronize()
        simulation.fail("cuLaunchKernelEx", error="CUDA_ERROR_ILLEGAL_ADDRESS")
        def fail():
            global module, stream, event, memory, graph
            guilty_kernel[(8,)](x, 1000, BLOCK=128)
            wait_until_idle()
            {DROPPED[what]}
            device.synchronize()
        for call in (fail, device.synchronize):
            error = told(call)
            words = ["CUDA_ERROR_ILLEGAL_ADDRESS, 700", "guilty_kernel (kernels.py:10)", "UNIFY_CHECK_BOUNDS"]
            words.append("newest last")
            print(type(error).__name__, error.native_code, error.native_name, *(word in str(error) for word in words))
    """)
    assert whole == "KernelFault 700 CUDA_ERROR_ILLEGAL_ADDRESS True True True True"
    assert again == "KernelFault 700 CUDA_ERROR_ILLEGAL_ADDRESS True True True False"


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
