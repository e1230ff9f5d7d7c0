"""A mixture of experts: the layer for one token up to a long prompt, and what routing costs beside it."""

from __future__ import annotations

from functools import partial
from typing import Any

from unify import _cost as cost

from ..case import GFLOPS, GIGABYTES_A_SECOND, MICROSECONDS, Case, Setup, Side
from . import _ours, _torch
from .matmul import WIDTH

EXPERTS, SLOTS, FEATURES, INNER = 64, 8, 2048, 1024
TOKENS = (1, 16, 256, 2048)
FEW = 16  # up to here the weights that are read are the limit
ROUTED = 256
# What a gate and an expert give is rounded to the dtype on the way.
TOLERANCE = {"fp32": 1e-4, "bf16": 2**-5}


def cases() -> list[Case]:
    """Each dtype with each number of tokens, and routing."""
    return [*(_layer(dtype, tokens) for dtype in WIDTH for tokens in TOKENS), _routing()]


def _inputs(tokens: int) -> tuple[Any, Any, Any]:
    """Activations, weights of the chosen experts and the experts: different ones for each token, all as likely."""
    import numpy as np

    rng = np.random.default_rng(tokens)
    ids = rng.random((tokens, EXPERTS)).argsort(axis=1)[:, :SLOTS].astype(np.int32)
    weights = rng.random((tokens, SLOTS), np.float32)
    x = rng.standard_normal((tokens, FEATURES), np.float32)
    return x, weights / weights.sum(axis=1, keepdims=True), ids


def _experts(n: int, k: int) -> Any:
    """Weights [experts, n, k]. The rows of all are the same in another order: a third of all time is not for dice."""
    import numpy as np

    base = np.random.default_rng(n).standard_normal((n, k), np.float32) / np.float32(k**0.5)
    return np.stack([np.roll(base, expert, axis=0) for expert in range(EXPERTS)])


def _looped(torch: Any, x: Any, weights: Any, ids: Any, gate_up: Any, down: Any) -> Any:
    """An expert after the other, as models do it that know no grouped product."""
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    out = torch.zeros_like(x)
    first = 0
    for expert, count in enumerate(torch.bincount(flat, minlength=EXPERTS).tolist()):
        if count:
            rows = order[first : first + count]
            token = rows // SLOTS
            gate, up = torch.mm(x[token], gate_up[expert].T).chunk(2, dim=1)
            y = torch.mm(torch.nn.functional.silu(gate) * up, down[expert].T)
            out.index_add_(0, token, y * weights.flatten()[rows, None].to(y.dtype))
            first += count
    return out


def _grouped(torch: Any, x: Any, weights: Any, ids: Any, gate_up: Any, down: Any) -> Any:
    product = torch.nn.functional.grouped_mm
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    token = order // SLOTS
    offsets = torch.bincount(flat, minlength=EXPERTS).cumsum(0).int()
    gate, up = product(x[token], gate_up.mT, offs=offsets).chunk(2, dim=1)
    y = product(torch.nn.functional.silu(gate) * up, down.mT, offs=offsets)
    return torch.zeros_like(x).index_add_(0, token, y * weights.flatten()[order, None].to(y.dtype))


def _layer(dtype: str, tokens: int) -> Case:
    def unify_side(setup: Setup) -> Side:
        import unify

        x, weights, ids = _inputs(tokens)
        gate_up = _ours.tensor(setup, _experts(2 * INNER, FEATURES), dtype)
        down = _ours.tensor(setup, _experts(FEATURES, INNER), dtype)
        tensor, amounts = _ours.tensor(setup, x, dtype), _ours.tensor(setup, weights)
        chosen = unify.asarray(ids, device=setup.device)
        return _ours.side(setup, lambda: unify.ops.moe(tensor, amounts, chosen, gate_up, down))

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        _torch.keep_pages()
        x, weights, ids = _inputs(tokens)
        arrays = (x, _experts(2 * INNER, FEATURES), _experts(FEATURES, INNER))
        tensor, gate_up, down = (_torch.tensor(torch, array, dtype) for array in arrays)
        routed = torch.from_numpy(weights), torch.from_numpy(ids).long()
        forms = [_looped, _grouped] if hasattr(torch.nn.functional, "grouped_mm") else [_looped]
        return _torch.side(_torch.fastest([partial(form, torch, tensor, *routed, gate_up, down) for form in forms]))

    least = cost.moe(
        tokens, experts=EXPERTS, top_k=SLOTS, width=FEATURES, expert_width=INNER, weight_bytes=WIDTH[dtype],
        itemsize=WIDTH[dtype], hit=round(cost.experts_hit(tokens, EXPERTS, SLOTS)),
    )  # fmt: skip
    is_few = tokens <= FEW
    return Case(
        name=f"moe-{dtype}-{tokens}",
        subject="moe",
        about=f"{tokens} token(s) through {SLOTS} of {EXPERTS} experts of {FEATURES} × {INNER} in {dtype}: "
        "unify.ops.moe against the faster of torch's grouped_mm and a loop of torch.mm",
        unit=GIGABYTES_A_SECOND if is_few else GFLOPS,
        ours=unify_side,
        peers={"torch": torch_side},
        work=least.bytes if is_few else least.flops,
        flops=least.flops,
        bytes=least.bytes,
        dtype=dtype,
        tolerance=TOLERANCE[dtype],
    )


def _logits() -> Any:
    import numpy as np

    return np.random.default_rng(ROUTED).standard_normal((ROUTED, EXPERTS), np.float32)


def _routing() -> Case:
    least = cost.route(ROUTED, EXPERTS, SLOTS) + cost.permute(ROUTED, EXPERTS, SLOTS)

    def unify_side(setup: Setup) -> Side:
        import unify

        logits = _ours.tensor(setup, _logits())

        def step() -> Any:
            _, ids = unify.ops.route(logits, SLOTS)
            return unify.ops.permute(ids, EXPERTS).tokens

        return _ours.side(setup, step)

    def torch_side(setup: Setup) -> Side:
        torch = _torch.load(setup)
        logits = _torch.tensor(torch, _logits())

        def step() -> Any:
            weights, ids = torch.softmax(logits, -1).topk(SLOTS, -1)
            weights /= weights.sum(-1, keepdim=True)
            flat = ids.flatten()
            torch.bincount(flat, minlength=EXPERTS).cumsum(0)
            return flat.argsort(stable=True).int()

        return _torch.side(step)

    return Case(
        name=f"moe-route-{ROUTED}",
        subject="moe",
        about=f"choosing {SLOTS} of {EXPERTS} experts for {ROUTED} tokens, and sorting the tokens by expert",
        unit=MICROSECONDS,
        ours=unify_side,
        peers={"torch": torch_side},
        bytes=least.bytes,
        tolerance=0.0,
    )
