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

    def __call__(self, x: Any, step: Step, pages: Pages, eps: float) -> Any:
        """The hidden state of new tokens, [t, d], behind this layer. eps: of the norms."""
        x = self.attention(ops.rms_norm(x, self.attention_norm, eps=eps), step, pages, x)
        return self.feed_forward(ops.rms_norm(x, self.feed_forward_norm, eps=eps), x)


@dataclass(frozen=True)
class Predictor:
    """A further layer that predicts the token after the next one (DeepSeek-V3, 2024, section 2.2).

    It takes the model's hidden state of a token and the embedding of the token after it, each behind a norm, through
    the projection `join`: [d, 2 · d].
    """

    embedding_norm: Any
    hidden_norm: Any
    join: Matrices
    layer: Layer
    norm: Any

    def __call__(self, embedded: Any, hidden: Any, step: Step, pages: Pages, eps: float) -> Any:
        """The hidden state from which the token after `embedded` follows, all [t, d]."""
        tokens, width = hidden.shape
        both = unify.empty((tokens, 2 * width), dtype=hidden.dtype, device=hidden.device)
        both[:, :width].copy_(ops.rms_norm(embedded, self.embedding_norm, eps=eps))
        both[:, width:].copy_(ops.rms_norm(hidden, self.hidden_norm, eps=eps))
        return ops.rms_norm(self.layer(project(both, self.join), step, pages, eps), self.norm, eps=eps)


class Decoder:
    """A language model on one device. Activations and caches have the dtype `dtype`; some models have a `predictor`."""

    def __init__(
        self, config: Sizes, embedding: Any, layers: Sequence[Layer], norm: Any, head: Matrices, dtype: Any,
        predictor: Predictor | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.device = norm.device
        self.dtype = dtype
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self.predictor = predictor

    def cache(self, capacity: int, *, sequences: int = 1, blocks: int | None = None) -> KVCache:
        """A cache for sequences of at most `capacity` tokens each, which share `blocks` (by default enough for all)."""

        def make(blocks: int) -> list[Pages]:
            layers = [*self._layers, *([] if self.predictor is None else [self.predictor.layer])]
            return [layer.attention.pages(blocks, self.dtype, self.device) for layer in layers]

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
            return self.logits(self._normed(hidden))
        if len(rows) == 1:
            return self.logits(self._normed(hidden[ids.shape[0] - 1 :]))
        ends = unify.asarray([end - 1 for end in itertools.accumulate(lengths or ())], dtype=unify.int32)
        return self.logits(self._normed(ops.embedding(ends.to(self.device), hidden).to(self.dtype)))

    def decode(self, ids: Any, positions: Any, context_lens: Any, cache: KVCache, slots: Any = None) -> Any:
        """Runs one new token of each sequence; everything that changes from step to step lies on the device.

        ids, positions, context_lens, slots: [b] int32, a row of the cache each: the token, its position, position + 1,
        and its place in the cache (by default its position: right for a cache of one sequence). A slot of -1 and 0 keys
        to see stand for a row that is not in use; its logits mean nothing. The caller grows the cache.
        Returns float32 logits [b, vocabulary]; enqueued on the device's current stream, so that a graph can record it.
        """
        step = Step(positions, positions if slots is None else slots, cache.block_table, context_lens)
        return self.logits(self.hidden(ids, step, cache))

    def hidden(self, ids: Any, step: Step, cache: KVCache) -> Any:
        """The hidden states [t, width] from which the tokens after `ids` follow, behind the last norm."""
        return self._normed(self._hidden(ids, step, cache))

    def logits(self, hidden: Any) -> Any:
        """Float32 logits [t, vocabulary] of hidden states."""
        return project(hidden, self._head).to(unify.float32)

    def predict(self, ids: Any, hidden: Any, step: Step, cache: KVCache) -> Any:
        """Hidden states from which the tokens after `ids` follow, by the predictor.

        hidden: what `hidden` gave for the tokens before `ids`, whose places the step is of.
        """
        assert self.predictor is not None
        embedded = ops.embedding(ids, self._embedding).to(self.dtype)
        return self.predictor(embedded, hidden, step, cache.pages[-1], self.config.norm_eps)

    def _hidden(self, ids: Any, step: Step, cache: KVCache) -> Any:
        hidden = ops.embedding(ids, self._embedding).to(self.dtype)
        for layer, pages in zip(self._layers, cache.pages, strict=False):  # the predictor's are the last ones
            hidden = layer(hidden, step, pages, self.config.norm_eps)
        return hidden

    def _normed(self, hidden: Any) -> Any:
        return ops.rms_norm(hidden, self._norm, eps=self.config.norm_eps)
