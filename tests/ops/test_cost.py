"""Costs against what the ops themselves are given and give back: their arrays' sizes, and torch's count of operations.

An op of unify.ops that is not here fails a test.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unify import _cost, ops
from unify.ops import cost, quant

RNG = np.random.default_rng(7)


def halves(*shape: int) -> Any:
    return RNG.standard_normal(shape, np.float32).astype(np.float16)


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape, np.float32)


def whole(*values: int) -> Any:
    return np.array(values, np.int32)


def nbytes(value: Any) -> int:
    """Of an array, or of all arrays in what an op takes or gives."""
    if isinstance(value, (tuple, list)):
        return sum(map(nbytes, value))
    if is_dataclass(value):
        return sum(nbytes(getattr(value, field.name)) for field in fields(value))
    return int(getattr(value, "nbytes", 0))


@dataclass(frozen=True)
class Call:
    """A call, as it was made. read: what it needs of its arguments; products: the same products in torch."""

    read: Iterable[Any]
    result: Any
    cost: cost.Cost
    products: Callable[[], object] | None = None


def _rms_norm() -> Call:
    x, weight, residual = halves(6, 128), halves(128), halves(6, 128)
    found = ops.rms_norm(x, weight, residual=residual)
    return Call((x, weight, residual), found, cost.rms_norm(6, 128, residual=True))


def _rms_norm_to_codes() -> Call:
    x, weight = floats(6, 128), floats(128)
    found = ops.rms_norm(x, weight, quantize="fp8")
    return Call((x, weight), found, cost.rms_norm(6, 128, quantize="fp8", itemsize=4))


def _rope() -> Call:
    x, positions = halves(5, 3, 64), np.arange(5, dtype=np.int32)
    return Call((x, positions), ops.rope(x, positions), cost.rope(5, 3, 64))


def _swiglu() -> Call:
    gate, up = floats(5, 64), floats(5, 64)
    return Call((gate, up), ops.swiglu(gate, up), cost.swiglu(5, 64, itemsize=4))


def _embedding() -> Call:
    ids, table = whole(3, 1, 4, 1, 5), halves(9, 64)
    return Call((ids, table[ids]), ops.embedding(ids, table), cost.embedding(5, 64))


def _embedding_of_codes() -> Call:
    ids, table = np.arange(256, dtype=np.int32), quant.quantize_weight(floats(256, 64), "int8")
    least = cost.embedding(256, 64, weight_bytes=cost.WEIGHT_BYTES["int8"])
    return Call((ids, table), ops.embedding(ids, table), least)


def _linear(kind: str | None, rows: int) -> Callable[[], Call]:
    def call() -> Call:
        x, weight, residual = halves(rows, 128), halves(256, 128), halves(rows, 256)
        taken = weight if kind is None else quant.quantize_weight(weight, kind)
        found = ops.linear(x, taken, residual=residual)
        size = cost.WEIGHT_BYTES[kind or "fp16"]
        left, right = torch.from_numpy(x), torch.from_numpy(weight)
        least = cost.linear(rows, 256, 128, residual=True, weight_bytes=size)
        return Call((x, taken, residual), found, least, lambda: left @ right.T)

    return call


def _matmul() -> Call:
    a, b = floats(3, 5, 32), floats(3, 32, 16)
    least = cost.matmul(5, 16, 32, batch=3, itemsize=4)
    return Call((a, b), ops.matmul(a, b), least, lambda: torch.from_numpy(a) @ torch.from_numpy(b))


def _grouped_linear(kind: str | None) -> Callable[[], Call]:
    """Nine rows of five tokens, in the first and the last of three groups."""

    def call() -> Call:
        x, weight, starts = halves(5, 128), halves(3, 256, 128), (0, 4, 4, 9)
        gather = whole(0, 1, 2, 3, 0, 1, 2, 3, 4)
        taken = weight if kind is None else quant.quantize_weight(weight, kind)
        found = ops.grouped_linear(x, taken, whole(*starts), gather=gather, gated=True)
        size = cost.WEIGHT_BYTES[kind or "fp16"]
        rows, matrices = torch.from_numpy(x[gather]), torch.from_numpy(weight)
        return Call(
            (x, taken[0], taken[2]), found,
            cost.grouped_linear(9, 128, 128, groups=2, gated=True, inputs=5, weight_bytes=size),
            lambda: [rows[starts[e] : starts[e + 1]] @ matrices[e].T for e in (0, 2)],
        )  # fmt: skip

    return call


def _attention() -> Call:
    q, k, v = halves(5, 4, 64), halves(9, 2, 64), halves(9, 2, 32)
    found = ops.attention(q, k, v, causal=False)
    sizes = {"heads": 4, "kv_heads": 2, "width": 64, "value_width": 32}
    return Call((q, k, v), found, cost.attention(5, 9, causal=False, **sizes), lambda: _attended(q, k, v))  # type: ignore[arg-type]


def _attended(q: Any, k: Any, v: Any) -> Any:
    """All queries over all keys, shared by the heads of a group."""
    queries, keys, values = (torch.from_numpy(x).float().transpose(0, 1) for x in (q, k, v))
    group = queries.shape[0] // keys.shape[0]
    scores = queries @ keys.repeat_interleave(group, 0).mT
    return scores.softmax(-1) @ values.repeat_interleave(group, 0)


def _caches() -> tuple[Any, Any, Any]:
    """Two blocks of 16, all of one sequence, and its table."""
    return halves(2, 16, 2, 64), halves(2, 16, 2, 64), np.array([[1, 0]], np.int32)


def _paged_attention() -> Call:
    q, (k, v, table) = halves(1, 4, 64), _caches()
    found = ops.paged_attention(q, k, v, table, whole(32))
    least = cost.paged_attention(1, 32, heads=4, kv_heads=2, width=64)
    return Call((q, k, v), found, least, lambda: _attended(q, k.reshape(32, 2, 64), v.reshape(32, 2, 64)))


def _paged_attention_of_codes() -> Call:
    q, (_, _, table) = halves(1, 4, 64), _caches()
    k, v = (RNG.integers(-9, 9, (2, 16, 2, 64), np.int8) for _ in range(2))
    found = ops.paged_attention(q, k, v, table, whole(32), k_scale=0.1, v_scale=0.1)
    least = cost.paged_attention(1, 32, heads=4, kv_heads=2, width=64, cache_itemsize=1)
    return Call((q, k, v), found, least, lambda: _attended(q, k.reshape(32, 2, 64), v.reshape(32, 2, 64)))


def _paged_prefill() -> Call:
    q, (k, v, table) = halves(1, 4, 64), _caches()
    found = ops.paged_prefill(q, k, v, table, whole(32), whole(0, 1))
    least = cost.paged_prefill(1, 32, heads=4, kv_heads=2, width=64)
    return Call((q, k, v), found, least, lambda: _attended(q, k.reshape(32, 2, 64), v.reshape(32, 2, 64)))


def _mla_attention() -> Call:
    q, cache, table = halves(1, 4, 96), halves(2, 16, 96), np.array([[1, 0]], np.int32)
    found = ops.mla_attention(q, cache, table, whole(32), rank=64, scale=0.1)
    rows = cache.reshape(32, 1, 96)
    least = cost.mla_attention(1, 32, heads=4, rank=64, rope=32)
    return Call((q, cache), found, least, lambda: _attended(q, rows, rows[..., :64].copy()))


def _kv_write() -> Call:
    k, v, (k_cache, v_cache, _), slots = halves(3, 2, 64), halves(3, 2, 64), _caches(), whole(2, 3, 17)
    ops.kv_write(k, v, k_cache, v_cache, slots)
    written = [cache.reshape(32, 2, 64)[slots] for cache in (k_cache, v_cache)]
    np.testing.assert_array_equal(written[0], k)
    return Call((k, v, slots), written, cost.kv_write(3, kv_heads=2, width=64))


def _latent_write() -> Call:
    latent, key, cache, slots = halves(3, 64), halves(3, 32), halves(2, 16, 96), whole(2, 3, 17)
    ops.latent_write(latent, key, cache, slots)
    return Call((latent, key, slots), cache.reshape(32, 96)[slots], cost.latent_write(3, rank=64, rope=32))


def _latent_read() -> Call:
    cache, table = floats(2, 16, 96), np.array([[1, 0]], np.int32)
    found = ops.latent_read(cache, table, whole(0, 20), 20)
    return Call((cache.reshape(32, 96)[:20],), found, cost.latent_read(20, 96, itemsize=4))


def _merge_states() -> Call:
    outs, lses = halves(3, 5, 4, 64), floats(3, 5, 4)
    return Call((outs, lses), ops.merge_states(outs, lses), cost.merge_states(3, 5, heads=4, width=64))


def _route() -> Call:
    logits = halves(5, 16)
    return Call((logits,), ops.route(logits, 4), cost.route(5, 16, 4, itemsize=2))


def _ids() -> Any:
    return RNG.random((5, 16)).argsort(axis=1)[:, :4].astype(np.int32)


def _permute() -> Call:
    ids = _ids()
    return Call((ids,), ops.permute(ids, 16), cost.permute(5, 16, 4))


def _expert_load() -> Call:
    ids = _ids()
    return Call((ids,), ops.expert_load(ids, 16), cost.expert_load(5, 16, 4))


def _combine() -> Call:
    y, places, weights, residual = halves(20, 64), _ids(), floats(5, 4), halves(5, 64)
    found = ops.combine(y, places, weights, residual=residual)
    return Call((y, places, weights, residual), found, cost.combine(5, 64, top_k=4, residual=True))


def _moe() -> Call:
    """Two tokens, both to the last two of three experts."""
    x, weights, ids = halves(2, 64), floats(2, 2), np.array([[1, 2], [2, 1]], np.int32)
    gate_up, down = halves(3, 64, 64), halves(3, 64, 32)
    left, up, back = (torch.from_numpy(a) for a in (x, gate_up, down))

    def products() -> object:
        return [(left @ up[e].T)[:, :32] @ back[e].T for e in (1, 2)]

    least = cost.moe(2, experts=3, top_k=2, width=64, expert_width=32, hit=2)
    return Call((x, gate_up[1:], down[1:]), ops.moe(x, weights, ids, gate_up, down), least, products)


def _sample() -> Call:
    logits = floats(3, 100)
    return Call((logits,), ops.sample(logits), cost.sample(3, 100))


def _count_tokens() -> Call:
    ids = whole(3, 1, 4, 1, 5, 9).reshape(2, 3)
    return Call((ids,), ops.count_tokens(ids, 50), cost.count_tokens(2, 3, 50))


def _penalize() -> Call:
    logits, counts, prompt = halves(2, 50), np.ones((2, 50), np.int32), np.zeros((2, 50), np.int32)
    found = ops.penalize(logits, counts, presence=1.0, repetition=1.1, prompt=prompt)
    return Call((logits, counts, prompt), found, cost.penalize(2, 50, prompt=True, itemsize=2))


def _logit_bias() -> Call:
    logits, ids, bias = floats(2, 50), whole(1, 2, 3, 4, 5, 6).reshape(2, 3), floats(2, 3)
    return Call((logits, ids, bias), ops.logit_bias(logits, ids, bias), cost.logit_bias(2, 50, 3))


def _quantize(kind: str) -> Callable[[], Call]:
    def call() -> Call:
        x = floats(6, 256)
        return Call((x,), quant.quantize(x, kind), cost.quantize(6, 256, kind, itemsize=4))

    return call


def _quantize_weight(kind: str) -> Callable[[], Call]:
    def call() -> Call:
        weight = halves(3, 256, 128)
        return Call((weight,), quant.quantize_weight(weight, kind), cost.quantize_weight(256, 128, kind, experts=3))

    return call


CALLS: dict[str, list[Callable[[], Call]]] = {
    "attention": [_attention],
    "combine": [_combine],
    "count_tokens": [_count_tokens],
    "embedding": [_embedding, _embedding_of_codes],
    "expert_load": [_expert_load],
    "grouped_linear": [_grouped_linear(kind) for kind in (None, "int8", "int4", "fp8")],
    "kv_write": [_kv_write],
    "latent_read": [_latent_read],
    "latent_write": [_latent_write],
    "linear": [_linear(kind, rows) for kind in (None, "int8", "int4", "fp8") for rows in (1, 5)],
    "logit_bias": [_logit_bias],
    "matmul": [_matmul],
    "merge_states": [_merge_states],
    "mla_attention": [_mla_attention],
    "moe": [_moe],
    "paged_attention": [_paged_attention, _paged_attention_of_codes],
    "paged_prefill": [_paged_prefill],
    "penalize": [_penalize],
    "permute": [_permute],
    "quantize": [_quantize(kind) for kind in ("int16", "int8", "fp8")],
    "quantize_weight": [_quantize_weight(kind) for kind in ("int8", "int4", "fp8")],
    "rms_norm": [_rms_norm, _rms_norm_to_codes],
    "rope": [_rope],
    "route": [_route],
    "sample": [_sample],
    "swiglu": [_swiglu],
}  # fmt: skip


def every_op() -> set[str]:
    """The names of what of unify.ops runs on a stream."""
    functions = {name: getattr(ops, name) for name in ops.__all__}
    return {n for n, f in functions.items() if inspect.isfunction(f) and "stream" in inspect.signature(f).parameters}


def test_every_op_has_a_cost_of_its_name_that_is_looked_at_here() -> None:
    known = {"quantize", "quantize_weight"} | every_op()
    assert CALLS.keys() == known
    assert known <= set(cost.__all__)


def test_the_ops_costs_are_all_that_are_counted() -> None:
    public = {name for name, value in vars(_cost).items() if not name.startswith("_") and _is_of(value, _cost.__name__)}
    assert public | {"WEIGHT_BYTES"} == set(cost.__all__)


def _is_of(value: Any, module: str) -> bool:
    return getattr(value, "__module__", None) == module


@pytest.mark.parametrize(
    "make", [pytest.param(call, id=f"{name}-{i}") for name, calls in CALLS.items() for i, call in enumerate(calls)]
)
def test_a_call_moves_its_arrays_once_and_computes_what_torch_counts(make: Callable[[], Call]) -> None:
    call = make()
    assert call.cost.bytes == pytest.approx(nbytes(tuple(call.read)) + nbytes(call.result), rel=1e-12)
    counted = 0
    if call.products is not None:
        with FlopCounterMode(display=False) as counter:
            call.products()
        counted = counter.get_total_flops()
        assert counted > 0
    assert call.cost.flops == counted


def test_tokens_that_are_added_to_counts_touch_theirs_only() -> None:
    ids, counts = whole(3, 1, 4, 7).reshape(2, 2), np.zeros((2, 50), np.int32)
    ops.count_tokens(ids, 50, add_to=counts)
    touched = counts[counts != 0]
    assert cost.count_tokens(2, 2, 50, added=True).bytes == ids.nbytes + 2 * touched.nbytes  # read, and written
