"""Grouped products: each expert of a mixture multiplies the tokens that were routed to it."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

from unify import _cost as cost

from ..case import GFLOPS, Case, Setup, Side
from . import _ours, _torch
from .matmul import TOLERANCE, WIDTH

# Tokens of each expert, as uneven as routing leaves them; inputs and outputs of a layer.
COUNTS = (17, 150, 3, 64, 101, 40, 96, 41)
INPUTS, OUTPUTS = 1024, 512
TILE = (64, 512, 64)


def cases() -> list[Case]:
    """One case a dtype."""
    return [_experts(dtype) for dtype in WIDTH]


def _inputs() -> tuple[Any, Any]:
    """Tokens sorted by expert, and a weight [inputs, outputs] for each expert."""
    import numpy as np

    rng = np.random.default_rng(len(COUNTS))
    shapes = (sum(COUNTS), INPUTS), (len(COUNTS), INPUTS, OUTPUTS)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)  # type: ignore[return-value]


def _ranges() -> list[tuple[int, int]]:
    return list(pairwise(accumulate(COUNTS, initial=0)))


def _experts(dtype: str) -> Case:
    tokens, size = sum(COUNTS), WIDTH[dtype]
    least = cost.grouped_linear(tokens, OUTPUTS, INPUTS, groups=len(COUNTS), weight_bytes=size, itemsize=size)

    def unify_side(setup: Setup) -> Side:
        import numpy as np

        import unify

        from ._kernels import experts_kernel

        rows, columns, steps = TILE
        x, weight = (_ours.tensor(setup, array, dtype) for array in _inputs())
        out = unify.empty((tokens, OUTPUTS), x.dtype, device=setup.device)
        table = [(e, row, last) for e, (first, last) in enumerate(_ranges()) for row in range(first, last, rows)]
        blocks = unify.asarray(np.array(table, np.int32), device=setup.device)
        kernel = unify.jit(experts_kernel)[(len(table), OUTPUTS // columns)]

        def step() -> Any:
            kernel(x, weight, blocks, out, OUTPUTS, INPUTS, M=rows, N=columns, K=steps)
            return out

        return _ours.side(setup, step)

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        x, weight = (_torch.tensor(torch, array, dtype) for array in _inputs())
        out = x.new_empty(tokens, OUTPUTS)
        parts = [(x[a:b], matrix, out[a:b]) for (a, b), matrix in zip(_ranges(), weight, strict=True)]

        def step() -> Any:
            for left, right, product in parts:
                torch.mm(left, right, out=product)
            return out

        return _torch.side(step)

    return Case(
        name=f"experts-{dtype}",
        subject="experts",
        about=f"{tokens} tokens through the {INPUTS} × {OUTPUTS} {dtype} layers of {len(COUNTS)} experts: "
        "one Triton kernel against a loop of torch.mm",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": torch_side},
        work=least.flops,
        flops=least.flops,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )
