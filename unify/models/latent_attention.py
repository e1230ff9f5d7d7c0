"""Multi-head latent attention (DeepSeek-V2, 2024, section 2.1): a cache row a token, from which heads make their keys.

Many new tokens expand it to the keys and values of each head. One new token a sequence works on the rows themselves,
with the expansion absorbed into the query and the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import unify
from unify import ops

from .kv_cache import BLOCK_SIZE, Pages
from .projection import Matrices, project
from .step import Step


@dataclass(frozen=True)
class LatentAttention:
    """One layer's. A head's query and key are `nope` features without position and `rope` with; values have `value`.

    query_down, query_norm: of the query's own latent, none in small models; query_up: to the heads' queries. latent:
    the projection to `rank` features of a row and the rope key. expand: [heads · (nope + value), rank], of the
    activations' dtype. frequencies, interleaved, magnitude: see `ops.rope`.
    """

    heads: int
    rank: int
    nope: int
    rope: int
    value: int
    query_down: Matrices | None
    query_norm: Any
    query_up: Matrices
    latent: Matrices
    latent_norm: Any
    expand: Any
    output: Matrices
    frequencies: Any
    interleaved: bool
    magnitude: float
    norm_eps: float
    scale: float

    def pages(self, blocks: int, dtype: Any, device: Any) -> Pages:
        """What a cache keeps for it: rows of rank + rope features."""
        return (unify.empty((blocks, BLOCK_SIZE, self.rank + self.rope), dtype=dtype, device=device),)

    def __call__(self, x: Any, step: Step, pages: Pages, residual: Any) -> Any:
        """residual + attention of new tokens, x: [t, d], over the sequences' cached rows and theirs."""
        (cache,) = pages
        q = self._queries(x, step)
        row = project(x, self.latent)
        latent = ops.rms_norm(row[:, : self.rank].contiguous(), self.latent_norm, eps=self.norm_eps)
        key = self._rotate(row[:, self.rank :].reshape(x.shape[0], 1, self.rope), step)
        ops.latent_write(latent, key.reshape(x.shape[0], self.rope), cache, step.slots)
        attended = self._absorbed(q, cache, step) if step.is_decode else self._expanded(q, cache, step)
        return project(attended.reshape(x.shape[0], self.heads * self.value), self.output, residual)

    def _rotate(self, x: Any, step: Step) -> Any:
        return ops.rope(
            x, step.positions, frequencies=self.frequencies, interleaved=self.interleaved, magnitude=self.magnitude
        )

    def _queries(self, x: Any, step: Step) -> Any:
        """[t, heads, nope + rope], rotated."""
        if self.query_down is not None:
            x = ops.rms_norm(project(x, self.query_down), self.query_norm, eps=self.norm_eps)
        q = project(x, self.query_up).reshape(x.shape[0], self.heads, self.nope + self.rope)
        q[:, :, self.nope :].copy_(self._rotate(q[:, :, self.nope :], step))
        return q

    def _expanded(self, q: Any, cache: Any, step: Step) -> Any:
        rows = ops.latent_read(cache, step.block_table, step.key_starts, step.keys)
        both = ops.linear(rows[:, : self.rank], self.expand).reshape(step.keys, self.heads, self.nope + self.value)
        keys = unify.empty((step.keys, self.heads, self.nope + self.rope), dtype=q.dtype, device=q.device)
        keys[:, :, : self.nope].copy_(both[:, :, : self.nope])
        keys[:, :, self.nope :].copy_(rows[:, self.rank :].reshape(step.keys, 1, self.rope))
        return ops.attention(
            q, keys, both[:, :, self.nope :], scale=self.scale, cu_seqlens=step.query_starts,
            cu_seqlens_k=step.key_starts,
        )  # fmt: skip

    def _absorbed(self, q: Any, cache: Any, step: Step) -> Any:
        expand = self.expand.reshape(self.heads, self.nope + self.value, self.rank)
        by_head = q.permute(1, 0, 2)
        query = unify.empty((q.shape[0], self.heads, self.rank + self.rope), dtype=q.dtype, device=q.device)
        absorbed = ops.matmul(by_head[:, :, : self.nope], expand[:, : self.nope])  # [heads, b, rank]
        query[:, :, : self.rank].copy_(absorbed.permute(1, 0, 2))
        query[:, :, self.rank :].copy_(q[:, :, self.nope :])
        found = ops.mla_attention(query, cache, step.block_table, step.context_lens, rank=self.rank, scale=self.scale)
        values = ops.matmul(found.permute(1, 0, 2), expand[:, self.nope :].permute(0, 2, 1))  # [heads, b, value]
        return values.permute(1, 0, 2).contiguous()
