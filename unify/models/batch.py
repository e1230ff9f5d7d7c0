"""Continuous batching (Yu et al. 2022): each step writes a token of every text, and a new one begins when one ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import unify
from unify import ops
from unify._errors import InvalidArgument

from .decoder import Decoder
from .generate import Sampling
from .kv_cache import BLOCK_SIZE

_PREFILL_TOKENS = 512  # of all prompts in one pass: bounds the activations' memory


@dataclass
class Request:
    """A prompt and what was written after it so far; `is_done` when an end token came, or max_tokens were written."""

    prompt: Sequence[int]
    max_tokens: int
    token_ids: list[int] = field(default_factory=list)
    is_done: bool = False


@dataclass
class _Row:
    """A request that has a place in the cache, and how much of its prompt has been run."""

    request: Request
    prefilled: int = 0


class Batch:
    """Writes several texts at once over one paged cache of `rows` sequences.

    A request waits until a row is free, and blocks for its whole length: none is ever turned out half-way. max_context:
    tokens of one sequence, its answer included; blocks: of BLOCK_SIZE tokens in all, by default enough for every row.
    ends: tokens that end a text. The decode step is recorded once, over all rows.
    """

    def __init__(
        self, model: Decoder, *, rows: int = 8, max_context: int = 2048, blocks: int | None = None,
        ends: frozenset[int] = frozenset(), sampling: Sampling | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.cache = model.cache(min(max_context, model.config.context), sequences=rows, blocks=blocks)
        self._ends, self._sampling = ends, sampling or Sampling()
        if self._sampling.repetition_penalty != 1.0:
            raise InvalidArgument("a batch has no repetition penalty; use a Generator for each text.")
        self._waiting: deque[Request] = deque()
        self._rows: list[_Row | None] = [None] * rows
        # token, position, keys to see, slot, number of the draw: what the recorded step reads from the device
        self._state = unify.zeros((5, rows), dtype=unify.int32, device=model.device)
        self._graph: Any = None
        self._next: Any = None

    def submit(self, prompt: Sequence[int], max_tokens: int) -> Request:
        """Queues a prompt (token ids). Raises InvalidArgument for one that is empty, wrong, or never fits."""
        vocabulary = self.model.config.vocabulary
        wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
        if not prompt or wrong is not None:
            what = "no tokens" if not prompt else f"the token {wrong}, outside the vocabulary of {vocabulary}"
            raise InvalidArgument(f"submit: the prompt has {what}.")
        room = min(self.cache.capacity, self.cache.blocks * BLOCK_SIZE)
        if max_tokens < 1 or len(prompt) + max_tokens > room:
            raise InvalidArgument(
                f"submit: {len(prompt)} prompt tokens and {max_tokens=} do not fit into a context of {room} (at least "
                "one token is written)."
            )
        request = Request(list(prompt), max_tokens)
        self._waiting.append(request)
        return request

    def run(self) -> None:
        """Steps until every request is done."""
        while self.step():
            pass

    def step(self) -> bool:
        """Runs prompts that found room, or one token of each text. Returns whether anything is left to do."""
        self._admit()
        pending = [i for i, row in enumerate(self._rows) if row and row.prefilled < len(row.request.prompt)]
        if pending:
            self._prefill(pending)
        elif any(self._rows):
            self._decode()
        return bool(self._waiting or any(self._rows))

    def _admit(self) -> None:
        free = self.cache.free_blocks - sum(self._still_needed(i) for i in range(len(self._rows)))
        for i, row in enumerate(self._rows):
            if row is None and self._waiting:
                request = self._waiting[0]
                free -= _blocks(len(request.prompt) + request.max_tokens)
                if free < 0:
                    return  # the first in the queue stays the first
                self._rows[i] = _Row(self._waiting.popleft())

    def _still_needed(self, i: int) -> int:
        """Blocks that a running request was promised and has not taken yet."""
        row = self._rows[i]
        if row is None:
            return 0
        return _blocks(len(row.request.prompt) + row.request.max_tokens) - _blocks(self.cache.lengths[i])

    def _prefill(self, pending: list[int]) -> None:
        rows, lengths, ids, left = [], [], [], _PREFILL_TOKENS
        for i in pending:
            row = self._rows[i]
            assert row is not None
            part = list(row.request.prompt[row.prefilled : row.prefilled + left])
            if part:
                rows.append(i)
                lengths.append(len(part))
                ids += part
                left -= len(part)
        tokens = unify.asarray(ids, dtype=unify.int32, device=self.model.device)
        logits = self.model.prefill(tokens, self.cache, rows=rows, lengths=lengths)
        draws = unify.asarray([self.cache.lengths[i] for i in rows], dtype=unify.int32, device=self.model.device)
        for i, length, token in zip(rows, lengths, self._sample(logits, draws).tolist(), strict=True):
            row = self._rows[i]
            assert row is not None
            row.prefilled += length
            if row.prefilled == len(row.request.prompt):
                self._write(i, token)

    def _decode(self) -> None:
        state = [[0, 0, 0, -1, 0] for _ in self._rows]  # of rows that are not in use
        for i, row in enumerate(self._rows):
            if row is not None:
                at = self.cache.grow(1, i)
                state[i] = [row.request.token_ids[-1], at, at + 1, int(self.cache.slots(at, 1, i)[0]), at + 1]
        columns = [list(column) for column in zip(*state, strict=True)]
        self._state.copy_(unify.asarray(columns, dtype=unify.int32, device="cpu"))
        if self._graph is None:
            self._step()  # compiles; what it writes to the cache, the recorded one writes again
            with unify.Graph.capture(device=self.model.device) as graph:
                self._next = self._step()
            self._graph = graph
        self._graph.launch()
        for i, token in enumerate(self._next.tolist()):
            if self._rows[i] is not None:
                self._write(i, token)

    def _step(self) -> Any:
        ids, positions, keys, slots, draws = (self._state[i] for i in range(5))
        return self._sample(self.model.decode(ids, positions, keys, self.cache, slots), draws)

    def _sample(self, logits: Any, draws: Any) -> Any:
        s = self._sampling
        return ops.sample(logits, temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, seed=s.seed, step=draws)

    def _write(self, i: int, token: int) -> None:
        row = self._rows[i]
        assert row is not None
        request = row.request
        if token not in self._ends:
            request.token_ids.append(token)
        if token in self._ends or len(request.token_ids) == request.max_tokens:
            request.is_done = True
            self._rows[i] = None
            self.cache.truncate(0, i)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)
