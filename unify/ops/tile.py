"""The part of the work that one program does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tile:
    """Rows, columns, and the length that is summed at a time; in an attention: queries, keys, and a head's width.

    Where each sequence has one query: heads, keys, and parts of a sequence.

    launch: options of the launch, num_warps and num_stages; none where the target has no use for them.
    """

    m: int
    n: int
    k: int
    launch: Mapping[str, int] = field(default_factory=dict, hash=False)
