"""Matrix products: square ones, by our op and by a kernel as a user writes it, and a linear layer as a model has it."""

from __future__ import annotations

from typing import Any

from unify import _cost as cost

from ..case import GFLOPS, Case, Setup, Side
from . import _ours, _torch

SIZES = (512, 1024, 2048)
# [tokens, outputs, inputs] of SmolLM2's feed-forward layer: a prompt, and one token.
LAYERS = ((512, 1536, 576), (1, 1536, 576))
WIDTH = {"fp32": 4, "bf16": 2}
# Rows, columns, steps along k, and rows of programs in a group, of the user's kernel: the best of a few.
TILE = (512, 512, 64, 4)
# One rounding of a result in the dtype, and sums in fp32 in another order; sums of integers are exact.
TOLERANCE = {"fp32": 1e-5, "bf16": 2**-7, "int8": 0.0}


def cases() -> list[Case]:
    """Each size and each dtype."""
    square = [gemm(dtype, size) for dtype in WIDTH for size in SIZES]
    tutorial = [_kernel_gemm("gemm-tutorial", dtype, size) for dtype in WIDTH for size in SIZES]
    integer = [_kernel_gemm("gemm", "int8", size) for size in SIZES]
    return square + tutorial + integer + [_linear(dtype, *shape) for dtype in WIDTH for shape in LAYERS]


def _inputs(rows: int, columns: int, seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def gemm(dtype: str, size: int) -> Case:
    """The product of two square matrices; any size, for questions beyond the listed ones."""
    least = cost.matmul(size, size, size, itemsize=WIDTH[dtype])

    def unify_side(setup: Setup) -> Side:
        import unify

        a, b = (_ours.tensor(setup, _inputs(size, size, seed), dtype) for seed in (1, 2))
        return _ours.side(setup, lambda: unify.ops.matmul(a, b))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        a, b = (_torch.tensor(torch, _inputs(size, size, seed), dtype) for seed in (1, 2))
        return _torch.side(lambda: torch.mm(a, b))

    def numpy_side(_: Setup) -> Side:
        a, b = (_inputs(size, size, seed) for seed in (1, 2))
        return Side(step=lambda: a @ b, result=lambda: a @ b)

    return Case(
        name=f"gemm-{dtype}-{size}",
        subject="gemm",
        about=f"matrix product of two {size} × {size} {dtype}",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": torch_side} | ({"numpy": numpy_side} if dtype == "fp32" else {}),
        work=least.flops,
        flops=least.flops,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _kernel_gemm(prefix: str, dtype: str, size: int) -> Case:
    """The product of two square matrices by a Triton kernel, on both sides into a result that is there already."""
    sizes = {"itemsize": 1, "out_itemsize": 4} if dtype == "int8" else {"itemsize": WIDTH[dtype]}
    least = cost.matmul(size, size, size, **sizes)

    def inputs() -> Any:
        import numpy as np

        if dtype == "int8":
            return np.random.default_rng(size).integers(-128, 128, (2, size, size), np.int8)
        return np.stack([_inputs(size, size, seed) for seed in (1, 2)])

    def unify_side(setup: Setup) -> Side:
        import unify

        from ._kernels import gemm_kernel

        a, b = (_ours.tensor(setup, array, dtype) for array in inputs())
        out = unify.empty((size, size), unify.int32 if dtype == "int8" else a.dtype, device=setup.device)
        rows, columns, steps, group = TILE
        kernel = unify.jit(gemm_kernel)[(-(-size // rows) * -(-size // columns),)]

        def step() -> Any:
            strides = (*a.strides, *b.strides, *out.strides)
            kernel(a, b, out, size, size, size, *strides, M=rows, N=columns, K=steps, GROUP=group)
            return out

        return _ours.side(setup, step)

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        multiply = torch._int_mm if dtype == "int8" else torch.mm
        a, b = (_torch.tensor(torch, array, dtype) for array in inputs())
        out = multiply(a, b)
        return _torch.side(lambda: multiply(a, b, out=out))

    return Case(
        name=f"{prefix}-{dtype}-{size}",
        subject="gemm-int8" if dtype == "int8" else prefix,
        about=f"matrix product of two {size} × {size} {dtype}: a Triton kernel in the form of its tutorial",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": torch_side},
        work=least.flops,
        flops=least.flops,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _linear(dtype: str, m: int, n: int, k: int) -> Case:
    least = cost.linear(m, n, k, weight_bytes=WIDTH[dtype], itemsize=WIDTH[dtype])

    def unify_side(setup: Setup) -> Side:
        import unify

        x, weight = (_ours.tensor(setup, _inputs(rows, k, rows), dtype) for rows in (m, n))
        return _ours.side(setup, lambda: unify.ops.linear(x, weight))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        x, weight = (_torch.tensor(torch, _inputs(rows, k, rows), dtype) for rows in (m, n))
        return _torch.side(lambda: torch.nn.functional.linear(x, weight))

    return Case(
        name=f"linear-{dtype}-{m}",
        subject="linear",
        about=f"{m} token(s) through a {n} × {k} {dtype} layer",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": torch_side},
        work=least.flops,
        flops=least.flops if m > 1 else 0,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )
