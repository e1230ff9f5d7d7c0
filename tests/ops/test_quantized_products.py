"""Products with quantised weights as a kernel over experts has them: of gathered rows, with a matrix among others."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

import unify as un
from unify.ops import quant
from unify.ops.quantized_products import block_products, byte_products, fp8_few_products, fp8_products

EXPERTS, N, K = 3, 128, 256
ROWS = torch.tensor([4, 1, 1, 0], dtype=torch.int32)


@un.jit
def experts_kernel(
    x, x_codes, x_scales, x_sums, rows, codes, scales, out, expert, n, k, codes_expert, scales_expert, scale_row,
    WHAT: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    row = tl.load(rows + tl.arange(0, 4))
    part = tl.program_id(0)
    feature = part * 32 + tl.arange(0, 32)
    inside = (tl.arange(0, 4) < 4)[:, None]
    chosen = tl.load(expert).to(tl.int64)
    codes += chosen * codes_expert
    scales += chosen * scales_expert
    x += row[:, None] * k
    if WHAT == "bytes":
        total = byte_products(
            x_codes, x_scales, x_sums, row, codes, scales, None, part, k, 4, 32, 64, BITS, OFFSET, True
        )
    elif WHAT == "blocks":
        total = block_products(
            x,
            None,
            None,
            inside,
            codes,
            scales,
            None,
            feature,
            (feature < n)[None, :],
            k,
            4,
            32,
            64,
            64,
            BITS,
            OFFSET,
            TYPE,
        )
    elif WHAT == "few":
        total = fp8_few_products(x, None, inside, codes, scales, part * 32, n, k, scale_row, 4, 32, 64, True)
    else:
        total = fp8_products(x, None, inside, codes, scales, part * 32, n, k, scale_row, 4, 32, 64, True, True, TYPE)
    tl.store(out + tl.arange(0, 4)[:, None] * n + feature[None, :], total)


@pytest.mark.parametrize("expert", range(EXPERTS))
@pytest.mark.parametrize(
    ("kind", "what"),
    [("int8", "bytes"), ("int4", "bytes"), ("int8", "blocks"), ("int4", "blocks"), ("fp8", "few"), ("fp8", "dots")],
)
def test_a_kernel_over_experts_has_the_products_of_one(kind: str, what: str, expert: int) -> None:
    generator = torch.Generator().manual_seed(expert)
    matrix = quant.quantize_weight(torch.randn(EXPERTS, N, K, generator=generator), kind)
    x = torch.randn(5, K, generator=generator)
    values = quant.quantize(x)
    layout = {"BITS": 0, "OFFSET": 0} if kind == "fp8" else {"BITS": matrix.format.bits, "OFFSET": matrix.format.offset}
    out = torch.full((4, N), float("nan"))
    experts_kernel[(N // 32,)](
        x, values.codes, values.scales, values.sums, ROWS, matrix.codes, matrix.scales, out,
        torch.tensor([expert], dtype=torch.int32), N, K, matrix.codes.strides[0], matrix.scales.strides[0],
        matrix.scales.shape[-1], WHAT=what, TYPE=tl.float32, **layout,
    )  # fmt: skip
    un.device("cpu").synchronize()
    expected = x.double()[ROWS.long()] @ torch.from_numpy(matrix[expert].dequantize().numpy()).double().T
    # Activations of 16 bits err by up to 2^-16 of the largest in a block, about 3, each; float32 by less.
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=3 * 2.0**-16 * K**0.5 * 4)
