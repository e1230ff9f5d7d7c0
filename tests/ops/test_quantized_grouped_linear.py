"""Products of groups of rows with quantised weights, against a loop over the groups in float64."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un
from unify.ops import quant

from .plain_codes import coded, product, silu_gated
from .test_grouped_linear import expected, inputs
from .test_quantized_linear import DTYPES, numbers


def assert_close(result: torch.Tensor, wanted: torch.Tensor, kind: str, few: bool) -> None:
    # As for one matrix: in blocks of 32 an activation errs by up to 2^-16 of the largest, about 3, or with many rows of
    # bfloat16 a weight by 2^-9 of itself. A row's weights have a norm of about 1; what is gated is up to about 4.
    bound = 3 * 2.0**-16 if kind != "fp8" else 2.0**-22
    if result.dtype == torch.bfloat16 and not few and kind != "fp8":
        bound = 2.0**-9
    torch.testing.assert_close(result.double(), wanted, rtol=2 * torch.finfo(result.dtype).eps, atol=24 * bound)


# A row or some of a group, and many; groups of none, all rows in one; features that fill no block and no tile, and a
# gate whose features end inside a block.
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "multiplies"),
    [("fp8", "floats"), *((kind, how) for kind in ("int8", "int4") for how in ("bytes", "floats"))],
)
@pytest.mark.parametrize(
    ("offsets", "n", "k"),
    [
        ([0, 1, 1, 2, 4], 64, 128),
        ([0, 1, 4, 4, 9], 200, 96),
        ([0, 0, 0, 13, 13], 33, 160),
        ([0, 40, 140, 140, 141], 130, 320),
        ([0, 0, 290, 290, 290], 7, 32),
    ],
)
def test_each_group_has_its_weight(
    monkeypatch: pytest.MonkeyPatch, kind: str, multiplies: str, offsets: list[int], n: int, k: int, dtype: torch.dtype,
    gated: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("unify.ops.quantized_linear._has_byte_products", lambda: multiplies == "bytes")
    x, weight = inputs(offsets[-1], 4, 2 * n if gated else n, k, torch.float32)
    x, matrix = x.to(dtype), quant.quantize_weight(weight, kind)
    result = un.ops.grouped_linear(x, matrix, torch.tensor(offsets, dtype=torch.int32), gated=gated)
    assert result.dtype == dtype
    assert_close(result, expected(x, numbers(matrix), offsets, gated), kind, offsets[-1] < 256)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows", [3, 8, 40])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 130), (130, 250), (257, 129)])
def test_fp8_of_any_size(rows: int, n: int, k: int, gated: bool) -> None:
    generator = torch.Generator().manual_seed(n + k)
    n = 2 * n if gated else n
    codes = (torch.randn(3, n, k, generator=generator) * 100).to(torch.float8_e4m3fn)
    scales = torch.rand(3, -(-n // 128), -(-k // 128), generator=generator) / 100 / k**0.5
    weight = codes.double() * scales.double().repeat_interleave(128, 1)[:, :n].repeat_interleave(128, 2)[:, :, :k]
    x, offsets = torch.randn(rows, k, generator=generator), [0, 1, 1, rows]
    result = un.ops.grouped_linear(
        x, quant.from_fp8_blocks(codes, scales), torch.tensor(offsets, dtype=torch.int32), gated=gated
    )
    assert_close(result, expected(x, weight, offsets, gated), "fp8", True)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(quant.KINDS),
    st.lists(st.sampled_from([0, 0, 1, 2, 5, 17, 70]), min_size=3, max_size=3),
    st.booleans(),
)
def test_any_lengths(kind: str, lengths: list[int], is_gathered: bool) -> None:
    offsets = [0, lengths[0], lengths[0] + lengths[1], sum(lengths)]
    x, weight = inputs(max(1, offsets[-1]), 3, 16, 32, torch.float32)
    matrix, bounds = quant.quantize_weight(weight, kind), torch.tensor(offsets, dtype=torch.int32)
    source, rows, more = x[: offsets[-1]], x[: offsets[-1]], {}
    if is_gathered:
        gather = torch.randint(0, 2 * x.shape[0], (offsets[-1],), dtype=torch.int32)
        source, rows, more = x, x[gather // 2], {"gather": gather, "per_gather": 2}
    result = un.ops.grouped_linear(source, matrix, bounds, **more)
    assert_close(result, expected(rows, numbers(matrix), offsets, False), kind, True)


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("rows", [6, 90])
def test_what_lies_outside_is_not_followed_and_rows_of_no_group_are_zeros(kind: str, rows: int) -> None:
    x, weight = inputs(rows, 2, 16, 32, torch.float32)
    matrix = quant.quantize_weight(weight, kind)
    x[4:] = math.nan
    result = un.ops.grouped_linear(x, matrix, torch.tensor([0, 1, 4], dtype=torch.int32))
    assert_close(result[:4], expected(x[:4], numbers(matrix), [0, 1, 4], False), kind, True)
    assert result[4:].abs().max() == 0.0
    for offsets in ([-5, 2**31 - 1, 7], [2**31 - 1, -(2**31), 3], [-1, -1, -1]):
        assert un.ops.grouped_linear(x, matrix, torch.tensor(offsets, dtype=torch.int32)).shape == (rows, 16)
    gather = torch.tensor([-(2**31), 0, 2, 2**31 - 1], dtype=torch.int32)
    result = un.ops.grouped_linear(x[:4], matrix, torch.tensor([0, 2, 4], dtype=torch.int32), gather=gather)
    assert_close(result, expected(x[[0, 0, 2, 3]], numbers(matrix), [0, 2, 4], False), kind, True)


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("counts", [[0, 3, 20], [-4, 2, 99]])
def test_the_first_rows_of_each_group_count(kind: str, counts: list[int], gated: bool) -> None:
    x, weight = inputs(60, 3, 32, 64, torch.float32)
    matrix, x = quant.quantize_weight(weight, kind), x.reshape(3, 20, 64)
    kept = [min(max(count, 0), 20) for count in counts]
    for group, count in enumerate(kept):
        x[group, count:] = math.nan
    result = un.ops.grouped_linear(x, matrix, counts=torch.tensor(counts, dtype=torch.int32), gated=gated)
    assert result.shape == (3, 20, 16 if gated else 32)
    for group, count in enumerate(kept):
        wanted = expected(x[group, :count], numbers(matrix)[group : group + 1], [0, count], gated)
        assert_close(result[group, :count], wanted, kind, True)
        assert not result[group, count:].any()


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("rows", [4, 80])
def test_infinity_and_nan_stay_in_their_rows(kind: str, rows: int) -> None:
    x, weight = inputs(rows, 2, 16, 32, torch.float32)
    x[0, 3], x[2, 5] = math.nan, math.inf
    matrix = quant.quantize_weight(weight, kind)
    result = un.ops.grouped_linear(x, matrix, torch.tensor([0, 1, rows], dtype=torch.int32))
    assert not result[[0, 2]].isfinite().any()
    assert result[1].isfinite().all()
    assert result[3:].isfinite().all()


@pytest.mark.parametrize("kind", quant.KINDS)
def test_a_scale_that_is_no_number_spoils_no_row_of_another_group(kind: str) -> None:
    x, weight = inputs(12, 3, 64, 32, torch.float32)
    weight[1, 0, 0] = math.nan
    matrix = quant.quantize_weight(weight, kind)
    x3, counts = x.reshape(3, 4, 32), torch.tensor([4, 2, 0], dtype=torch.int32)
    result = un.ops.grouped_linear(x3, matrix, counts=counts)
    assert result[1, :2, 0].isnan().all()
    assert not result[1, 2:].any()
    result = un.ops.grouped_linear(x, matrix, torch.tensor([0, 4, 6, 10], dtype=torch.int32))
    assert result[4:6, 0].isnan().all()
    assert result[[*range(4), *range(6, 12)]].isfinite().all()


@pytest.mark.parametrize("kind", quant.KINDS)
def test_nothing_to_do(kind: str) -> None:
    offsets, matrix = torch.zeros(3, dtype=torch.int32), quant.quantize_weight(torch.ones(2, 6, 32), kind)
    assert un.ops.grouped_linear(torch.ones(0, 32), matrix, offsets).shape == (0, 6)
    assert un.ops.grouped_linear(torch.ones(2, 0, 32), matrix, counts=offsets[:2], gated=True).shape == (2, 0, 3)
    empty = quant.quantize_weight(torch.ones(2, 0, 32), kind)
    assert un.ops.grouped_linear(torch.ones(5, 32), empty, offsets, gated=True).shape == (5, 0)
    none = quant.quantize_weight(torch.ones(2, 6, 0), kind)
    assert not un.ops.grouped_linear(torch.ones(5, 0), none, offsets).any()


def test_what_does_not_fit_is_refused() -> None:
    x, offsets = torch.ones(4, 64), torch.zeros(3, dtype=torch.int32)
    with pytest.raises(un.errors.ShapeError, match=r"\[6, 64\] and \[4, 64\]"):
        un.ops.grouped_linear(x, quant.quantize_weight(torch.ones(6, 64), "int8"), offsets)
    with pytest.raises(un.errors.ShapeError, match=r"\[2, 6, 32\] and \[4, 64\]"):
        un.ops.grouped_linear(x, quant.quantize_weight(torch.ones(2, 6, 32), "fp8"), offsets)
    with pytest.raises(un.errors.ShapeError, match="even n"):
        un.ops.grouped_linear(x, quant.quantize_weight(torch.ones(2, 5, 64), "int4"), offsets, gated=True)


CODES = [("int8", "int8"), ("int4", "int8"), ("fp8", "fp8")]


def assert_of_codes(
    result: torch.Tensor, x: torch.Tensor, matrix: quant.QuantizedMatrix, offsets: list[int], gated: bool, kind: str
) -> None:
    """That it is the product with codes that torch makes of x."""
    made, weight = coded(x, kind), numbers(matrix)
    for group, (first, last) in enumerate(itertools.pairwise(offsets)):
        wanted, bound = product(weight[group], *(part[first:last] for part in made))
        if gated:
            wanted, bound = silu_gated(wanted, bound)
        error = (result[first:last].double() - wanted).abs()
        assert (error <= bound + wanted.abs() * torch.finfo(result.dtype).eps).all()


# As above, and two groups that are large enough for tiles where bytes are slow.
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("multiplies", ["bytes", "floats"])
@pytest.mark.parametrize(("kind", "activations"), CODES)
@pytest.mark.parametrize(
    ("offsets", "n", "k"),
    [
        ([0, 1, 1, 2, 4], 64, 128),
        ([0, 1, 4, 4, 9], 200, 96),
        ([0, 0, 0, 13, 13], 33, 160),
        ([0, 80, 280, 280, 281], 130, 320),
    ],
)
def test_codes_are_multiplied_with_codes(
    monkeypatch: pytest.MonkeyPatch, kind: str, activations: str, offsets: list[int], n: int, k: int, gated: bool,
    multiplies: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("unify.ops.quantized_linear._has_byte_products", lambda: multiplies == "bytes")
    x, weight = inputs(offsets[-1], 4, 2 * n if gated else n, k, torch.float32)
    matrix, bounds = quant.quantize_weight(weight, kind), torch.tensor(offsets, dtype=torch.int32)
    result = un.ops.grouped_linear(x, matrix, bounds, gated=gated, activations=activations)
    assert_of_codes(result, x, matrix, offsets, gated, activations)
    made = quant.quantize(x, activations)
    of_codes = un.ops.grouped_linear(made, matrix, bounds, gated=gated)
    assert torch.equal(torch.from_dlpack(of_codes), result)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "activations"), CODES)
def test_products_of_codes_have_the_dtype_of_what_was_quantised(
    kind: str, activations: str, dtype: torch.dtype
) -> None:
    x, weight = inputs(9, 3, 70, 288, dtype)
    matrix, offsets = quant.quantize_weight(weight, kind), [0, 2, 2, 9]
    result = un.ops.grouped_linear(x, matrix, torch.tensor(offsets, dtype=torch.int32), activations=activations)
    assert result.dtype == dtype
    assert_of_codes(result, x, matrix, offsets, False, activations)
    exact = expected(x, numbers(matrix), offsets, False)
    # A code errs by up to half a step, errors add up like a root only.
    assert (result.double() - exact).square().mean() < 0.05**2 * exact.square().mean()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(CODES),
    st.lists(st.sampled_from([0, 0, 1, 2, 5, 17, 70]), min_size=3, max_size=3),
    st.sampled_from(["in order", "gathered", "masked"]),
    st.booleans(),
)
def test_codes_of_any_lengths(kinds: tuple[str, str], lengths: list[int], how: str, gated: bool) -> None:
    offsets, (kind, activations) = [0, lengths[0], lengths[0] + lengths[1], sum(lengths)], kinds
    x, weight = inputs(max(1, offsets[-1]), 3, 16, 32, torch.float32)
    matrix = quant.quantize_weight(weight, kind)
    source, rows, more = x[: offsets[-1]], x[: offsets[-1]], {"offsets": torch.tensor(offsets, dtype=torch.int32)}
    if how == "gathered":
        gather = torch.randint(0, 2 * x.shape[0], (offsets[-1],), dtype=torch.int32)
        source, rows, more = x, x[gather // 2], {**more, "gather": gather, "per_gather": 2}
    elif how == "masked":
        source = torch.full((3, max(lengths) + 1, 32), math.nan)
        for group, length in enumerate(lengths):
            source[group, :length] = x[offsets[group] : offsets[group + 1]]
        more = {"counts": torch.tensor(lengths, dtype=torch.int32)}
    result = un.ops.grouped_linear(source, matrix, **more, gated=gated, activations=activations)
    if how == "masked":
        made = quant.quantize(source.reshape(-1, 32), activations)
        assert torch.equal(torch.from_dlpack(un.ops.grouped_linear(made, matrix, **more, gated=gated)), result)
        assert not any(result[group, length:].any() for group, length in enumerate(lengths))
        result = torch.cat([result[group, :length] for group, length in enumerate(lengths)])
    assert_of_codes(result, rows, matrix, offsets, gated, activations)


@pytest.mark.parametrize(("kind", "activations"), CODES)
@pytest.mark.parametrize("rows", [4, 200])
@pytest.mark.parametrize("multiplies", ["bytes", "floats"])
def test_codes_of_no_number_stay_in_their_rows(
    monkeypatch: pytest.MonkeyPatch, kind: str, activations: str, rows: int, multiplies: str
) -> None:
    monkeypatch.setattr("unify.ops.quantized_linear._has_byte_products", lambda: multiplies == "bytes")
    x, weight = inputs(rows, 2, 16, 32, torch.float32)
    x[0, 3], x[2, 5] = math.nan, math.inf
    matrix, offsets = quant.quantize_weight(weight, kind), torch.tensor([0, 1, rows], dtype=torch.int32)
    result = un.ops.grouped_linear(x, matrix, offsets, activations=activations)
    assert result[[0, 2]].isnan().all()
    assert result[[1, *range(3, rows)]].isfinite().all()


@pytest.mark.parametrize(("kind", "activations"), CODES)
def test_codes_lead_nowhere_outside(kind: str, activations: str) -> None:
    x, weight = inputs(6, 2, 16, 32, torch.float32)
    made, matrix = quant.quantize(x, activations), quant.quantize_weight(weight, kind)
    for offsets in ([-5, 2**31 - 1, 7], [2**31 - 1, -(2**31), 3], [-1, -1, -1]):
        assert un.ops.grouped_linear(made, matrix, torch.tensor(offsets, dtype=torch.int32)).shape == (6, 16)
    gather = torch.tensor([-(2**31), 0, 2, 2**31 - 1], dtype=torch.int32)
    result = un.ops.grouped_linear(made, matrix, torch.tensor([0, 2, 4], dtype=torch.int32), gather=gather)
    assert_of_codes(torch.from_dlpack(result), x[[0, 0, 2, 5]], matrix, [0, 2, 4], False, activations)


@pytest.mark.parametrize(("kind", "activations"), CODES)
def test_no_rows_of_codes(kind: str, activations: str) -> None:
    offsets, matrix = torch.zeros(3, dtype=torch.int32), quant.quantize_weight(torch.ones(2, 6, 32), kind)
    assert un.ops.grouped_linear(torch.ones(0, 32), matrix, offsets, activations=activations).shape == (0, 6)
    made = quant.quantize(torch.ones(0, 32), activations)
    assert un.ops.grouped_linear(made, matrix, counts=offsets[:2], gated=True).shape == (2, 0, 3)


def test_a_matrix_says_what_its_rows_become() -> None:
    x, weight = inputs(5, 2, 16, 32, torch.float32)
    offsets = torch.tensor([0, 2, 5], dtype=torch.int32)
    matrix = quant.quantize_weight(weight, "int8")
    told = dataclasses.replace(matrix, activations="int8")
    wanted = un.ops.grouped_linear(x, matrix, offsets, activations="int8")
    assert torch.equal(un.ops.grouped_linear(x, told, offsets), wanted)
    assert torch.equal(un.ops.linear(x[:2], told[0]), wanted[:2])
    assert not torch.equal(un.ops.grouped_linear(x, matrix, offsets), wanted)


@pytest.mark.parametrize(
    ("kind", "activations"), [("int8", "fp8"), ("fp8", "int8"), (None, "int8"), ("int8", "int16"), ("int8", "int3")]
)
def test_activations_that_no_product_takes_are_refused(kind: str | None, activations: str) -> None:
    x, weight, offsets = torch.ones(2, 64), torch.ones(2, 8, 64), torch.zeros(3, dtype=torch.int32)
    matrix = weight if kind is None else quant.quantize_weight(weight, kind)
    with pytest.raises(un.errors.InvalidArgument, match="grouped_linear: activations"):
        un.ops.grouped_linear(x, matrix, offsets, activations=activations)
    if activations != "int3":
        with pytest.raises(un.errors.InvalidArgument, match=f"grouped_linear: .*activations in {activations}"):
            un.ops.grouped_linear(quant.quantize(x, activations), matrix, offsets)


def test_codes_that_do_not_fit_are_refused() -> None:
    made, matrix = quant.quantize(torch.ones(5, 64), "int8"), quant.quantize_weight(torch.ones(2, 8, 64), "int8")
    with pytest.raises(un.errors.ShapeError, match=r"x must be \[2 · capacity, k\]; it is \[5, 64\]"):
        un.ops.grouped_linear(made, matrix, counts=torch.zeros(2, dtype=torch.int32))
    with pytest.raises(un.errors.InvalidArgument, match="x's kind if it is quantised; it is 'fp8'"):
        un.ops.grouped_linear(made, matrix, torch.zeros(3, dtype=torch.int32), activations="fp8")
