"""float8_e4m3 by its bits, against torch's own."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

import unify as un
from unify.ops.e4m3 import from_e4m3, from_finite_e4m3, to_e4m3


@un.jit
def decode_kernel(codes, out, BLOCK: tl.constexpr, FINITE: tl.constexpr):
    i = tl.arange(0, BLOCK)
    code = tl.load(codes + i)
    value = from_finite_e4m3(code) if FINITE else from_e4m3(code)
    tl.store(out + i, value.to(tl.float32) * 256.0)


@un.jit
def encode_kernel(x, codes, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(codes + i, to_e4m3(tl.load(x + i, mask=i < n)), mask=i < n)


@pytest.mark.parametrize("finite", [False, True])
def test_each_code_is_what_torch_says(finite: bool) -> None:
    codes, out = torch.arange(256, dtype=torch.uint8), torch.empty(256)
    decode_kernel[(1,)](codes, out, BLOCK=256, FINITE=finite)
    un.device("cpu").synchronize()
    wanted = codes.view(torch.float8_e4m3fn).float()
    if finite:
        out[wanted.isnan()] = torch.nan
    torch.testing.assert_close(out, wanted, rtol=0, atol=0, equal_nan=True)


def test_numbers_become_the_nearest_code() -> None:
    exact = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    exact = exact[torch.isfinite(exact)].sort().values
    between = (exact[1:] + exact[:-1]) / 2  # of two nearest ones the even one
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(5000, generator=generator) * torch.exp(torch.randn(5000, generator=generator) * 4)
    strange = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e30, 449.0, 1e-20, -0.0])
    x = torch.cat([exact, between, between * (1 + 1e-6), between * (1 - 1e-6), spread, strange])
    codes = torch.empty(len(x), dtype=torch.uint8)
    encode_kernel[(-(-len(x) // 256),)](x, codes, len(x), BLOCK=256)
    wanted = x.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    torch.testing.assert_close(codes.view(torch.float8_e4m3fn).float(), wanted, rtol=0, atol=0, equal_nan=True)
