"""Products of few rows, of which the weight is read once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un
from unify.ops.few_products import as_words, few_tile


@st.composite
def views(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """x [m, k] of few rows and weight [n, k], which begin anywhere in rows of any width."""
    m, n, k = draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(1, 300))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    arrays = []
    for rows in (m, n):
        start, behind = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        whole = torch.randn(rows, start + k + behind, generator=generator).to(dtype)
        arrays.append(whole[:, start : start + k])
    return arrays[0], arrays[1]


@settings(deadline=None)
@given(views())
def test_products_of_views_match_float64(given_views: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, weight = given_views
    expected = x.double() @ weight.double().T
    # Each product is exact in float32 at least for 16 bits; the sum errs by so many ulp, and the result is rounded.
    bound = torch.finfo(x.dtype).eps + torch.finfo(torch.float32).eps * 4 * x.shape[1] ** 0.5
    torch.testing.assert_close(un.ops.linear(x, weight).double(), expected, rtol=bound, atol=bound * x.shape[1] ** 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2.0**-126])
@pytest.mark.parametrize("place", [0, 1, 62, 63])
def test_a_number_of_either_half_of_a_word_counts_alone(value: float, place: int) -> None:
    x, weight = torch.zeros(1, 64, dtype=torch.bfloat16), torch.zeros(3, 64, dtype=torch.bfloat16)
    x[0, place], weight[1, place] = 1.0, value
    result = un.ops.linear(x, weight)
    torch.testing.assert_close(result, weight[None, :, place], rtol=0, atol=0, equal_nan=True)


def test_arrays_are_words_together_or_not_at_all() -> None:
    even, odd = un.zeros((2, 8), dtype=un.bfloat16), un.zeros((2, 7), dtype=un.bfloat16)
    assert [array.shape for array in as_words(even, even)] == [(2, 4), (2, 4)]
    assert as_words(even, even)[0].dtype == un.int32
    apart = un.zeros((9, 8), dtype=un.bfloat16).permute(1, 0)[:, :8]  # columns, so that neighbours are 16 bytes apart
    misplaced = un.zeros((2, 9), dtype=un.bfloat16)[:, 1:]
    for other in (odd, apart, misplaced, un.zeros((2, 8), dtype=un.float16)):
        assert [array.dtype for array in as_words(even, other)] == [even.dtype, other.dtype]


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_numbers_may_begin_at_any_byte(offset: int) -> None:
    x = torch.frombuffer(bytearray(offset + 128), dtype=torch.bfloat16, offset=offset, count=64).reshape(1, 64)
    x[:] = torch.arange(64)
    torch.testing.assert_close(un.ops.linear(x, torch.eye(64, dtype=torch.bfloat16)), x, rtol=0, atol=0)


def test_a_weight_is_read_in_one_run_while_x_stays_in_the_cache() -> None:
    cpu = un.device("cpu")
    assert [few_tile(cpu, rows, 2048).n for rows in (1, 2, 4)] == [1, 1, 1]
    assert few_tile(cpu, 2, 16384).n > 1
    assert few_tile(cpu, 4, 64).m == 4
