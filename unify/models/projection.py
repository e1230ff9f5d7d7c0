"""Products with weights that lie on top of each other, in one matrix or, where their formats differ, in several."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import unify
from unify import ops

Matrices = Sequence[Any]  # tensors or quantised matrices [n, k], of one k


def project(x: Any, matrices: Matrices, residual: Any = None) -> Any:
    """x · weightᵀ for all of them, side by side: [t, Σ n], plus the residual if given. Most are one."""
    if len(matrices) == 1:
        return ops.linear(x, matrices[0], residual=residual)
    rows = [matrix.shape[0] for matrix in matrices]
    result = unify.empty((x.shape[0], sum(rows)), dtype=x.dtype, device=x.device)
    for matrix, end in zip(matrices, itertools.accumulate(rows), strict=True):
        part = slice(end - matrix.shape[0], end)
        added = None if residual is None else residual[:, part]
        result[:, part].copy_(ops.linear(x, matrix, residual=added))
    return result
