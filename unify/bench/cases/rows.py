"""Ops that pass once over rows: bounded by memory, or by the caches where they fit."""

from __future__ import annotations

from typing import Any

from unify import _cost as cost

from ..case import GIGABYTES_A_SECOND, Case, Setup, Side
from . import _ours, _torch

EPS = 1e-5
# SmolLM2's own rows (576), for one token and for a prompt; and a block that no cache holds.
SHAPES = ((1, 576), (512, 576), (4096, 4096))


def cases() -> list[Case]:
    """RMSNorm and softmax at each shape."""
    return [case for shape in SHAPES for case in (_rms_norm(*shape), _softmax(*shape))]


def _inputs(rows: int, columns: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(rows * columns)
    return rng.standard_normal((rows, columns), np.float32), rng.standard_normal(columns, np.float32)


def _rms_norm(rows: int, columns: int) -> Case:
    moved = cost.rms_norm(rows, columns, itemsize=4).bytes

    def unify_side(setup: Setup) -> Side:
        import unify

        x, weight = (_ours.tensor(setup, array) for array in _inputs(rows, columns))
        return _ours.side(setup, lambda: unify.ops.rms_norm(x, weight, eps=EPS))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        x, weight = (_torch.tensor(torch, array) for array in _inputs(rows, columns))
        return _torch.side(lambda: torch.nn.functional.rms_norm(x, (columns,), weight, EPS))

    def numpy_side(setup: Setup) -> Side:
        import numpy as np

        x, weight = _inputs(rows, columns)

        def step() -> Any:
            return x * (weight / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPS))

        return Side(step=step, result=step)

    return Case(
        name=f"rms_norm-{rows}x{columns}",
        subject="rms_norm",
        about=f"root-mean-square norm of {rows} rows of {columns} fp32",
        unit=GIGABYTES_A_SECOND,
        ours=unify_side,
        peers={"torch": torch_side, "numpy": numpy_side},
        work=moved,
        bytes=moved,
        tolerance=1e-5,
    )


def _softmax(rows: int, columns: int) -> Case:
    moved = cost.elementwise(rows * columns, rows * columns, itemsize=4).bytes

    def unify_side(setup: Setup) -> Side:
        import unify

        from ._kernels import softmax_kernel

        kernel = unify.jit(softmax_kernel)[(rows,)]
        x = _ours.tensor(setup, _inputs(rows, columns)[0])
        block = 1 << (columns - 1).bit_length()

        def step() -> Any:
            out = unify.empty_like(x)
            kernel(x, out, columns, BLOCK=block)
            return out

        return _ours.side(setup, step)

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        x = _torch.tensor(torch, _inputs(rows, columns)[0])
        return _torch.side(lambda: torch.nn.functional.softmax(x, dim=-1))

    return Case(
        name=f"softmax-{rows}x{columns}",
        subject="softmax",
        about=f"softmax of {rows} rows of {columns} fp32: a Triton kernel as a user writes it",
        unit=GIGABYTES_A_SECOND,
        ours=unify_side,
        peers={"torch": torch_side},
        work=moved,
        bytes=moved,
        tolerance=1e-5,
    )
