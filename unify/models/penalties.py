"""Biases and penalties of the requests of a batch, on the device, where a recorded step can apply them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import unify
from unify import ops

from .sampling import Sampling

_FEWEST_BIASES = 64


class Penalties:
    """What changes the logits of each row by its request's settings, and counts what is written of it.

    Memory is taken when a request first needs it: eight bytes a row and token of the vocabulary for penalties. It
    stays where it is, so that a recorded step can use it as long as `form` is the same.
    """

    def __init__(self, rows: int, vocabulary: int, device: Any) -> None:
        self._vocabulary, self._device = vocabulary, device
        self._requests = [Sampling()] * rows
        self._written: Any = None  # int32 [rows, vocabulary]: how often each token was, and was in the prompt
        self._prompt: Any = None
        self._numbers = unify.zeros((3, rows), dtype=unify.float32, device=device)
        self._biases: dict[int, tuple[Any, Any]] = {}  # ids and biases by the width of their rows

    @property
    def form(self) -> tuple[bool, int]:
        """What a recorded step depends on: whether there are penalties, and how many biases a row has room for."""
        most = max(len(request.logit_bias) for request in self._requests)
        width = max(_FEWEST_BIASES, 1 << (most - 1).bit_length()) if most else 0
        return any(request.has_penalties for request in self._requests), width

    def set(self, row: int, sampling: Sampling, prompt: Sequence[int] = (), written: Sequence[int] = ()) -> None:
        """Gives a row to a request with this prompt, and with what is written of it and counted so far."""
        has_biases = any(request.logit_bias for request in (sampling, *self._requests))
        self._requests[row] = sampling
        if sampling.has_penalties:
            self._count(row, prompt, written)
        has_penalties, width = self.form
        if has_penalties:
            columns = [
                [request.frequency_penalty for request in self._requests],
                [request.presence_penalty for request in self._requests],
                [request.repetition_penalty for request in self._requests],
            ]
            self._numbers.copy_(unify.asarray(columns, dtype=unify.float32, device="cpu"))
        if has_biases and width:
            self._set_biases(width)

    def clear(self, row: int) -> None:
        """Takes a row from its request."""
        self.set(row, Sampling())

    def count(self, tokens: Any) -> None:
        """Counts a token of each row as written: int32 [rows]."""
        if self.form[0]:
            ops.count_tokens(tokens.reshape(-1, 1), self._vocabulary, add_to=self._written)

    def apply(self, logits: Any) -> Any:
        """The logits [rows, vocabulary] as the requests want them."""
        has_penalties, width = self.form
        if width:
            logits = ops.logit_bias(logits, *self._biases[width])
        if has_penalties:
            frequency, presence, repetition = (self._numbers[i] for i in range(3))
            logits = ops.penalize(
                logits, self._written, frequency=frequency, presence=presence, repetition=repetition,
                prompt=self._prompt,
            )  # fmt: skip
        return logits

    def _count(self, row: int, prompt: Sequence[int], written: Sequence[int]) -> None:
        if self._written is None:
            shape = (len(self._requests), self._vocabulary)
            self._written, self._prompt = (unify.zeros(shape, dtype=unify.int32, device=self._device) for _ in range(2))
        for counts, ids in ((self._prompt, prompt), (self._written, written)):
            tokens = unify.asarray([list(ids)], dtype=unify.int32, device=self._device)
            counts[row : row + 1].copy_(ops.count_tokens(tokens, self._vocabulary))

    def _set_biases(self, width: int) -> None:
        shape = (len(self._requests), width)
        if width not in self._biases:
            ids = unify.empty(shape, dtype=unify.int32, device=self._device)
            self._biases[width] = ids, unify.empty(shape, dtype=unify.float32, device=self._device)
        rows = [list(request.logit_bias.items()) for request in self._requests]
        rows = [row + [(-1, 0.0)] * (width - len(row)) for row in rows]
        ids, biases = self._biases[width]
        ids.copy_(unify.asarray([[token for token, _ in row] for row in rows], dtype=unify.int32, device="cpu"))
        biases.copy_(unify.asarray([[bias for _, bias in row] for row in rows], dtype=unify.float32, device="cpu"))
