"""Attention of many sequences in one call: packed prompts, and one or more new tokens of each over a paged cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from unify import _cost as cost

from ..case import GFLOPS, GIGABYTES_A_SECOND, Case, Setup, Side
from . import _ours, _torch
from .attention import ITEMSIZE, SMOLLM2, TOLERANCE, Heads

MULTI_HEAD = Heads(8, 8, 128)
LLAMA = Heads(32, 8, 128)  # of Llama 3 8B
HEADS = {"smollm2": SMOLLM2, "128": MULTI_HEAD}
PAGES = (16, 64)
# In no order, and no multiples of anything, as prompts are.
PROMPTS = (256, 17, 1024, 33, 700, 64, 400, 127)
# 16 sequences from 100 to 4096 tokens, each longer than the one before by a factor of 1.28, shuffled.
CONTEXTS = (4096, 209, 128, 2500, 719, 100, 1525, 164, 3200, 439, 344, 931, 267, 1953, 561, 1192)
# New tokens, and what is cached before them.
CHUNKS = ((128, 512), (1, 2048), (512, 512), (17, 1024), (256, 0), (64, 1500), (384, 256), (200, 768))

Cache = tuple[Any, Any, Any, Any]  # keys, values, block table, lengths


def cases() -> list[Case]:
    """Each dtype: packed prompts of each kind of heads, then decode and prefill over pages of each size."""
    return [
        *(_varlen(dtype, name) for dtype in TOLERANCE for name in HEADS),
        *(_decode(dtype, page) for dtype in TOLERANCE for page in PAGES),
        *(_prefill(dtype, page) for dtype in TOLERANCE for page in PAGES),
    ]


def _inputs(queries: Sequence[int], keys: Sequence[int], heads: Heads) -> tuple[Any, Any, Any]:
    """q, k and v of all sequences behind each other, [tokens, heads, width]."""
    import numpy as np

    rng = np.random.default_rng(sum(keys))
    return tuple(  # type: ignore[return-value]
        rng.standard_normal((sum(tokens), count, heads.width), np.float32)
        for tokens, count in ((queries, heads.queries), (keys, heads.keys), (keys, heads.keys))
    )


def _split(array: Any, lengths: Sequence[int]) -> list[Any]:
    return [array[first:last] for first, last in pairwise(accumulate(lengths, initial=0))]


def _starts(lengths: Sequence[int]) -> Any:
    import numpy as np

    return np.array([*accumulate(lengths, initial=0)], np.int32)


def _torch_side(dtype: str, queries: Sequence[int], keys: Sequence[int], heads: Heads) -> Callable[[Setup], Side]:
    """A call for each sequence, over tensors of its own that are laid out as torch's kernels are written for.

    Torch 2.13's nested tensors do no causal attention on a CPU. Where not all tokens of a sequence are new, the fastest
    of three ways is taken: to share keys by enable_gqa with a mask of numbers or of bools, or as tokens of one head.
    """

    def build(setup: Setup) -> Side:
        torch = _torch.load(setup)
        attend = torch.nn.functional.scaled_dot_product_attention
        q, k, v = _inputs(queries, keys, heads)
        sequences = [
            tuple(_torch.by_head(torch, array, dtype) for array in arrays)
            for arrays in zip(_split(q, queries), _split(k, keys), _split(v, keys), strict=True)
        ]
        group = heads.queries // heads.keys
        # [new, seen] of each sequence; the new tokens are the last ones.
        hidden = [
            torch.ones(new, seen, dtype=torch.bool).triu(seen - new + 1)
            for new, seen in zip(queries, keys, strict=True)
        ]
        added = [torch.zeros(mask.shape).masked_fill(mask, -torch.inf).to(sequences[0][0].dtype) for mask in hidden]

        def whole() -> list[Any]:
            return [attend(q, k, v, is_causal=True, enable_gqa=group > 1) for q, k, v in sequences]

        def masked(masks: list[Any]) -> list[Any]:
            return [
                attend(q, k, v, attn_mask=None if len(mask) == 1 else mask, enable_gqa=group > 1)
                for (q, k, v), mask in zip(sequences, masks, strict=True)
            ]

        def folded(masks: list[Any]) -> list[Any]:
            return [
                attend(q.view(1, heads.keys, -1, heads.width), k, v, attn_mask=mask).view(q.shape)
                for (q, k, v), mask in zip(sequences, masks, strict=True)
            ]

        forms: list[Callable[[], Any]] = [whole]
        if queries != keys:
            repeated = [None if len(mask) == 1 else mask.repeat(group, 1) for mask in added]
            forms = [partial(masked, added), partial(masked, [~mask for mask in hidden]), partial(folded, repeated)]
        step = _torch.fastest(forms)
        return Side(step=step, result=lambda: torch.cat(step(), 2)[0].transpose(0, 1).float().numpy())

    return build


def _varlen(dtype: str, name: str) -> Case:
    heads = HEADS[name]
    least = cost.total(cost.attention(tokens, tokens, **heads.sizes, itemsize=ITEMSIZE[dtype]) for tokens in PROMPTS)

    def unify_side(setup: Setup) -> Side:
        import unify

        q, k, v = (_ours.tensor(setup, array, dtype) for array in _inputs(PROMPTS, PROMPTS, heads))
        starts = unify.asarray(_starts(PROMPTS), device=setup.device)
        return _ours.side(setup, lambda: unify.ops.attention(q, k, v, cu_seqlens=starts))

    return Case(
        name=f"varlen-{dtype}-{name}",
        subject="varlen",
        about=f"causal attention of {len(PROMPTS)} packed prompts of {min(PROMPTS)} to {max(PROMPTS)} tokens, "
        f"{heads.queries} heads over {heads.keys}, width {heads.width}, {dtype}; torch gets each one by itself",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": _torch_side(dtype, PROMPTS, PROMPTS, heads)},
        work=least.flops,
        flops=least.flops,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _paged(setup: Setup, arrays: tuple[Any, Any], lengths: Sequence[int], page: int, dtype: str) -> Cache:
    """Sequences in blocks that lie in no order, as they do after others have come and gone.

    Blocks of 64 are laid out as our models have them, smaller ones with all heads of a token together.
    """
    import numpy as np

    import unify

    counts = [-(-tokens // page) for tokens in lengths]
    order = np.random.default_rng(page).permutation(sum(counts)).astype(np.int32)
    table = np.zeros((len(lengths), max(counts)), np.int32)
    caches = [np.zeros((len(order), page, *array.shape[1:]), np.float32) for array in arrays]
    for row, (blocks, tokens) in enumerate(zip(_split(order, counts), lengths, strict=True)):
        table[row, : len(blocks)] = blocks
        for cache, array in zip(caches, arrays, strict=True):
            padded = np.zeros((len(blocks) * page, *array.shape[1:]), np.float32)
            padded[:tokens] = _split(array, lengths)[row]
            cache[blocks] = padded.reshape(len(blocks), page, *array.shape[1:])
    keys, values = caches
    if page == 64:
        k_cache = _ours.tensor(setup, keys.transpose(0, 2, 3, 1).copy(), dtype).permute(0, 3, 1, 2)
        v_cache = _ours.tensor(setup, values.transpose(0, 2, 1, 3).copy(), dtype).permute(0, 2, 1, 3)
    else:
        k_cache, v_cache = _ours.tensor(setup, keys, dtype), _ours.tensor(setup, values, dtype)
    places = unify.asarray(table, device=setup.device)
    return k_cache, v_cache, places, unify.asarray(np.array(lengths, np.int32), device=setup.device)


def _decode(dtype: str, page: int) -> Case:
    ones = (1,) * len(CONTEXTS)
    moved = LLAMA.cached_bytes(sum(CONTEXTS), dtype)

    def unify_side(setup: Setup) -> Side:
        import unify

        q, k, v = _inputs(ones, CONTEXTS, LLAMA)
        query, cache = _ours.tensor(setup, q, dtype), _paged(setup, (k, v), CONTEXTS, page, dtype)
        return _ours.side(setup, lambda: unify.ops.paged_attention(query, *cache))

    return Case(
        name=f"paged-decode-{dtype}-{page}",
        subject="paged",
        about=f"one new token of each of {len(CONTEXTS)} sequences over {min(CONTEXTS)} to {max(CONTEXTS)} keys in "
        f"blocks of {page}, {LLAMA.queries} heads over {LLAMA.keys}, width {LLAMA.width}, {dtype}; torch gets each "
        "one's cache contiguous, and the fastest way to share keys",
        unit=GIGABYTES_A_SECOND,
        ours=unify_side,
        peers={"torch": _torch_side(dtype, ones, CONTEXTS, LLAMA)},
        work=moved,
        bytes=moved,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _prefill(dtype: str, page: int) -> Case:
    new = tuple(tokens for tokens, _ in CHUNKS)
    seen = tuple(map(sum, CHUNKS))
    least = cost.total(
        cost.paged_prefill(tokens, tokens + cached, **LLAMA.sizes, itemsize=ITEMSIZE[dtype])
        for tokens, cached in CHUNKS
    )

    def unify_side(setup: Setup) -> Side:
        import unify

        q, k, v = _inputs(new, seen, LLAMA)
        query, cache = _ours.tensor(setup, q, dtype), _paged(setup, (k, v), seen, page, dtype)
        starts = unify.asarray(_starts(new), device=setup.device)
        return _ours.side(setup, lambda: unify.ops.paged_prefill(query, *cache, starts))

    return Case(
        name=f"paged-prefill-{dtype}-{page}",
        subject="paged",
        about=f"{min(new)} to {max(new)} new tokens of each of {len(CHUNKS)} sequences over up to "
        f"{max(cached for _, cached in CHUNKS)} cached ones in blocks of {page}, {LLAMA.queries} heads over "
        f"{LLAMA.keys}, width {LLAMA.width}, {dtype}; torch gets each one's cache contiguous, and its mask",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": _torch_side(dtype, new, seen, LLAMA)},
        work=least.flops,
        flops=least.flops,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )
