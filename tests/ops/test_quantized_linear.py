"""Products with quantised weights against float64, those of GGUF with the gguf package's own dequantisation."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

import unify as un
from unify.ops import quant

from .plain_codes import coded, product

KINDS = {
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
SHAPES = [(1, 64, 32), (1, 100, 576), (2, 192, 96), (4, 64, 1536), (37, 130, 576), (70, 130, 576), (300, 64, 96)]


def _quantised(kind: str, n: int, k: int) -> np.ndarray:
    weight = np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32)
    return gguf.quants.quantize(weight, KINDS[kind]).view(np.uint8)


@pytest.mark.parametrize("multiplies", ["bytes", "floats"])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_match_dequantised_weights(
    monkeypatch: pytest.MonkeyPatch, kind: str, m: int, n: int, k: int, multiplies: str
) -> None:
    monkeypatch.setattr("unify.ops.quantized_linear._has_byte_products", lambda: multiplies == "bytes")
    raw = _quantised(kind, n, k)
    weight = torch.from_numpy(gguf.quants.dequantize(raw, KINDS[kind])).double()
    generator = torch.Generator().manual_seed(m * n)
    x, residual = torch.randn(m, k, generator=generator), torch.randn(m, n, generator=generator)
    result = un.ops.linear(x, quant.from_gguf(kind, raw), residual=residual)
    # An activation errs by at most 2^-16 of the largest in its block, about 3 here; errors add up like sqrt(k).
    bound = 3 * 2.0**-16 * k**0.5 * float(weight.std()) * 4
    torch.testing.assert_close(result.double(), x.double() @ weight.T + residual.double(), rtol=1e-5, atol=bound)


def test_rows_of_zeros_and_huge_values_stay_finite() -> None:
    matrix = quant.from_gguf("q4_1", _quantised("q4_1", 64, 64))
    x = torch.zeros(2, 64)
    x[1] = 1e30
    result = un.ops.linear(x, matrix)
    assert torch.equal(result[0], torch.zeros(64))
    assert torch.isfinite(result[1]).all()


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def numbers(matrix: quant.QuantizedMatrix) -> torch.Tensor:
    """The weights that codes and scales stand for; test_quant.py compares them with others' own."""
    return torch.from_numpy(matrix.dequantize().numpy()).double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 64, 32), (1, 200, 320), (2, 130, 576), (3, 33, 128), (4, 72, 192), (5, 64, 1536), (70, 300, 288)],
)
def test_products_match_the_weights_that_codes_stand_for(kind: str, m: int, n: int, k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(m * n)
    matrix = quant.quantize_weight(torch.randn(n, k, generator=generator) / k**0.5, kind)
    x, residual = (torch.randn(*s, generator=generator).to(dtype) for s in ((m, k), (m, n)))
    result = un.ops.linear(x, matrix, residual=residual)
    expected = x.double() @ numbers(matrix).T + residual.double()
    # The result is rounded once. In blocks of 32 an activation errs by up to 2^-16 of the largest, about 3; or with
    # many rows of bfloat16 a weight by 2^-9 of itself. A row's weights have a norm of about 1.
    bound = 3 * 2.0**-16 if kind != "fp8" else 2.0**-22
    if dtype == torch.bfloat16 and m >= 64 and kind != "fp8":
        bound = 2.0**-9
    torch.testing.assert_close(result.double(), expected, rtol=torch.finfo(dtype).eps, atol=6 * bound)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 70])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 130), (130, 250), (257, 129)])
def test_fp8_of_any_size(m: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(m * n + k)
    codes = (torch.randn(n, k, generator=generator) * 100).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-n // 128), -(-k // 128), generator=generator)
    weight = codes.double() * scales.double().repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    x = torch.randn(m, k, generator=generator)
    result = un.ops.linear(x, quant.from_fp8_blocks(codes, scales)).double()
    # float32 sums of up to 250 products of about 100.
    torch.testing.assert_close(result, x.double() @ weight.T, rtol=1e-5, atol=100 * 2.0**-23 * 4 * k**0.5)


@pytest.mark.parametrize("m", [1, 4, 9])
def test_a_code_that_is_no_number_spoils_the_features_of_its_block_only(m: int) -> None:
    codes = torch.ones(140, 256).to(torch.float8_e4m3fn).view(torch.uint8)
    codes[139, 5] = 0xFF
    result = un.ops.linear(torch.ones(m, 256), quant.from_fp8_blocks(codes, torch.ones(2, 2)))
    assert result.isnan().nonzero().tolist() == [[i, n] for i in range(m) for n in range(128, 140)]
    assert (result[~result.isnan()] == 256).all()


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("m", [2, 70])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_activation_that_is_no_number_spoils_its_row_only(kind: str, m: int, wrong: float) -> None:
    matrix = quant.quantize_weight(torch.ones(64, 128), kind)
    x = torch.ones(m, 128)
    x[1, 40] = wrong
    result = un.ops.linear(x, matrix)
    assert not result[1].isfinite().any()
    assert result[[i for i in range(m) if i != 1]].isfinite().all()


@pytest.mark.parametrize("kind", quant.KINDS)
def test_no_rows_and_no_features_are_no_work(kind: str) -> None:
    assert un.ops.linear(torch.ones(0, 64), quant.quantize_weight(torch.ones(3, 64), kind)).shape == (0, 3)
    assert un.ops.linear(torch.ones(2, 64), quant.quantize_weight(torch.ones(0, 64), kind)).shape == (2, 0)


def test_a_weight_of_experts_is_refused() -> None:
    matrix = quant.quantize_weight(torch.ones(2, 64, 64), "int8")
    with pytest.raises(un.errors.ShapeError, match=r"\[n, k\].*\[2, 64, 64\]"):
        un.ops.linear(torch.ones(1, 64), matrix)
    assert torch.equal(un.ops.linear(torch.ones(1, 64), matrix[1]).round(), torch.full((1, 64), 64.0))


@pytest.mark.parametrize("multiplies", ["bytes", "floats"])
@pytest.mark.parametrize(("kind", "activations"), [("int8", "int8"), ("int4", "int8"), ("fp8", "fp8")])
@pytest.mark.parametrize(("m", "n", "k"), [(0, 64, 32), (1, 200, 320), (3, 33, 128), (5, 64, 1536), (70, 300, 288)])
def test_codes_are_multiplied_with_codes(
    monkeypatch: pytest.MonkeyPatch, kind: str, activations: str, m: int, n: int, k: int, multiplies: str
) -> None:
    monkeypatch.setattr("unify.ops.quantized_linear._has_byte_products", lambda: multiplies == "bytes")
    generator = torch.Generator().manual_seed(m * n)
    matrix = quant.quantize_weight(torch.randn(n, k, generator=generator) / k**0.5, kind)
    x = torch.randn(m, k, generator=generator)
    result = un.ops.linear(x, matrix, activations=activations)
    wanted, bound = product(numbers(matrix), *coded(x, activations))
    assert ((result - wanted).abs() <= bound).all()
    made = quant.quantize(x, activations)
    assert torch.equal(torch.from_numpy(un.ops.linear(made, matrix).numpy()), result)


@pytest.mark.parametrize(("kind", "activations"), [("int8", "int8"), ("fp8", "fp8")])
@pytest.mark.parametrize("m", [2, 70])
def test_a_code_of_no_number_spoils_its_row_only(kind: str, activations: str, m: int) -> None:
    x = torch.ones(m, 128)
    x[1, 40] = float("inf")
    result = un.ops.linear(x, quant.quantize_weight(torch.ones(64, 128), kind), activations=activations)
    assert result[1].isnan().all()
    assert result[[i for i in range(m) if i != 1]].isfinite().all()


@pytest.mark.parametrize(
    ("kind", "activations"), [("int8", "fp8"), ("fp8", "int8"), (None, "int8"), ("int8", "int16"), ("int8", "int3")]
)
def test_activations_that_no_product_takes_are_refused(kind: str | None, activations: str) -> None:
    weight = torch.ones(64, 64)
    with pytest.raises(un.errors.InvalidArgument, match="linear: activations"):
        un.ops.linear(
            torch.ones(2, 64), weight if kind is None else quant.quantize_weight(weight, kind), activations=activations
        )
