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
from .kv_cache import BLOCK_SIZE
from .penalties import Penalties
from .prompt import checked_prompt, context_of
from .sampling import Sampling

_PREFILL_TOKENS = 512  # of all prompts in one pass: bounds the activations' memory


@dataclass
class Request:
    """A prompt and what was written after it so far; `is_done` when an end token came, or max_tokens were written."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
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
    tokens of one sequence, its answer included, by default 2048 or the model's own if those are less; blocks: of
    BLOCK_SIZE tokens in all, by default enough for every row. ends: tokens that end a text, as a Tokenizer's. The
    decode step is recorded once, over all rows, and once more where they draw, and where logits are changed.
    Raises InvalidArgument for a max_context above the model's own.
    """

    def __init__(
        self, model: Decoder, *, rows: int = 8, max_context: int | None = None, blocks: int | None = None,
        ends: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self.model = model
        capacity = context_of("Batch", max_context, model.config.context)
        self.cache = model.cache(capacity, sequences=rows, blocks=blocks)
        self._ends = ends
        self._waiting: deque[Request] = deque()
        self._rows: list[_Row | None] = [None] * rows
        # token, position, keys to see, slot, number of the draw: what the recorded step reads from the device
        self._state = unify.zeros((5, rows), dtype=unify.int32, device=model.device)
        self._choice = _Choice(rows, model.device)
        self._penalties = Penalties(rows, model.config.vocabulary, model.device)
        # By whether all take the likeliest, and the penalties' form: what to launch, its result.
        self._graphs: dict[tuple[bool, tuple[bool, int]], tuple[Any, Any]] = {}

    def submit(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling | None = None) -> Request:
        """Queues a prompt (token ids). What is drawn depends on the request's own seed, not on those beside it.

        Raises InvalidArgument for a prompt that is empty, wrong, or never fits, and for the bias of no token.
        """
        how = Sampling() if sampling is None else sampling
        if not isinstance(how, Sampling):
            raise InvalidArgument(f"submit: sampling must be a Sampling; it is {how!r:.80}.")
        how.check(self.model.config.vocabulary)
        room = min(self.cache.capacity, self.cache.blocks * BLOCK_SIZE)
        ids, tokens = checked_prompt("submit", prompt, max_tokens, vocabulary=self.model.config.vocabulary, room=room)
        request = Request(ids, tokens, how)
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
        new = unify.asarray(ids, dtype=unify.int32, device=self.model.device)
        logits = self.model.prefill(new, self.cache, rows=rows, lengths=lengths)
        draws = unify.asarray([self.cache.lengths[i] for i in rows], dtype=unify.int32, device=self.model.device)
        requests = [row.request for i in rows if (row := self._rows[i]) is not None]
        chosen = _Choice(len(rows), self.model.device).set([request.sampling for request in requests])
        penalties = Penalties(len(rows), self.model.config.vocabulary, self.model.device)
        for j, (i, request) in enumerate(zip(rows, requests, strict=True)):
            if self.cache.lengths[i] == len(request.prompt):
                penalties.set(j, request.sampling, request.prompt)
        tokens = chosen.sample(penalties.apply(logits), draws).tolist()
        for i, length, token in zip(rows, lengths, tokens, strict=True):
            row = self._rows[i]
            assert row is not None
            row.prefilled += length
            if row.prefilled == len(row.request.prompt):
                self._penalties.set(i, row.request.sampling, row.request.prompt)
                self._write(i, token)

    def _decode(self) -> None:
        state = [[0, 0, 0, -1, 0] for _ in self._rows]  # of rows that are not in use
        for i, row in enumerate(self._rows):
            if row is not None:
                at = self.cache.grow(1, i)
                state[i] = [row.request.token_ids[-1], at, at + 1, int(self.cache.slots(at, 1, i)[0]), at + 1]
        columns = [list(column) for column in zip(*state, strict=True)]
        self._state.copy_(unify.asarray(columns, dtype=unify.int32, device="cpu"))
        self._choice.set([row.request.sampling if row else Sampling() for row in self._rows])
        form = self._choice.is_greedy, self._penalties.form
        if form not in self._graphs:
            self._step()  # compiles; what it writes to the cache, the recorded one writes again
            with unify.Graph.capture(device=self.model.device) as recorded:
                result = self._step()
            self._graphs[form] = recorded, result
            self._recount()
        graph, tokens = self._graphs[form]
        graph.launch()
        for i, token in enumerate(tokens.tolist()):
            if self._rows[i] is not None:
                self._write(i, token)

    def _step(self) -> Any:
        ids, positions, keys, slots, draws = (self._state[i] for i in range(5))
        logits = self.model.decode(ids, positions, keys, self.cache, slots)
        self._penalties.count(ids)
        return self._choice.sample(self._penalties.apply(logits), draws)

    def _recount(self) -> None:
        """Forgets what recording a step counted: its tokens are counted when it is launched."""
        for i, row in enumerate(self._rows):
            if row is not None:
                request = row.request
                self._penalties.set(i, request.sampling, request.prompt, request.token_ids[:-1])

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
            self._penalties.clear(i)


class _Choice:
    """How the token of each row is chosen, on the device."""

    def __init__(self, rows: int, device: Any) -> None:
        self.is_greedy = True
        self._numbers = unify.zeros((3, rows), dtype=unify.float32, device=device)  # temperature, top_p, min_p
        self._top_k = unify.zeros((rows,), dtype=unify.int32, device=device)
        self._seeds = unify.zeros((rows,), dtype=unify.int64, device=device)

    def set(self, samplings: Sequence[Sampling]) -> _Choice:
        self.is_greedy = all(s.temperature == 0.0 for s in samplings)
        if not self.is_greedy:
            numbers = [[s.temperature for s in samplings], [s.top_p for s in samplings], [s.min_p for s in samplings]]
            self._numbers.copy_(unify.asarray(numbers, dtype=unify.float32, device="cpu"))
            self._top_k.copy_(unify.asarray([s.top_k for s in samplings], dtype=unify.int32, device="cpu"))
            self._seeds.copy_(unify.asarray([s.seed for s in samplings], dtype=unify.int64, device="cpu"))
        return self

    def sample(self, logits: Any, draws: Any) -> Any:
        if self.is_greedy:
            return ops.sample(logits)
        temperature, top_p, min_p = (self._numbers[i] for i in range(3))
        return ops.sample(
            logits, temperature=temperature, top_k=self._top_k, top_p=top_p, min_p=min_p, seed=self._seeds, step=draws
        )


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)
