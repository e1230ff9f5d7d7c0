"""How fast is what large models live on, on a GPU? Experts, decoding over pages and over latent rows, long prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_common import torch_cuda
from gpu_kernels import TERAFLOPS, TOLERANCE, attention, on_torch, our_side, random, torch_side

import unify as un
from unify.bench import Case, Setup, Side
from unify.bench.case import GIGABYTES_A_SECOND
from unify.errors import UnsupportedError
from unify.ops import cost

PAGE = 64
EXPERTS, TOP_K, WIDTH, EXPERT_WIDTH = 64, 8, 2048, 1024


def cases(is_smoke: bool = False) -> list[Case]:
    batch, context, calls = (2, 128, 1) if is_smoke else (64, 8192, 20)
    long = () if is_smoke else (attention(8192, 128, causal=True, calls=10),)
    return [
        *(_moe(tokens, is_smoke, calls) for tokens in ((1, 5) if is_smoke else (1, 16, 256, 2048))),
        _paged(batch, context, calls),
        _latent(batch, context, calls),
        *long,
    ]


# ---------------------------------------------------------------- experts


def _moe(tokens: int, is_smoke: bool, calls: int) -> Case:
    experts, width, hidden = (8, 64, 32) if is_smoke else (EXPERTS, WIDTH, EXPERT_WIDTH)
    top_k = min(TOP_K, experts // 2)

    def inputs() -> tuple[list[np.ndarray], np.ndarray]:
        rng = np.random.default_rng(tokens)
        ids = np.stack([rng.permutation(experts)[:top_k] for _ in range(tokens)]).astype(np.int32)
        arrays = [random(tokens, width, seed=1), random(experts, 2 * hidden, width, seed=2)]
        arrays += [random(experts, width, hidden, seed=3)]
        return [arrays[0], *(a * a.shape[-1] ** -0.5 for a in arrays[1:])], ids

    def ours(setup: Setup) -> Side:
        device = un.device(setup.device)
        (x, gate_up, down), ids = inputs()
        x, gate_up, down = (un.asarray(a, device=device).to(un.bfloat16) for a in (x, gate_up, down))
        chosen = un.asarray(ids, device=device)
        weights = un.full(ids.shape, 1 / top_k, dtype=un.float32, device=device)
        return our_side(device, lambda: un.ops.moe(x, weights, chosen, gate_up, down))

    def peer(setup: Setup) -> Side:
        torch = torch_cuda()
        if not hasattr(torch, "_grouped_mm"):
            raise UnsupportedError(f"torch {torch.__version__} has no grouped product")
        arrays, ids = inputs()
        x, gate_up, down = on_torch(torch, setup, *arrays)
        chosen = torch.from_numpy(ids).to(x.device).long()

        def step() -> Any:
            order = chosen.reshape(-1).argsort(stable=True)
            ends = torch.bincount(chosen.reshape(-1), minlength=experts).cumsum(0).int()
            both = torch._grouped_mm(x[order // top_k], gate_up.transpose(1, 2), offs=ends)
            gate, up = both.chunk(2, -1)
            parts = torch._grouped_mm(torch.nn.functional.silu(gate) * up, down.transpose(1, 2), offs=ends)
            result = torch.zeros_like(x, dtype=torch.float32)
            return result.index_add_(0, order // top_k, parts.float(), alpha=1 / top_k).to(x.dtype)

        return torch_side(torch, setup, step)

    hit = len({int(expert) for expert in inputs()[1].reshape(-1)}) if tokens <= 256 else experts
    least = cost.moe(tokens, experts=experts, top_k=top_k, width=width, expert_width=hidden, hit=hit)
    return _case(
        f"moe-{tokens}", "moe", f"{top_k} of {experts} experts of {hidden}, width {width}, bf16, {tokens} tokens",
        least, ours, peer, calls, is_bound_by_memory=tokens <= 16,
    )  # fmt: skip


# ---------------------------------------------------------------- decoding


def _paged(batch: int, context: int, calls: int) -> Case:
    heads, kv_heads, width = 32, 8, 128
    inputs = lambda: (random(batch, heads, width), *(random(context, kv_heads, width, seed=s) for s in (1, 2)))  # noqa: E731

    def ours(setup: Setup) -> Side:
        device = un.device(setup.device)
        q, k, v = (un.asarray(array, device=device).to(un.bfloat16) for array in inputs())
        k_cache, v_cache, table, lengths = (
            *(_repeated(array, batch) for array in (k, v)),
            *_pages(batch, context, device),
        )
        return our_side(device, lambda: un.ops.paged_attention(q, k_cache, v_cache, table, lengths))

    def peer(setup: Setup) -> Side:
        torch = torch_cuda()
        q, k, v = on_torch(torch, setup, *inputs())
        k, v = (array.transpose(0, 1).expand(batch, -1, -1, -1).contiguous() for array in (k, v))
        attend = torch.nn.functional.scaled_dot_product_attention
        return torch_side(torch, setup, lambda: attend(q[:, :, None], k, v, enable_gqa=True)[:, :, 0])

    least = cost.paged_attention(batch, context, heads=heads, kv_heads=kv_heads, width=width)
    return _case(
        f"paged-decode-{batch}x{context}", "paged-decode",
        f"{batch} queries of {heads} heads over {kv_heads}, {context} keys each, paged; torch's are not",
        least, ours, peer, calls, is_bound_by_memory=True,
    )  # fmt: skip


def _latent(batch: int, context: int, calls: int) -> Case:
    heads, rank, rope = 128, 512, 64
    inputs = lambda: (random(batch, heads, rank + rope), random(context, rank + rope, seed=1))  # noqa: E731
    scale = 192**-0.5

    def ours(setup: Setup) -> Side:
        device = un.device(setup.device)
        q, rows = (un.asarray(array, device=device).to(un.bfloat16) for array in inputs())
        cache, (table, lengths) = _repeated(rows, batch), _pages(batch, context, device)
        return our_side(device, lambda: un.ops.mla_attention(q, cache, table, lengths, rank=rank, scale=scale))

    def peer(setup: Setup) -> Side:
        torch = torch_cuda()
        q, rows = on_torch(torch, setup, *inputs())
        cache = rows.expand(batch, -1, -1).contiguous()

        def step() -> Any:  # the absorbed form in plain products
            weights = torch.softmax((q @ cache.transpose(1, 2)).float() * scale, -1).to(q.dtype)
            return weights @ cache[:, :, :rank]

        return torch_side(torch, setup, step)

    least = cost.mla_attention(batch, context, heads=heads, rank=rank, rope=rope)
    return _case(
        f"mla-decode-{batch}x{context}", "mla-decode",
        f"{batch} queries of DeepSeek-V3's {heads} heads over {context} latent rows of {rank + rope} each",
        least, ours, peer, calls, is_bound_by_memory=True,
    )  # fmt: skip


def _repeated(rows: Any, batch: int) -> Any:
    """The rows of one sequence as the pages of `batch`, each with pages of its own."""
    pages = rows.reshape(rows.shape[0] // PAGE, PAGE, *rows.shape[1:])
    cache = un.empty((batch * pages.shape[0], *pages.shape[1:]), dtype=rows.dtype, device=rows.device)
    for number in range(batch):
        cache[number * pages.shape[0] : (number + 1) * pages.shape[0]].copy_(pages)
    return cache


def _pages(batch: int, context: int, device: Any) -> tuple[Any, Any]:
    table = un.arange(batch * context // PAGE, dtype=un.int32, device=device).reshape(batch, context // PAGE)
    return table, un.full((batch,), context, dtype=un.int32, device=device)


def _case(
    name: str, subject: str, about: str, least: cost.Cost, ours: Callable[[Setup], Side],
    peer: Callable[[Setup], Side], calls: int, *, is_bound_by_memory: bool,
) -> Case:  # fmt: skip
    unit, work = (GIGABYTES_A_SECOND, least.bytes) if is_bound_by_memory else (TERAFLOPS, least.flops)
    return Case(
        name, subject, about, unit, ours, {"torch": peer}, work=work, flops=least.flops, bytes=least.bytes,
        dtype="bf16", tolerance=TOLERANCE, calls=calls,
    )  # fmt: skip
