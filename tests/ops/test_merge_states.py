"""Attentions over parts of the keys, joined, against attention over all of them."""

from __future__ import annotations

import itertools

import pytest
import torch

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


def test_a_nan_stays() -> None:
    result, lse = un.ops.merge_states(torch.ones(2, 1, 1, 8), torch.tensor([1.0, torch.nan]).reshape(2, 1, 1))
    assert torch.isnan(result).all()
    assert torch.isnan(lse).all()


@pytest.mark.parametrize(("outs", "lses"), [((2, 3, 4, 8), (2, 3)), ((0, 3, 4, 8), (0, 3, 4)), ((3, 4, 8), (3, 4))])
def test_shapes_that_do_not_meet_are_refused(outs: tuple[int, ...], lses: tuple[int, ...]) -> None:
    with pytest.raises(un.errors.ShapeError, match="merge_states: outs must be"):
        un.ops.merge_states(torch.ones(outs), torch.ones(lses))
