"""Attention: a prompt over itself, and one new token over a paged cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unify import _cost as cost

from ..case import GFLOPS, GIGABYTES_A_SECOND, Case, Setup, Side
from . import _ours, _torch


@dataclass(frozen=True)
class Heads:
    """Query heads, the heads of keys and values that they share, and the width of each."""

    queries: int
    keys: int
    width: int

    @property
    def sizes(self) -> dict[str, Any]:
        """As the cost model has them."""
        return {"heads": self.queries, "kv_heads": self.keys, "width": self.width}

    def cached_bytes(self, tokens: int, dtype: str) -> float:
        """Of so many tokens' keys and values: what decoding is measured by, next to which a query is nothing."""
        return cost.cache_bytes(tokens, kv_heads=self.keys, width=self.width, itemsize=ITEMSIZE[dtype])


SMOLLM2 = Heads(9, 3, 64)
PROMPTS = (512, 2048)
CONTEXTS = (512, 4096)
BLOCK_SIZE = 16
DECODE_BLOCK = 64
# Heads that share nothing, as in papers on attention, whose widths, lengths and contexts these are.
WIDTHS = (64, 128)
LENGTHS = (512, 4096)
LONG_CONTEXTS = (4096, 32768)
TOLERANCE = {"fp32": 1e-4, "bf16": 2**-6}
ITEMSIZE = {"fp32": 4, "bf16": 2}


def cases() -> list[Case]:
    """SmolLM2's heads, then each mask, dtype, width and length, and each length of context."""
    smollm2 = [
        _prefill(f"attention-{dtype}-{tokens}", dtype, tokens, SMOLLM2) for dtype in TOLERANCE for tokens in PROMPTS
    ]
    flash = [
        _prefill(
            f"flash-{'causal' if causal else 'full'}-{dtype}-{width}-{tokens}",
            dtype, tokens, Heads(8, 8, width), causal=causal, by_head=True,
        )
        for causal in (True, False) for dtype in TOLERANCE for width in WIDTHS for tokens in LENGTHS
    ]  # fmt: skip
    decode = [_decode(dtype, keys) for dtype in TOLERANCE for keys in LONG_CONTEXTS]
    return smollm2 + [_paged(keys) for keys in CONTEXTS] + flash + decode


def _inputs(queries: int, keys: int, heads: Heads) -> tuple[Any, Any, Any]:
    import numpy as np

    rng = np.random.default_rng(keys)
    return tuple(  # type: ignore[return-value]
        rng.standard_normal((tokens, count, heads.width), np.float32)
        for tokens, count in ((queries, heads.queries), (keys, heads.keys), (keys, heads.keys))
    )


def _torch_side(dtype: str, queries: int, keys: int, heads: Heads, *, causal: bool) -> Callable[[Setup], Side]:
    def build(setup: Setup) -> Side:
        torch = _torch.load(setup)
        attend = torch.nn.functional.scaled_dot_product_attention
        q, k, v = (_torch.by_head(torch, array, dtype) for array in _inputs(queries, keys, heads))

        def step() -> Any:
            return attend(q, k, v, is_causal=causal, enable_gqa=heads.queries != heads.keys)

        return Side(step=step, result=lambda: step()[0].transpose(0, 1).float().numpy())

    return build


def _prefill(name: str, dtype: str, tokens: int, heads: Heads, *, causal: bool = True, by_head: bool = False) -> Case:
    """by_head: our side too has all tokens of a head together in memory; else as a model's projections leave them."""
    least = cost.attention(tokens, tokens, causal=causal, **heads.sizes, itemsize=ITEMSIZE[dtype])

    def unify_side(setup: Setup) -> Side:
        import unify

        arrays = _inputs(tokens, tokens, heads)
        if by_head:
            q, k, v = (_ours.tensor(setup, x.transpose(1, 0, 2).copy(), dtype).permute(1, 0, 2) for x in arrays)
        else:
            q, k, v = (_ours.tensor(setup, x, dtype) for x in arrays)
        return _ours.side(setup, lambda: unify.ops.attention(q, k, v, causal=causal))

    return Case(
        name=name,
        subject=name.partition("-")[0],
        about=f"{'causal' if causal else 'full'} attention of {tokens} tokens, "
        f"{heads.queries} heads over {heads.keys}, width {heads.width}, {dtype}",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": _torch_side(dtype, tokens, tokens, heads, causal=causal)},
        work=least.flops,
        flops=least.flops,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _scattered(array: Any, table: Any) -> Any:
    """Tokens in blocks, where a block table says."""
    import numpy as np

    cache = np.empty((len(table), BLOCK_SIZE, *array.shape[1:]), np.float32)
    cache[table] = array.reshape(cache.shape)
    return cache


def _paged(keys: int) -> Case:
    moved = SMOLLM2.cached_bytes(keys, "fp32")

    def unify_side(setup: Setup) -> Side:
        import numpy as np

        q, k, v = _inputs(1, keys, SMOLLM2)
        # Blocks in an arbitrary order, as they are after other sequences have come and gone.
        table = np.random.default_rng(0).permutation(keys // BLOCK_SIZE).astype(np.int32)
        k_cache, v_cache = (_ours.tensor(setup, _scattered(array, table)) for array in (k, v))
        return _over_cache(setup, _ours.tensor(setup, q), k_cache, v_cache, table)

    return Case(
        name=f"paged_attention-{keys}",
        subject="paged_attention",
        about=f"one new token over {keys} cached keys in blocks of {BLOCK_SIZE}; torch gets one contiguous cache",
        unit=GIGABYTES_A_SECOND,
        ours=unify_side,
        peers={"torch": _torch_side("fp32", 1, keys, SMOLLM2, causal=False)},
        work=moved,
        bytes=moved,
        tolerance=TOLERANCE["fp32"],
    )


def _decode(dtype: str, keys: int) -> Case:
    heads = Heads(8, 8, 128)
    moved = heads.cached_bytes(keys, dtype)

    def unify_side(setup: Setup) -> Side:
        import numpy as np

        q, k, v = _inputs(1, keys, heads)
        # As our models keep them: in each block keys with tokens side by side, values with d side by side.
        shape = (keys // DECODE_BLOCK, DECODE_BLOCK, heads.keys, heads.width)
        k_cache, v_cache = (
            _ours.tensor(setup, array.reshape(shape).transpose(order).copy(), dtype)
            for array, order in ((k, (0, 2, 3, 1)), (v, (0, 2, 1, 3)))
        )
        table = np.arange(shape[0], dtype=np.int32)
        query = _ours.tensor(setup, q, dtype)
        return _over_cache(setup, query, k_cache.permute(0, 3, 1, 2), v_cache.permute(0, 2, 1, 3), table)

    return Case(
        name=f"flash-decode-{dtype}-{keys}",
        subject="flash",
        about=f"one query, {heads.queries} heads of width {heads.width}, over {keys} keys in blocks of "
        f"{DECODE_BLOCK}, {dtype}; torch gets one contiguous cache",
        unit=GIGABYTES_A_SECOND,
        ours=unify_side,
        peers={"torch": _torch_side(dtype, 1, keys, heads, causal=False)},
        work=moved,
        bytes=moved,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _over_cache(setup: Setup, query: Any, k_cache: Any, v_cache: Any, table: Any) -> Side:
    """One sequence that fills the blocks of `table`."""
    import numpy as np

    import unify

    places = unify.asarray(table[None, :], device=setup.device)
    lengths = unify.asarray(np.array([len(table) * k_cache.shape[1]], np.int32), device=setup.device)
    return _ours.side(setup, lambda: unify.ops.paged_attention(query, k_cache, v_cache, places, lengths))
