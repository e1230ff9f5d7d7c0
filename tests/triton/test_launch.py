"""Unmodified triton.jit kernels through unify's launch path: what it must not change."""

from __future__ import annotations

import textwrap
from pathlib import Path

from .test_driver import ADD, run

FIRST = ADD + "first = add[(8,)](x, y, out, 1000, BLOCK=128)\n"


def test_a_second_launch_takes_other_arrays_and_returns_the_same_kernel(tmp_path: Path) -> None:
    program = """
        out.zero_()
        a, b, c = x + 1, y + 1, torch.empty(1000)
        assert add[(8,)](a, b, c, 1000, BLOCK=128) is first and "ttir" in first.asm
        torch.testing.assert_close(c, a + b)
        assert (out == 0).all()
        odd = torch.zeros(1001)[1:]  # no multiple of 16 bytes: another kernel
        assert add[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](a, b, odd, 1000, BLOCK=128) is not first
        torch.testing.assert_close(odd, a + b)
    """
    run(tmp_path, FIRST + textwrap.dedent(program))


def test_numpy_arrays_go_into_triton_kernels(tmp_path: Path) -> None:
    program = """
        import numpy as np
        for _ in range(2):
            sums = np.zeros(1000, np.float32)
            add[(8,)](x.numpy(), y.numpy(), sums, 1000, BLOCK=128)
            np.testing.assert_allclose(sums, (x + y).numpy())
    """
    run(tmp_path, ADD + textwrap.dedent(program))


def test_hooks_see_each_launch(tmp_path: Path) -> None:
    program = """
        seen = []
        hook = lambda metadata: seen.append(metadata.get()["name"])
        triton.knobs.runtime.launch_enter_hook.add(hook)
        add[(8,)](x, y, out, 1000, BLOCK=128)
        add[(8,)](x, y, out, 1000, BLOCK=128)
        triton.knobs.runtime.launch_enter_hook.remove(hook)
        add.add_pre_run_hook(lambda *args, **kwargs: seen.append("before"))
        add[(8,)](x, y, out, 1000, BLOCK=128)
        assert seen == ["add", "add", "before"], seen
    """
    run(tmp_path, FIRST + textwrap.dedent(program))


def test_errors_are_tritons(tmp_path: Path) -> None:
    program = """
        def error_of(*args, **options):
            try:
                add[(8,)](*args, **options)
            except Exception as error:
                return type(error).__name__
        assert error_of(x, y, 1000, BLOCK=128) == "TypeError"
        assert error_of(x, y, out, 1000, BLOCK=128, unknown=1) == "KeyError"
        assert error_of(x, y, "text", 1000, BLOCK=128) == "TypeError"
    """
    run(tmp_path, FIRST + textwrap.dedent(program))


def test_a_global_that_changes_is_an_error(tmp_path: Path) -> None:
    program = """
        import triton, triton.language as tl, torch
        OFFSET = tl.constexpr(1)

        @triton.jit
        def scale(x):
            tl.store(x, tl.load(x) * OFFSET)

        x = torch.ones(1)
        scale[(1,)](x)
        scale[(1,)](x)
        OFFSET = tl.constexpr(3)
        try:
            scale[(1,)](x)
        except RuntimeError as error:
            assert "OFFSET has changed" in str(error)
        else:
            raise SystemExit("no error")
    """
    run(tmp_path, program)


def test_autotuned_kernels_and_gradients(tmp_path: Path) -> None:
    program = """
        tuned = triton.autotune([triton.Config({"BLOCK": b}) for b in (64, 256)], key=["n"])(add)
        weight = x.clone().requires_grad_()
        for _ in range(2):
            out.zero_()
            tuned[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](weight, y, out, 1000)
            torch.testing.assert_close(out, x + y)
    """
    run(tmp_path, ADD + textwrap.dedent(program))


def test_a_tensor_s_bits_are_read_as_the_annotation_says(tmp_path: Path) -> None:
    program = """
        def read(x, out):
            tl.store(out, tl.load(x))

        read.__annotations__["x"] = "*i32"
        bits = torch.zeros(1, dtype=torch.int32)
        triton.jit(read)[(1,)](torch.tensor([1.5]), bits)
        assert bits == torch.tensor([1.5]).view(torch.int32)
    """
    run(tmp_path, FIRST + textwrap.dedent(program))
