"""Attentions over parts of the keys, joined, against attention over all of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un

from .plain_attention import DTYPES, assert_attends


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_give_what_the_whole_gives(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(5, 4, 64, generator=generator).to(dtype)
    k, v = (torch.randn(100, 2, width, generator=generator).to(dtype) for width in (64, 40))
    cuts = [0, 0, 7, 90, 100]  # the first part has no keys
    parts = [
        un.ops.attention(q.float(), k[a:b].float(), v[a:b].float(), causal=False, return_lse=True)
        for a, b in itertools.pairwise(cuts)
    ]
    outs, lses = (torch.stack([part[i] for part in parts]) for i in range(2))
    result, lse = un.ops.merge_states(outs, lses)
    assert_attends(result.to(dtype), q, k, v, False, lse=lse)
    assert un.ops.merge_states(outs.to(dtype), lses)[0].dtype == dtype


def test_a_part_without_keys_is_not_looked_at() -> None:
    outs = torch.tensor([1.0, torch.nan, 3.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 8)
    lses = torch.tensor([[0.0, -torch.inf], [-torch.inf] * 2, [0.0, -torch.inf]])[:, None]
    result, lse = un.ops.merge_states(outs, lses)
    assert (result[0, 0] == 2.0).all()
    assert (result[0, 1] == 0.0).all()
    torch.testing.assert_close(lse[0], torch.tensor([2.0, 0.0]).log())


@pytest.mark.parametrize("of", [[1.0, torch.nan], [torch.nan, -torch.inf]])
def test_a_nan_stays(of: list[float]) -> None:
    result, lse = un.ops.merge_states(torch.ones(2, 1, 1, 8), torch.tensor(of).reshape(2, 1, 1))
    assert torch.isnan(result).all()
    assert torch.isnan(lse).all()


def test_a_nan_of_a_part_with_keys_stays_however_little_it_weighs() -> None:
    outs = torch.ones(2, 1, 1, 8)
    outs[1, ..., 3] = torch.nan
    result, lse = un.ops.merge_states(outs, torch.tensor([0.0, -200.0]).reshape(2, 1, 1))
    assert torch.isnan(result).flatten().tolist() == [d == 3 for d in range(8)]
    assert lse.item() == 0.0


# One number of a part is 1 or strange; a part of -inf is full of NaN.
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES), rows=st.integers(0, 2), heads=st.integers(1, 3), width=st.sampled_from([1, 8, 40]),
    logarithms=st.lists(st.one_of(st.just(-torch.inf), st.floats(-40, 40, width=32)), min_size=1, max_size=6),
    strange=st.sampled_from([1.0, torch.nan, torch.inf, -torch.inf]),
)  # fmt: skip
def test_any_parts(
    dtype: torch.dtype, rows: int, heads: int, width: int, logarithms: list[float], strange: float
) -> None:
    parts = len(logarithms)
    generator = torch.Generator().manual_seed(parts)
    outs = torch.randn(parts, rows, heads, width, generator=generator).to(dtype)
    lses = torch.tensor(logarithms)[:, None, None].expand(parts, rows, heads).contiguous()
    lses = lses + torch.randn(lses.shape, generator=generator)
    outs[:1, :1, 0, 0] = strange
    has_keys = ~torch.isneginf(lses)
    outs[~has_keys] = torch.nan
    result, lse = un.ops.merge_states(outs, lses)
    for row in range(rows):
        for head in range(heads):
            keep = has_keys[:, row, head]
            logarithm, out = lses[keep, row, head].double(), outs[keep, row, head].double()
            whole = logarithm.logsumexp(0)
            weights = (logarithm - whole).exp()[:, None]
            # Powers lose as many ulp as their exponents are large; the result is rounded once.
            loss = torch.finfo(torch.float32).eps * (parts + 2 * 90)
            bound = (torch.finfo(dtype).eps + loss) * (weights * out.abs()).sum(0).nan_to_num(0.0, 0.0)
            wanted = (weights * out).sum(0)
            assert torch.equal(result[row, head].isfinite(), wanted.isfinite())
            kept = wanted.isfinite()
            assert ((result[row, head].double() - wanted).abs() <= bound + 1e-7)[kept].all()
            torch.testing.assert_close(
                result[row, head].double()[~kept], wanted[~kept], rtol=0.0, atol=0.0, equal_nan=True
            )
            torch.testing.assert_close(lse[row, head].double(), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("outs", "lses"), [((2, 3, 4, 8), (2, 3)), ((0, 3, 4, 8), (0, 3, 4)), ((3, 4, 8), (3, 4))])
def test_shapes_that_do_not_meet_are_refused(outs: tuple[int, ...], lses: tuple[int, ...]) -> None:
    with pytest.raises(un.errors.ShapeError, match="merge_states: outs must be"):
        un.ops.merge_states(torch.ones(outs), torch.ones(lses))
