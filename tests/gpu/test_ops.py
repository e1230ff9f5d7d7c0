"""Ops on an Nvidia GPU, against torch in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import unify as un

pytestmark = pytest.mark.gpu

# Of the largest value: rounding to the dtype once, after sums in float32 whose terms were rounded to it.
TOLERANCE = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def on(gpu: un.Device, dtype: str, *arrays: np.ndarray) -> list[un.Tensor]:
    return [un.asarray(array, device=gpu).to(dtype) for array in arrays]


def torchs(torch: Any, dtype: str, *arrays: np.ndarray) -> list[Any]:
    """The same numbers, rounded to dtype, in float32."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    return [torch.from_numpy(array).to(place).to(getattr(torch, dtype)).float() for array in arrays]


def agree(found: un.Tensor, expected: Any, dtype: str) -> None:
    want = expected.cpu().numpy()
    gap = np.abs(found.to(un.float32).numpy() - want).max()
    assert gap <= TOLERANCE[dtype] * np.abs(want).max()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "width"), [("bfloat16", 64), ("bfloat16", 128), ("float16", 80), ("float32", 64)])
@pytest.mark.parametrize("tokens", [7, 200])
def test_attention(gpu: un.Device, torch: Any, dtype: str, width: int, causal: bool, tokens: int) -> None:
    inputs = [random(2, tokens, 4, width, seed=seed) for seed in range(3)]
    q, k, v = (x.transpose(1, 2) for x in torchs(torch, dtype, *inputs))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
    agree(un.ops.attention(*on(gpu, dtype, *inputs), causal=causal), expected, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(1, 256, 128), (16, 96, 64), (130, 257, 200), (512, 512, 256)])
def test_linear(gpu: un.Device, torch: Any, dtype: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    inputs = random(m, k), random(n, k, seed=1)
    x, weight = torchs(torch, dtype, *inputs)
    agree(un.ops.linear(*on(gpu, dtype, *inputs)), x @ weight.T, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("columns", [5, 576, 4096, 10_000])
def test_rms_norm(gpu: un.Device, torch: Any, dtype: str, columns: int) -> None:
    inputs = random(9, columns), random(columns, seed=1)
    x, weight = torchs(torch, dtype, *inputs)
    expected = x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6) * weight
    agree(un.ops.rms_norm(*on(gpu, dtype, *inputs)), expected, dtype)


def test_arrays_of_torch_on_the_gpu_are_taken_and_given_back(gpu: un.Device, torch: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device")
    a, b = (torch.randn(256, 256, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    found = un.ops.matmul(a, b)
    assert found.device == a.device
    torch.testing.assert_close(found, a @ b, rtol=2e-2, atol=0.5)  # sums of 256 terms in another order
