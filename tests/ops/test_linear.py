"""Products against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un


def rounding(dtype: torch.dtype, k: int) -> float:
    # Inputs are exact; the float32 sum of k products errs by about sqrt(k) ulp, the result is rounded once.
    return torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * 4 * k**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        (1, 100, 160),
        (1, 9, 33),
        (2, 64, 48),
        (2, 100, 33),
        (3, 7, 33),
        (4, 64, 96),
        (5, 64, 64),
        (70, 130, 100),
        (128, 96, 576),
    ],
)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_products_matches_float64(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(7, 3, 40, generator=generator).to(dtype).transpose(0, 1)  # as heads of tokens are
    b = torch.randn(3, 40, 70, generator=generator).to(dtype)
    bound = rounding(dtype, 40)
    for right in (b, b.mT.contiguous().mT):
        expected = a.double() @ b.double()
        torch.testing.assert_close(un.ops.matmul(a, right).double(), expected, rtol=bound, atol=bound * 40**0.5)
    assert un.ops.matmul(a[:0], b[:0]).shape == (0, 7, 70)


@pytest.mark.parametrize(("a", "b"), [((3, 2, 4), (2, 4, 5)), ((3, 2, 4), (4, 5)), ((2, 4), (3, 5)), ((4,), (4, 5))])
def test_products_whose_shapes_do_not_meet_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(un.errors.ShapeError, match="or both with a batch in front"):
        un.ops.matmul(torch.ones(a), torch.ones(b))


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


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    batch=st.integers(0, 3), m=st.integers(0, 20), n=st.integers(0, 20), k=st.integers(0, 40), is_one=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]), strange=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
)  # fmt: skip
def test_any_batch_of_products(
    batch: int, m: int, n: int, k: int, is_one: bool, dtype: torch.dtype, strange: float
) -> None:
    generator = torch.Generator().manual_seed(m + n + k)
    a = torch.randn(batch, m, k, generator=generator).to(dtype)
    b = torch.randn(batch, k, n, generator=generator).to(dtype)
    if is_one and batch:
        b = b[:1].expand(batch, -1, -1)  # a view without memory of its own
    if batch and m and k:
        a[0, 0, 0] = strange
    bound = rounding(dtype, k)
    wanted = a.double() @ b.double()
    ours = un.ops.matmul(a, b).double()
    torch.testing.assert_close(ours, wanted, rtol=bound, atol=bound * max(1, k) ** 0.5, equal_nan=True)
