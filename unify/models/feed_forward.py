"""The second half of a layer: a gated unit, dense or one of many experts for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unify import ops

from .projection import Matrices, project


@dataclass(frozen=True)
class GatedUnit:
    """down · (silu(gate · x) · (up · x)) (Shazeer 2020); `gate_up`: the gate's rows, then as many of up."""

    width: int
    gate_up: Matrices
    down: Matrices

    def __call__(self, x: Any, residual: Any) -> Any:
        """The residual plus the unit's output for x: [t, d]."""
        gate_up = project(x, self.gate_up)
        return project(ops.swiglu(gate_up[:, : self.width], gate_up[:, self.width :]), self.down, residual)
