"""Quantised weights: GGUF's block formats against the gguf package, fp8 against torch's float8_e4m3fn."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

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


def test_an_unknown_format_is_named_with_the_known_ones() -> None:
    with pytest.raises(un.errors.DTypeError, match="q4_1"):
        quant.from_gguf("q3_k", np.zeros((1, 20), np.uint8))


@pytest.mark.parametrize("raw", [np.zeros((2, 19), np.uint8), np.zeros(20, np.uint8), np.zeros((2, 20), np.int8)])
def test_rows_that_are_not_whole_blocks_of_bytes_are_refused(raw: np.ndarray) -> None:
    with pytest.raises(un.errors.ShapeError, match="row|blocks"):
        quant.from_gguf("q4_1", raw)


GGML = {"int8": gguf.GGMLQuantizationType.Q8_0, "int4": gguf.GGMLQuantizationType.Q4_0}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def fp8_values(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What DeepSeek-V3's weight and weight_scale_inv stand for, in float64."""
    n, k = codes.shape[-2:]
    blocks = scales.double().repeat_interleave(128, -2).repeat_interleave(128, -1)
    return codes.double() * blocks[..., :n, :k]


def random_fp8(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    *experts, n, k = shape
    codes = (torch.randn(shape, generator=generator) * 100).to(torch.float8_e4m3fn)
    return codes, torch.rand(*experts, -(-n // 128), -(-k // 128), generator=generator) * 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", list(GGML))
@pytest.mark.parametrize(("n", "k"), [(1, 32), (64, 64), (100, 96), (130, 288)])
def test_a_dense_weight_gets_ggmls_codes_and_scales(kind: str, n: int, k: int, dtype: torch.dtype) -> None:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(n * k)).to(dtype)
    matrix = quant.quantize_weight(weight, kind)
    raw = gguf.quants.quantize(weight.float().numpy(), GGML[kind])
    assert (matrix.kind, matrix.shape, matrix.minimums) == (kind, (n, k), None)
    ours, theirs = matrix.dequantize().numpy(), gguf.quants.dequantize(raw, GGML[kind])
    if dtype == torch.float32:
        np.testing.assert_array_equal(ours, theirs)
    else:  # numbers of few bits lie between two codes often; ggml rounds halves away from zero, or up
        step = np.abs(weight.float().numpy()).max() / (127 if kind == "int8" else 8)
        np.testing.assert_allclose(ours, theirs, atol=1.001 * step)
        assert (ours != theirs).mean() < 0.02


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (128, 128), (200, 333), (300, 64)])
def test_a_dense_weight_gets_the_nearest_fp8_codes(n: int, k: int, dtype: torch.dtype) -> None:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(n * k)).to(dtype)
    weight[0, 0] = 1e-3  # a subnormal code, where it is not alone
    matrix = quant.quantize_weight(weight, "fp8")
    scales = torch.from_numpy(matrix.scales.numpy())
    padded = torch.zeros(scales.shape[0] * 128, scales.shape[1] * 128)
    padded[:n, :k] = weight.float()
    largest = padded.reshape(scales.shape[0], 128, scales.shape[1], 128).abs().amax((1, 3))
    torch.testing.assert_close(scales, largest / 448, rtol=1e-6, atol=0.0)
    codes = torch.from_numpy(matrix.codes.numpy()).view(torch.float8_e4m3fn)
    nearest = (weight.float() / fp8_values(torch.ones(n, k), scales).float()).to(torch.float8_e4m3fn)
    assert torch.equal(codes.view(torch.uint8), nearest.view(torch.uint8))


def test_each_fp8_code_stands_for_its_value() -> None:
    codes = torch.arange(256, dtype=torch.uint8).reshape(2, 128)
    codes[codes.view(torch.float8_e4m3fn).float().isnan()] = 0
    for stored in (codes, codes.view(torch.float8_e4m3fn)):
        matrix = quant.from_fp8_blocks(stored, torch.tensor([[0.5]]))
        values = torch.from_numpy(matrix.dequantize().numpy())
        torch.testing.assert_close(values, codes.view(torch.float8_e4m3fn).float() / 2, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_a_code_that_is_no_number_spoils_its_block(code: int) -> None:
    codes, scales = random_fp8(3, 200, 333)
    given = scales.clone()
    codes.view(torch.uint8)[1, 199, 332] = code
    wanted = fp8_values(codes, scales)
    wanted[1, 128:, 256:] = torch.nan
    matrix = quant.from_fp8_blocks(codes, scales)
    assert torch.equal(scales, given)
    torch.testing.assert_close(
        torch.from_numpy(matrix.dequantize().numpy()).to(wanted.dtype), wanted, rtol=1e-6, atol=0.0, equal_nan=True
    )


@pytest.mark.parametrize("shape", [(128, 256), (200, 333), (1, 7), (3, 130, 200)])
def test_fp8_blocks_are_kept_as_they_are(shape: tuple[int, ...]) -> None:
    codes, scales = random_fp8(*shape)
    matrix = quant.from_fp8_blocks(codes, scales)
    assert matrix.codes.address == codes.data_ptr()
    values = torch.from_numpy(matrix.dequantize().numpy()).double()
    torch.testing.assert_close(values, fp8_values(codes, scales), rtol=2**-23, atol=0.0)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_an_experts_matrix_lies_in_the_memory_of_all(kind: str) -> None:
    weight = torch.randn(3, 70, 160, generator=torch.Generator().manual_seed(0))
    matrix = quant.quantize_weight(weight, kind)
    assert len(matrix) == 3
    all_of_them = torch.from_numpy(matrix.dequantize().numpy())
    for expert in range(3):
        part, alone = matrix[expert], quant.quantize_weight(weight[expert], kind)
        assert part.shape == (70, 160)
        assert part.codes.address == matrix.codes.address + expert * part.codes.nbytes
        assert part.nbytes * 3 == matrix.nbytes
        np.testing.assert_array_equal(part.codes.numpy(), alone.codes.numpy())
        np.testing.assert_array_equal(part.scales.numpy(), alone.scales.numpy())
        np.testing.assert_array_equal(all_of_them[expert], alone.dequantize().numpy())
    np.testing.assert_array_equal(matrix[-1].codes.numpy(), matrix[2].codes.numpy())
    assert [part.shape for part in matrix] == [(70, 160)] * 3
    with pytest.raises(TypeError, match="slice"):
        matrix[:2]
    with pytest.raises(un.errors.ShapeError, match="only one with experts"):
        matrix[0][0]


@pytest.mark.parametrize("kind", quant.KINDS)
def test_a_matrix_may_be_written_part_by_part(kind: str) -> None:
    weight = torch.randn(2, 300, 160, generator=torch.Generator().manual_seed(0))
    whole = quant.quantize_weight(weight, kind)
    parts = quant.QuantizedMatrix.empty(kind, (2, 300, 160))
    for matrix, dense in zip(parts, weight, strict=True):
        for first, end in ((128, 256), (256, 300), (0, 128)):
            out = matrix.rows(first, end - first)
            assert quant.quantize_weight(dense[first:end], kind, out=out) is out
            np.testing.assert_array_equal(out.dequantize().numpy(), matrix.dequantize().numpy()[first:end])
    np.testing.assert_array_equal(parts.codes.numpy(), whole.codes.numpy())
    np.testing.assert_array_equal(parts.scales.numpy(), whole.scales.numpy())


@pytest.mark.parametrize("kind", quant.KINDS)
def test_parts_that_do_not_fit_are_refused(kind: str) -> None:
    matrix = quant.QuantizedMatrix.empty(kind, (300, 64))
    for first, count in ((1, 299), (0, 100), (-128, 128), (256, 45), (128, -128)):
        with pytest.raises(un.errors.ShapeError, match="lie together"):
            matrix.rows(first, count)
    with pytest.raises(un.errors.ShapeError, match="lie together"):
        quant.QuantizedMatrix.empty(kind, (2, 128, 64)).rows(0, 128)
    with pytest.raises(un.errors.ShapeError, match=rf"out must be {kind} \[44, 64\]; it is {kind} \[300, 64\]"):
        quant.quantize_weight(torch.ones(44, 64), kind, out=matrix)
    other = "int4" if kind == "int8" else "int8"
    with pytest.raises(un.errors.ShapeError, match=rf"out must be {other} .* it is {kind}"):
        quant.quantize_weight(torch.ones(300, 64), other, out=matrix)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_a_slice_of_a_weight_needs_no_copy_and_zeros_stay_zeros(kind: str) -> None:
    wide = torch.randn(2, 80, 300, generator=torch.Generator().manual_seed(0))
    wide[:, :, 64:128] = 0.0
    sliced = wide[:, 8:72, 64:256]
    ours = quant.quantize_weight(sliced, kind).dequantize().numpy()
    np.testing.assert_array_equal(ours, quant.quantize_weight(sliced.contiguous(), kind).dequantize().numpy())
    np.testing.assert_array_equal(ours[:, :, :64], 0.0)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", quant.KINDS)
def test_a_weight_that_is_no_number_spoils_its_block_only(kind: str, wrong: float) -> None:
    weight = torch.ones(200, 256)
    weight[150, 130] = wrong
    values = quant.quantize_weight(weight, kind).dequantize().numpy()
    spoilt = np.zeros((200, 256), bool)
    spoilt[slice(128, 200) if kind == "fp8" else 150, slice(128, 256) if kind == "fp8" else slice(128, 160)] = True
    np.testing.assert_array_equal(np.isnan(values), spoilt)
    np.testing.assert_allclose(values[~spoilt], 1.0, rtol=2**-10)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_weights_without_rows_are_no_work(kind: str) -> None:
    for shape in ((0, 64), (2, 0, 64), (0, 3, 64)):
        matrix = quant.quantize_weight(torch.empty(shape), kind)
        assert (matrix.nbytes, matrix.dequantize().shape) == (0, shape)
    assert quant.quantize_weight(torch.empty(2, 0, 64), kind)[1].shape == (0, 64)


def test_what_is_no_weight_is_refused() -> None:
    with pytest.raises(un.errors.InvalidArgument, match=r"'int3'.*int8, int4, fp8"):
        quant.quantize_weight(torch.ones(2, 32), "int3")
    with pytest.raises(un.errors.ShapeError, match=r"multiple of 32.*\[2, 40\]"):
        quant.quantize_weight(torch.ones(2, 40), "int4")
    with pytest.raises(un.errors.ShapeError, match=r"\[n, k\]"):
        quant.quantize_weight(torch.ones(40), "fp8")
    with pytest.raises(un.errors.DTypeError, match="int32"):
        quant.quantize_weight(torch.ones(2, 32, dtype=torch.int32), "int8")
    codes, scales = random_fp8(200, 333)
    with pytest.raises(un.errors.ShapeError, match=r"scales \[2, 3\].*\[2, 2\]"):
        quant.from_fp8_blocks(codes, scales[:, :2].contiguous())
    with pytest.raises(un.errors.DTypeError, match="float64"):
        quant.from_fp8_blocks(codes, scales.double())
    with pytest.raises(un.errors.DTypeError, match="float8_e5m2"):
        quant.from_fp8_blocks(codes.view(torch.float8_e5m2), scales)


# Bounds from the formats. int8: half a step of largest / 127, int4: of largest / 8, or a whole one for what lies across
# the largest, since there is no code 8; their scales are float16. fp8: half of the last bit of a mantissa of three, or
# of the smallest step.
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    of=st.sampled_from([("int8", torch.float32), ("int4", torch.bfloat16), ("fp8", torch.float32)]),
    experts=st.sampled_from([None, 0, 2]), n=st.sampled_from([0, 1, 65, 130]), k=st.sampled_from([0, 32, 160]),
    exponents=st.lists(st.integers(-24, 12), min_size=1, max_size=4),
    strange=st.sampled_from([0.0, torch.nan, torch.inf]), place=st.integers(0, 10**6),
)  # fmt: skip
def test_any_weight_comes_back(
    of: tuple[str, torch.dtype], experts: int | None, n: int, k: int, exponents: list[int], strange: float, place: int
) -> None:
    kind, dtype = of
    k += 3 if kind == "fp8" else 0
    generator = torch.Generator().manual_seed(place)
    shape = (n, k) if experts is None else (experts, n, k)
    powers = torch.tensor(exponents)[torch.randint(len(exponents), shape, generator=generator)]
    weight = (torch.randn(shape, generator=generator) * 2.0**powers).to(dtype)
    if weight.numel():
        weight.view(-1)[place % weight.numel()] = strange
    matrix = quant.quantize_weight(weight, kind)
    values = torch.from_numpy(matrix.dequantize().numpy()).double()
    assert (matrix.shape, values.shape) == (shape, shape)
    if not weight.numel():
        return
    exact = weight.double()
    down, across = (128, 128) if kind == "fp8" else (1, 32)
    padded = torch.nn.functional.pad(exact.abs(), (0, -k % across, 0, -n % down))
    blocks = padded.unflatten(-1, (-1, across)).unflatten(-3, (-1, down))
    largest = blocks.amax((-3, -1), keepdim=True).expand_as(blocks).reshape(padded.shape)[..., :n, :k]
    if kind == "fp8":
        bound = torch.maximum(exact.abs() / 16, largest / 448 * 2.0**-10) + largest * 2.0**-21
        bound += 1e-37 * 448  # below that a block is zeros
    else:
        codes = 127 if kind == "int8" else 8
        step = largest / codes
        rounding = torch.maximum(step * 2.0**-11, torch.tensor(2.0**-25))  # of a scale
        bound = step * torch.where(exact.abs() > (codes - 0.5) * step, 1.0, 0.5) * 1.001 + rounding * codes
    assert torch.equal(values.isnan(), ~largest.isfinite())
    assert ((values - exact).abs() <= bound)[largest.isfinite()].all()
