"""Latent attention (DeepSeek-V2, 2024, section 2.1): decode on the cached rows against expanding them at each step."""

from __future__ import annotations

from typing import Any

from unify import _cost as cost

from ..case import MILLISECONDS, Case, Setup, Side
from . import _ours, _torch

# DeepSeek-V3's sizes; of its 128 heads those that one of eight chips has.
HEADS, RANK, ROPE, NOPE, VALUE = 16, 512, 64, 128, 128
BATCHES, CONTEXTS = (1, 4, 16), (512, 4096)
PAGE = 64
SCALE = (NOPE + ROPE) ** -0.5
# Keys are rounded to the dtype on one side, queries times their matrix on the other.
TOLERANCE = {"fp32": 1e-4, "bf16": 2**-5}


def cases() -> list[Case]:
    """Each dtype, batch and context."""
    return [_decode(dtype, batch, keys) for dtype in TOLERANCE for batch in BATCHES for keys in CONTEXTS]


def _inputs(batch: int, keys: int) -> tuple[Any, Any, Any]:
    """Queries [b, heads, nope + rope], rows [b, keys, rank + rope] and the expansion [heads, nope + value, rank]."""
    import numpy as np

    rng = np.random.default_rng(batch * keys)
    expand = rng.standard_normal((HEADS, NOPE + VALUE, RANK), np.float32) / np.float32(RANK**0.5)
    q = rng.standard_normal((batch, HEADS, NOPE + ROPE), np.float32)
    return q, rng.standard_normal((batch, keys, RANK + ROPE), np.float32), expand


def _decode(dtype: str, batch: int, keys: int) -> Case:
    def unify_side(setup: Setup) -> Side:
        import numpy as np

        import unify

        blocks = batch * keys // PAGE
        order = np.random.default_rng(0).permutation(blocks).astype(np.int32)
        q, rows, matrix = _inputs(batch, keys)
        scattered = np.empty((blocks, PAGE, RANK + ROPE), np.float32)
        scattered[order] = rows.reshape(scattered.shape)
        q, cache, expand = (_ours.tensor(setup, array, dtype) for array in (q, scattered, matrix))
        table = unify.asarray(order.reshape(batch, -1), device=setup.device)
        lengths = unify.asarray(np.full(batch, keys, np.int32), device=setup.device)
        query = unify.empty((batch, HEADS, RANK + ROPE), dtype=q.dtype, device=q.device)

        def step() -> Any:
            absorbed = unify.ops.matmul(q.permute(1, 0, 2)[:, :, :NOPE], expand[:, :NOPE])
            query[:, :, :RANK].copy_(absorbed.permute(1, 0, 2))
            query[:, :, RANK:].copy_(q[:, :, NOPE:])
            found = unify.ops.mla_attention(query, cache, table, lengths, rank=RANK, scale=SCALE)
            values = unify.ops.matmul(found.permute(1, 0, 2), expand[:, NOPE:].permute(0, 2, 1))
            return values.permute(1, 0, 2).contiguous()

        return _ours.side(setup, step)

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        _torch.keep_pages()
        q, rows, matrix = (_torch.tensor(torch, x, dtype) for x in _inputs(batch, keys))
        latent, rope = rows[:, :, :RANK].contiguous(), rows[:, None, :, RANK:].contiguous()
        expand = matrix.view(-1, RANK)
        queries = q[:, :, None]

        def expanded() -> Any:
            """[b, heads, keys, nope + value]"""
            both = torch.nn.functional.linear(latent, expand)
            return both.view(batch, keys, HEADS, NOPE + VALUE).transpose(1, 2)

        def attended() -> Any:
            both = expanded()
            k = torch.cat((both[..., :NOPE], rope.expand(-1, HEADS, -1, -1)), -1)
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(queries, k, both[..., NOPE:], scale=SCALE)[:, :, 0]

        def multiplied() -> Any:
            both = expanded()
            scores = queries[..., :NOPE] @ both[..., :NOPE].mT + queries[..., NOPE:] @ rope.mT
            return (torch.softmax(scores * SCALE, -1) @ both[..., NOPE:])[:, :, 0]

        return _torch.side(_torch.fastest([attended, multiplied]))

    size = {"fp32": 4, "bf16": 2}[dtype]
    least = cost.total(
        (
            cost.matmul(batch, RANK, NOPE, batch=HEADS, itemsize=size),
            cost.mla_attention(batch, keys, heads=HEADS, rank=RANK, rope=ROPE, itemsize=size),
            cost.matmul(batch, VALUE, RANK, batch=HEADS, itemsize=size),
        )
    )
    return Case(
        name=f"mla-{dtype}-{batch}-{keys}",
        subject="mla",
        about=f"one new token of each of {batch} sequence(s) over {keys} latent rows, {HEADS} heads of DeepSeek-V3's "
        f"sizes, {dtype}: absorbed, over blocks of {PAGE}, against expanding keys and values in torch",
        unit=MILLISECONDS,
        ours=unify_side,
        peers={"torch": torch_side},
        flops=least.flops,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )
