"""SwiGLU against torch."""

from __future__ import annotations

import pytest
import torch

import unify as un


@pytest.mark.parametrize("shape", [(1, 1), (3, 1500), (2, 5, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matches_silu_times_up(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    gate = (4 * torch.randn(*shape, generator=generator)).to(dtype)
    up = torch.randn(*shape, generator=generator).to(dtype)
    expected = torch.nn.functional.silu(gate.double()) * up.double()
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(un.ops.swiglu(gate, up).double(), expected, rtol=tolerance, atol=tolerance)


def test_halves_of_one_array_need_no_copy() -> None:
    both = torch.randn(7, 128)
    gate, up = both[:, :64], both[:, 64:]
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(un.ops.swiglu(gate, up), expected, rtol=1e-6, atol=1e-6)


def test_large_inputs_do_not_overflow() -> None:
    gate = torch.tensor([[-1000.0, 1000.0, -88.0, 88.0]])
    result = un.ops.swiglu(gate, torch.ones(1, 4))
    torch.testing.assert_close(result, torch.nn.functional.silu(gate), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 3, 0)])
def test_no_elements_are_no_work(shape: tuple[int, ...]) -> None:
    assert un.ops.swiglu(torch.ones(shape), torch.ones(shape)).shape == shape


def test_different_shapes_are_refused() -> None:
    with pytest.raises(un.errors.ShapeError, match=r"\[2, 8\].*\[2, 4\]"):
        un.ops.swiglu(torch.ones(2, 8), torch.ones(2, 4))
