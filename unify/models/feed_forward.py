"""The second half of a layer: a gated unit, dense or one of many experts for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import unify
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


@dataclass(frozen=True)
class Experts:
    """The best `top_k` of many gated units for each token, weighed (Shazeer et al. 2017), beside one that is shared.

    router: [experts, d] float32; gate_up: [experts, 2 · width, d], the gate's rows first; down: [experts, d, width].
    bias, score, groups, top_groups, normalize, scale: how they are chosen and weighed, see `ops.route`.
    """

    router: Any
    gate_up: Any
    down: Any
    top_k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    bias: Any = None
    groups: int = 1
    top_groups: int = 1
    normalize: bool = True
    scale: float = 1.0
    shared: GatedUnit | None = None

    def __call__(self, x: Any, residual: Any) -> Any:
        """The residual plus what the experts give for x: [t, d]."""
        logits = ops.linear(x.to(unify.float32), self.router)  # close scores would be in another order in 16 bits
        weights, ids = ops.route(
            logits, self.top_k, score=self.score, bias=self.bias, groups=self.groups, top_groups=self.top_groups,
            normalize=self.normalize, scale=self.scale,
        )  # fmt: skip
        if self.shared is not None:
            residual = self.shared(x, residual)
        return ops.moe(x, weights, ids, self.gate_up, self.down, residual=residual)
