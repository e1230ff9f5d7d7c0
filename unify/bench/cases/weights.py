"""Linear layers of one token by the type of their weights: whether fewer bytes to read are faster in proportion."""

from __future__ import annotations

from typing import Any

from unify import _cost as cost

from ..case import MICROSECONDS, Case, Setup, Side
from . import _ours, _torch

SIZE = 4096
LAYERS = 8  # each with weights of its own, so that none is in a cache when its turn comes
# Against bfloat16, relative to the largest of some thousand results: about a part in 30 of a weight in int4, and so on.
TOLERANCE = {"bf16": 2**-7, "int8": 0.02, "int4": 0.12, "fp8": 0.06}


def cases() -> list[Case]:
    """One case a type."""
    return [_layers(kind) for kind in TOLERANCE]


def _inputs() -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(SIZE)
    return rng.standard_normal((1, SIZE), np.float32), rng.standard_normal((SIZE, SIZE), np.float32)


def _unify_side(setup: Setup, kind: str) -> Side:
    import unify
    from unify.ops import quant

    x, weight = (_ours.tensor(setup, array, "bf16") for array in _inputs())
    layers = [weight.copy() if kind == "bf16" else quant.quantize_weight(weight, kind) for _ in range(LAYERS)]

    def step() -> Any:
        return [unify.ops.linear(x, layer) for layer in layers][-1]

    return _ours.side(setup, step)


def _layers(kind: str) -> Case:
    least = cost.linear(1, SIZE, SIZE, weight_bytes=cost.WEIGHT_BYTES[kind]) * LAYERS

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        x, weight = (_torch.tensor(torch, array, "bf16") for array in _inputs())
        layers = [weight.clone() for _ in range(LAYERS)]
        return _torch.side(lambda: [torch.nn.functional.linear(x, layer) for layer in layers][-1])

    peers = {} if kind == "bf16" else {"unify": lambda setup: _unify_side(setup, "bf16")}
    return Case(
        name=f"weights-{kind}",
        subject="weights",
        about=f"one token through {LAYERS} layers of {SIZE} × {SIZE} in {kind}; the peer has them in bf16",
        unit=MICROSECONDS,
        ours=lambda setup: _unify_side(setup, kind),
        peers={**peers, "torch": torch_side},
        bytes=least.bytes,
        dtype="bf16",
        tolerance=TOLERANCE[kind],
    )
