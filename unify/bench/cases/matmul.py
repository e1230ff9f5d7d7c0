"""Matrix products: square ones, and a linear layer as a model has it."""

from __future__ import annotations

from typing import Any

from ..case import GFLOPS, Case, Setup, Side
from . import _ours, _torch

SIZES = (512, 1024, 2048)
# [tokens, outputs, inputs] of SmolLM2's feed-forward layer: a prompt, and one token.
LAYERS = ((512, 1536, 576), (1, 1536, 576))
WIDTH = {"fp32": 4, "bf16": 2}
# One rounding of a result in the dtype, and sums in fp32 in another order.
TOLERANCE = {"fp32": 1e-5, "bf16": 2**-7}


def cases() -> list[Case]:
    """Each size and each dtype."""
    square = [gemm(dtype, size) for dtype in WIDTH for size in SIZES]
    return square + [_linear(dtype, *shape) for dtype in WIDTH for shape in LAYERS]


def _inputs(rows: int, columns: int, seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def gemm(dtype: str, size: int) -> Case:
    """The product of two square matrices; any size, for questions beyond the listed ones."""

    def unify_side(setup: Setup) -> Side:
        import unify

        a, b = (_ours.tensor(setup, _inputs(size, size, seed), dtype) for seed in (1, 2))
        return _ours.side(setup, lambda: unify.ops.matmul(a, b))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        a, b = (torch.from_numpy(_inputs(size, size, seed)).to(_torch.dtype(torch, dtype)) for seed in (1, 2))
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
        work=2 * size**3,
        flops=2 * size**3,
        bytes=3 * size * size * WIDTH[dtype],
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _linear(dtype: str, m: int, n: int, k: int) -> Case:
    def unify_side(setup: Setup) -> Side:
        import unify

        x, weight = (_ours.tensor(setup, _inputs(rows, k, rows), dtype) for rows in (m, n))
        return _ours.side(setup, lambda: unify.ops.linear(x, weight))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        x, weight = (torch.from_numpy(_inputs(rows, k, rows)).to(_torch.dtype(torch, dtype)) for rows in (m, n))
        return _torch.side(lambda: torch.nn.functional.linear(x, weight))

    return Case(
        name=f"linear-{dtype}-{m}",
        subject="linear",
        about=f"{m} token(s) through a {n} × {k} {dtype} layer",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": torch_side},
        work=2 * m * n * k,
        flops=2 * m * n * k if m > 1 else 0,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )
