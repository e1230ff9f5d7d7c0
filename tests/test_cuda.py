"""The CUDA backend on a simulated device: faults become errors with the kernel's name, and nothing is left behind.

What every backend must do is in the conformance suite, which tests/conformance runs on the same device.
"""

from __future__ import annotations

import json
import os
import textwrap

import pytest

from .conftest import Run

PRELUDE = """
import gc, sys, time
import numpy as np
import triton.language as tl
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


@pytest.fixture
def program(python: Run, tmp_path):
    """Runs a program that has two simulated chips, and returns what it printed."""
    (tmp_path / "kernels.py").write_text(KERNELS)

    def run(code: str) -> str:
        whole = PRELUDE + f"sys.path.insert(0, {str(tmp_path)!r})\nfrom kernels import *\n" + textwrap.dedent(code)
        finished = python("-c", whole)
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        return finished.stdout

    return run


# What the simulation does, the error that it must become, and a word of it. A launch was enqueued before.
FAULTS = {
    "ecc": ("KernelFault", "CUDA_ERROR_ECC_UNCORRECTABLE"),
    "launch_failure": ("KernelFault", "CUDA_ERROR_LAUNCH_FAILED"),
    "CUDA_ERROR_ILLEGAL_ADDRESS": ("KernelFault", "UNIFY_CHECK_BOUNDS"),
    "CUDA_ERROR_MISALIGNED_ADDRESS": ("KernelFault", "CUDA_ERROR_MISALIGNED_ADDRESS"),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": ("DeviceLost", "nvidia-smi"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_the_kernel_spares_the_other_device_and_ends_with_a_reset(program, fault: str) -> None:
    kind, word = FAULTS[fault]
    printed = program(f"""
        x, y = un.ones(1000, un.float32, first), un.ones(1000, un.float32, second)
        stream, other = un.Stream(first), un.Stream(second)
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
    assert printed.splitlines() == [
        f"{kind} True True cuda:0", "True healthy", f"{kind} True", "9.0", "5.0 healthy",
    ]  # fmt: skip


def test_a_lost_device_stays_lost_and_says_so(program) -> None:
    printed = program("""
        x = un.ones(1000, un.float32, first)
        first.synchronize()
        simulation.lose(0)
        time.sleep(0.1)
        for use in (lambda: un.ones(1 << 22, un.float32, first), first.synchronize):
            try:
                use()
            except un.Error as error:
                print(type(error).__name__, error.device, first.state)
        try:
            first.reset()
        except un.Error as error:
            print(type(error).__name__, first.state)
        print(un.ones(3, un.float32, second).tolist(), second.state)
    """)
    assert printed.splitlines() == [
        "DeviceLost cuda:0 gone", "DeviceLost cuda:0 gone", "DeviceLost gone", "[1.0, 1.0, 1.0] healthy",
    ]  # fmt: skip


def test_which_launch_failed_is_told_as_far_as_it_is_known(program) -> None:
    printed = program("""
        x = un.ones(1000, un.float32, first)
        scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256)
        first.synchronize()  # so it cannot have been this one
        stream = un.Stream(first)
        stream.host_call(lambda: time.sleep(0.05))
        far_away_kernel[(1,)](x, stream=stream)
        try:
            stream.synchronize()
        except un.KernelFault as error:
            print(str(error).partition("Last operations")[0])
        first.reset()
        x = un.ones(1000, un.float32, first)
        first.synchronize()
        stream = un.Stream(first)
        stream.host_call(lambda: time.sleep(0.05))
        for _ in range(3):
            scale_kernel[(4,)](x, 1000, 2.0, BLOCK=256, stream=stream)
        far_away_kernel[(1,)](x, stream=stream)
        try:
            stream.synchronize()
        except un.KernelFault as error:
            print(str(error).partition("Last operations")[0])
    """)
    one, several = (line for line in printed.splitlines() if line)
    assert "Caused by kernel far_away_kernel (kernels.py:10), grid 1×1×1" in one
    assert (
        "one of 4 launches since the last wait: scale_kernel (kernels.py:5), far_away_kernel (kernels.py:10)" in several
    )


def test_a_token_is_not_opened_as_another_chip_s(program) -> None:
    printed = program("""
        import subprocess

        code = "import sys, unify as un; un.simulate('cuda:90', count=2, memory_bytes=256 << 20); "
        code += "token = bytes.fromhex(sys.argv[1]); print(un.Tensor.from_shared(token, 'cuda:0').tolist()); "
        code += "un.Tensor.from_shared(token, 'cuda:1')"
        x = un.ones(2, un.float32, first)
        child = subprocess.run([sys.executable, "-c", code, x.share().hex()], capture_output=True, text=True)
        print(child.stdout.strip(), child.stderr.splitlines()[-1])
    """)
    assert printed.strip() == (
        "[1.0, 1.0] unify.DeviceMismatchError: from_shared: the token is of the chip that is cuda:0 in the other "
        "process; cuda:1 is another one here. Name that chip as device."
    )


def test_memory_that_runs_out_is_told_with_what_there_is(program) -> None:
    printed = program("""
        held = un.empty(200 << 20, un.uint8, first)
        try:
            un.empty(100 << 20, un.uint8, first)
        except un.OutOfMemory as error:
            print(error)
        del held
        print(un.empty(100 << 20, un.uint8, first).nbytes, first.state)
    """)
    error, after = printed.strip().splitlines()
    assert "cuda:0" in error
    assert "100.0 MiB" in error
    assert "(CUDA_ERROR_OUT_OF_MEMORY, 2)" in error
    assert after == f"{100 << 20} healthy"


def test_a_hanging_device_can_be_waited_for_with_a_limit(program) -> None:
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
    assert printed.splitlines() == ["TimeoutExpired True healthy", "2.0"]


def test_corrupted_memory_is_seen_by_whoever_looks(program) -> None:
    printed = program("""
        array = np.arange(1 << 16, dtype=np.int32)
        simulation.corrupt("cuMemcpyAsync")
        x = un.asarray(array, device=first)
        print(int((x.numpy() != array).sum()), first.state)
    """)
    assert printed == "1 healthy\n"


def test_a_binary_whose_programs_span_blocks_runs_from_a_module(program) -> None:
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
    assert printed == "2 {30.0}\nTrue\n"


def test_what_is_code_for_a_chip_only_is_refused_with_words(program) -> None:
    printed = program("""
        ptx = ".version 8.0\\n.target sm_80\\n.address_size 64\\n.visible .entry k(.param .u64 p){ ret; }\\n"
        for load in (lambda: un.Module.from_cuda_source("", first), lambda: un.Module(ptx.encode(), first)):
            try:
                load()
            except un.UnsupportedError as error:
                print(error)
    """)
    source, ptx = printed.splitlines()
    assert source.startswith("Module: cuda:0 is simulated, and CUDA C++ is code for a chip.")
    assert ptx.startswith("Module: cuda:0 is simulated, and PTX is code for a chip.")


def test_a_cubin_says_how_many_bytes_its_function_takes(program) -> None:
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
    declared, undeclared, values = printed.splitlines()
    assert declared.startswith("module scale.cubin: scale_kernel takes 32 bytes of arguments, the types given make 16.")
    assert undeclared == "cuda:0: kernel scale_kernel (scale.cubin): 16 bytes of arguments given, 32 needed."
    assert values == "{2.0}"


def test_nothing_is_left_when_everything_is_dropped(program) -> None:
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
        for _ in range(10):
            work()
        gc.collect(); un.trim_memory(first); first.synchronize()
        after = simulation.live(0)
        print({kind: after[kind] - before[kind] for kind in before if after[kind] != before[kind]})
    """)
    assert printed == "{}\n"


def test_pinned_memory_outlives_a_reset(program) -> None:
    printed = program("""
        pinned = un.empty_pinned(4, un.float32, first)
        view = pinned.numpy()
        view[:] = 7
        first.reset()
        print(view.tolist())
        del pinned, view
        gc.collect()
        print(un.ones(2, un.float32, first).tolist(), simulation.live(0)["pinned_bytes"])
    """)
    assert printed.splitlines() == ["[7.0, 7.0, 7.0, 7.0]", "[1.0, 1.0] 0"]


def test_waiting_for_the_device_spares_the_recording_of_another_thread(program) -> None:
    printed = program("""
        import threading

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
    assert printed == "2.0\n"


def test_host_calls_run_in_their_order_when_their_stream_is_reset(program) -> None:
    printed = program("""
        seen, stream = [], un.Stream(first)
        x = un.empty(100, un.float32, first)
        first.synchronize()
        simulation.hang("cuLaunchKernelEx")
        scale_kernel[(1,)](x, 100, 2.0, BLOCK=256, stream=stream)
        for number in range(20):
            stream.host_call(lambda number=number: seen.append(number))
        first.reset()
        for _ in range(100):
            if len(seen) == 20: break
            time.sleep(0.05)
        print(seen == list(range(20)))
    """)
    assert printed == "True\n"


def test_a_simulation_says_what_it_is_and_takes_numbers_for_speeds(program) -> None:
    printed = program("""
        print(simulation)
        for speed in ("x", None, -1.0):
            try:
                simulation.slow(speed)
            except un.InvalidArgument as error:
                print(error)
    """)
    name, text, none, negative = printed.splitlines()
    assert name == "unify.simulate('cuda:90', count=2)"
    assert "not a str, 'x'" in text
    assert "not None" in none
    assert negative.startswith("simulated CUDA: ")


def test_more_blocks_than_a_grid_has_are_refused(program) -> None:
    printed = program("""
        x = un.zeros(16, un.float32, first)
        try:
            scale_kernel[(1 << 31,)](x, 16, 1.0, BLOCK=16, num_ctas=2)
        except un.InvalidArgument as error:
            print("exceeds" in str(error))
    """)
    assert printed == "True\n"


def test_a_language_model_says_the_same_as_on_the_cpu(python: Run) -> None:
    command = ["-m", "unify", "generate", "--prompt", "The capital of France is", "--max-tokens", "24", "--greedy"]
    answers = []
    for device, simulated in (("cpu", ""), ("cuda:0", "cuda:90,2g")):
        finished = python(*command, "--json", "--device", device, env={**os.environ, "UNIFY_SIMULATE": simulated})
        assert finished.returncode == 0, finished.stderr
        answers.append(json.loads(finished.stdout))
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert [answer["device"] for answer in answers] == ["cpu", "cuda:0"]
    assert "Paris" in answers[1]["text"]


def test_a_token_of_another_container_may_have_the_number_of_this_process(program) -> None:
    child = """
    import sys
    import unify as un
    un.simulate("cuda:90")
    x = un.full(4, 7, un.int32, "cuda:0")
    print(x.share().hex(), flush=True)
    sys.stdin.readline()
    """
    code = f"""
    import os, struct, subprocess, textwrap
    command = [sys.executable, "-c", textwrap.dedent({child!r})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        token = bytes.fromhex(other.stdout.readline())
        place = token.index(struct.pack("<i", other.pid))  # as each container counts processes of its own
        token = token[:place] + struct.pack("<i", os.getpid()) + token[place + 4:]
        print(un.Tensor.from_shared(token).tolist())
        other.communicate("end\\n")
    """
    assert program(code) == "[7, 7, 7, 7]\n"
