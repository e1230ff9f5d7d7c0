"""Speculative decoding (Leviathan et al. 2023) by a model's own predictor: two tokens a step where its guess holds."""

from __future__ import annotations

from typing import Any

import unify
from unify import ops
from unify._errors import InvalidArgument

from .decoder import Decoder
from .generate import PREFILL_CHUNK, Generator
from .step import Step, prefill_step
from .tokenizer import Tokenizer


class SpeculativeGenerator(Generator):
    """Writes the same greedy text as a Generator, with a draft checked at each step.

    A step runs the last token and a guess of the next one side by side, as a batch of two that shares its blocks: the
    first says whether the guess was right, and then the second has the token after it already. `drafted` and `accepted`
    count guesses. Of a checkpoint's layers that predict tokens the first makes the guess, and others are not read.
    Raises InvalidArgument for a model without a predictor.
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer, *, max_context: int | None = None) -> None:
        if model.predictor is None:
            raise InvalidArgument(
                "speculative decoding needs a model with a layer that predicts a second token. Do without it."
            )
        super().__init__(model, tokenizer, max_context=max_context)
        self.drafted = self.accepted = 0
        self._draft = 0
        self._ready: list[int] = []  # the token after a guess that was right
        # tokens, positions, keys to see, slots, of the last token and the guess
        self._state = unify.zeros((4, 2), dtype=unify.int32, device=model.device)

    def _reuse(self, ids: list[int]) -> int:
        # What the predictor keeps of a token depends on the one after it, which may be another now.
        common = max(0, super()._reuse(ids) - 1)
        self._forget(common)
        return common

    def _prefill(self, ids: list[int]) -> int:
        self._ready.clear()
        token = 0
        for start in range(0, len(ids), PREFILL_CHUNK):
            chunk = ids[start : start + PREFILL_CHUNK]
            step = prefill_step(self.cache, (0,), (len(chunk),), self.model.device)
            hidden = self.model.hidden(self._tokens(chunk), step, self.cache)
            following = ids[start + 1 : start + 1 + PREFILL_CHUNK]
            if len(following) < len(chunk):
                token = int(self._likeliest(hidden[len(chunk) - 1 :]).item())
                following.append(token)
            predicted = self.model.predict(self._tokens(following), hidden, step, self.cache)
            self._ids += chunk
        self._draft = int(self._likeliest(predicted[len(chunk) - 1 :]).item())
        return token

    def _decode(self, token: int) -> int:
        if self._ready:
            self._ids.append(token)
            return self._ready.pop()
        at = self.cache.length
        # A guess behind the last place would have none itself.
        guesses = 1 if at + 2 <= self.cache.capacity else 0
        self.cache.grow(1 + guesses)
        self._set_state(token, at)
        self._graph.launch()
        self._ids.append(token)  # only now: an interrupt before would leave a token without its keys
        (first, second), drafts = self._next[0].tolist(), self._next[1].tolist()
        self.drafted += guesses
        if guesses and first == self._draft:
            self.accepted += 1
            self._ready.append(second)
            self._draft = drafts[1]
        else:
            self.cache.truncate(at + 1)
            self._draft = drafts[0]
        return int(first)

    def _set_state(self, token: int, position: int) -> None:
        last = position + 1 < self.cache.capacity
        state = [[token, self._draft], [position, position + 1], [position + 1, position + 2 if last else 0]]
        state.append([position, position + 1 if last else -1])
        self._state.copy_(unify.asarray(state, dtype=unify.int32, device="cpu"))

    def _step(self) -> Any:
        ids, positions, keys, slots = (self._state[i] for i in range(4))
        table = self.cache.block_table.broadcast_to((2, self.cache.block_table.shape[1]))
        step = Step(positions, slots, table, keys)
        hidden = self.model.hidden(ids, step, self.cache)
        tokens = self._likeliest(hidden)
        return tokens, self._likeliest(self.model.predict(tokens, hidden, step, self.cache))

    def _likeliest(self, hidden: Any) -> Any:
        return ops.sample(self.model.logits(hidden))

    def _tokens(self, ids: list[int]) -> Any:
        return unify.asarray(ids, dtype=unify.int32, device=self.model.device)
