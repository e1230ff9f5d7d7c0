"""Products against float64, quantised ones against the gguf package's own dequantisation."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

import unify as un
from unify.ops import quant

KINDS = {
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}


def rounding(dtype: torch.dtype, k: int) -> float:
    # Inputs are exact; the float32 sum of k products errs by about sqrt(k) ulp, the result is rounded once.
    return torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * 4 * k**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 100, 160), (3, 7, 33), (5, 64, 64), (70, 130, 100), (128, 96, 576)])
def test_linear_matches_float64(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(m * n * k)
    x, weight, residual = (torch.randn(*s, generator=generator).to(dtype) for s in ((m, k), (n, k), (m, n)))
    expected = x.double() @ weight.double().T + residual.double()
    bound = rounding(dtype, k)
    result = un.ops.linear(x, weight, residual=residual)
    torch.testing.assert_close(result.double(), expected, rtol=bound, atol=bound * k**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (64, 64, 64), (70, 33, 100), (256, 192, 320)])
def test_matmul_matches_float64(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(m + n + k)
    a, b = (torch.randn(*s, generator=generator).to(dtype) for s in ((m, k), (k, n)))
    bound = rounding(dtype, k)
    torch.testing.assert_close(un.ops.matmul(a, b).double(), a.double() @ b.double(), rtol=bound, atol=bound * k**0.5)
    torch.testing.assert_close(
        un.ops.matmul(a, b.T.contiguous().T).double(), a.double() @ b.double(), rtol=bound, atol=bound * k**0.5
    )


SHAPES = [(1, 64, 32), (1, 100, 576), (2, 192, 96), (4, 64, 1536), (37, 130, 576), (70, 130, 576), (300, 64, 96)]


@pytest.mark.parametrize("multiplies", ["bytes", "floats"])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_quantised_linear_matches_dequantised_weights(
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


def test_no_inputs_or_no_outputs_are_no_work() -> None:
    assert torch.equal(un.ops.linear(torch.ones(2, 2, 0), torch.ones(3, 0)), torch.zeros(2, 2, 3))
    assert torch.equal(un.ops.matmul(torch.ones(2, 0), torch.ones(0, 3)), torch.zeros(2, 3))
    assert un.ops.linear(torch.ones(2, 2, 3), torch.ones(0, 3), residual=torch.ones(2, 2, 0)).shape == (2, 2, 0)
    assert un.ops.linear(torch.ones(0, 2, 3), torch.ones(4, 3)).shape == (0, 2, 4)


def test_shapes_that_do_not_meet_are_refused() -> None:
    with pytest.raises(un.errors.ShapeError, match=r"\[2, 8\].*\[4, 9\]"):
        un.ops.linear(torch.ones(2, 8), torch.ones(4, 9))
    with pytest.raises(un.errors.DTypeError, match="bfloat16"):
        un.ops.linear(torch.ones(2, 8), torch.ones(4, 8, dtype=torch.bfloat16))


def _quantised(kind: str, n: int, k: int) -> np.ndarray:
    weight = np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32)
    return gguf.quants.quantize(weight, KINDS[kind]).view(np.uint8)
