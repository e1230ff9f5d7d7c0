"""Unmodified Triton programs on CPU tensors, each in a process of its own: the active driver belongs to the process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ADD = """
import torch, triton, triton.language as tl

@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)

x, y = torch.randn(1000), torch.randn(1000)
out = torch.empty(1000)
"""


def run(tmp_path: Path, program: str, **environment: str) -> str:
    """Runs a program from a file, as Triton wants it, and returns what it printed."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    ours = {"TRITON_DEFAULT_BACKEND": "cpu", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    variables = {**os.environ, **ours, **environment}
    finished = subprocess.run([sys.executable, path], capture_output=True, text=True, env=variables, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_kernel_runs_when_the_environment_asks_for_it(tmp_path: Path) -> None:
    run(tmp_path, ADD + "add[(8,)](x, y, out, 1000, BLOCK=128)\ntorch.testing.assert_close(out, x + y)")


def test_activate_and_deactivate(tmp_path: Path) -> None:
    program = """
        import triton, unify.triton
        from triton.runtime import driver
        unify.triton.activate()
        assert driver.active.get_current_target().backend == "cpu"
        first = driver.active
        unify.triton.activate()
        assert driver.active.get_active_torch_device().type == "cpu"
    """
    run(tmp_path, program, TRITON_DEFAULT_BACKEND="")
    run(tmp_path, program, TRITON_DEFAULT_BACKEND="", TRITON_BACKENDS_IN_TREE="1")


def test_importing_triton_loads_no_compiler_of_ours(tmp_path: Path) -> None:
    asked = "import sys, triton\nprint([m for m in ('llvmlite', 'unify.compiler.cpu') if m in sys.modules])"
    heavy = run(tmp_path, asked)
    assert heavy.strip() == "[]"


def test_the_compiled_kernel_comes_from_the_cache(tmp_path: Path) -> None:
    program = ADD + (
        "import sys\nadd[(8,)](x, y, out, 1000, BLOCK=128)\ntorch.testing.assert_close(out, x + y)\n"
        "print('llvmlite' in sys.modules)"
    )
    assert run(tmp_path, program).strip() == "True"
    assert run(tmp_path, program).strip() == "False"


def test_what_only_a_gpu_asks_for_compiles_no_second_object(tmp_path: Path) -> None:
    program = ADD + (
        "for warps, stages in ((1, 2), (4, 3), (8, 1)):\n"
        "    add[(8,)](x, y, out.zero_(), 1000, BLOCK=128, num_warps=warps, num_stages=stages)\n"
        "    torch.testing.assert_close(out, x + y)\n"
    )
    run(tmp_path, program, UNIFY_CACHE_DIR=str(tmp_path / "ours"))
    assert len(list((tmp_path / "ours" / "kernels").iterdir())) == 1


def test_autotune_heuristics_and_do_bench(tmp_path: Path) -> None:
    run(tmp_path, """
        import torch, triton, triton.language as tl
        configs = [triton.Config({"BLOCK": b}, num_warps=w) for b, w in ((64, 1), (256, 4))]

        @triton.autotune(configs=configs, key=["n"])
        @triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
        @triton.jit
        def double(x, out, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
            i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
            tl.static_assert(EVEN)
            tl.store(out + i, tl.load(x + i) * 2)

        x, out = torch.randn(1024), torch.empty(1024)
        double[lambda meta: (triton.cdiv(1024, meta["BLOCK"]),)](x, out, 1024)
        torch.testing.assert_close(out, x * 2)
        assert triton.testing.do_bench(lambda: x.clone()) > 0
    """)  # fmt: skip


def test_descriptors_tuples_and_none(tmp_path: Path) -> None:
    run(tmp_path, """
        import torch, triton, triton.language as tl
        from triton.tools.tensor_descriptor import TensorDescriptor

        @triton.jit
        def kernel(source, pair, nothing, out, M: tl.constexpr, N: tl.constexpr):
            tile = source.load([tl.program_id(0) * M, 0])
            if nothing is None:
                tile = tile * pair[1] + tl.load(pair[0])
            rows = tl.program_id(0) * M + tl.arange(0, M)
            tl.store(out + rows[:, None] * N + tl.arange(0, N)[None, :], tile)

        x, out = torch.randn(20, 16), torch.full((32, 16), 9.0)
        kernel[(2,)](TensorDescriptor.from_tensor(x, [16, 16]), (torch.ones(1), 3.0), None, out, M=16, N=16)
        torch.testing.assert_close(out[:20], x * 3 + 1)
        assert (out[20:] == 1).all()  # what is outside of a descriptor reads as zero
    """)  # fmt: skip


def test_another_default_device_of_unify_is_no_matter(tmp_path: Path) -> None:
    printed = run(tmp_path, """
        import torch, triton, triton.language as tl

        @triton.jit
        def add(pair, out, N: tl.constexpr):
            i = tl.arange(0, N)
            tl.store(out + i, tl.load(pair[0] + i) + tl.load(pair[1] + i))

        @triton.jit
        def show(n):
            tl.device_print("n", n)

        x, out = torch.randn(16), torch.empty(16)
        add[(1,)]((x, x), out, N=16)
        torch.testing.assert_close(out, x + x)
        show[(1,)](5)
    """, UNIFY_SIMULATE="cuda:90", UNIFY_DEVICE="cuda:0")  # fmt: skip
    assert printed == "pid (0, 0, 0) idx () n: 5\n"


def test_gradients_non_contiguous_and_wrong_devices(tmp_path: Path) -> None:
    run(tmp_path, ADD + textwrap.dedent("""
        leaf = torch.randn(1000, requires_grad=True)
        add[(8,)](leaf, y, out, 1000, BLOCK=128)
        torch.testing.assert_close(out, (leaf + y).detach())
        for wrong in ([1.0], "text", object()):
            try:
                add[(8,)](wrong, y, out, 1000, BLOCK=128)
            except (TypeError, ValueError, AttributeError) as error:
                assert str(error), error
            else:
                raise SystemExit(f"{wrong} was taken")
    """))  # fmt: skip


def test_a_number_that_does_not_fit_its_annotation_is_an_overflow_error(tmp_path: Path) -> None:
    run(tmp_path, """
        import torch, triton, triton.language as tl

        @triton.jit
        def keep(out, value: tl.int32):
            tl.store(out, value)

        out = torch.zeros(1, dtype=torch.int64)
        keep[(1,)](out, -(2**31))
        assert out.item() == -(2**31)
        try:
            keep[(1,)](out, 2**31)
        except OverflowError as error:
            assert "i32" in str(error)
        else:
            raise SystemExit("it was taken")
    """)  # fmt: skip


def test_unsigned_numbers_with_their_highest_bit(tmp_path: Path) -> None:
    run(tmp_path, """
        import torch, triton, triton.language as tl

        @triton.jit
        def halve(out, small: tl.uint8, value: tl.uint32, large):
            tl.store(out, (small // 2).to(tl.int64))
            tl.store(out + 1, (value // 2).to(tl.int64))
            tl.store(out + 2, (large // 2).to(tl.int64))

        out = torch.zeros(3, dtype=torch.int64)
        halve[(1,)](out, 2**8 - 1, 2**32 - 1, 2**64 - 1)
        assert out.tolist() == [2**7 - 1, 2**31 - 1, 2**63 - 1]
    """)  # fmt: skip


def test_any_number_is_a_bit_where_the_annotation_says_so(tmp_path: Path) -> None:
    run(tmp_path, """
        import torch, triton, triton.language as tl

        @triton.jit
        def keep(out, value: "tl.uint1"):
            tl.store(out, value.to(tl.int32))

        out = torch.zeros(1, dtype=torch.int32)
        for value in (3, True, 0):
            keep[(1,)](out, value)
            assert out.item() == bool(value)
    """)  # fmt: skip


def test_printing_from_a_kernel(tmp_path: Path) -> None:
    printed = run(tmp_path, """
        import torch, triton, triton.language as tl

        @triton.jit
        def show(x, N: tl.constexpr):
            tl.device_print("value", tl.load(x + tl.arange(0, N)))
            tl.device_print("pid", tl.program_id(0))

        show[(2,)](torch.tensor([1.5, -2.0]), N=2)
    """)  # fmt: skip
    lines = printed.splitlines()
    assert "pid (1, 0, 0) idx (1) value: -2.000000" in lines
    assert "pid (1, 0, 0) idx () pid: 1" in lines
    assert len(lines) == 2 * (2 + 1)


def test_hexadecimal_printing_gives_floats_as_c_does(tmp_path: Path) -> None:
    printed = run(tmp_path, """
        import torch, triton, triton.language as tl

        @triton.jit
        def show(x, y, N: tl.constexpr):
            tl.device_print("float", tl.load(x + tl.arange(0, N)), hex=True)
            tl.device_print("int", tl.load(y + tl.arange(0, N)), hex=True)

        floats = torch.tensor([1.5, -0.0, float("-inf"), 6.0])
        show[(1,)](floats, torch.tensor([-1, 2, 3, 4], dtype=torch.int16), N=4)
        show[(1,)](floats.half(), torch.arange(4), N=4)
    """)  # fmt: skip
    lines = printed.splitlines()
    values = [float.fromhex(line.rpartition(" ")[2]).hex() for line in lines if "float: " in line]
    assert values == 2 * ["0x1.8000000000000p+0", "-0x0.0p+0", "-inf", "0x1.8000000000000p+2"]
    assert "pid (0, 0, 0) idx (0) int: 0xffff" in lines
    assert "pid (0, 0, 0) idx (3) int: 0x0000000000000003" in lines


def test_a_grid_can_be_chosen_by_what_fits_the_device(tmp_path: Path) -> None:
    """As Triton's second tutorial does."""
    choose = """
from triton.runtime import driver
device = driver.active.utils.get_device_properties(driver.active.get_current_device())
kernel = add.warmup(x, y, out, 1000, BLOCK=128, num_warps=8, grid=(1,))
kernel._init_handles()
by_registers = device["max_num_regs"] // (kernel.n_regs * device["warpSize"] * 8)
by_memory = device["max_shared_mem"] // kernel.metadata.shared
assert device["multiprocessor_count"] * min(by_registers, by_memory) >= 8
kernel[(8, 1, 1)](x, y, out, 1000, 128)
torch.testing.assert_close(out, x + y)
"""
    run(tmp_path, ADD + choose)


@pytest.mark.parametrize("what", ["an empty grid", "a launch hook"])
def test_launch_details(tmp_path: Path, what: str) -> None:
    program = {
        "an empty grid": "out[:] = 7\nadd[(0,)](x, y, out, 1000, BLOCK=128)\nassert (out == 7).all()",
        "a launch hook": """
seen = []
triton.knobs.runtime.launch_enter_hook = lambda metadata: seen.append(metadata.get()["name"])
add[(8,)](x, y, out, 1000, BLOCK=128)
assert seen == ["add"], seen
""",
    }[what]
    run(tmp_path, ADD + program)


def test_accesses_are_checked_if_the_environment_asks_for_it(tmp_path: Path) -> None:
    program = (
        ADD
        + """
from unify.errors import KernelFault
add[(8,)](x[24:], y, out, 976, BLOCK=128)  # up to the last element
torch.testing.assert_close(out[:976], x[24:] + y[:976])
try:
    add[(8,)](x[24:], y, out, 1000, BLOCK=128)
except KernelFault as fault:
    print(fault)
"""
    )
    printed = run(tmp_path, program, UNIFY_CHECK_BOUNDS="1")
    assert "a load of 4 bytes through 'x', at byte 3904 from its address" in printed
    assert "program.py:" in printed


def test_overflow_checks_inside_a_sum_or_a_scan(tmp_path: Path) -> None:
    run(tmp_path, """
        import pytest, torch, triton, triton.language as tl

        @triton.jit
        def sums(x, total, running, N: tl.constexpr):
            i = tl.arange(0, N)
            value = tl.load(x + i)
            tl.device_assert(value >= 0, "negative")
            tl.store(total, tl.sum(value, 0))
            tl.store(running + i, tl.cumsum(value, 0))

        x, total, running = torch.arange(256, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), torch.zeros(256)
        sums[(1,)](x, total, running, N=256, debug=True)
        assert total.item() == x.sum()
        torch.testing.assert_close(running, x.cumsum(0).float())
        with pytest.raises(Exception, match="int32 overflow detected for operation add"):
            sums[(1,)](torch.full((256,), 2**30, dtype=torch.int32), total, running, N=256, debug=True)
    """)  # fmt: skip
