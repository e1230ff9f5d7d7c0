"""Products of groups of rows, against a loop over the groups in float64."""

from __future__ import annotations

import itertools
import math
import mmap

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un

from .test_linear import rounding

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def expected(rows: torch.Tensor, weight: torch.Tensor, offsets: list[int], gated: bool) -> torch.Tensor:
    n = weight.shape[1] // 2 if gated else weight.shape[1]
    result = torch.zeros(rows.shape[0], n, dtype=torch.float64)
    for group, (first, last) in enumerate(itertools.pairwise(offsets)):
        product = rows[first:last].double() @ weight[group].double().T
        result[first:last] = torch.nn.functional.silu(product[:, :n]) * product[:, n:] if gated else product
    return result


def inputs(rows: int, groups: int, n: int, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + n + k)
    x = torch.randn(rows, k, generator=generator).to(dtype)
    return x, (torch.randn(groups, n, k, generator=generator) / k**0.5).to(dtype)


def assert_close(result: torch.Tensor, wanted: torch.Tensor, k: int) -> None:
    bound = 4 * rounding(result.dtype, k)  # a gate's errors add up to those of what it gates
    torch.testing.assert_close(result.double(), wanted, rtol=bound, atol=bound)


# Few and many rows of a group, groups of none, all rows in one, a number of features and inputs that fills no tile.
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("offsets", "n", "k"),
    [
        ([0, 1, 4, 4, 9], 24, 48),
        ([0, 0, 0, 3, 3], 10, 33),
        ([0, 40, 140, 140, 141], 72, 96),
        ([0, 0, 130, 130, 130], 10, 33),
    ],
)
def test_each_group_has_its_weight(offsets: list[int], n: int, k: int, dtype: torch.dtype, gated: bool) -> None:
    x, weight = inputs(offsets[-1], 4, 2 * n if gated else n, k, dtype)
    result = un.ops.grouped_linear(x, weight, torch.tensor(offsets, dtype=torch.int32), gated=gated)
    assert_close(result, expected(x, weight, offsets, gated), k)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 1, 2, 5, 17, 70]), min_size=3, max_size=3), st.booleans())
def test_any_lengths(lengths: list[int], is_gathered: bool) -> None:
    offsets = [0, lengths[0], lengths[0] + lengths[1], sum(lengths)]
    x, weight = inputs(max(1, offsets[-1]), 3, 16, 32, torch.float32)
    bounds = torch.tensor(offsets, dtype=torch.int32)
    if is_gathered:
        gather = torch.randint(0, 2 * x.shape[0], (offsets[-1],), dtype=torch.int32)
        result = un.ops.grouped_linear(x, weight, bounds, gather=gather, per_gather=2)
        assert_close(result, expected(x[gather // 2], weight, offsets, False), 32)
    else:
        result = un.ops.grouped_linear(x[: offsets[-1]], weight, bounds)
        assert_close(result, expected(x[: offsets[-1]], weight, offsets, False), 32)


@pytest.mark.parametrize("rows", [6, 90])
def test_rows_of_no_group_are_zeros(rows: int) -> None:
    x, weight = inputs(rows, 2, 16, 32, torch.float32)
    x[4:] = math.nan
    result = un.ops.grouped_linear(x, weight, torch.tensor([0, 1, 4], dtype=torch.int32))
    assert_close(result[:4], expected(x[:4], weight, [0, 1, 4], False), 32)
    assert result[4:].abs().max() == 0.0


@pytest.mark.parametrize("rows", [6, 90])
def test_offsets_and_rows_outside_are_not_followed(rows: int) -> None:
    x, weight = inputs(rows, 3, 16, 32, torch.float32)
    for offsets in ([0, -5, 2**31 - 1, 7], [2**31 - 1, -(2**31), 3, 3], [-1, -1, -1, -1], [50, 40, 30, 2**30]):
        assert un.ops.grouped_linear(x, weight, torch.tensor(offsets, dtype=torch.int32)).shape == (rows, 16)
    gather = torch.tensor([-(2**31), -1, 0, 2, 2**31 - 1, rows], dtype=torch.int32)
    result = un.ops.grouped_linear(x, weight, torch.tensor([0, 2, 4, 6], dtype=torch.int32), gather=gather)
    nearest = x[gather.long().clamp(0, rows - 1)]
    assert_close(result, expected(nearest, weight, [0, 2, 4, 6], False), 32)


@pytest.mark.parametrize("rows", [2, 80])
def test_infinity_and_nan_stay_in_their_rows(rows: int) -> None:
    x, weight = inputs(rows, 2, 16, 32, torch.float32)
    x[0, 3], x[1, 5] = math.nan, math.inf
    result = un.ops.grouped_linear(x, weight, torch.tensor([0, 1, rows], dtype=torch.int32))
    assert result[0].isnan().all()
    assert torch.equal(result[1], torch.copysign(torch.tensor(math.inf), weight[1, :, 5]))
    assert result[2:].isfinite().all()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("counts", [[0, 3, 20], [20, 0, 1], [0, 0, 0], [-4, 2, 99]])
def test_the_first_rows_of_each_group_count(counts: list[int], gated: bool) -> None:
    x, weight = inputs(60, 3, 32, 48, torch.float32)
    x = x.reshape(3, 20, 48)
    kept = [min(max(count, 0), 20) for count in counts]
    for group, count in enumerate(kept):
        x[group, count:] = math.nan
    result = un.ops.grouped_linear(x, weight, counts=torch.tensor(counts, dtype=torch.int32), gated=gated)
    assert result.shape == (3, 20, 16 if gated else 32)
    for group, count in enumerate(kept):
        wanted = expected(x[group, :count], weight[group : group + 1], [0, count], gated)
        assert_close(result[group, :count], wanted, 48)
        assert not result[group, count:].any()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.one_of(st.integers(-2, 24), st.sampled_from([-(2**31), 2**31 - 1])), min_size=1, max_size=4),
    capacity=st.sampled_from([0, 1, 20]), kind=st.sampled_from([(torch.float32, True), (torch.bfloat16, False)]),
    spoilt=st.integers(0, 3),
)  # fmt: skip
def test_any_counts(counts: list[int], capacity: int, kind: tuple[torch.dtype, bool], spoilt: int) -> None:
    # A count below 0 is none, one above the capacity all; rows behind a count are NaN, and so may be the last before.
    (dtype, gated), groups = kind, len(counts)
    x, weight = inputs(groups * capacity, groups, 20, 33, dtype)
    x = x.reshape(groups, capacity, 33)
    kept = [min(max(count, 0), capacity) for count in counts]
    for group, count in enumerate(kept):
        x[group, count:] = math.nan
        x[group, : count if group == spoilt else 0][-1:, 4] = math.nan
    result = un.ops.grouped_linear(x, weight, counts=torch.tensor(counts, dtype=torch.int32), gated=gated)
    assert result.shape == (groups, capacity, 10 if gated else 20)
    for group, count in enumerate(kept):
        wanted = expected(x[group, :count], weight[group : group + 1], [0, count], gated)
        bound = 4 * rounding(dtype, 33)
        torch.testing.assert_close(result[group, :count].double(), wanted, rtol=bound, atol=bound, equal_nan=True)
        assert not result[group, count:].any()


def test_views_need_no_copy_of_the_caller() -> None:
    x, weight = inputs(9, 6, 24, 48, torch.float32)
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32)
    views = (x[:, :32], weight[::3, 4:20, 8:40])
    assert_close(un.ops.grouped_linear(*views, offsets), expected(*views, [0, 4, 9], False), 32)
    turned = weight[:2].mT.contiguous().mT
    assert_close(un.ops.grouped_linear(x, turned, offsets), expected(x, weight, [0, 4, 9], False), 48)


def test_nothing_to_do() -> None:
    offsets = torch.zeros(3, dtype=torch.int32)
    assert un.ops.grouped_linear(torch.ones(0, 4), torch.ones(2, 3, 4), offsets).shape == (0, 3)
    assert un.ops.grouped_linear(torch.ones(5, 4), torch.ones(2, 0, 4), offsets).shape == (5, 0)
    assert un.ops.grouped_linear(torch.ones(2, 0, 4), torch.ones(2, 3, 4), counts=offsets[:2]).shape == (2, 0, 3)
    assert not un.ops.grouped_linear(torch.ones(5, 0), torch.ones(2, 3, 0), offsets).any()


def test_what_does_not_fit_is_refused() -> None:
    x, weight, offsets = torch.ones(4, 8), torch.ones(2, 6, 8), torch.zeros(3, dtype=torch.int32)
    with pytest.raises(un.errors.ShapeError, match=r"\[2, 6, 8\] and \[4, 7\]"):
        un.ops.grouped_linear(x[:, :7], weight, offsets)
    with pytest.raises(un.errors.ShapeError, match=r"offsets must be \[3\]"):
        un.ops.grouped_linear(x, weight, offsets[:2])
    with pytest.raises(un.errors.ShapeError, match=r"counts must be \[2\]"):
        un.ops.grouped_linear(x.reshape(2, 2, 8), weight, counts=offsets)
    with pytest.raises(un.errors.ShapeError, match=r"x must be \[2, capacity"):
        un.ops.grouped_linear(x.reshape(4, 1, 8), weight, counts=offsets[:2])
    with pytest.raises(un.errors.ShapeError, match="even n"):
        un.ops.grouped_linear(x, torch.ones(2, 5, 8), offsets, gated=True)
    with pytest.raises(un.errors.ShapeError, match="gather"):
        un.ops.grouped_linear(x[:0], weight, offsets, gather=offsets)
    for groups, told in (({}, "neither"), ({"offsets": offsets, "counts": offsets[:2]}, "both")):
        words = rf"{told} offsets and counts .*offsets \[groups \+ 1\]: where .*counts \[groups\]: how many"
        for rows in (x, x.reshape(2, 2, 8)):
            with pytest.raises(un.errors.InvalidArgument, match=words):
                un.ops.grouped_linear(rows, weight, **groups)
    with pytest.raises(un.errors.InvalidArgument, match="per_gather"):
        un.ops.grouped_linear(x, weight, offsets, per_gather=2)
    with pytest.raises(un.errors.DTypeError, match="weight"):
        un.ops.grouped_linear(x, weight.half(), offsets)
    with pytest.raises(un.errors.DTypeError, match="offsets"):
        un.ops.grouped_linear(x, weight, offsets.long())


def test_features_may_be_further_apart_than_32_bits_count() -> None:
    apart, n, k = 1 << 30, 6, 32
    no_reserve = 0x4000  # Linux's MAP_NORESERVE, which Python names later: memory of what is touched only
    memory = mmap.mmap(-1, 2 * apart * n, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    weight = np.lib.stride_tricks.as_strided(np.frombuffer(memory, np.float16), (1, n, k), (0, 2 * apart, 2))
    weight[:] = np.arange(n, dtype=np.float16)[:, None] / k
    for rows in (1, 40):  # read where it lies, and in tiles
        result = un.ops.grouped_linear(
            np.ones((rows, k), np.float16), weight, np.array([0, rows], np.int32), gated=True
        )
        gate, up = np.split(np.arange(n, dtype=np.float32), 2)
        np.testing.assert_allclose(result, np.tile(gate / (1 + np.exp(-gate)) * up, (rows, 1)), rtol=2e-3)
