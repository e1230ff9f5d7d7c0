"""Attention as a server asks for it: prompts of several lengths at once, and caches in pages or of latent rows.

Torch has each sequence in tensors of its own, by head and without a gap, and goes through them in a loop: on a CPU that
is faster than its nested tensors.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from ..case import GFLOPS, GIGABYTES_A_SECOND, Case, Setup, Side
from . import _ours, _torch
from .attention import TOLERANCE, Heads

HEADS = Heads(32, 8, 128)  # Llama 3's of 8 billion weights
WIDTH = {"fp32": 4, "bf16": 2}
PROMPTS = (1024, 17, 333, 64, 700, 130, 512, 200)
CONTEXTS = (100, 4096, 2500, 640, 1999, 3000, 333, 1280)
CHUNK, PREFIXES = 64, (3000, 0, 1500, 500)
PAGES = (16, 64)
# Of DeepSeek-V3: what each of eight chips has of its 128 heads.
LATENT_HEADS, RANK, ROPE, NOPE, VALUE = 16, 512, 64, 128, 128
LATENT_BATCHES, LATENT_CONTEXTS = (1, 8), (512, 4096)
LATENT_PAGE = 64


def cases() -> list[Case]:
    """By what a step of a server does, dtype and page."""
    return [
        *(_packed(dtype) for dtype in WIDTH),
        *(_decode(dtype, page) for dtype in WIDTH for page in PAGES),
        *(_chunked(dtype) for dtype in WIDTH),
        *(_latent(dtype, b, keys) for dtype in WIDTH for b in LATENT_BATCHES for keys in LATENT_CONTEXTS),
    ]


def _random(*shape: int, seed: int = 0) -> Any:
    import numpy as np

    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def _starts(lengths: tuple[int, ...]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def _integers(setup: Setup, values: Any) -> Any:
    import numpy as np

    import unify

    return unify.asarray(np.asarray(values, np.int32), device=setup.device, copy=True)


def _case(name: str, dtype: str, about: str, **rest: Any) -> Case:
    return Case(name, name.partition("-")[0], about, dtype=dtype, tolerance=TOLERANCE[dtype], **rest)


def _inputs(queries: tuple[int, ...], keys: tuple[int, ...]) -> list[Any]:
    """q, k and v of all sequences behind each other."""
    counts = (sum(queries), HEADS.queries), (sum(keys), HEADS.keys), (sum(keys), HEADS.keys)
    return [_random(*count, HEADS.width, seed=seed) for seed, count in enumerate(counts)]


def _sequences(torch: Any, dtype: str, queries: tuple[int, ...], keys: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Of each sequence q, k and v as torch's kernels like them, [1, heads, tokens, width]."""
    parts = [
        _torch.tensor(torch, array, dtype).split(lengths)
        for array, lengths in zip(_inputs(queries, keys), (queries, keys, keys), strict=True)
    ]
    return [tuple(x.transpose(0, 1).unsqueeze(0).contiguous() for x in one) for one in zip(*parts, strict=True)]


def _looped(dtype: str, queries: tuple[int, ...], keys: tuple[int, ...]) -> Any:
    """Torch's side: each sequence's last queries over all of its keys."""

    def build(setup: Setup) -> Side:
        torch = _torch.load(setup)
        attend = torch.nn.functional.scaled_dot_product_attention
        sequences = _sequences(torch, dtype, queries, keys)
        are_prompts = queries == keys
        masks = [None] * len(queries)
        if not are_prompts and max(queries) > 1:
            masks = [torch.ones(n, s, dtype=torch.bool).tril(s - n) for n, s in zip(queries, keys, strict=True)]

        def step() -> Any:
            return [
                attend(q, k, v, attn_mask=mask, is_causal=are_prompts, enable_gqa=True)
                for (q, k, v), mask in zip(sequences, masks, strict=True)
            ]

        return Side(step=step, result=lambda: torch.cat([x[0].transpose(0, 1) for x in step()]).float().numpy())

    return build


def _flops(queries: tuple[int, ...], keys: tuple[int, ...]) -> float:
    """Of q·kᵀ and p·v over what queries see."""
    pairs = sum(n * (s - n) + n * (n + 1) / 2 for n, s in zip(queries, keys, strict=True))
    return 4 * HEADS.queries * HEADS.width * pairs


def _packed(dtype: str) -> Case:
    def unify_side(setup: Setup) -> Side:
        import unify

        q, k, v = (_ours.tensor(setup, array, dtype) for array in _inputs(PROMPTS, PROMPTS))
        starts = _integers(setup, _starts(PROMPTS))
        return _ours.side(setup, lambda: unify.ops.attention(q, k, v, cu_seqlens=starts))

    flops = _flops(PROMPTS, PROMPTS)
    return _case(
        f"packed-{dtype}", dtype,
        f"causal attention of {len(PROMPTS)} packed prompts of {min(PROMPTS)} to {max(PROMPTS)} tokens, "
        f"{HEADS.queries} heads over {HEADS.keys}, width {HEADS.width}, {dtype}; torch takes them one by one",
        unit=GFLOPS, ours=unify_side, peers={"torch": _looped(dtype, PROMPTS, PROMPTS)}, work=flops, flops=flops,
    )  # fmt: skip


def _cached(setup: Setup, dtype: str, keys: tuple[int, ...], page: int, arrays: list[Any]) -> tuple[Any, Any, Any, Any]:
    """Caches as our models have them, keys by token and values by feature, their pages in any order; the table."""
    import numpy as np

    pages = [-(-count // page) for count in keys]
    order = np.random.default_rng(page).permutation(sum(pages)).astype(np.int32)
    table = np.zeros((len(keys), max(pages)), np.int32)
    caches = [np.zeros((sum(pages), page, HEADS.keys, HEADS.width), np.float32) for _ in arrays]
    starts, firsts = _starts(keys), _starts(tuple(pages))
    for i, count in enumerate(keys):
        mine = order[firsts[i] : firsts[i + 1]]
        table[i, : pages[i]] = mine
        place = np.arange(count)
        for cache, array in zip(caches, arrays, strict=True):
            cache[mine[place // page], place % page] = array[starts[i] : starts[i + 1]]
    ours = (
        _ours.tensor(setup, cache.transpose(axes).copy(), dtype)
        for cache, axes in zip(caches, ((0, 2, 3, 1), (0, 2, 1, 3)), strict=True)
    )
    k_cache, v_cache = ours
    return k_cache.permute(0, 3, 1, 2), v_cache.permute(0, 2, 1, 3), _integers(setup, table), _integers(setup, keys)


def _decode(dtype: str, page: int) -> Case:
    ones = (1,) * len(CONTEXTS)
    moved = 2 * WIDTH[dtype] * HEADS.keys * HEADS.width * sum(CONTEXTS)

    def unify_side(setup: Setup) -> Side:
        import unify

        q, *arrays = _inputs(ones, CONTEXTS)
        query, cached = _ours.tensor(setup, q, dtype), _cached(setup, dtype, CONTEXTS, page, arrays)
        return _ours.side(setup, lambda: unify.ops.paged_attention(query, *cached))

    return _case(
        f"paged-decode-{dtype}-{page}", dtype,
        f"a token of each of {len(CONTEXTS)} sequences over {min(CONTEXTS)} to {max(CONTEXTS)} keys in pages of "
        f"{page}, {HEADS.queries} heads over {HEADS.keys}, width {HEADS.width}, {dtype}; torch gets contiguous caches",
        unit=GIGABYTES_A_SECOND, ours=unify_side, peers={"torch": _looped(dtype, ones, CONTEXTS)}, work=moved,
        bytes=moved, flops=_flops(ones, CONTEXTS),
    )  # fmt: skip


def _chunked(dtype: str) -> Case:
    chunks = (CHUNK,) * len(PREFIXES)
    keys = tuple(prefix + CHUNK for prefix in PREFIXES)

    def unify_side(setup: Setup) -> Side:
        import unify

        q, *arrays = _inputs(chunks, keys)
        query, starts = _ours.tensor(setup, q, dtype), _integers(setup, _starts(chunks))
        cached = _cached(setup, dtype, keys, PAGES[0], arrays)
        return _ours.side(setup, lambda: unify.ops.paged_prefill(query, *cached, starts))

    flops = _flops(chunks, keys)
    return _case(
        f"paged-prefill-{dtype}", dtype,
        f"{CHUNK} new tokens of each of {len(keys)} sequences over up to {max(PREFIXES)} keys before them in pages of "
        f"{PAGES[0]}, {HEADS.queries} heads over {HEADS.keys}, width {HEADS.width}, {dtype}; torch has them contiguous",
        unit=GFLOPS, ours=unify_side, peers={"torch": _looped(dtype, chunks, keys)}, work=flops, flops=flops,
    )  # fmt: skip


def _latent_inputs(batch: int, keys: int) -> tuple[Any, Any, Any]:
    """Queries, latent rows with the part that is rotated, and what expands a row to each head's key and value."""
    expand = _random(LATENT_HEADS * (NOPE + VALUE), RANK) / RANK**0.5
    return _random(batch, LATENT_HEADS, NOPE + ROPE), _random(batch, keys, RANK + ROPE), expand


def _latent(dtype: str, batch: int, keys: int) -> Case:
    scale = (NOPE + ROPE) ** -0.5
    weights = LATENT_HEADS * (NOPE + VALUE) * RANK

    def unify_side(setup: Setup) -> Side:
        import numpy as np

        import unify

        q, rows, expand = (_ours.tensor(setup, array, dtype) for array in _latent_inputs(batch, keys))
        by_head = expand.reshape(LATENT_HEADS, NOPE + VALUE, RANK)
        cache = rows.reshape(-1, LATENT_PAGE, RANK + ROPE)
        table = _integers(setup, np.arange(cache.shape[0]).reshape(batch, -1))
        lengths = _integers(setup, [keys] * batch)

        def step() -> Any:
            query = unify.empty((batch, LATENT_HEADS, RANK + ROPE), dtype=q.dtype, device=q.device)
            absorbed = unify.ops.matmul(q.permute(1, 0, 2)[:, :, :NOPE], by_head[:, :NOPE])
            query[:, :, :RANK].copy_(absorbed.permute(1, 0, 2))
            query[:, :, RANK:].copy_(q[:, :, NOPE:])
            found = unify.ops.mla_attention(query, cache, table, lengths, rank=RANK, scale=scale)
            return unify.ops.matmul(found.permute(1, 0, 2), by_head[:, NOPE:].permute(0, 2, 1)).permute(1, 0, 2)

        return _ours.side(setup, step)

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        attend = torch.nn.functional.scaled_dot_product_attention
        q, rows, expand = (_torch.tensor(torch, array, dtype) for array in _latent_inputs(batch, keys))
        shared = rows[:, None, :, RANK:].expand(-1, LATENT_HEADS, -1, -1)

        def step() -> Any:
            both = (rows[:, :, :RANK] @ expand.T).reshape(batch, keys, LATENT_HEADS, NOPE + VALUE).transpose(1, 2)
            k = torch.cat([both[..., :NOPE], shared], dim=-1)
            return attend(q[:, :, None], k, both[..., NOPE:], scale=scale)[:, :, 0]

        return _torch.side(step)

    moved = WIDTH[dtype] * (batch * keys * (RANK + ROPE) + weights)
    return _case(
        f"latent-decode-{dtype}-{batch}-{keys}", dtype,
        f"latent attention of a token of each of {batch} sequence(s) over {keys} rows of {RANK} + {ROPE}, "
        f"{LATENT_HEADS} heads, {dtype}, absorbed; torch expands keys and values, then attends",
        unit=GIGABYTES_A_SECOND, ours=unify_side, peers={"torch": torch_side}, work=moved, bytes=moved,
        flops=2 * batch * LATENT_HEADS * (keys * (2 * RANK + ROPE) + RANK * (NOPE + VALUE)),
    )  # fmt: skip
