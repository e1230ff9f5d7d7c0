"""Writing to a paged cache: each token to its slot, nothing anywhere else."""

from __future__ import annotations

import pytest
import torch

import unify as un

from .test_paged_attention import make_cache


def test_each_token_goes_to_its_slot() -> None:
    generator = torch.Generator().manual_seed(2)
    keys, values = make_cache(3, 10, 2, 24, torch.bfloat16, 40)
    k, v = (torch.randn(7, 2, width, generator=generator).bfloat16() for width in (24, 40))
    slots = torch.randperm(30, generator=generator)[:7].int()
    un.ops.kv_write(k, v, keys, values, slots)
    for source, cache in ((k, keys), (v, values)):
        rows = cache.reshape(30, 2, -1)
        assert torch.equal(rows[slots.long()], source)
        assert torch.isnan(rows).sum() == 23 * rows[0].numel()


def test_a_slot_outside_of_the_cache_is_skipped() -> None:
    keys, values = make_cache(4, 16, 1, 64, torch.float32)
    slots = torch.tensor([-1, 19, 32, 50, -(2**31)], dtype=torch.int32)
    un.ops.kv_write(torch.ones(5, 1, 64), torch.ones(5, 1, 64), keys[:2], values[:2], slots)
    for cache in (keys, values):
        written = ~torch.isnan(cache[..., 0, 0].flatten())
        assert written.nonzero().flatten().tolist() == [19]


@pytest.mark.parametrize(
    ("k", "v", "slots", "words"),
    [
        ((5, 2, 64), (5, 2, 64), 5, "k has 2 heads, the cache 1"),
        ((5, 1, 64), (5, 1, 32), 5, r"v must be \[5, 1, 64\] and slots \[5\]"),
        ((5, 1, 64), (5, 1, 64), 4, r"v must be \[5, 1, 64\] and slots \[5\]"),
    ],
)
def test_what_does_not_fit_is_refused(k: tuple[int, ...], v: tuple[int, ...], slots: int, words: str) -> None:
    keys, values = make_cache(2, 16, 1, 64, torch.float32)
    with pytest.raises(un.errors.ShapeError, match=words):
        un.ops.kv_write(torch.ones(k), torch.ones(v), keys, values, torch.zeros(slots, dtype=torch.int32))
