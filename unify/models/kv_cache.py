"""The paged cache (Kwon et al. 2023): what attention keeps of each token, in blocks that sequences take and return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import unify
from unify._errors import InvalidArgument

if TYPE_CHECKING:
    import numpy as np

BLOCK_SIZE = 64  # tokens a block

Pages = tuple[Any, ...]  # what one layer keeps: tensors whose first axes are [blocks, BLOCK_SIZE]


def key_value_pages(blocks: int, kv_heads: int, width: int, *, dtype: Any, device: Any) -> Pages:
    """Keys and values of one layer, both seen as [blocks, BLOCK_SIZE, kv_heads, width].

    Keys lie [blocks, kv_heads, width, tokens] in memory, so that scores of neighbouring tokens come from one vector;
    values [blocks, kv_heads, tokens, width].
    """
    keys = unify.empty((blocks, kv_heads, width, BLOCK_SIZE), dtype=dtype, device=device).permute(0, 3, 1, 2)
    values = unify.empty((blocks, kv_heads, BLOCK_SIZE, width), dtype=dtype, device=device).permute(0, 2, 1, 3)
    return keys, values


class KVCache:
    """The pages of each layer, and which blocks belong to which of `sequences` rows.

    Blocks are handed out as a sequence grows, and taken back as it is cut; what came back last goes out first, so that
    the tokens of a single sequence lie in order. Memory that no token has reached is not touched.

    make_pages: makes each layer's pages for a number of blocks. capacity: tokens of one sequence at most. blocks: of
    all sequences, by default enough for all of them at their longest. Raises InvalidArgument for a capacity below 1.
    """

    def __init__(
        self, make_pages: Callable[[int], Sequence[Pages]], *, capacity: int, sequences: int = 1,
        blocks: int | None = None, device: Any,
    ) -> None:  # fmt: skip
        if capacity < 1 or sequences < 1 or (blocks is not None and blocks < 1):
            raise InvalidArgument(
                f"a cache needs room for at least one token; its capacity is {capacity} for {sequences} sequences"
                f"{'' if blocks is None else f' in {blocks} blocks'}."
            )
        longest = -(-capacity // BLOCK_SIZE)
        self.blocks = longest * sequences if blocks is None else blocks
        self.capacity = capacity
        self.lengths = [0] * sequences
        self.pages = list(make_pages(self.blocks))
        self.block_table = unify.zeros((sequences, longest), dtype=unify.int32, device=device)
        self._free = list(range(self.blocks - 1, -1, -1))
        self._held: list[list[int]] = [[] for _ in range(sequences)]

    @property
    def length(self) -> int:
        """Tokens of the first sequence."""
        return self.lengths[0]

    @property
    def nbytes(self) -> int:
        """Bytes reserved for all pages."""
        return int(sum(tensor.nbytes for pages in self.pages for tensor in pages))

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds."""
        return len(self._free)

    def room(self, tokens: int, row: int = 0) -> bool:
        """Whether a sequence can grow by this much now."""
        length = self.lengths[row] + tokens
        return length <= self.capacity and -(-length // BLOCK_SIZE) - len(self._held[row]) <= len(self._free)

    def grow(self, tokens: int, row: int = 0) -> int:
        """Makes room for tokens to come; returns the position of the first.

        Raises InvalidArgument when the sequence is as long as it may be, or other sequences hold the blocks.
        """
        start = self.lengths[row]
        if not self.room(tokens, row):
            if start + tokens > self.capacity:
                why = f"do not fit in {self.capacity}. Start anew, or make a larger one with max_context"
            else:
                why = f"need more than the {len(self._free)} free blocks of {self.blocks}. End another sequence first"
            raise InvalidArgument(f"the context is full: {start} tokens are in it, {tokens} more {why}.")
        held = self._held[row]
        first, wanted = len(held), -(-(start + tokens) // BLOCK_SIZE)
        if wanted > first:
            held += [self._free.pop() for _ in range(wanted - first)]
            added = unify.asarray([held[first:]], dtype=unify.int32, device="cpu")
            self.block_table[row : row + 1, first:wanted].copy_(added)
        self.lengths[row] += tokens
        return start

    def truncate(self, length: int, row: int = 0) -> None:
        """Forgets the tokens of a sequence from position `length` on; blocks without tokens go back."""
        self.lengths[row] = min(self.lengths[row], length)
        held, kept = self._held[row], -(-self.lengths[row] // BLOCK_SIZE)
        self._free += reversed(held[kept:])
        del held[kept:]

    def slots(self, start: int, tokens: int, row: int = 0) -> np.ndarray[Any, Any]:
        """Where tokens of a sequence from position `start` on lie: int32, block · BLOCK_SIZE + place in the block."""
        import numpy as np

        position = np.arange(start, start + tokens, dtype=np.int32)
        held = np.asarray(self._held[row], np.int32)
        return held[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
