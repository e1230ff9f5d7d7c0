"""Routing and the order of experts against plain loops in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un

NAN, INF = math.nan, math.inf


def expected_route(
    logits: torch.Tensor, top_k: int, score: str = "softmax", bias: torch.Tensor | None = None, groups: int = 1,
    top_groups: int = 1, normalize: bool = True, scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Row by row: numbers sorted by falling score, then by rising expert."""
    logits = logits.double()
    scores = torch.softmax(logits, -1) if score == "softmax" else torch.sigmoid(logits)
    chosen = scores if bias is None else scores + bias.double()
    size = logits.shape[1] // groups
    ids = torch.empty(logits.shape[0], top_k, dtype=torch.int64)
    for row, values in enumerate(chosen.tolist()):
        members = [sorted(values[g * size : (g + 1) * size], reverse=True) for g in range(groups)]
        depth = 1 if score == "softmax" and bias is None else 2
        best = sorted(range(groups), key=lambda g: -sum(members[g][:depth]))[:top_groups]
        open_ = [e for e in range(len(values)) if e // size in best]
        ids[row] = torch.tensor(sorted(open_, key=lambda e: -values[e])[:top_k])
    weights = scores.gather(1, ids)
    if normalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * scale, ids


def assert_routed(logits: torch.Tensor, top_k: int, **options: Any) -> None:
    weights, ids = un.ops.route(logits, top_k, **options)
    wanted, experts = expected_route(logits, top_k, **options)
    assert weights.dtype == torch.float32
    assert ids.dtype == torch.int32
    assert torch.equal(ids.long(), experts)
    torch.testing.assert_close(weights.double(), wanted, rtol=2e-6, atol=1e-7)  # float32's exp, and a sum of some


# Score, bias, groups, groups taken: Mixtral and Qwen3; DeepSeek-V2; DeepSeek-V3; DeepSeek-V3 without groups.
KINDS = [("softmax", False, 1, 1), ("softmax", False, 4, 2), ("sigmoid", True, 4, 2), ("sigmoid", True, 1, 1)]


@pytest.mark.parametrize(("score", "has_bias", "groups", "top_groups"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_best_experts_are_chosen(
    dtype: torch.dtype, score: str, has_bias: bool, groups: int, top_groups: int
) -> None:
    generator = torch.Generator().manual_seed(groups)
    logits = torch.randn(50, 20, generator=generator, dtype=torch.float64)
    # Scores far apart, also after rounding: the order is not one of rounding.
    logits = (logits.argsort(-1) / 4 - 2 + torch.rand(50, 1, generator=generator) / 8).to(dtype)
    bias = torch.randn(20, generator=generator) / 4 if has_bias else None
    for normalize in (True, False):
        assert_routed(
            logits, 4, score=score, bias=bias, groups=groups, top_groups=top_groups, normalize=normalize, scale=2.5
        )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_scores_choose_as_a_sort_does(data: st.DataObject) -> None:
    score, has_bias, groups, top_groups = data.draw(st.sampled_from(KINDS))
    rows = data.draw(st.integers(0, 4))
    # Whole numbers from a small range: many are equal, and sums of sigmoids still differ by more than a rounding. No
    # negative ones: those of x and -x add up to 1 whatever x is.
    draw = st.lists(st.integers(0, 6), min_size=8 * rows, max_size=8 * rows)
    logits = torch.tensor(data.draw(draw), dtype=torch.float32).reshape(rows, 8)
    bias = None
    if has_bias:
        bias = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 2.0, 4.0]), min_size=8, max_size=8)))
    assert_routed(logits, 2, score=score, bias=bias, groups=groups, top_groups=top_groups)


def test_of_equals_the_lowest_expert_wins() -> None:
    weights, ids = un.ops.route(torch.zeros(2, 12), 5)
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert weights.tolist() == [[pytest.approx(0.2)] * 5] * 2
    assert un.ops.route(torch.zeros(1, 12), 3, groups=3, top_groups=2)[1].tolist() == [[0, 1, 2]]


def test_logits_decide_where_scores_are_equal_after_rounding() -> None:
    logits = torch.tensor([[30.0, 31.0, 40.0, 0.0], [-200.0, -150.0, 0.0, 1.0]])
    assert un.ops.route(logits, 3, score="sigmoid")[1].tolist() == [[2, 1, 0], [3, 2, 1]]
    assert un.ops.route(logits, 3)[1].tolist() == [[2, 1, 0], [3, 2, 1]]


def test_all_experts_may_be_chosen_and_one_may_be_all() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    assert_routed(logits, 7)
    assert un.ops.route(logits[:, :1], 1)[1].tolist() == [[0]] * 3
    assert un.ops.route(logits[:0], 2)[1].shape == (0, 2)


SPECIAL = st.sampled_from([NAN, INF, -INF, 0.0, 1.0, -1e38, 3e38])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_number_at_all_leads_to_different_experts_that_exist(data: st.DataObject) -> None:
    score, has_bias, groups, top_groups = data.draw(st.sampled_from(KINDS))
    logits = torch.tensor([data.draw(st.lists(SPECIAL, min_size=8, max_size=8)) for _ in range(3)])
    bias = torch.tensor(data.draw(st.lists(SPECIAL, min_size=8, max_size=8))) if has_bias else None
    weights, ids = un.ops.route(logits, 2, score=score, bias=bias, groups=groups, top_groups=top_groups)
    assert weights.shape == (3, 2)
    for row in ids.tolist():
        assert len(set(row)) == 2
        assert all(0 <= expert < 8 for expert in row)


def test_a_nan_is_chosen_last_and_stays_visible() -> None:
    logits = torch.tensor([[NAN, 1.0, NAN, 0.0], [NAN, NAN, NAN, NAN], [INF, 0.0, 1.0, 2.0], [0.0, -INF, 1.0, -INF]])
    weights, ids = un.ops.route(logits, 3)
    assert ids.tolist() == [[1, 3, 0], [0, 1, 2], [0, 3, 2], [2, 0, 1]]
    assert weights[:3].isnan().all()  # as the softmax of these rows
    torch.testing.assert_close(weights[3], torch.softmax(logits[3], -1)[[2, 0, 1]])
    weights, ids = un.ops.route(logits, 3, score="sigmoid", normalize=False)
    assert ids.tolist() == [[1, 3, 0], [0, 1, 2], [0, 3, 2], [2, 0, 1]]
    torch.testing.assert_close(weights, torch.sigmoid(logits).gather(1, ids.long()), equal_nan=True)


def test_strided_logits_and_other_libraries() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    for view in (logits[::2], logits[:, ::2], logits.T):
        weights, ids = un.ops.route(view, 2)
        assert isinstance(ids, np.ndarray)
        np.testing.assert_array_equal(ids, np.argsort(-view, axis=1)[:, :2])
        np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-6)


def test_what_cannot_be_routed_is_refused() -> None:
    logits = torch.zeros(2, 8)
    for options in ({"groups": 3}, {"groups": 2, "top_groups": 3}, {"groups": 0}, {"score": "relu"}):
        with pytest.raises(un.errors.InvalidArgument, match="route"):
            un.ops.route(logits, 2, **options)
    for top_k in (0, 9, -1):
        with pytest.raises(un.errors.InvalidArgument, match="top_k must be 1 to 8"):
            un.ops.route(logits, top_k)
    with pytest.raises(un.errors.InvalidArgument, match="1 to 2"):
        un.ops.route(logits, 3, groups=4)
    with pytest.raises(un.errors.ShapeError, match=r"bias must be \[8\]"):
        un.ops.route(logits, 2, bias=torch.zeros(7))
    with pytest.raises(un.errors.ShapeError, match="logits"):
        un.ops.route(logits[0], 2)
    with pytest.raises(un.errors.DTypeError, match="logits"):
        un.ops.route(logits.int(), 2)


def expected_order(ids: np.ndarray, experts: int, capacity: int | None) -> tuple[list[int], list[int], list[int]]:
    """Offsets, tokens and places, by putting each assignment into its expert's list."""
    flat = ids.reshape(-1).tolist()
    rows: list[list[int]] = [[] for _ in range(experts)]
    for assignment, expert in enumerate(flat):
        if 0 <= expert < experts and (capacity is None or len(rows[expert]) < capacity):
            rows[expert].append(assignment)
    tokens = [assignment for row in rows for assignment in row]
    places = [-1] * len(flat)
    for place, assignment in enumerate(tokens):
        places[assignment] = place
    return np.cumsum([0, *map(len, rows)]).tolist(), tokens, places


def assert_ordered(ids: np.ndarray, experts: int, capacity: int | None = None) -> None:
    found = un.ops.permute(ids, experts, capacity=capacity)
    offsets, tokens, places = expected_order(ids, experts, capacity)
    assert found.offsets.tolist() == offsets
    assert found.tokens.shape == (ids.size,)
    assert found.tokens[: len(tokens)].tolist() == tokens
    assert found.places.shape == ids.shape
    assert found.places.reshape(-1).tolist() == places
    counted = un.ops.expert_load(ids, experts).tolist()
    assert counted == [int((ids == expert).sum()) for expert in range(experts)]


@pytest.mark.parametrize(("tokens", "slots", "experts"), [(1, 1, 1), (1, 8, 64), (33, 2, 5), (700, 8, 64), (300, 1, 7)])
def test_assignments_come_in_the_order_of_experts_and_then_of_tokens(tokens: int, slots: int, experts: int) -> None:
    ids = np.random.default_rng(tokens).integers(0, experts, (tokens, slots), dtype=np.int32)
    assert_ordered(ids, experts)
    assert_ordered(ids, experts, capacity=max(1, tokens * slots // experts // 2))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_assignments_are_ordered(data: st.DataObject) -> None:
    experts = data.draw(st.integers(1, 6))
    shape = data.draw(st.tuples(st.integers(0, 50), st.integers(0, 3)))
    strange = st.sampled_from([-1, -(2**31), 2**31 - 1, experts, 6, 7, 8])
    ids = data.draw(
        st.lists(st.integers(0, experts - 1) | strange, min_size=math.prod(shape), max_size=math.prod(shape))
    )
    capacity = data.draw(st.none() | st.sampled_from([0, 1, 5, 2**31, 2**40]))
    assert_ordered(np.array(ids, np.int32).reshape(shape), experts, capacity)


def test_all_tokens_may_go_to_one_expert() -> None:
    ids = np.full((500, 1), 3, np.int32)
    assert_ordered(ids, 8)
    assert_ordered(ids, 8, capacity=100)


def test_what_cannot_be_ordered_is_refused() -> None:
    ids = torch.zeros(3, 2, dtype=torch.int32)
    with pytest.raises(un.errors.InvalidArgument, match="experts must be at least 1"):
        un.ops.permute(ids, 0)
    with pytest.raises(un.errors.InvalidArgument, match="capacity"):
        un.ops.permute(ids, 2, capacity=-1)
    with pytest.raises(un.errors.ShapeError, match=r"ids must be \[tokens, k\]"):
        un.ops.permute(ids[0], 2)
    with pytest.raises(un.errors.DTypeError, match="int32"):
        un.ops.expert_load(ids.long(), 2)
