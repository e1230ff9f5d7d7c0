"""Who is blamed for a fault of a device, whoever's chip it is. What each vendor's words are: test_cuda_errors.py and
test_ascend_errors.py."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from .installed import NEEDS_ASCEND
from .programs import SUSPECTS, Program

PRELUDE = """
import os, threading
import unify as un

target = os.environ["TARGET"]
simulation = un.simulate(target, memory_bytes=256 << 20)
device = un.device(target.partition(":")[0] + ":0")
gate = threading.Event()

def hold():
    gate.wait(20)

def wait_until_idle():
    while simulation.live()["busy_streams"]:
        pass

"""
KERNELS = SUSPECTS


@dataclass(frozen=True)
class Vendor:
    """A chip, the driver's functions that launch, a kernel's fault as it is asked for, and what is told of it."""

    target: str
    launch: str
    graph_launch: str
    fault: str
    error: str
    words: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        return {"TARGET": self.target}


CUDA = Vendor(
    "cuda:90", "cuLaunchKernelEx", "cuGraphLaunch", "CUDA_ERROR_ILLEGAL_ADDRESS",
    "700 CUDA_ERROR_ILLEGAL_ADDRESS", ("CUDA_ERROR_ILLEGAL_ADDRESS, 700",),
)  # fmt: skip
ASCEND = Vendor(
    "ascend:910B3", "aclrtLaunchKernelWithHostArgs", "aclmdlRIExecuteAsync", "aicore",
    "507015 ACL_ERROR_RT_AICORE_EXCEPTION", ("AICORE_EXCEPTION, 507015", "fault kernel_name=guilty_kernel"),
)  # fmt: skip


@pytest.fixture(params=[pytest.param(CUDA, id="cuda"), pytest.param(ASCEND, id="ascend", marks=NEEDS_ASCEND)])
def vendor(request: pytest.FixtureRequest) -> Vendor:
    chosen: Vendor = request.param
    return chosen


def test_a_graph_that_fails_is_named_with_its_kernels(program: Program, vendor: Vendor) -> None:
    code = f"""
        x = un.zeros(1000, device=device)
        guilty_kernel[(1,)](x, 10, BLOCK=128)
        with un.Graph.capture(device=device) as graph:
            guilty_kernel[(8,)](x, 1000, BLOCK=128)
        device.synchronize()
        simulation.fail({vendor.graph_launch!r}, error={vendor.fault!r})
        print(told(lambda: (graph.launch(), x[0].item())).kernel)
    """
    (kernel,) = program(code, environment=vendor.environment)
    assert kernel == "graph of guilty_kernel (kernels.py:10), stream 0"


def test_a_graph_is_one_of_the_suspects(program: Program, vendor: Vendor) -> None:
    code = f"""
        x, y = un.zeros(1000, device=device), un.zeros(1000, device=device)
        with un.Graph.capture(device=device) as graph:
            for kernel in (guilty_kernel, innocent_kernel, guilty_kernel):
                kernel[(8,)](x, 1000, BLOCK=128)
        graph.launch()
        device.synchronize()
        device.default_stream.host_call(hold)
        simulation.fail({vendor.graph_launch!r}, error={vendor.fault!r})
        innocent_kernel[(8,)](y, 1000, BLOCK=128)
        graph.launch()
        gate.set()
        print(told(device.synchronize).kernel)
    """
    (kernel,) = program(code, environment=vendor.environment)
    graph = "graph of guilty_kernel (kernels.py:10) and innocent_kernel (kernels.py:5)"
    assert kernel == f"one of 2 launches since the last wait: innocent_kernel (kernels.py:5), {graph}"


def test_launches_that_were_waited_for_are_no_suspects_though_older_work_of_another_stream_is(
    program: Program, vendor: Vendor
) -> None:
    code = f"""
        x, stream = un.zeros(1000, device=device), un.Stream(device)
        device.synchronize()
        device.default_stream.host_call(hold)
        guilty_kernel[(8,)](x, 1000, BLOCK=128)  # nobody waits for it
        with stream:
            y = un.zeros(1000, device=device)
            for _ in range(40):
                innocent_kernel[(8,)](y, 1000, BLOCK=128)
        stream.synchronize()
        simulation.fail({vendor.launch!r}, error={vendor.fault!r})
        guilty_kernel[(8,)](x, 1000, BLOCK=128)
        gate.set()
        print(told(device.synchronize).kernel)
    """
    (kernel,) = program(code, environment=vendor.environment)
    assert kernel == "kernel guilty_kernel (kernels.py:10), one of its 2 launches since the last wait"


def test_what_a_recording_holds_is_no_suspect(program: Program, vendor: Vendor) -> None:
    code = f"""
        x, stream = un.zeros(1000, device=device), un.Stream(device)
        device.synchronize()
        with un.Graph.capture(stream):
            innocent_kernel[(8,)](x, 1000, BLOCK=128)
        simulation.fail({vendor.launch!r}, error={vendor.fault!r})
        print(told(lambda: (guilty_kernel[(8,)](x, 1000, BLOCK=128), device.synchronize())).kernel)
    """
    (kernel,) = program(code, environment=vendor.environment)
    assert kernel == "kernel guilty_kernel (kernels.py:10), grid 8×1×1, stream 0"


DROPPED = {
    "a module": "del module",
    "an event": "del event",
    "a stream": "del stream",
    "memory": "del memory; un.trim_memory(device)",
    "a graph": "del graph",
}


@pytest.mark.parametrize("what", DROPPED)
def test_the_first_error_is_whole_though_the_end_of_something_met_the_fault_first(
    program: Program, vendor: Vendor, what: str
) -> None:
    words = (*vendor.words, "guilty_kernel (kernels.py:10)", "UNIFY_CHECK_BOUNDS", "newest last")
    code = f"""
        types = {{"x": "*fp32", "n": "i32"}}
        binary = un.compile(innocent_kernel, target, types, {{"BLOCK": 128}})
        module, stream, event = un.Module.from_binary(binary, device), un.Stream(device), un.Event(device)
        x, memory = un.zeros(1000, device=device), un.zeros(1 << 24, device=device)
        module["innocent_kernel"][(8,)](x, 1000)
        event.record()
        with un.Graph.capture(device=device) as graph:
            innocent_kernel[(8,)](x, 1000, BLOCK=128)
        device.synchronize()
        simulation.fail({vendor.launch!r}, error={vendor.fault!r})
        def fail():
            global module, stream, event, memory, graph
            guilty_kernel[(8,)](x, 1000, BLOCK=128)
            wait_until_idle()
            {DROPPED[what]}
            device.synchronize()
        for call in (fail, device.synchronize):
            error = told(call)
            print(type(error).__name__, error.native_code, error.native_name)
            print(*(word in str(error) for word in {words!r}))
    """
    first, told, again, told_again = program(code, environment=vendor.environment)
    assert first == again == f"KernelFault {vendor.error}"
    assert set(told.split()) == {"True"}
    assert told_again.split() == ["True"] * (len(words) - 1) + ["False"]  # the list of launches comes once
