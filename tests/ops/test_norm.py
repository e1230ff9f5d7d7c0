"""RMS norm against the formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un
from unify.ops import quant

from .test_quantized_activations import values_of


def expected(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    return wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps) * weight.double()


@pytest.mark.parametrize("columns", [1, 16, 100, 576, 1000, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_matches_the_formula_for_any_width(columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(3, 5, columns, generator=generator).to(dtype)
    weight = torch.randn(columns, generator=generator).to(dtype)
    result = un.ops.rms_norm(x, weight, eps=1e-5)
    assert result.dtype == dtype
    tolerance = 2 * torch.finfo(dtype).eps  # one rounding of the result, and the float32 sum
    torch.testing.assert_close(result.double(), expected(x, weight, 1e-5), rtol=tolerance, atol=tolerance)


def test_returns_the_kind_it_was_given() -> None:
    x, weight = np.ones((2, 32), np.float32), np.ones(32, np.float32)
    assert isinstance(un.ops.rms_norm(x, weight), np.ndarray)
    assert isinstance(un.ops.rms_norm(torch.from_numpy(x), torch.from_numpy(weight)), torch.Tensor)
    assert isinstance(un.ops.rms_norm(un.asarray(x), un.asarray(weight)), un.Tensor)


def test_a_row_of_zeros_stays_finite() -> None:
    result = un.ops.rms_norm(torch.zeros(1, 64), torch.ones(64), eps=1e-6)
    assert torch.equal(result, torch.zeros(1, 64))


def test_writes_into_out() -> None:
    x, weight, out = torch.randn(4, 64), torch.randn(64), torch.empty(4, 64)
    assert un.ops.rms_norm(x, weight, out=out) is out
    torch.testing.assert_close(out.double(), expected(x, weight, 1e-6), rtol=1e-6, atol=1e-6)


def test_out_may_be_x_itself() -> None:
    x, weight = torch.randn(4, 64), torch.randn(64)
    before = x.clone()
    assert un.ops.rms_norm(x, weight, out=x) is x
    torch.testing.assert_close(x.double(), expected(before, weight, 1e-6), rtol=1e-6, atol=1e-6)


def test_out_over_a_part_of_what_is_read_is_refused() -> None:
    memory = torch.randn(8, 64)
    x, weight, before = memory[2:6], torch.randn(64), memory.clone()
    for out in (memory[1:5], memory[3:7], memory.view(-1)[129:385].view(4, 64)):
        with pytest.raises(un.errors.LayoutError, match=r"rms_norm: out overlaps x.*x itself.*memory of its own"):
            un.ops.rms_norm(x, weight, out=out)
    with pytest.raises(un.errors.LayoutError, match="rms_norm: out overlaps weight"):
        un.ops.rms_norm(torch.randn(4, 64), memory[5], out=x)
    assert torch.equal(memory, before)
    for beside in (memory[:2], memory[6:]):
        un.ops.rms_norm(memory[2:4], weight, out=beside)


def test_no_rows_are_no_work() -> None:
    assert un.ops.rms_norm(torch.empty(0, 64), torch.ones(64)).shape == (0, 64)


def test_a_weight_of_another_width_names_both() -> None:
    with pytest.raises(un.errors.ShapeError, match=r"\[64\].*\[32\]"):
        un.ops.rms_norm(torch.ones(2, 64), torch.ones(32))


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("columns", [1, 32, 100, 576, 4128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_a_sum_it_returns_both(columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(columns)
    x, residual = (torch.randn(3, 5, columns, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(columns, generator=generator).to(dtype)
    normed, total = un.ops.rms_norm(x, weight, residual=residual, eps=1e-5)
    assert torch.equal(total, x + residual)
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(normed.double(), expected(x + residual, weight, 1e-5), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("over", ["x", "residual"])
def test_the_norm_of_a_sum_may_replace_either_part(over: str) -> None:
    x, residual, weight = torch.randn(4, 64), torch.randn(4, 64), torch.randn(64)
    wanted = x + residual
    out = x if over == "x" else residual
    normed, total = un.ops.rms_norm(x, weight, residual=residual, out=out)
    assert normed is out
    assert torch.equal(total, wanted)
    torch.testing.assert_close(out.double(), expected(wanted, weight, 1e-6), rtol=1e-6, atol=1e-6)


def test_a_residual_of_another_shape_is_refused() -> None:
    with pytest.raises(un.errors.ShapeError, match=r"residual must be \[2, 64\].*\[1, 64\]"):
        un.ops.rms_norm(torch.ones(2, 64), torch.ones(64), residual=torch.ones(1, 64))
    with pytest.raises(un.errors.DTypeError, match="residual"):
        un.ops.rms_norm(torch.ones(2, 64), torch.ones(64), residual=torch.ones(2, 64, dtype=torch.float16))


@pytest.mark.parametrize("columns", [32, 96, 4128])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", quant.ACTIVATIONS)
def test_codes_stand_for_the_norm(kind: str, dtype: torch.dtype, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    x, residual = (torch.randn(2, 3, columns, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(columns, generator=generator).to(dtype)
    alone = un.ops.rms_norm(x, weight, quantize=kind)
    both, total = un.ops.rms_norm(x, weight, residual=residual, quantize=kind)
    assert torch.equal(total, x + residual)
    for made, rows in ((alone, x), (both, x + residual)):
        exact = expected(rows, weight, 1e-6).reshape(6, columns)
        values = quant.quantize(exact.float(), kind)  # of the norm in float64
        np.testing.assert_allclose(made.scales.numpy(), values.scales.numpy(), rtol=1e-6)
        if kind == "fp8":
            ours, theirs = (torch.from_dlpack(a.codes.view(un.uint8)).view(torch.float8_e4m3fn) for a in (made, values))
        else:
            ours, theirs = (torch.from_dlpack(a.codes) for a in (made, values))
        # A value between two codes may fall to either side, and then its block's sum with it.
        assert (ours.float() != theirs.float()).float().mean() < (0.02 if kind == "int16" else 2e-3)
        if kind != "fp8":
            whole = made.codes.numpy().astype(np.int64).reshape(6, columns // 32, -1, 32)
            whole = 256 * whole[:, :, 0] + whole[:, :, 1] if kind == "int16" else whole[:, :, 0]
            np.testing.assert_array_equal(made.sums.numpy(), whole.sum(-1))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 3), columns=st.sampled_from([1, 100, 577]), dtype=st.sampled_from(DTYPES),
    is_sum=st.booleans(), kind=st.sampled_from([None, *quant.ACTIVATIONS]), exponent=st.integers(-6, 4),
    strange=st.sampled_from([None, torch.nan, torch.inf, -torch.inf]), place=st.integers(0, 10**6),
)  # fmt: skip
def test_any_norm_and_its_codes(
    rows: int, columns: int, dtype: torch.dtype, is_sum: bool, kind: str | None, exponent: int, strange: float | None,
    place: int,
) -> None:  # fmt: skip
    columns += -columns % 32 if kind in ("int16", "int8") else 0
    generator = torch.Generator().manual_seed(place)
    x, residual = ((torch.randn(rows, columns, generator=generator) * 2.0**exponent).to(dtype) for _ in range(2))
    weight = torch.randn(columns, generator=generator).to(dtype)
    if strange is not None and x.numel():
        (residual if is_sum else x).view(-1)[place % x.numel()] = strange
    result = un.ops.rms_norm(x, weight, residual=residual if is_sum else None, eps=1e-5, quantize=kind)
    if is_sum:
        result, total = result
        assert torch.equal(total.isnan(), (x + residual).isnan())
        assert torch.equal(total.nan_to_num(), (x + residual).nan_to_num())
        x = x + residual
    wanted = expected(x, weight, 1e-5)
    # The sum of squares errs by some sqrt(k) ulp, its root by half as much, and the products by one each.
    loss = torch.finfo(torch.float32).eps * (4 + columns**0.5)
    if kind is None:
        bound = torch.finfo(dtype).eps + loss
        torch.testing.assert_close(result.double(), wanted, rtol=bound, atol=1e-7, equal_nan=True)
        return
    values, scales = values_of(result)
    width = {"int16": 32, "int8": columns, "fp8": 128}[kind]
    groups = torch.nn.functional.pad(wanted, (0, -columns % width)).unflatten(1, (-1, width))
    largest = groups.abs().amax(2).repeat_interleave(width, 1)[:, :columns]
    assert torch.equal(scales.isnan(), ~largest.isfinite())
    # Half a step, or half of the last bit of a mantissa of three; and somewhat more where a value lies between two.
    half = scales / 2 if kind != "fp8" else torch.maximum(scales * 2.0**-10, wanted.abs() / 16)
    bound = half * (1 + 2.0**-10) + 2 * loss * largest
    assert ((values - wanted).abs() <= bound)[largest.isfinite()].all()


def test_codes_of_another_kind_or_in_out_are_refused() -> None:
    x, weight = torch.ones(2, 64), torch.ones(64)
    with pytest.raises(un.errors.InvalidArgument, match="int16, int8, fp8, not to 'int4'"):
        un.ops.rms_norm(x, weight, quantize="int4")
    with pytest.raises(un.errors.InvalidArgument, match="either `out` or `quantize`"):
        un.ops.rms_norm(x, weight, quantize="int8", out=torch.empty(2, 64))
    with pytest.raises(un.errors.ShapeError, match="multiple of 32; it is 40"):
        un.ops.rms_norm(torch.ones(2, 40), torch.ones(40), quantize="int8")
