"""GGUF's block formats against the gguf package, and 16-bit activations against the numbers they stand for."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import unify as un
from unify.ops import quant

KINDS = {
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("n", "k"), [(1, 32), (64, 32), (100, 96), (130, 256)])
def test_dequantize_is_exactly_the_format(kind: str, n: int, k: int) -> None:
    weight = np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32)
    raw = gguf.quants.quantize(weight, KINDS[kind]).view(np.uint8)
    matrix = quant.from_gguf(kind, raw)
    np.testing.assert_allclose(
        np.asarray(matrix.dequantize()), gguf.quants.dequantize(raw, KINDS[kind]), rtol=1e-6, atol=1e-7
    )
    assert matrix.shape == (n, k)
    assert raw.nbytes <= matrix.nbytes <= raw.nbytes * -(-n // quant.COLUMNS) * quant.COLUMNS // n


@pytest.mark.parametrize("dtype", [un.float32, un.bfloat16, un.float16])
def test_codes_stand_for_their_values(dtype: un.DType) -> None:
    x = un.asarray(np.random.default_rng(0).standard_normal((5, 192)).astype(np.float32)).to(dtype)
    values = quant.quantize(x)
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
        quant.quantize(x)


def test_activations_of_another_dtype_are_refused() -> None:
    with pytest.raises(un.errors.DTypeError, match="int32"):
        quant.quantize(np.ones((1, 32), np.int32))


def test_an_unknown_format_is_named_with_the_known_ones() -> None:
    with pytest.raises(un.errors.DTypeError, match="q4_1"):
        quant.from_gguf("q3_k", np.zeros((1, 20), np.uint8))


@pytest.mark.parametrize("raw", [np.zeros((2, 19), np.uint8), np.zeros(20, np.uint8), np.zeros((2, 20), np.int8)])
def test_rows_that_are_not_whole_blocks_of_bytes_are_refused(raw: np.ndarray) -> None:
    with pytest.raises(un.errors.ShapeError, match="row|blocks"):
        quant.from_gguf("q4_1", raw)
