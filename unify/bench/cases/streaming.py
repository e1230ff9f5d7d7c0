"""Ops bounded by memory, over arrays of 16 MB and 256 MB: Triton kernels as a user writes them.

Neither side pays for fresh pages: results go where the last ones were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unify import _cost as cost

from ..case import GIGABYTES_A_SECOND, Case, Setup, Side
from . import _ours, _torch

COLUMNS = 1024
MEGABYTES = (16, 256)
EPS = 1e-5
BLOCK = 4096  # elements a program that adds
LANES = 64  # sums that a program of a sum keeps
PARTS = 64  # programs of a sum over all

Step = Callable[[], Any]


@dataclass(frozen=True)
class Op:
    """One op over x [rows, COLUMNS] fp32, on both sides: how a step is made that writes its result in place.

    moved: how often it moves x's bytes; inputs: what it reads beside x: "row" for [COLUMNS], "all" for an x again.
    """

    name: str
    about: str
    ours: Callable[..., Step]
    torch: Callable[..., Step]
    moved: float
    inputs: tuple[str, ...] = ()
    tolerance: float = 1e-5


def cases() -> list[Case]:
    """Each op at each size."""
    return [_case(op, megabytes) for op in OPS for megabytes in MEGABYTES]


def _case(op: Op, megabytes: int) -> Case:
    rows = (megabytes << 20) // (4 * COLUMNS)

    def inputs() -> list[Any]:
        import numpy as np

        rng = np.random.default_rng(megabytes)
        shapes = [(rows, COLUMNS), *((COLUMNS,) if what == "row" else (rows, COLUMNS) for what in op.inputs)]
        return [rng.random(shape, np.float32) for shape in shapes]  # positive, so that sums do not cancel

    def unify_side(setup: Setup) -> Side:
        return _ours.side(setup, op.ours(*(_ours.tensor(setup, array) for array in inputs())))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        return _torch.side(op.torch(torch, *(_torch.tensor(torch, array) for array in inputs())))

    moved = cost.elementwise(op.moved * rows * COLUMNS, 0, itemsize=4).bytes
    return Case(
        name=f"{op.name}-{megabytes}mb",
        subject=op.name,
        about=f"{op.about}, {rows} rows of {COLUMNS} fp32, which are {megabytes} MB",
        unit=GIGABYTES_A_SECOND,
        ours=unify_side,
        peers={"torch": torch_side},
        work=moved,
        bytes=moved,
        tolerance=op.tolerance,
    )


def _repeated(out: Any, *launches: Step) -> Step:
    def step() -> Any:
        for launch in launches:
            launch()
        return out

    return step


def _softmax(x: Any) -> Step:
    import unify

    from ._kernels import softmax_kernel

    out, kernel = unify.empty_like(x), unify.jit(softmax_kernel)[(x.shape[0],)]
    return _repeated(out, lambda: kernel(x, out, COLUMNS, BLOCK=COLUMNS))


def _softmax_torch(torch: Any, x: Any) -> Step:
    out = torch.empty_like(x)
    return lambda: torch.softmax(x, -1, out=out)


def _layer_norm(x: Any, weight: Any, bias: Any) -> Step:
    import unify

    from ._kernels import layer_norm_kernel

    out, kernel = unify.empty_like(x), unify.jit(layer_norm_kernel)[(x.shape[0],)]
    return _repeated(out, lambda: kernel(x, weight, bias, out, COLUMNS, EPS, BLOCK=COLUMNS))


def _layer_norm_torch(torch: Any, x: Any, weight: Any, bias: Any) -> Step:
    _torch.keep_pages()  # native_layer_norm.out computes a result of its own and copies it
    return lambda: torch.nn.functional.layer_norm(x, (COLUMNS,), weight, bias, EPS)


def _rms_norm(x: Any, weight: Any) -> Step:
    import unify

    out = unify.empty_like(x)
    return lambda: unify.ops.rms_norm(x, weight, eps=EPS, out=out)


def _rms_norm_torch(torch: Any, x: Any, weight: Any) -> Step:
    _torch.keep_pages()
    return lambda: torch.nn.functional.rms_norm(x, (COLUMNS,), weight, EPS)


def _add(x: Any, y: Any) -> Step:
    import unify

    from ._kernels import add_kernel

    out, kernel = unify.empty_like(x), unify.jit(add_kernel)[(-(-x.size // BLOCK),)]
    return _repeated(out, lambda: kernel(x, y, out, x.size, BLOCK=BLOCK))


def _add_torch(torch: Any, x: Any, y: Any) -> Step:
    out = torch.empty_like(x)
    return lambda: torch.add(x, y, out=out)


def _row_sum(x: Any) -> Step:
    import unify

    from ._kernels import sum_kernel

    out, kernel = unify.empty(x.shape[0], device=x.device), unify.jit(sum_kernel)[(x.shape[0],)]
    return _repeated(out, lambda: kernel(x, out, COLUMNS, BLOCK=LANES))


def _row_sum_torch(torch: Any, x: Any) -> Step:
    out = torch.empty(x.shape[0])
    return lambda: torch.sum(x, -1, out=out)


def _sum(x: Any) -> Step:
    import unify

    from ._kernels import sum_kernel

    kernel = unify.jit(sum_kernel)
    parts, out = unify.empty(PARTS, device=x.device), unify.empty(1, device=x.device)
    return _repeated(
        out,
        lambda: kernel[(PARTS,)](x, parts, x.size // PARTS, BLOCK=LANES),
        lambda: kernel[(1,)](parts, out, PARTS, BLOCK=LANES),
    )


def _sum_torch(torch: Any, x: Any) -> Step:
    flat, out = x.view(1, -1), torch.empty(1)
    return lambda: torch.sum(flat, -1, out=out)


OPS = (
    Op("softmax", "softmax", _softmax, _softmax_torch, 2),
    Op("layer_norm", "layer norm", _layer_norm, _layer_norm_torch, 2, ("row", "row")),
    Op("rms_norm", "root-mean-square norm, our op", _rms_norm, _rms_norm_torch, 2, ("row",)),
    Op("add", "sum of two arrays", _add, _add_torch, 3, ("all",)),
    Op("sum", "sum over all", _sum, _sum_torch, 1),
    Op("row_sum", "sum over each row", _row_sum, _row_sum_torch, 1),
)
