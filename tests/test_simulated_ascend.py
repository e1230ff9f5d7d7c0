"""unify on simulated Ascend chips: Huawei's compiler, the ACL backend, ACL's front and the emulator, end to end.

What every backend must do is in the conformance suite, which tests/conformance runs on the same devices.
"""

from __future__ import annotations

import pytest

from .installed import NEEDS_ASCEND
from .programs import Program

pytestmark = NEEDS_ASCEND

PRELUDE = """
import gc
import numpy as np
import unify as un

simulation = un.simulate("ascend:910B3", count=2, memory_bytes=256 << 20)
first, second = un.device("ascend:0"), un.device("ascend:1")

"""
KERNELS = """
import triton.language as tl
import unify as un

@un.jit
def scale_kernel(x, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) * factor, mask=i < n)

@un.jit
def number_kernel(out, WIDTH: tl.constexpr, HEIGHT: tl.constexpr):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tl.store(out + (z * HEIGHT + y) * WIDTH + x, x + 100 * y + 10000 * z)
"""


@pytest.mark.parametrize("model", ["910B1", "910B2", "910B4", "910C", "950"])
def test_kernels_are_compiled_for_the_chip_that_a_device_says_it_is(program: Program, model: str) -> None:
    code = f"""
        un.simulate("ascend:{model}")
        x = un.ones((1000,), device="ascend:0")
        scale_kernel[(16,)](x, 1000, 3.0, BLOCK=64)
        normed = un.ops.rms_norm(x.reshape(2, 500), un.ones((500,), device="ascend:0"))
        print(set(x.numpy().tolist()), set(normed.numpy().round(5).ravel().tolist()))
    """
    assert program(code, prelude="") == ["{3.0} {1.0}"]


# What the simulation does, the error that it must become, and ACL's name in it. A launch was enqueued before.
FAULTS = {
    "aicore": ("KernelFault", "ACL_ERROR_RT_AICORE_EXCEPTION"),
    "vector_core": ("KernelFault", "ACL_ERROR_RT_VECTOR_CORE_EXCEPTION"),
    "ecc": ("KernelFault", "ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR"),
    "timeout": ("KernelFault", "ACL_ERROR_RT_AICORE_TIMEOUT"),
    "link": ("KernelFault", "ACL_ERROR_RT_LINK_ERROR"),
    "lost": ("DeviceLost", "ACL_ERROR_RT_LOST_HEARTBEAT"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_the_kernel_and_spares_the_other_device(program: Program, fault: str) -> None:
    kind, name = FAULTS[fault]
    printed = program(f"""
        stream, other = un.Stream(first), un.Stream(second)
        x = un.ones(1000, un.float32, first, stream=stream)
        y = un.ones(1000, un.float32, second, stream=other)
        scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
        scale_kernel[(4,)](y, 1000, 3.0, BLOCK=256, stream=other)
        first.synchronize(); second.synchronize()
        simulation.fail("aclrtLaunchKernelWithHostArgs", error={fault!r})
        try:
            scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
            stream.synchronize()
        except un.Error as error:
            words = ({name!r}, "scale_kernel (kernels.py:5)")
            print(type(error).__name__, *(word in str(error) for word in words), error.device)
        print(first.state != "healthy", second.state)
        scale_kernel[(4,)](y, 1000, 3.0, BLOCK=256, stream=other)
        other.synchronize()
        print(y.numpy()[0])
    """)
    assert printed == [f"{kind} True True ascend:0", "True healthy", "9.0"]


@pytest.mark.parametrize("fault", ["aicore", "ecc", "timeout"])
def test_a_reset_brings_the_device_back(program: Program, fault: str) -> None:
    printed = program(f"""
        x = un.ones(1000, un.float32, first)
        first.synchronize()
        simulation.fail("aclrtLaunchKernelWithHostArgs", error={fault!r})
        try:
            scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256)
            first.synchronize()
        except un.Error:
            first.reset()
        z = un.ones(1000, un.float32, first)
        scale_kernel[(4,)](z, 1000, 5.0, BLOCK=256)
        print(z.numpy()[999], first.state)
    """)
    assert printed == ["5.0 healthy"]


@pytest.mark.parametrize("end", ["first", "second"])
def test_devices_copy_to_each_other_after_a_reset_of_either(program: Program, end: str) -> None:
    printed = program(f"""
        def both():
            x = un.asarray(np.arange(1000, dtype=np.float32), device=first)
            y = un.asarray(x, device=second)
            z = un.asarray(y, device=first)
            return bool((z.numpy() == np.arange(1000)).all())

        print(both())
        right = []
        for _ in range(50):  # a reset may come while a stream waits for another one
            {end}.reset()
            right.append(both())
        print(all(right), first.state, second.state)
    """)
    assert printed == ["True", "True healthy healthy"]


def test_copies_at_any_address_also_in_a_graph(program: Program) -> None:
    printed = program("""
        x, y = un.asarray(np.arange(1024, dtype=np.uint8), device=first), un.zeros(1024, un.uint8, first)
        z = un.zeros((32, 32), un.uint8, first)
        y[1:1000].copy_(x[3:1002])
        z[:, 3:20].copy_(x.reshape(32, 32)[:, 5:22])
        expected = x.numpy()
        print((y.numpy()[1:1000] == expected[3:1002]).all())
        print((z.numpy()[:, 3:20] == expected.reshape(32, 32)[:, 5:22]).all())
        stream = un.Stream(first)
        first.synchronize()
        words = un.zeros(64, un.uint32, first)
        with un.Graph.capture(stream) as graph:
            y[1:1000].copy_(x[3:1002], stream=stream)
            words.fill_(0x01020304, stream=stream)
        x.fill_(9); words.fill_(0); first.synchronize()
        graph.launch(stream)
        stream.synchronize()
        print(set(y.numpy()[1:1000].tolist()), set(words.numpy().tolist()) == {0x01020304})
    """)
    assert printed == ["True", "True", "{9} True"]


def test_a_binary_for_another_kind_of_chip_is_refused(program: Program) -> None:
    printed = program("""
        types = {"x": "*fp32", "n": "i32", "factor": "fp32"}
        for target in ("ascend:950", "ascend:910C", "ascend:910B1"):
            binary = un.compile(scale_kernel, target, types, {"BLOCK": 256})
            try:
                un.Module.from_binary(binary, first)
                print("loaded")
            except un.InvalidArgument as error:
                print(error)
    """)
    assert "for chips of the 950's kind, and this is Ascend910B3. Compile" in printed[0]
    assert printed[1:] == ["loaded", "loaded"]


def test_memory_that_runs_out_is_told(program: Program) -> None:
    printed = program("""
        try:
            un.empty(1 << 30, un.uint8, first)
        except un.OutOfMemory as error:
            print(error)
        print(first.state)
    """)
    assert "ascend:0" in printed[0]
    assert "256.0 MiB" in printed[0]
    assert printed[-1] == "healthy"


def test_a_persistent_kernel_is_every_program_of_its_grid(program: Program) -> None:
    printed = program("""
        out = un.zeros((5, 7, 11), un.int32, first)
        number_kernel[(11, 7, 5)](out, WIDTH=11, HEIGHT=7)
        z, y, x = np.indices((5, 7, 11))
        print((out.numpy() == x + 100 * y + 10000 * z).all())
    """)
    assert printed == ["True"]


def test_a_graph_replays_what_was_recorded(program: Program) -> None:
    printed = program("""
        x = un.ones(1000, un.float32, first)
        scale_kernel[(4,)](x, 1000, 1.0, BLOCK=256)
        stream = un.Stream(first)
        first.synchronize()
        with un.Graph.capture(stream) as graph:
            scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
        for _ in range(5):
            graph.launch(stream)
        stream.synchronize()
        print(x.numpy()[0], first.capabilities["graphs"])
    """)
    assert printed == ["32.0 native"]


def test_nothing_is_left_when_everything_is_dropped(program: Program) -> None:
    printed = program("""
        def work():
            x = un.ones(1000, un.float32, first)
            stream, event = un.Stream(first), un.Event(first)
            scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
            event.record(stream)
            first.synchronize()
            del x, stream, event
            gc.collect()
            first.synchronize()
            un.trim_memory(first)
            return simulation.live(0)

        seen = [work() for _ in range(20)]
        print(seen[1] == seen[-1], un.memory_statistics(first).allocated_bytes)
    """)
    assert printed == ["True 0"]
