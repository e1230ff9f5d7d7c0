"""The paged cache of keys and values of one sequence."""

from __future__ import annotations

from typing import Any

import unify
from unify._errors import InvalidArgument

BLOCK_SIZE = 64  # tokens a block


class KVCache:
    """Keys and values of each layer, in blocks of BLOCK_SIZE tokens.

    Keys lie [blocks, kv_heads, d, tokens] in memory, so that scores of neighbouring tokens come from one vector; values
    [blocks, kv_heads, tokens, d]. Both are seen as [blocks, BLOCK_SIZE, kv_heads, d]. Blocks are handed out as the
    sequence grows; memory that no token has reached is not touched. Raises InvalidArgument for a capacity below 1.
    """

    def __init__(self, *, layers: int, kv_heads: int, width: int, capacity: int, dtype: Any, device: Any) -> None:
        if capacity < 1:
            raise InvalidArgument(f"a cache needs room for at least one token; its capacity is {capacity}.")
        self.blocks = -(-capacity // BLOCK_SIZE)
        self.capacity = capacity
        self.length = 0
        shape = (self.blocks, kv_heads, width, BLOCK_SIZE)
        self.keys = [unify.empty(shape, dtype=dtype, device=device).permute(0, 3, 1, 2) for _ in range(layers)]
        shape = (self.blocks, kv_heads, BLOCK_SIZE, width)
        self.values = [unify.empty(shape, dtype=dtype, device=device).permute(0, 2, 1, 3) for _ in range(layers)]
        self.block_table = unify.arange(self.blocks, dtype=unify.int32, device=device).reshape(1, self.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes reserved for keys and values."""
        return int(sum(t.nbytes for t in (*self.keys, *self.values)))

    def grow(self, tokens: int) -> int:
        """Makes room for tokens to come; returns the position of the first. Raises InvalidArgument when it is full."""
        start = self.length
        if start + tokens > self.capacity:
            raise InvalidArgument(
                f"the context is full: {start} tokens are in it, {tokens} more do not fit in {self.capacity}. "
                "Start anew, or make a larger one with max_context."
            )
        self.length += tokens
        return start

    def truncate(self, length: int) -> None:
        """Forgets the tokens from position `length` on."""
        self.length = min(self.length, length)
