"""RMS norm against the formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unify as un


def expected(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    return wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps) * weight.double()


@pytest.mark.parametrize("columns", [1, 16, 100, 576, 1000, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_matches_the_formula_for_any_width(columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(3, 5, columns, generator=generator).to(dtype)
    weight = torch.randn(columns, generator=generator).to(dtype)
    result = un.ops.rms_norm(x, weight, eps=1e-5)
    assert result.dtype == dtype
    tolerance = 2 * torch.finfo(dtype).eps  # one rounding of the result, and the float32 sum
    torch.testing.assert_close(result.double(), expected(x, weight, 1e-5), rtol=tolerance, atol=tolerance)


def test_returns_the_kind_it_was_given() -> None:
    x, weight = np.ones((2, 32), np.float32), np.ones(32, np.float32)
    assert isinstance(un.ops.rms_norm(x, weight), np.ndarray)
    assert isinstance(un.ops.rms_norm(torch.from_numpy(x), torch.from_numpy(weight)), torch.Tensor)
    assert isinstance(un.ops.rms_norm(un.asarray(x), un.asarray(weight)), un.Tensor)


def test_a_row_of_zeros_stays_finite() -> None:
    result = un.ops.rms_norm(torch.zeros(1, 64), torch.ones(64), eps=1e-6)
    assert torch.equal(result, torch.zeros(1, 64))


def test_writes_into_out() -> None:
    x, weight, out = torch.randn(4, 64), torch.randn(64), torch.empty(4, 64)
    assert un.ops.rms_norm(x, weight, out=out) is out
    torch.testing.assert_close(out.double(), expected(x, weight, 1e-6), rtol=1e-6, atol=1e-6)


def test_out_may_be_x_itself() -> None:
    x, weight = torch.randn(4, 64), torch.randn(64)
    before = x.clone()
    assert un.ops.rms_norm(x, weight, out=x) is x
    torch.testing.assert_close(x.double(), expected(before, weight, 1e-6), rtol=1e-6, atol=1e-6)


def test_out_over_a_part_of_what_is_read_is_refused() -> None:
    memory = torch.randn(8, 64)
    x, weight, before = memory[2:6], torch.randn(64), memory.clone()
    for out in (memory[1:5], memory[3:7], memory.view(-1)[129:385].view(4, 64)):
        with pytest.raises(un.errors.LayoutError, match=r"rms_norm: out overlaps x.*x itself.*memory of its own"):
            un.ops.rms_norm(x, weight, out=out)
    with pytest.raises(un.errors.LayoutError, match="rms_norm: out overlaps weight"):
        un.ops.rms_norm(torch.randn(4, 64), memory[5], out=x)
    assert torch.equal(memory, before)
    for beside in (memory[:2], memory[6:]):
        un.ops.rms_norm(memory[2:4], weight, out=beside)


def test_no_rows_are_no_work() -> None:
    assert un.ops.rms_norm(torch.empty(0, 64), torch.ones(64)).shape == (0, 64)


def test_a_weight_of_another_width_names_both() -> None:
    with pytest.raises(un.errors.ShapeError, match=r"\[64\].*\[32\]"):
        un.ops.rms_norm(torch.ones(2, 64), torch.ones(32))
