"""Where the new tokens of one pass through a model stand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import unify

from .kv_cache import KVCache


@dataclass(frozen=True)
class Step:
    """The places of new tokens, packed sequence after sequence. All arrays are int32, on the model's device.

    positions, slots: [t], in the sequence and in the cache; block_table: [b, blocks]; context_lens: [b], the keys of
    each sequence with the new ones. For a prefill query_starts and key_starts, [b + 1], are where each sequence's new
    tokens and its keys begin when they are packed; keys: how many there are of these.
    """

    positions: Any
    slots: Any
    block_table: Any
    context_lens: Any
    query_starts: Any = None
    key_starts: Any = None
    keys: int = 0

    @property
    def is_decode(self) -> bool:
        """Whether each sequence has one new token."""
        return self.query_starts is None


def prefill_step(cache: KVCache, rows: Sequence[int], lengths: Sequence[int], device: Any) -> Step:
    """Grows sequences of a cache by new tokens, and says where those stand. Raises InvalidArgument when it is full."""
    import numpy as np

    positions, slots = [], []
    for row, tokens in zip(rows, lengths, strict=True):
        before = cache.grow(tokens, row)
        positions.append(np.arange(before, before + tokens, dtype=np.int32))
        slots.append(cache.slots(before, tokens, row))
    table = cache.block_table
    if list(rows) != list(range(len(cache.lengths))):
        table = unify.empty((len(rows), table.shape[1]), dtype=unify.int32, device=device)
        for i, row in enumerate(rows):
            table[i : i + 1].copy_(cache.block_table[row : row + 1])
    keys = [cache.lengths[row] for row in rows]

    def on_device(values: Any) -> Any:
        return unify.asarray(np.asarray(values, np.int32), device=device, copy=True)

    return Step(
        positions=on_device(np.concatenate(positions)),
        slots=on_device(np.concatenate(slots)),
        block_table=table,
        context_lens=on_device(keys),
        query_starts=on_device([0, *itertools.accumulate(lengths)]),
        key_starts=on_device([0, *itertools.accumulate(keys)]),
        keys=sum(keys),
    )
