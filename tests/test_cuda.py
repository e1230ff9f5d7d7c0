"""The CUDA backend on a simulated device: faults become errors with the kernel's name, and nothing is left behind.

What every backend must do is in the conformance suite, which tests/conformance runs on the same device.
"""

from __future__ import annotations

import pytest

from .programs import Program

PRELUDE = """
import gc, sys, threading
import numpy as np
import unify as un

simulation = un.simulate("cuda:90", count=2, memory_bytes=256 << 20)
first, second = un.device("cuda:0"), un.device("cuda:1")

"""
KERNELS = """
import triton.language as tl
import unify as un

@un.jit
def scale_kernel(x, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) * factor, mask=i < n)

@un.jit
def far_away_kernel(x):
    tl.store(x + (1 << 46), 1.0)
"""


# What the simulation does, the error that it must become, and a word of it. A launch was enqueued before.
FAULTS = {
    "ecc": ("KernelFault", "CUDA_ERROR_ECC_UNCORRECTABLE"),
    "launch_failure": ("KernelFault", "CUDA_ERROR_LAUNCH_FAILED"),
    "CUDA_ERROR_ILLEGAL_ADDRESS": ("KernelFault", "UNIFY_CHECK_BOUNDS"),
    "CUDA_ERROR_MISALIGNED_ADDRESS": ("KernelFault", "CUDA_ERROR_MISALIGNED_ADDRESS"),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": ("DeviceLost", "nvidia-smi"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_the_kernel_spares_the_other_device_and_ends_with_a_reset(program: Program, fault: str) -> None:
    kind, word = FAULTS[fault]
    printed = program(f"""
        stream, other = un.Stream(first), un.Stream(second)
        x = un.ones(1000, un.float32, first, stream=stream)
        y = un.ones(1000, un.float32, second, stream=other)
        scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
        scale_kernel[(4,)](y, 1000, 3.0, BLOCK=256, stream=other)
        first.synchronize(); second.synchronize()
        simulation.fail("cuLaunchKernelEx", error={fault!r})
        try:
            scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
            stream.synchronize()
        except un.Error as error:
            words = ("scale_kernel (kernels.py:5)", {word!r})
            print(type(error).__name__, *(word in str(error) for word in words), error.device)
        print(first.state != "healthy", second.state)
        try:
            un.zeros(3, un.float32, first)
        except un.Error as error:
            print(type(error).__name__, "device.reset()" in str(error))
        scale_kernel[(4,)](y, 1000, 3.0, BLOCK=256, stream=other)
        other.synchronize()
        print(y.numpy()[0])
        first.reset()
        z = un.ones(1000, un.float32, first)
        scale_kernel[(4,)](z, 1000, 5.0, BLOCK=256)
        print(z.numpy()[999], first.state)
    """)
    assert printed == [
        f"{kind} True True cuda:0", "True healthy", f"{kind} True", "9.0", "5.0 healthy",
    ]  # fmt: skip


def test_a_lost_device_stays_lost_and_says_so(program: Program) -> None:
    printed = program("""
        x = un.ones(1000, un.float32, first)
        first.synchronize()
        simulation.lose(0)
        for use in (lambda: un.ones(1 << 22, un.float32, first), first.synchronize):
            error = told_at_last(use)
            print(type(error).__name__, error.device, first.state)
        try:
            first.reset()
        except un.Error as error:
            print(type(error).__name__, first.state)
        print(un.ones(3, un.float32, second).tolist(), second.state)
    """)
    assert printed == [
        "DeviceLost cuda:0 gone", "DeviceLost cuda:0 gone", "DeviceLost gone", "[1.0, 1.0, 1.0] healthy",
    ]  # fmt: skip


def test_which_launch_failed_is_told_as_far_as_it_is_known(program: Program) -> None:
    printed = program("""
        x = un.ones(1000, un.float32, first)
        scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256)
        first.synchronize()  # so it cannot have been this one
        stream, gate = un.Stream(first), threading.Event()
        stream.host_call(gate.wait)
        far_away_kernel[(1,)](x, stream=stream)
        gate.set()
        try:
            stream.synchronize()
        except un.KernelFault as error:
            print(str(error).partition("Last operations")[0])
        first.reset()
        x = un.ones(1000, un.float32, first)
        first.synchronize()
        stream, gate = un.Stream(first), threading.Event()
        stream.host_call(gate.wait)
        for _ in range(3):
            scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
        far_away_kernel[(1,)](x, stream=stream)
        gate.set()
        try:
            stream.synchronize()
        except un.KernelFault as error:
            print(str(error).partition("Last operations")[0])
    """)
    one, several = (line for line in printed if line)
    assert "Caused by kernel far_away_kernel (kernels.py:10), grid 1×1×1" in one
    assert (
        "one of 4 launches since the last wait: scale_kernel (kernels.py:5), far_away_kernel (kernels.py:10)" in several
    )


def test_a_token_is_not_opened_as_another_chip_s(program: Program) -> None:
    printed = program("""
        import subprocess

        code = "import sys, unify as un; un.simulate('cuda:90', count=2, memory_bytes=256 << 20); "
        code += "token = bytes.fromhex(sys.argv[1]); print(un.Tensor.from_shared(token, 'cuda:0').tolist()); "
        code += "un.Tensor.from_shared(token, 'cuda:1')"
        x = un.ones(2, un.float32, first)
        child = subprocess.run([sys.executable, "-c", code, x.share().hex()], capture_output=True, text=True)
        print(child.stdout.strip(), child.stderr.splitlines()[-1])
    """)
    assert printed == [
        "[1.0, 1.0] unify.DeviceMismatchError: from_shared: the token is of the chip that is cuda:0 in the other "
        "process; cuda:1 is another one here. Name that chip as device."
    ]


def test_memory_that_runs_out_is_told_with_what_there_is(program: Program) -> None:
    printed = program("""
        held = un.empty(200 << 20, un.uint8, first)
        try:
            un.empty(100 << 20, un.uint8, first)
        except un.OutOfMemory as error:
            print(error)
        del held
        print(un.empty(100 << 20, un.uint8, first).nbytes, first.state)
    """)
    error, after = printed
    assert "cuda:0" in error
    assert "100.0 MiB" in error
    assert "(CUDA_ERROR_OUT_OF_MEMORY, 2)" in error
    assert after == f"{100 << 20} healthy"


def test_a_hanging_device_can_be_waited_for_with_a_limit(program: Program) -> None:
    printed = program("""
        x, stream = un.ones(1000, un.float32, first), un.Stream(first)
        first.synchronize()
        simulation.hang("cuLaunchKernelEx")
        scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
        try:
            stream.synchronize(timeout_s=0.2)
        except TimeoutError as error:
            print(type(error).__name__, "cuda:0" in str(error), first.state)
        simulation.release(0)
        stream.synchronize()
        print(x.numpy()[0])
    """)
    assert printed == ["TimeoutExpired True healthy", "2.0"]


def test_corrupted_memory_is_seen_by_whoever_looks(program: Program) -> None:
    printed = program("""
        array = np.arange(1 << 16, dtype=np.int32)
        simulation.corrupt("cuMemcpyAsync")
        x = un.asarray(array, device=first)
        print(int((x.numpy() != array).sum()), first.state)
    """)
    assert printed == ["1 healthy"]


def test_a_binary_whose_programs_span_blocks_runs_from_a_module(program: Program) -> None:
    printed = program("""
        types = {"x": "*fp32", "n": "i32", "factor": "fp32"}
        binary = un.compile(scale_kernel, "cuda:90", types, {"BLOCK": 256}, num_ctas=2)
        scale = un.Module.from_binary(binary, first)["scale_kernel"]
        x = un.ones(1000, un.float32, first)
        scale[4](x, 1000, 2.0)
        scale.launch(4, (x, 1000, 3.0), shared_bytes=1024)
        scale.launch(8, (x, 1000, 5.0), cluster=2)  # who names a cluster counts blocks
        print(binary.cluster, set(x.tolist()))
        try:
            scale[1 << 31](x, 1000, 2.0)
        except un.InvalidArgument as error:
            print("exceeds the device's" in str(error))
    """)
    assert printed == ["2 {30.0}", "True"]


def test_what_is_code_for_a_chip_only_is_refused_with_words(program: Program) -> None:
    printed = program("""
        ptx = ".version 8.0\\n.target sm_80\\n.address_size 64\\n.visible .entry k(.param .u64 p){ ret; }\\n"
        for load in (lambda: un.Module.from_cuda_source("", first), lambda: un.Module(ptx.encode(), first)):
            try:
                load()
            except un.UnsupportedError as error:
                print(error)
    """)
    source, ptx = printed
    assert source.startswith("Module: cuda:0 is simulated, and CUDA C++ is code for a chip.")
    assert ptx.startswith("Module: cuda:0 is simulated, and PTX is code for a chip.")


def test_a_cubin_says_how_many_bytes_its_function_takes(program: Program) -> None:
    printed = program("""
        binary = un.compile(scale_kernel, "cuda:90", {"x": "*fp32", "n": "i32", "factor": "fp32"}, {"BLOCK": 256})
        module = un.Module(binary.image, first, "scale.cubin")
        x = un.ones(1000, un.float32, first)
        for launch in (
            lambda: module.function("scale_kernel", "*fp32, i32, fp32", threads=128),
            lambda: module["scale_kernel"][(4,), 128](x, np.int32(1000), np.float32(2)),
        ):
            try:
                launch()
            except un.InvalidArgument as error:
                print(error)
        scale = module.function("scale_kernel", "*fp32, i32, fp32, ptr, ptr", threads=binary.threads)
        scale[4](x, 1000, 2.0, None, None)
        print(set(x.tolist()))
    """)
    declared, undeclared, values = printed
    assert declared.startswith("module scale.cubin: scale_kernel takes 32 bytes of arguments, the types given make 16.")
    assert undeclared == "cuda:0: kernel scale_kernel (scale.cubin): 16 bytes of arguments given, 32 needed."
    assert values == "{2.0}"


def test_nothing_is_left_when_everything_is_dropped(program: Program) -> None:
    printed = program("""
        def work():
            x = un.ones(1 << 20, un.float32, first)
            stream, event = un.Stream(first), un.Event(first, timing=True)
            with un.Graph.capture(stream) as graph:
                scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256)
            graph.launch(stream)
            event.record(stream)
            pinned = un.empty_pinned(1 << 16, un.uint8, first)
            stream.synchronize()

        work()
        gc.collect(); un.trim_memory(first); first.synchronize()
        before = simulation.live(0)
        for _ in range(20):
            work()
        gc.collect(); un.trim_memory(first); first.synchronize()
        after = simulation.live(0)
        # The core keeps as many events as it ever waited for at once, which depends on how fast the device was.
        kept = {"events": 2}
        print({kind: after[kind] - before[kind] for kind in before if after[kind] - before[kind] > kept.get(kind, 0)})
    """)
    assert printed == ["{}"]


def test_waiting_for_the_device_spares_the_recording_of_another_thread(program: Program) -> None:
    printed = program("""
        x, stream = un.zeros(100, un.float32, first), un.Stream(first)
        first.synchronize()
        with un.Graph.capture(stream) as graph:
            x.fill_(1)
            thread = threading.Thread(target=lambda: (first.synchronize(), un.trim_memory(first)))
            thread.start(); thread.join()
            un.trim_memory(first)
            x.fill_(2)
        graph.launch(stream)
        stream.synchronize()
        print(x.numpy()[0])
    """)
    assert printed == ["2.0"]


def test_host_calls_run_in_their_order_when_their_stream_is_reset(program: Program) -> None:
    printed = program("""
        seen, stream, ended = [], un.Stream(first), threading.Event()
        x = un.empty(100, un.float32, first)
        first.synchronize()
        simulation.hang("cuLaunchKernelEx")
        scale_kernel[(1,)](x, 100, 2.0, BLOCK=256, stream=stream)
        for number in range(20):
            stream.host_call(lambda number=number: seen.append(number))
        stream.host_call(ended.set)
        first.reset()
        print(ended.wait(20), seen == list(range(20)))
    """)
    assert printed == ["True True"]


def test_a_simulation_says_what_it_is_and_takes_numbers_for_speeds(program: Program) -> None:
    printed = program("""
        print(simulation)
        for speed in ("x", None, -1.0):
            try:
                simulation.slow(speed)
            except un.InvalidArgument as error:
                print(error)
    """)
    name, text, none, negative = printed
    assert name == "unify.simulate('cuda:90', count=2)"
    assert "not a str, 'x'" in text
    assert "not None" in none
    assert negative.startswith("simulated CUDA: ")


def test_more_blocks_than_a_grid_has_are_refused(program: Program) -> None:
    printed = program("""
        x = un.zeros(16, un.float32, first)
        try:
            scale_kernel[(1 << 31,)](x, 16, 1.0, BLOCK=16, num_ctas=2)
        except un.InvalidArgument as error:
            print("exceeds" in str(error))
    """)
    assert printed == ["True"]
