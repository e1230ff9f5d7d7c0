"""8-bit floats: every code and every rounding, against torch's own types."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

import unify

FORMATS = {
    "float8e4nv": torch.float8_e4m3fn,
    "float8e5": torch.float8_e5m2,
    "float8e4b8": torch.float8_e4m3fnuz,
    "float8e5b16": torch.float8_e5m2fnuz,
}


@unify.jit
def decode(codes, out, TYPE: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(codes + i).to(TYPE, bitcast=True).to(out.dtype.element_ty))


@unify.jit
def encode(values, codes, TYPE: tl.constexpr, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(codes + i, tl.load(values + i).to(TYPE).to(tl.uint8, bitcast=True))


@pytest.mark.parametrize("wide", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", FORMATS)
def test_every_code_is_read_exactly(name: str, wide: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    out = torch.empty(256, dtype=wide)
    decode[(1,)](codes, out, TYPE=getattr(tl, name), N=256)
    torch.testing.assert_close(out, codes.view(FORMATS[name]).to(wide), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", FORMATS)
def test_numbers_round_to_nearest_even(name: str, narrow: torch.dtype) -> None:
    """Each number of the format, its neighbours' midpoints and values beside them; beyond the largest torch differs."""
    numbers = torch.arange(256, dtype=torch.uint8).view(FORMATS[name]).float()
    numbers = numbers[numbers.isfinite()].sort().values
    middle = (numbers[1:] + numbers[:-1]) / 2
    near = torch.cat([numbers, middle, middle * (1 + 2**-7), middle * (1 - 2**-7), torch.randn(4096) * 10])
    values = near[near.abs() <= numbers.max()].to(narrow)
    values = torch.nn.functional.pad(values, (0, -len(values) % 128))
    codes = torch.empty(len(values), dtype=torch.uint8)
    encode[(len(values) // 128,)](values, codes, TYPE=getattr(tl, name), N=128)
    expected = values.to(FORMATS[name])
    torch.testing.assert_close(codes.view(FORMATS[name]).float(), expected.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_too_large_becomes_the_largest_and_nan_stays(name: str) -> None:
    values = torch.tensor([1e9, -1e9, float("inf"), float("nan")]).repeat(32)
    codes = torch.empty(128, dtype=torch.uint8)
    encode[(1,)](values, codes, TYPE=getattr(tl, name), N=128)
    largest = torch.finfo(FORMATS[name]).max
    found = codes.view(FORMATS[name]).float()[:4]
    torch.testing.assert_close(found, torch.tensor([largest, -largest, largest, float("nan")]), equal_nan=True)


@unify.jit
def towards_zero(values, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(values + i).to(out.dtype.element_ty, fp_downcast_rounding="rtz"))


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_rounding_towards_zero(narrow: torch.dtype) -> None:
    values = torch.randn(1024) * torch.logspace(-6, 4, 1024)
    out = torch.empty(1024, dtype=narrow)
    towards_zero[(1,)](values, out, N=1024)
    near = values.to(narrow)
    further = near.float().abs() > values.abs()
    expected = (near.view(torch.int16) - further.to(torch.int16)).view(narrow)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    assert further.any()
