"""Attention whose heads share keys in groups (Ainslie et al. 2023): Llama's, Mistral's, Qwen3's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unify import ops

from .kv_cache import Pages, key_value_pages
from .projection import Matrices, project
from .step import Step


@dataclass(frozen=True)
class GroupedAttention:
    """One layer's: `qkv` are the projections of queries, keys and values, `frequencies` the angles of one position.

    interleaved: how pairs of features lie, see `ops.rope`. query_norm, key_norm: weights of norms of each head (Qwen3).
    scale: of the scores, 1/sqrt(width) by default. window: how many tokens each one sees, itself included.
    """

    heads: int
    kv_heads: int
    width: int
    qkv: Matrices
    output: Matrices
    frequencies: Any
    interleaved: bool
    norm_eps: float = 1e-6
    query_norm: Any = None
    key_norm: Any = None
    scale: float | None = None
    window: int | None = None

    def pages(self, blocks: int, dtype: Any, device: Any) -> Pages:
        """What a cache keeps for it."""
        return key_value_pages(blocks, self.kv_heads, self.width, dtype=dtype, device=device)

    def __call__(self, x: Any, step: Step, pages: Pages, residual: Any) -> Any:
        """residual + attention of new tokens, x: [t, d], over the sequences' cached keys and theirs."""
        tokens, rotated = x.shape[0], self.heads + self.kv_heads
        keys, values = pages
        qkv = project(x, self.qkv).reshape(tokens, rotated + self.kv_heads, self.width)
        if self.query_norm is None:
            qk = self._rotate(qkv[:, :rotated], step)
            q, k = qk[:, : self.heads], qk[:, self.heads :]
        else:
            q = self._normed(qkv[:, : self.heads], self.query_norm, step)
            k = self._normed(qkv[:, self.heads : rotated], self.key_norm, step)
        ops.kv_write(k, qkv[:, rotated:], keys, values, step.slots)
        attended = self._attend(q, keys, values, step).reshape(tokens, self.heads * self.width)
        return project(attended, self.output, residual)

    def _rotate(self, x: Any, step: Step) -> Any:
        return ops.rope(x, step.positions, frequencies=self.frequencies, interleaved=self.interleaved)

    def _normed(self, x: Any, weight: Any, step: Step) -> Any:
        return self._rotate(ops.rms_norm(x.contiguous(), weight, eps=self.norm_eps), step)

    def _attend(self, q: Any, keys: Any, values: Any, step: Step) -> Any:
        if step.is_decode:
            return ops.paged_attention(
                q, keys, values, step.block_table, step.context_lens, scale=self.scale, window=self.window
            )
        return ops.paged_prefill(
            q, keys, values, step.block_table, step.context_lens, step.query_starts, scale=self.scale,
            window=self.window,
        )  # fmt: skip
