"""tl.dot_scaled in every pair of formats, and dots of more than two axes, against float64 torch."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

import unify

# The values of the 16 codes of e2m1 (OCP Microscaling Formats 1.0, table 5).
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
E2M1 = torch.cat([E2M1, -E2M1]).double()


@unify.jit
def scaled_kernel(
    a, b, a_scale, b_scale, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, A_PER_BYTE: tl.constexpr, B_PER_BYTE: tl.constexpr,
):  # fmt: skip
    m, n, g = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K // 32)
    ak, bk = tl.arange(0, K // A_PER_BYTE), tl.arange(0, K // B_PER_BYTE)
    x = tl.load(a + m[:, None] * (K // A_PER_BYTE) + ak[None, :])
    y = tl.load(b + bk[:, None] * N + n[None, :])
    xs, ys = a_scale, b_scale
    if a_scale is not None:
        xs = tl.load(a_scale + m[:, None] * (K // 32) + g[None, :])
    if b_scale is not None:
        ys = tl.load(b_scale + n[:, None] * (K // 32) + g[None, :])
    tl.store(out + m[:, None] * N + n[None, :], tl.dot_scaled(x, xs, A, y, ys, B))


def _random(kind: str, rows: int, columns: int, packed_axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes as the kernel reads them, and the numbers that they mean."""
    if kind == "e2m1":
        codes = torch.randint(0, 16, (rows, columns), dtype=torch.uint8)
        low, high = (codes[0::2], codes[1::2]) if packed_axis == 0 else (codes[:, 0::2], codes[:, 1::2])
        return (low | high << 4).contiguous(), E2M1[codes.long()]
    if kind == "bf16":
        value = torch.randn(rows, columns).bfloat16()
        return value, value.double()
    value = torch.randn(rows, columns).to({"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[kind])
    return value.view(torch.uint8), value.double()


@pytest.mark.parametrize("a_kind", ["e2m1", "e4m3", "e5m2", "bf16"])
@pytest.mark.parametrize("b_kind", ["e2m1", "e4m3", "bf16"])
@pytest.mark.parametrize("shape", [(16, 32, 64), (1, 16, 128)])
def test_scaled_dot(a_kind: str, b_kind: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    a, x = _random(a_kind, m, k, 1)
    b, y = _random(b_kind, k, n, 0)
    scales = []
    for rows, kind in ((m, a_kind), (n, b_kind)):
        scales.append(None if kind == "bf16" else torch.randint(120, 134, (rows, k // 32), dtype=torch.uint8))
    factors = [1.0 if s is None else 2.0 ** (s.double().repeat_interleave(32, 1) - 127) for s in scales]
    out = torch.empty(m, n)
    scaled_kernel[(1,)](
        a, b, *scales, out, M=m, N=n, K=k, A=a_kind, B=b_kind,
        A_PER_BYTE=2 if a_kind == "e2m1" else 1, B_PER_BYTE=2 if b_kind == "e2m1" else 1,
    )  # fmt: skip
    left = x * factors[0]
    right = y * (factors[1] if isinstance(factors[1], float) else factors[1].T)
    # Sums of k products in float32.
    bound = 2.0**-24 * k * (left.abs() @ right.abs())
    assert ((out.double() - left @ right).abs() <= bound + 1e-30).all()


def test_a_scale_of_255_is_not_a_number() -> None:
    a, _ = _random("e4m3", 16, 64, 1)
    b, _ = _random("e4m3", 64, 16, 0)
    scale = torch.full((16, 2), 127, dtype=torch.uint8)
    marked = scale.clone()
    marked[3, 1] = 255
    out = torch.empty(16, 16)
    scaled_kernel[(1,)](a, b, marked, scale, out, M=16, N=16, K=64, A="e4m3", B="e4m3", A_PER_BYTE=1, B_PER_BYTE=1)
    assert out.isnan().nonzero()[:, 0].unique().tolist() == [3]


@unify.jit
def batched_kernel(a, b, out, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    batch, m, n, k = tl.arange(0, B), tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a + batch[:, None, None] * (M * K) + m[None, :, None] * K + k[None, None, :])
    y = tl.load(b + batch[:, None, None] * (K * N) + k[None, :, None] * N + n[None, None, :])
    r = tl.dot(x, y, out_dtype=out.dtype.element_ty)
    tl.store(out + batch[:, None, None] * (M * N) + m[None, :, None] * N + n[None, None, :], r)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float16, torch.float16),
     (torch.int8, torch.int32), (torch.float64, torch.float64)],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(4, 16, 32, 64), (2, 8, 4, 16), (8, 1, 16, 1)])
def test_dot_of_three_axes(shape: tuple[int, ...], dtype: torch.dtype, result: torch.dtype) -> None:
    batch, m, n, k = shape
    a, b = (torch.randn(batch, *s).mul(8).to(dtype) for s in ((m, k), (k, n)))
    out = torch.empty(batch, m, n, dtype=result)
    batched_kernel[(1,)](a, b, out, B=batch, M=m, N=n, K=k)
    expected = torch.bmm(a.double(), b.double())
    bound = (
        torch.finfo(result).eps * k * torch.bmm(a.double().abs(), b.double().abs()) if result.is_floating_point else 0
    )
    assert ((out.double() - expected).abs() <= bound).all()
