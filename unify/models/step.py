"""Where the new tokens of one pass through a model stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import unify

from .kv_cache import KVCache


@dataclass(frozen=True)
class Step:
    """The places of new tokens, packed sequence after sequence. All arrays are int32, on the model's device.

    positions, slots: [t], in the sequence and in the cache; block_table: [b, blocks]; context_lens: [b], the keys of
    each sequence with the new ones. spans: for a prefill, (row, first token, tokens, keys before) of each sequence.
    """

    positions: Any
    slots: Any
    block_table: Any
    context_lens: Any
    spans: Sequence[tuple[int, int, int, int]] = ()

    @property
    def is_decode(self) -> bool:
        """Whether each sequence has one new token."""
        return not self.spans

    def by_sequence(self, q: Any, attend: Callable[[Any, int, int], Any]) -> Any:
        """attend(queries of one sequence, its row, keys before) for each of them, packed as q is."""
        parts = [attend(q[first : first + tokens], row, before) for row, first, tokens, before in self.spans]
        if len(parts) == 1:
            return parts[0]
        result = unify.empty(q.shape, dtype=q.dtype, device=q.device)
        for part, (_, first, tokens, _) in zip(parts, self.spans, strict=True):
            result[first : first + tokens].copy_(part)
        return result


def prefill_step(cache: KVCache, rows: Sequence[int], lengths: Sequence[int], device: Any) -> Step:
    """Grows sequences of a cache by new tokens, and says where those stand. Raises InvalidArgument when it is full."""
    import numpy as np

    positions, slots, first = [], [], 0
    spans: list[tuple[int, int, int, int]] = []
    for row, tokens in zip(rows, lengths, strict=True):
        before = cache.grow(tokens, row)
        positions.append(np.arange(before, before + tokens, dtype=np.int32))
        slots.append(cache.slots(before, tokens, row))
        spans.append((len(spans), first, tokens, before))
        first += tokens

    def on_device(values: Any) -> Any:
        return unify.asarray(np.asarray(values, np.int32), device=device, copy=True)

    table = cache.block_table
    if list(rows) != list(range(len(cache.lengths))):
        table = unify.empty((len(rows), table.shape[1]), dtype=unify.int32, device=device)
        for i, row in enumerate(rows):
            table[i : i + 1].copy_(cache.block_table[row : row + 1])
    context_lens = [cache.lengths[row] for row in rows]
    return Step(
        on_device(np.concatenate(positions)), on_device(np.concatenate(slots)), table, on_device(context_lens), spans
    )
