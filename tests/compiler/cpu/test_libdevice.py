"""Functions of tl.extra.libdevice against SciPy and NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as named

import unify
from unify.errors import CompileError

special = pytest.importorskip("scipy.special")


@unify.jit
def unary_kernel(x, out, F: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, F(tl.load(x + i)))


UNARY = {
    "erfinv": (special.erfinv, -0.999, 0.999), "erfcx": (special.erfcx, -3, 30), "cyl_bessel_i0": (special.i0, -20, 20),
    "cyl_bessel_i1": (special.i1, -20, 20), "j0": (special.j0, 0, 20), "y1": (special.y1, 0.5, 20),
    "lgamma": (special.gammaln, 0.1, 30), "expm1": (np.expm1, -3, 3), "log1p": (np.log1p, -0.9, 5),
    "tanh": (np.tanh, -4, 4), "asinh": (np.arcsinh, -9, 9), "tan": (np.tan, -1.5, 1.5),
    "rsqrt": (lambda x: x**-0.5, 0.01, 9),
    "normcdf": (special.ndtr, -4, 4), "sinpi": (lambda x: np.sin(np.pi * x), -2, 2), "cbrt": (np.cbrt, -9, 9),
    "exp10": (lambda x: 10.0**x, -5, 5), "fast_sinf": (np.sin, -3, 3), "nearbyint": (np.rint, -9, 9),
    "logb": (lambda x: np.floor(np.log2(np.abs(x))), 0.1, 9), "saturatef": (lambda x: np.clip(x, 0, 1), -2, 2),
}  # fmt: skip
ONLY_FLOAT = {"fast_sinf", "saturatef"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str, dtype: torch.dtype) -> None:
    if name in ONLY_FLOAT and dtype == torch.float64:
        name = {"fast_sinf": "sin", "saturatef": "trunc"}[name]
    reference, low, high = UNARY.get(name, (np.trunc if name == "trunc" else np.sin, -3, 3))
    x = torch.linspace(low, high, 1024, dtype=dtype)
    out = torch.empty_like(x)
    unary_kernel[(1,)](x, out, F=getattr(named, name), N=1024)
    expected = reference(x.double().numpy())
    # The Bessel polynomials of Abramowitz & Stegun are good to 2e-7; float's argument alone costs several ulp.
    tolerance = 3e-6 if dtype == torch.float32 or "bessel" in name else 1e-11
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=tolerance, atol=tolerance)


@unify.jit
def predicate_kernel(x, out, F: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, F(tl.load(x + i)).to(tl.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "reference"), [("isnan", np.isnan), ("isinf", np.isinf), ("signbit", np.signbit)])
def test_predicates(name: str, reference: np.ufunc, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), 1e-40], dtype=dtype)
    out = torch.empty(8, dtype=torch.int32)
    predicate_kernel[(1,)](x, out, F=getattr(named, name), N=8)
    np.testing.assert_array_equal(out.numpy() != 0, reference(x.numpy()))


@unify.jit
def refused_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, libdevice.add_rz(tl.load(x + i), 1.0))


def test_another_rounding_mode_is_refused_by_name_and_line() -> None:
    x = torch.zeros(16)
    with pytest.raises(CompileError, match=r"test_libdevice\.py:\d+: .*libdevice's fadd_rz"):
        refused_kernel[(1,)](x, x, N=16)
