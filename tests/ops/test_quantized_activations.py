"""Activations as codes against the numbers that they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un
from unify.ops.quant import quantize_weight
from unify.ops.quantized_activations import ACTIVATIONS, QuantizedActivations, quantize


@pytest.mark.parametrize("dtype", [un.float32, un.bfloat16, un.float16])
def test_codes_stand_for_their_values(dtype: un.DType) -> None:
    x = un.asarray(np.random.default_rng(0).standard_normal((5, 192)).astype(np.float32)).to(dtype)
    values = quantize(x)
    codes = values.codes.numpy().astype(np.int64)
    whole = 256 * codes[:, :, 0] + codes[:, :, 1]
    exact = x.to(un.float32).numpy().reshape(5, 6, 32)
    largest = np.abs(exact).max(-1, keepdims=True)
    # Half a step of 32512, and what float32 loses on the way there and back.
    error = np.abs(whole * values.scales.numpy()[:, :, None] - exact)
    assert (error <= largest * (0.5 / 32512 + 4 * np.finfo(np.float32).eps)).all()
    np.testing.assert_array_equal(values.sums.numpy(), whole.sum(-1))


@pytest.mark.parametrize("x", [np.ones((1, 40), np.float32), np.ones(32, np.float32), np.ones((64, 2), np.float32).T])
def test_activations_that_are_not_rows_of_whole_blocks_are_refused(x: np.ndarray) -> None:
    with pytest.raises(un.errors.ShapeError, match="multiple of 32|its last axis contiguous"):
        quantize(x)


def test_activations_of_another_dtype_are_refused() -> None:
    with pytest.raises(un.errors.DTypeError, match="int32"):
        quantize(np.ones((1, 32), np.int32))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_spoils_its_block_only(wrong: float) -> None:
    x = torch.ones(2, 96)
    x[1, 40] = wrong
    assert np.isnan(quantize(x).scales.numpy()).tolist() == [[False] * 3, [False, True, False]]
    assert np.isnan(quantize(x, "int8").scales.numpy()).tolist() == [False, True]
    x = torch.ones(2, 300)
    x[1, 140] = wrong
    assert np.isnan(quantize(x, "fp8").scales.numpy()).tolist() == [[False] * 3, [False, True, False]]


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [32, 96, 1024, 4128])
def test_int8_has_a_scale_for_each_token(k: int, dtype: torch.dtype) -> None:
    x = torch.randn(5, k + 32, generator=torch.Generator().manual_seed(k)).to(dtype)[:, 32:]
    made = quantize(x, "int8")
    largest = x.float().abs().amax(1)
    codes, scales = made.codes.numpy().astype(np.int64), made.scales.numpy()
    np.testing.assert_allclose(scales, largest / 127, rtol=1e-6)
    np.testing.assert_array_less(np.abs(codes), 128)
    error = np.abs(codes * scales[:, None].astype(np.float64) - x.double().numpy())
    assert (error <= scales[:, None] * 0.5001).all()
    np.testing.assert_array_equal(made.sums.numpy(), codes.reshape(5, k // 32, 32).sum(-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 128, 200, 4128])
def test_fp8_codes_are_torchs_for_each_128_values(k: int, dtype: torch.dtype) -> None:
    x = torch.randn(5, k, generator=torch.Generator().manual_seed(k)).to(dtype)
    made = quantize(x, "fp8")
    assert made.codes.dtype == un.float8_e4m3
    assert made.sums is None
    padded = torch.zeros(5, -(-k // 128) * 128)
    padded[:, :k] = x.float()
    scales = torch.from_dlpack(made.scales)
    torch.testing.assert_close(scales, padded.reshape(5, -1, 128).abs().amax(-1) / 448, rtol=1e-6, atol=0.0)
    nearest = (x.float() / scales.repeat_interleave(128, 1)[:, :k]).to(torch.float8_e4m3fn)
    assert torch.equal(torch.from_dlpack(made.codes.view(un.uint8)), nearest.view(torch.uint8))


@pytest.mark.parametrize("kind", ["int16", "int8", "fp8"])
def test_zeros_and_no_rows(kind: str) -> None:
    made = quantize(torch.zeros(2, 64), kind)
    assert not made.codes.to(un.float32).numpy().any()
    assert np.isfinite(made.scales.numpy()).all()
    assert quantize(torch.zeros(0, 64), kind).codes.shape[0] == 0


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(un.errors.InvalidArgument, match="int16, int8, fp8, not to 'int3'"):
        quantize(torch.zeros(2, 64), "int3")


def values_of(made: QuantizedActivations) -> tuple[torch.Tensor, torch.Tensor]:
    """What codes stand for, [m, k] in float64, and each one's scale."""
    (rows, k), width = made.shape, {"int16": 32, "int8": max(1, made.shape[1]), "fp8": 128}[made.kind]
    scales = torch.from_numpy(made.scales.numpy()).double()
    scales = (scales[:, None] if made.kind == "int8" else scales).repeat_interleave(width, 1)[:, :k]
    if made.kind == "fp8":
        codes = torch.from_dlpack(made.codes.view(un.uint8)).view(torch.float8_e4m3fn).double()
    else:
        codes = torch.from_numpy(made.codes.numpy()).double()
    if made.kind == "int16":
        codes = (256 * codes[:, :, 0] + codes[:, :, 1]).reshape(rows, k)
    return codes * scales, scales


# Each value has an exponent of its own, from what becomes 0 beside the largest to what float32 or bfloat16 hold.
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 3), blocks=st.integers(0, 5), kind=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    exponents=st.lists(st.integers(-90, 120), min_size=1, max_size=7),
    strange=st.sampled_from([0.0, torch.nan, torch.inf]), place=st.integers(0, 10**6),
)  # fmt: skip
def test_any_activations_come_back(
    rows: int, blocks: int, kind: str, dtype: torch.dtype, exponents: list[int], strange: float, place: int
) -> None:
    k = blocks * 32 + (0 if kind != "fp8" else 5)
    generator = torch.Generator().manual_seed(place)
    powers = torch.tensor(exponents)[torch.randint(len(exponents), (rows, k), generator=generator)]
    x = (torch.randn(rows, k, generator=generator) * 2.0**powers).to(dtype)
    if x.numel():
        x.view(-1)[place % x.numel()] = strange
    made = quantize(x, kind)
    assert made.shape == (rows, k)
    values, scales = values_of(made)
    width = {"int16": 32, "int8": max(1, k), "fp8": 128}[kind]
    groups = torch.nn.functional.pad(x.double().abs(), (0, -k % width)).reshape(rows, -(-k // width), width)
    largest = groups.amax(2).repeat_interleave(width, 1)[:, :k]
    assert torch.equal(scales.isnan(), ~largest.isfinite())
    # Half a step of the codes, and what float32 loses on the way there and back. Below 1e-30 all become 0.
    ulps = 4 * torch.finfo(torch.float32).eps * largest
    if kind == "fp8":
        bound = torch.maximum(x.double().abs() / 16, largest / 448 * 2.0**-10) + ulps
    else:
        bound = largest * (0.5 / {"int16": 32512, "int8": 127}[kind]) + ulps
    assert ((values - x.double()).abs() <= bound + 1e-30)[largest.isfinite()].all()


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_codes_that_are_not_those_of_their_kind_are_refused(kind: str) -> None:
    weight = quantize_weight(torch.randn(7, 256), kind)
    made = quantize(torch.randn(8, 256), kind)
    wrong = [
        (replace(made, scales=made.scales[:2]), "x's scales"),
        (replace(made, codes=made.codes[::2]), "x's codes .*contiguous"),
        (replace(made, codes=made.codes.view(un.uint8)), "x's codes .* uint8"),
        (replace(made, kind="int4"), "'int4'; known are"),
    ]
    if kind == "int8":
        wrong += [(replace(made, sums=None), "x's sums .* none"), (replace(made, sums=made.sums[:, :1]), "x's sums")]
    for x, told in wrong:
        with pytest.raises(un.errors.InvalidArgument, match=told):
            un.ops.linear(x, weight)
