"""A decoder: layers of attention and feed-forward networks with norms before them, whatever those are made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import unify
from unify import ops

from .kv_cache import KVCache, Pages
from .projection import Matrices, project
from .step import Step, prefill_step


class Sizes(Protocol):
    """What a decoder has to know of a model's sizes; `width` is d_model."""

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def vocabulary(self) -> int: ...  # noqa: D102
    @property
    def context(self) -> int: ...  # noqa: D102
    @property
    def norm_eps(self) -> float: ...  # noqa: D102


class Attention(Protocol):
    """residual + attention(x), which writes to and reads from the pages of its layer."""

    def pages(self, blocks: int, dtype: Any, device: Any) -> Pages: ...  # noqa: D102
    def __call__(self, x: Any, step: Step, pages: Pages, residual: Any) -> Any: ...  # noqa: D102


class FeedForward(Protocol):
    """residual + network(x)."""

    def __call__(self, x: Any, residual: Any) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class Layer:
    """Norms' weights as tensors, and what follows them."""

    attention_norm: Any
    attention: Attention
    feed_forward_norm: Any
    feed_forward: FeedForward


class Decoder:
    """A language model on one device. Activations and caches have the dtype `dtype`."""

    def __init__(
        self, config: Sizes, embedding: Any, layers: Sequence[Layer], norm: Any, head: Matrices, dtype: Any
    ) -> None:
        self.config = config
        self.device = norm.device
        self.dtype = dtype
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head

    def cache(self, capacity: int, *, sequences: int = 1, blocks: int | None = None) -> KVCache:
        """A cache for sequences of at most `capacity` tokens each, which share `blocks` (by default enough for all)."""

        def make(blocks: int) -> list[Pages]:
            return [layer.attention.pages(blocks, self.dtype, self.device) for layer in self._layers]

        return KVCache(make, capacity=capacity, sequences=sequences, blocks=blocks, device=self.device)

    def prefill(
        self, ids: Any, cache: KVCache, *, rows: Sequence[int] = (0,), lengths: Sequence[int] | None = None,
        all_logits: bool = False,
    ) -> Any:  # fmt: skip
        """Runs new tokens through the model and keeps what later ones need of them.

        ids: [t] int32 on the model's device: lengths[i] tokens of the sequence in row rows[i] of the cache after each
        other, by default all of row 0. Returns float32 logits [len(rows), vocabulary] of each sequence's last token, or
        of all, [t, vocabulary], enqueued on the device's current stream. Raises InvalidArgument when the cache is full.
        """
        step = prefill_step(cache, rows, lengths or [ids.shape[0]], self.device)
        hidden = self._hidden(ids, step, cache)
        if all_logits:
            return self._logits(hidden)
        if len(rows) == 1:
            return self._logits(hidden[ids.shape[0] - 1 :])
        ends = unify.asarray([end - 1 for end in itertools.accumulate(lengths or ())], dtype=unify.int32)
        return self._logits(ops.embedding(ends.to(self.device), hidden).to(self.dtype))

    def decode(self, ids: Any, positions: Any, context_lens: Any, cache: KVCache, slots: Any = None) -> Any:
        """Runs one new token of each sequence; everything that changes from step to step lies on the device.

        ids, positions, context_lens, slots: [b] int32, a row of the cache each: the token, its position, position + 1,
        and its place in the cache (by default its position: right for a cache of one sequence). A slot of -1 and 0 keys
        to see stand for a row that is not in use; its logits mean nothing. The caller grows the cache.
        Returns float32 logits [b, vocabulary]; enqueued on the device's current stream, so that a graph can record it.
        """
        step = Step(positions, positions if slots is None else slots, cache.block_table, context_lens)
        return self._logits(self._hidden(ids, step, cache))

    def _hidden(self, ids: Any, step: Step, cache: KVCache) -> Any:
        eps = self.config.norm_eps
        hidden = ops.embedding(ids, self._embedding).to(self.dtype)
        for layer, pages in zip(self._layers, cache.pages, strict=True):
            hidden = layer.attention(ops.rms_norm(hidden, layer.attention_norm, eps=eps), step, pages, hidden)
            hidden = layer.feed_forward(ops.rms_norm(hidden, layer.feed_forward_norm, eps=eps), hidden)
        return hidden

    def _logits(self, hidden: Any) -> Any:
        logits = project(ops.rms_norm(hidden, self._norm, eps=self.config.norm_eps), self._head)
        return logits.to(unify.float32)
