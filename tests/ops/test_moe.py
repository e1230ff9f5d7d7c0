"""A layer of experts against a loop over tokens and their experts in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un
from unify.ops import quant

from .plain_codes import coded, product, silu_gated
from .test_quantized_grouped_linear import CODES
from .test_quantized_linear import numbers

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EXPERTS, D, F = 6, 96, 48


def expected(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token, (row, experts) in enumerate(zip(x.double(), ids.tolist())):
        for weight, expert in zip(weights[token].double(), experts):
            if 0 <= expert < gate_up.shape[0]:
                gate, up = (gate_up[expert].double() @ row).chunk(2)
                out[token] += weight * (down[expert].double() @ (torch.nn.functional.silu(gate) * up))
    return out


def layer(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    gate_up = torch.randn(EXPERTS, 2 * F, D, generator=generator) / D**0.5
    return gate_up.to(dtype), (torch.randn(EXPERTS, D, F, generator=generator) / F**0.5).to(dtype)


def tokens(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(count)).to(dtype)


def assert_close(result: torch.Tensor, wanted: torch.Tensor) -> None:
    # What the gate gives and what the expert gives are rounded to the dtype, and so is the sum.
    bound = 8 * max(torch.finfo(result.dtype).eps, 1e-6)
    torch.testing.assert_close(result.double(), wanted, rtol=bound, atol=bound)


# One and two tokens read weights for each assignment, some more sum in registers, many go through tiles.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_a_layer_of_routed_tokens(count: int, dtype: torch.dtype) -> None:
    x, (gate_up, down) = tokens(count, dtype), layer(dtype)
    weights, ids = un.ops.route(tokens(count)[:, :EXPERTS], 3)
    result = un.ops.moe(x, weights, ids, gate_up, down)
    assert result.dtype == dtype
    assert_close(result, expected(x, weights, ids, gate_up, down))


# One token, two, some and many; an expert that does not exist, and all tokens with one.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kinds", [("fp8", "fp8"), ("int8", "int8"), ("int4", "int4"), ("fp8", "int8"), ("int4", None)])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_a_layer_of_quantised_experts(count: int, kinds: tuple[str, str | None], dtype: torch.dtype) -> None:
    x, (gate_up, down) = tokens(count, dtype), layer(dtype)
    down = torch.nn.functional.pad(down, (0, 16))  # as many inputs as two blocks have
    gate, up = gate_up.chunk(2, 1)
    gate_up = torch.cat([torch.nn.functional.pad(half, (0, 0, 0, 16)) for half in (gate, up)], 1)
    matrices = [weight if kind is None else quant.quantize_weight(weight, kind)
                for weight, kind in zip((gate_up, down), kinds, strict=True)]  # fmt: skip
    dense = [matrix.double() if isinstance(matrix, torch.Tensor) else numbers(matrix) for matrix in matrices]
    weights, ids = un.ops.route(tokens(count)[:, :EXPERTS], 3)
    ids[:1, 0] = -1
    for chosen in (ids, torch.full_like(ids, 4)):
        result = un.ops.moe(x, weights, chosen, *matrices, residual=x)
        assert result.dtype == dtype
        wanted = expected(x, weights, chosen, *dense) + x.double()
        # Beside the roundings of dense weights: an activation errs by 2^-16 of the largest in its block, about 3.
        bound = 8 * max(torch.finfo(dtype).eps, 3 * 2.0**-16)
        torch.testing.assert_close(result.double(), wanted, rtol=bound, atol=bound)


def quantised(kind: str) -> tuple[quant.QuantizedMatrix, quant.QuantizedMatrix]:
    """The layer with as many features inside as two blocks have."""
    gate_up, down = layer()
    gate, up = gate_up.chunk(2, 1)
    gate_up = torch.cat([torch.nn.functional.pad(half, (0, 0, 0, 16)) for half in (gate, up)], 1)
    return quant.quantize_weight(gate_up, kind), quant.quantize_weight(torch.nn.functional.pad(down, (0, 16)), kind)


def of_codes(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer with what is multiplied as codes, and by how much a right result can differ."""
    out, bound = torch.zeros(2, *x.shape, dtype=torch.float64)
    eps = torch.finfo(x.dtype).eps
    for token, experts in enumerate(ids.tolist()):
        for weight, expert in zip(weights[token].double(), experts):
            if not 0 <= expert < len(gate_up):
                continue
            hidden, moved = silu_gated(*product(gate_up[expert], *coded(x[token], kind)))
            rounded = hidden.to(x.dtype).double()
            ends = [((hidden + by).to(x.dtype).double() - rounded).abs() for by in (moved, -moved)]
            part, moved = product(down[expert], *coded(rounded, kind, torch.maximum(*ends)))
            out[token] += weight * part
            bound[token] += weight.abs() * (moved + part.abs() * eps)
    return out, bound + out.abs() * eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "activations"), CODES)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_activations_become_codes_before_each_product(
    count: int, kind: str, activations: str, dtype: torch.dtype
) -> None:
    x, matrices = tokens(count, dtype), quantised(kind)
    dense = [numbers(matrix) for matrix in matrices]
    weights, ids = un.ops.route(tokens(count)[:, :EXPERTS], 3)
    for chosen in (ids, torch.full_like(ids, 4)):
        result = un.ops.moe(x, weights, chosen, *matrices, residual=x, activations=activations)
        assert result.dtype == dtype
        wanted, bound = of_codes(x, weights, chosen, *dense, activations)
        error = (result.double() - x.double() - wanted).abs()
        assert (error <= bound + (wanted.abs() + x.double().abs()) * torch.finfo(dtype).eps).all()
        if count and dtype == torch.float32:  # else the dtype's rounding is not far below that of the codes
            of_floats = (expected(x, weights, chosen, *dense) - wanted).abs()
            assert error.mean() < 0.05 * of_floats.mean()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_assignment_of_codes_is_what_the_parts_give(data: st.DataObject) -> None:
    count, slots = data.draw(st.sampled_from([1, 2, 3, 9, 40])), data.draw(st.integers(1, 2))
    kind, activations = data.draw(st.sampled_from(CODES))
    number = st.integers(0, EXPERTS - 1) | st.sampled_from([-1, EXPERTS, 2**31 - 1, -(2**31)])
    if data.draw(st.booleans()):
        number = st.just(data.draw(st.integers(0, EXPERTS - 1)))  # all to one expert
    ids = torch.tensor(data.draw(st.lists(number, min_size=count * slots, max_size=count * slots)), dtype=torch.int32)
    ids, x, (gate_up, down) = ids.reshape(count, slots), tokens(count), quantised(kind)
    weights = torch.rand(count, slots, generator=torch.Generator().manual_seed(count))
    result = un.ops.moe(x, weights, ids, gate_up, down, activations=activations)
    wanted, bound = of_codes(x, weights, ids, numbers(gate_up), numbers(down), activations)
    assert ((result - wanted).abs() <= bound).all()
    order = un.ops.permute(ids, EXPERTS)
    hidden = un.ops.grouped_linear(
        x, gate_up, order.offsets, gather=order.tokens, per_gather=slots, gated=True, activations=activations
    )
    parts = un.ops.grouped_linear(hidden, down, order.offsets, activations=activations)
    # Of few tokens each has sums of its own, in another order: a code may be the next one, in fp8 an eighth away.
    bound = 0.0 if count > 2 else 0.02 if activations == "int8" else 0.2
    torch.testing.assert_close(result, un.ops.combine(parts, order.places, weights), rtol=0.0, atol=bound)
    made = quant.quantize(x, activations)
    assert torch.equal(torch.from_dlpack(un.ops.moe(made, weights, ids, gate_up, down)), result)


@pytest.mark.parametrize(("kind", "activations"), CODES)
@pytest.mark.parametrize("count", [2, 5, 64])
def test_codes_of_no_number_stay_with_their_tokens(count: int, kind: str, activations: str) -> None:
    x, matrices = tokens(count), quantised(kind)
    weights, ids = un.ops.route(torch.zeros(count, EXPERTS), 2)
    wanted = un.ops.moe(x, weights, ids, *matrices, activations=activations)
    x[0, 7] = math.nan
    result = un.ops.moe(x, weights, ids, *matrices, activations=activations)
    assert result[0].isnan().all()
    assert torch.equal(result[1:], wanted[1:])


def test_activations_that_do_not_go_with_the_weights_are_refused() -> None:
    x, dense, (gate_up, down) = tokens(2), layer(), quantised("int8")
    weights, ids = torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.int32)
    with pytest.raises(un.errors.InvalidArgument, match="moe: activations in fp8 go with a gate_up in fp8; .* int8"):
        un.ops.moe(x, weights, ids, gate_up, down, activations="fp8")
    with pytest.raises(un.errors.InvalidArgument, match="moe: activations in int8 go with a down in blocks.* dense"):
        un.ops.moe(x, weights, ids, gate_up, torch.nn.functional.pad(dense[1], (0, 16)), activations="int8")
    with pytest.raises(un.errors.InvalidArgument, match="moe: activations must be 'int8', 'fp8' or None.* 'int4'"):
        un.ops.moe(x, weights, ids, gate_up, down, activations="int4")
    with pytest.raises(un.errors.InvalidArgument, match="moe: x has activations in int16; known are int8, fp8"):
        un.ops.moe(quant.quantize(x), weights, ids, gate_up, down)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_assignment(data: st.DataObject) -> None:
    count, slots = data.draw(st.sampled_from([1, 2, 3, 9, 40])), data.draw(st.integers(1, 2))
    number = st.integers(0, EXPERTS - 1) | st.sampled_from([-1, EXPERTS, 2**31 - 1, -(2**31)])
    if data.draw(st.booleans()):
        number = st.just(data.draw(st.integers(0, EXPERTS - 1)))  # all to one expert
    ids = torch.tensor(data.draw(st.lists(number, min_size=count * slots, max_size=count * slots)), dtype=torch.int32)
    ids, x, (gate_up, down) = ids.reshape(count, slots), tokens(count), layer()
    weights = torch.rand(count, slots, generator=torch.Generator().manual_seed(count))
    assert_close(un.ops.moe(x, weights, ids, gate_up, down), expected(x, weights, ids, gate_up, down))


@pytest.mark.parametrize("count", [1, 5, 64])
def test_the_residual_is_added(count: int) -> None:
    x, (gate_up, down) = tokens(count), layer()
    residual = torch.randn(2 * count, 2 * D, generator=torch.Generator().manual_seed(1))[::2, :D]
    weights, ids = un.ops.route(x[:, :EXPERTS], 2)
    result = un.ops.moe(x, weights, ids, gate_up, down, residual=residual)
    assert_close(result, expected(x, weights, ids, gate_up, down) + residual.double())


@pytest.mark.parametrize("count", [2, 5, 64])
def test_infinity_and_nan_stay_with_their_tokens(count: int) -> None:
    x, (gate_up, down) = tokens(count), layer()
    x[0, 7] = math.nan
    weights, ids = un.ops.route(torch.zeros(count, EXPERTS), 2)
    result = un.ops.moe(x, weights, ids, gate_up, down)
    assert result[0].isnan().all()
    assert_close(result[1:], expected(x[1:], weights[1:], ids[1:], gate_up, down))
    weights[1, 0] = math.nan
    result = un.ops.moe(x, weights, ids, gate_up, down)
    assert result[1].isnan().all()
    assert result[2:].isfinite().all()


@pytest.mark.parametrize("missing", [-1, EXPERTS, 2**31 - 1])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_expert_that_does_not_exist_adds_nothing_whatever_its_weight(count: int, missing: int) -> None:
    x, (gate_up, down) = tokens(count), layer()
    weights, ids = un.ops.route(x[:, :EXPERTS], 2)
    ids[0, 1] = missing
    wanted = expected(x, weights, ids, gate_up, down)
    for strange in (math.nan, math.inf):
        weights[0, 1] = strange
        assert_close(un.ops.moe(x, weights, ids, gate_up, down), wanted)


def test_equal_inputs_give_equal_results() -> None:
    x, (gate_up, down) = tokens(200, torch.bfloat16), layer(torch.bfloat16)
    weights, ids = un.ops.route(tokens(200)[:, :EXPERTS], 3)
    first = un.ops.moe(x, weights, ids, gate_up, down)
    for _ in range(5):
        assert torch.equal(un.ops.moe(x, weights, ids, gate_up, down), first)


def test_its_parts_make_the_layer_and_capacity_drops_the_late() -> None:
    x, (gate_up, down) = tokens(64), layer()
    weights, ids = un.ops.route(x[:, :EXPERTS], 2)
    order = un.ops.permute(ids, EXPERTS, capacity=10)
    hidden = un.ops.grouped_linear(x, gate_up, order.offsets, gather=order.tokens, per_gather=2, gated=True)
    result = un.ops.combine(un.ops.grouped_linear(hidden, down, order.offsets), order.places, weights)
    seen = dict.fromkeys(range(EXPERTS), 0)
    kept = ids.clone()
    for token, experts in enumerate(ids.tolist()):
        for slot, expert in enumerate(experts):
            seen[expert] += 1
            kept[token, slot] = expert if seen[expert] <= 10 else -1
    assert (kept < 0).any()
    assert_close(result, expected(x, weights, kept, gate_up, down))


def test_arrays_of_numpy() -> None:
    x, (gate_up, down) = tokens(3), layer()
    weights, ids = un.ops.route(x[:, :EXPERTS].numpy(), 2)
    result = un.ops.moe(x.numpy(), weights, ids, gate_up.numpy(), down.numpy())
    assert isinstance(result, np.ndarray)
    assert_close(torch.from_numpy(result), expected(x, torch.from_numpy(weights), torch.from_numpy(ids), gate_up, down))


def test_combine_skips_places_that_are_not_there() -> None:
    y = torch.randn(7, 1100, generator=torch.Generator().manual_seed(2))
    places = torch.tensor([[0, 6, -1], [7, -(2**31), 2**31 - 1], [3, 3, 3]], dtype=torch.int32)
    weights = torch.tensor([[1.0, 2.0, math.nan], [math.nan, 1.0, 1.0], [1.0, -1.0, 0.5]])
    result = un.ops.combine(y, places, weights, residual=torch.ones(3, 1100))
    wanted = torch.stack([y[0] + 2 * y[6], torch.zeros(1100), y[3] / 2]) + 1
    torch.testing.assert_close(result, wanted)
    assert un.ops.combine(y[:0], places, weights).abs().max() == 0.0


def test_what_does_not_fit_is_refused() -> None:
    x, (gate_up, down) = tokens(2), layer()
    weights, ids = torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.int32)
    with pytest.raises(un.errors.ShapeError, match=r"gate_up must be \[experts, 2f, 96\]"):
        un.ops.moe(x, weights, ids, gate_up[:, 1:], down)
    with pytest.raises(un.errors.ShapeError, match=r"weights must be \[2, 2\]"):
        un.ops.moe(x, weights[:1], ids, gate_up, down)
    with pytest.raises(un.errors.ShapeError, match="x must be"):
        un.ops.moe(x[:1], weights, ids, gate_up, down)
    with pytest.raises(un.errors.ShapeError, match=r"residual must be \[2, 96\]"):
        un.ops.moe(x, weights, ids, gate_up, down, residual=x[:1])
    with pytest.raises(un.errors.ShapeError, match="there must be an expert"):
        un.ops.moe(x, weights, ids, gate_up[:0], down[:0])
    with pytest.raises(un.errors.DTypeError, match="down"):
        un.ops.moe(x, weights, ids, gate_up, down.half())
    with pytest.raises(un.errors.DTypeError, match="ids"):
        un.ops.moe(x, weights, ids.long(), gate_up, down)
    with pytest.raises(un.errors.ShapeError, match="combine: y must be"):
        un.ops.combine(x[0], ids, weights)
