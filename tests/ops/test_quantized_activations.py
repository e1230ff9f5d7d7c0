"""Activations as codes against the numbers that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unify as un
from unify.ops.quantized_activations import quantize


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
    with pytest.raises(un.errors.ShapeError, match="multiple of 32"):
        quantize(x)


def test_activations_of_another_dtype_are_refused() -> None:
    with pytest.raises(un.errors.DTypeError, match="int32"):
        quantize(np.ones((1, 32), np.int32))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_spoils_its_block_only(wrong: float) -> None:
    x = torch.ones(2, 96)
    x[1, 40] = wrong
    assert np.isnan(quantize(x).scales.numpy()).tolist() == [[False] * 3, [False, True, False]]
