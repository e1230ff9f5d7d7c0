"""What do sizes cost that are no multiple of a tile? Square products around 512, against torch."""

from __future__ import annotations

from dataclasses import replace

from unify.bench import Case
from unify.bench.cases import matmul

SIZES = (511, 512, 513, 577)


def cases() -> list[Case]:
    """Each size in fp32 and bf16."""
    return [replace(matmul.gemm(dtype, size), repeats=9) for dtype in ("fp32", "bf16") for size in SIZES]
