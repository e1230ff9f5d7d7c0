"""Writing to a paged cache: each token to its slot, nothing anywhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

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


def codes(x: torch.Tensor, scale: object, dtype: torch.dtype) -> torch.Tensor:
    """What a cache holds of x [heads, width]."""
    if dtype == x.dtype:
        return x
    scaled = x.float() / torch.as_tensor(1.0 if scale is None else scale).reshape(-1, 1)
    if dtype == torch.int8:
        return torch.floor(scaled.clamp(-127, 127) + 0.5).to(dtype)
    return scaled.clamp(-448, 448).to(dtype)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    cache=st.sampled_from([None, torch.int8, torch.float8_e4m3fn]),
    scales=st.sampled_from([(None, None), (0.02, 3.0), (torch.tensor([0.5, 2.0]), torch.tensor([1e-3, 1e3]))]),
    slots=st.lists(st.integers(-4, 34), max_size=9, unique=True),
    far=st.lists(st.sampled_from([-(2**31), 2**31 - 1, 2**30]), max_size=2),
    strange=st.sampled_from([0.0, torch.inf, -torch.inf, 1e30, 1e-30, torch.nan]),
)  # fmt: skip
def test_any_slots_and_codes(
    dtype: torch.dtype, cache: torch.dtype | None, scales: tuple[object, object], slots: list[int], far: list[int],
    strange: float,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(len(slots))
    slots = [*far, *slots]
    whole = [x.zero_().to(cache or dtype) for x in make_cache(4, 10, 2, 24, dtype, 40)]
    keys, values = (x[:3] for x in whole)  # the block behind is not theirs
    k, v = (torch.randn(len(slots), 2, width, generator=generator).to(dtype) for width in (24, 40))
    for x in (k, v):
        x[:, 1, 7] = 0.0 if cache == torch.int8 and strange != strange else strange  # int8 has no NaN
    options = dict(zip(("k_scale", "v_scale"), scales, strict=True)) if cache else {}
    un.ops.kv_write(k, v, keys, values, torch.tensor(slots, dtype=torch.int32), **options)
    for found, source, scale in zip(whole, (k, v), scales, strict=True):
        wanted = torch.zeros_like(found).flatten(0, 1)
        for slot, row in zip(slots, source, strict=True):
            if 0 <= slot < 30:
                wanted[slot] = codes(row, scale, found.dtype)
        numbers = (found.flatten(0, 1).float(), wanted.float())
        torch.testing.assert_close(*numbers, rtol=0.0, atol=0.0, equal_nan=True)


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
