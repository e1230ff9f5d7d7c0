"""Products with quantised weights, by bytes and by floats, against the gguf package's own dequantisation."""

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
