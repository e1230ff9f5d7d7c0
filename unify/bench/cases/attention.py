"""Attention: a prompt over itself, and one new token over a paged cache."""

from __future__ import annotations

from typing import Any

from ..case import GFLOPS, GIGABYTES_A_SECOND, Case, Setup, Side
from . import _ours, _torch

# SmolLM2's heads.
HEADS, KV_HEADS, WIDTH = 9, 3, 64
PROMPTS = (512, 2048)
CONTEXTS = (512, 4096)
BLOCK_SIZE = 16
TOLERANCE = {"fp32": 1e-4, "bf16": 2**-6}


def cases() -> list[Case]:
    """Each length of prompt in each dtype, and each length of context."""
    return [_prefill(dtype, tokens) for dtype in TOLERANCE for tokens in PROMPTS] + [_decode(keys) for keys in CONTEXTS]


def _inputs(queries: int, keys: int) -> tuple[Any, Any, Any]:
    import numpy as np

    rng = np.random.default_rng(keys)
    return tuple(  # type: ignore[return-value]
        rng.standard_normal((tokens, heads, WIDTH), np.float32)
        for tokens, heads in ((queries, HEADS), (keys, KV_HEADS), (keys, KV_HEADS))
    )


def _torch_layout(torch: Any, array: Any, dtype: str) -> Any:
    """[1, heads, tokens, width], contiguous: what torch's kernels are written for."""
    return torch.from_numpy(array).to(_torch.dtype(torch, dtype)).transpose(0, 1).unsqueeze(0).contiguous()


def _prefill(dtype: str, tokens: int) -> Case:
    # The causal half of q·kᵀ and of p·v; the diagonal's other half is no useful work.
    flops = 2 * HEADS * WIDTH * tokens * (tokens + 1)

    def unify_side(setup: Setup) -> Side:
        import unify

        q, k, v = (_ours.tensor(setup, array, dtype) for array in _inputs(tokens, tokens))
        return _ours.side(setup, lambda: unify.ops.attention(q, k, v, causal=True))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        attend = torch.nn.functional.scaled_dot_product_attention
        q, k, v = (_torch_layout(torch, array, dtype) for array in _inputs(tokens, tokens))

        def step() -> Any:
            return attend(q, k, v, is_causal=True, enable_gqa=True)

        return Side(step=step, result=lambda: step()[0].transpose(0, 1).float().numpy())

    return Case(
        name=f"attention-{dtype}-{tokens}",
        subject="attention",
        about=f"causal attention of {tokens} tokens, {HEADS} heads over {KV_HEADS}, width {WIDTH}, {dtype}",
        unit=GFLOPS,
        ours=unify_side,
        peers={"torch": torch_side},
        work=flops,
        flops=flops,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _scattered(array: Any, table: Any) -> Any:
    """Tokens in blocks, where a block table says."""
    import numpy as np

    cache = np.empty((len(table), BLOCK_SIZE, KV_HEADS, WIDTH), np.float32)
    cache[table] = array.reshape(cache.shape)
    return cache


def _decode(keys: int) -> Case:
    moved = 2 * 4 * KV_HEADS * WIDTH * keys

    def unify_side(setup: Setup) -> Side:
        import numpy as np

        import unify

        q, k, v = _inputs(1, keys)
        # Blocks in an arbitrary order, as they are after other sequences have come and gone.
        table = np.random.default_rng(0).permutation(keys // BLOCK_SIZE).astype(np.int32)
        k_cache, v_cache = (_ours.tensor(setup, _scattered(array, table)) for array in (k, v))
        query = _ours.tensor(setup, q)
        places = unify.asarray(table[None, :], device=setup.device)
        lengths = unify.asarray(np.array([keys], np.int32), device=setup.device)
        return _ours.side(setup, lambda: unify.ops.paged_attention(query, k_cache, v_cache, places, lengths))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        attend = torch.nn.functional.scaled_dot_product_attention
        q, k, v = (_torch_layout(torch, array, "fp32") for array in _inputs(1, keys))
        return Side(
            step=lambda: attend(q, k, v, enable_gqa=True),
            result=lambda: attend(q, k, v, enable_gqa=True)[0].transpose(0, 1).numpy(),
        )

    return Case(
        name=f"paged_attention-{keys}",
        subject="paged_attention",
        about=f"one new token over {keys} cached keys in blocks of {BLOCK_SIZE}; torch gets one contiguous cache",
        unit=GIGABYTES_A_SECOND,
        ours=unify_side,
        peers={"torch": torch_side},
        work=moved,
        bytes=moved,
        tolerance=TOLERANCE["fp32"],
    )
