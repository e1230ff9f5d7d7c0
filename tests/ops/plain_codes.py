"""Activations as codes by the formulas, in torch and float64: what products of codes are compared with."""

from __future__ import annotations

import torch

_LARGEST = {"int8": 127, "fp8": 448}


def coded(x: torch.Tensor, kind: str, error: torch.Tensor | float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers that codes of x [.., k] stand for, and by how much others can differ that were made of numbers up to
    `error` away: where a number lies between two codes, either is right.

    int8: a scale for each row, which makes its largest number 127. fp8: one for each 128 numbers, 448; float8_e4m3.
    """
    k, error = x.shape[-1], error + torch.zeros(x.shape, dtype=torch.float64)
    width = k if kind == "int8" else 128
    value, error = (torch.nn.functional.pad(part.double(), (0, -k % width)).unflatten(-1, (-1, width))
                    for part in (x, error))  # fmt: skip
    largest = value.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0) / _LARGEST[kind]
    value, moved = value / scale, error.amax(-1, keepdim=True) / torch.where(largest > 0, largest, 1.0)
    codes = _nearest(value, kind)
    reach = error / scale + value.abs() * (moved + 2.0**-21)  # of float32, in which codes are made
    apart = [(_nearest(value + by, kind) - codes).abs() for by in (reach, -reach)]
    apart = torch.maximum(*apart) + codes.abs() * (moved + 2.0**-22)
    return (codes * scale).flatten(-2)[..., :k], (apart * scale).flatten(-2)[..., :k]


def _nearest(value: torch.Tensor, kind: str) -> torch.Tensor:
    value = value.clamp(-_LARGEST[kind], _LARGEST[kind])
    return torch.floor(value + 0.5) if kind == "int8" else value.to(torch.float8_e4m3fn).double()


def product(weight: torch.Tensor, x: torch.Tensor, moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x · weightᵀ, and by how much it can differ where x can by `moved` and sums are in float32."""
    return x @ weight.T, (moved + x.abs() * 2.0**-22) @ weight.T.abs()


def silu_gated(both: torch.Tensor, moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """silu of the first half times the second one, and by how much it can differ."""
    (gate, up), (gate_moved, up_moved) = both.chunk(2, -1), moved.chunk(2, -1)
    silu = torch.nn.functional.silu(gate)
    # silu rises by less than 1.1 of what its argument does.
    by = 1.1 * gate_moved * (up.abs() + up_moved) + silu.abs() * up_moved
    return silu * up, by + (silu * up).abs() * 2.0**-20
