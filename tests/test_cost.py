"""Costs against what is counted one by one, and against figures that others have published."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unify import _cost as cost


def counted(work: object) -> int:
    with FlopCounterMode(display=False) as counter:
        work()  # type: ignore[operator]
    return counter.get_total_flops()


def test_products_count_as_torch_counts_them() -> None:
    x, weight = torch.zeros(7, 32), torch.zeros(48, 32)
    assert cost.linear(7, 48, 32).flops == counted(lambda: x @ weight.T)
    assert cost.linear(7, 48, 32, weight_bytes=1, itemsize=4).bytes == 4 * (7 * 32 + 7 * 48) + 48 * 32


@pytest.mark.parametrize(("queries", "keys", "width", "value_width"), [(5, 5, 64, 64), (1, 9, 192, 128)])
def test_attention_counts_as_torch_counts_it(queries: int, keys: int, width: int, value_width: int) -> None:
    q, k = torch.zeros(1, 4, queries, width), torch.zeros(1, 4, keys, width)
    v = torch.zeros(1, 4, keys, value_width)
    found = cost.attention(
        queries, keys, heads=4, kv_heads=4, width=width, value_width=value_width, causal=False, itemsize=4
    )
    assert found.flops == counted(lambda: (q @ k.mT).softmax(-1) @ v)
    assert found.bytes == q.nbytes + k.nbytes + v.nbytes + 4 * 4 * queries * value_width


@pytest.mark.parametrize(("queries", "keys"), [(5, 8), (8, 8), (10, 2), (1, 7)])
def test_a_causal_mask_leaves_what_is_below_the_diagonal(queries: int, keys: int) -> None:
    mask = torch.ones(queries, keys).tril(keys - queries)  # the last query sees all keys
    found = cost.attention(queries, keys, heads=1, kv_heads=1, width=16)
    assert found.flops == 2 * 2 * 16 * int(mask.sum())


def test_decoding_moves_the_cache_once_for_all_heads_that_share_it() -> None:
    shared = cost.paged_attention(3, 1000, heads=8, kv_heads=2, width=64)
    alone = cost.paged_attention(3, 1000, heads=8, kv_heads=8, width=64)
    assert shared.flops == alone.flops
    assert alone.bytes - shared.bytes == 3 * 1000 * 6 * 2 * 64 * 2


def test_absorbed_latent_attention_is_bound_by_arithmetic_more_than_shared_heads_are() -> None:
    """DeepSeek-V3: 128 heads over rows of 512 + 64, about 2 · 128 · 1088 / (2 · 576) operations a byte."""
    found = cost.mla_attention(64, 8192, heads=128, rank=512, rope=64)
    assert found.intensity == pytest.approx(128 * 1088 / 576, rel=0.04)


def test_experts_hit_are_what_random_routing_hits() -> None:
    torch.manual_seed(0)
    tries = [len({int(e) for token in range(16) for e in torch.randperm(64)[:8]}) for _ in range(200)]
    assert cost.experts_hit(16, 64, 8) == pytest.approx(sum(tries) / len(tries), rel=0.02)
    assert cost.experts_hit(1, 64, 8) == pytest.approx(8)


def test_a_layer_of_experts_reads_the_weights_of_those_that_are_hit() -> None:
    one = cost.moe(1, experts=64, top_k=8, width=2048, expert_width=1024, weight_bytes=4, itemsize=4)
    assert one.bytes == pytest.approx(8 * 3 * 2048 * 1024 * 4 + 2 * 4 * 2048)
    assert one.flops == 2 * 8 * 3 * 2048 * 1024


def test_costs_add_up_and_give_a_time() -> None:
    both = cost.Cost(10.0, 4.0) + cost.Cost(2.0, 2.0) * 2
    assert both == cost.Cost(14.0, 8.0)
    assert both.seconds(7.0, 8.0) == 2.0  # of arithmetic
    assert both.seconds(14.0, 2.0) == 4.0  # of memory
    assert cost.total([both, both, cost.Cost(1.0, 1.0)]) == cost.Cost(29.0, 17.0)
    assert cost.total([]) == cost.Cost(0.0, 0.0)


def test_experts_as_parts_cost_what_the_layer_does_and_what_lies_between() -> None:
    """Gate and up, then down: the layer's weights and operations, and rows that it need not write."""
    tokens, experts, top_k, width, inner = 32, 16, 4, 256, 64
    hit, rows = cost.experts_hit(tokens, experts, top_k), tokens * top_k
    layer = cost.moe(tokens, experts=experts, top_k=top_k, width=width, expert_width=inner)
    up = cost.grouped_linear(rows, inner, width, groups=hit, gated=True, inputs=tokens)
    down = cost.grouped_linear(rows, width, inner, groups=hit)
    both = cost.total([up, down, cost.combine(tokens, width, top_k=top_k)])
    assert both.flops == layer.flops
    between = 2 * 2 * rows * (inner + width) + 8 * rows  # written and read; places and weights
    assert both.bytes - layer.bytes == pytest.approx(between)


def test_a_prefill_over_pages_costs_what_attention_with_a_prefix_does() -> None:
    sizes = {"heads": 8, "kv_heads": 2, "width": 64}
    assert cost.paged_prefill(5, 30, **sizes) == cost.attention(5, 30, **sizes)
    codes = cost.paged_prefill(5, 30, cache_itemsize=1, **sizes)
    assert cost.paged_prefill(5, 30, **sizes).bytes - codes.bytes == cost.cache_bytes(
        30, kv_heads=2, width=64, itemsize=1
    )


def test_a_cache_of_bytes_is_written_as_bytes() -> None:
    halves, codes = (cost.kv_write(7, kv_heads=2, width=64, value_width=32, cache_itemsize=size) for size in (2, 1))
    assert halves.bytes - codes.bytes == 7 * 2 * (64 + 32)
