"""Numbers of every type at their edges: random ones, the largest, zeros of both signs, NaN. Against NumPy and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from ...compiler.cpu.harness import compile_kernel
from .harness import Emulated

RNG = np.random.default_rng(41)
N = 128
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
TYPES = {**FLOATS, "i1": torch.bool, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
         "u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32, "u64": torch.uint64}  # fmt: skip


def launch(fn: Any, types: dict[str, str], arguments: dict[str, Any], **constants: Any) -> None:
    Emulated(compile_kernel(fn, arguments, constants, types=types)).launch((1,), arguments)


# ---------------------------------------------------------------- integers


@triton.jit
def _integers(x, y, s, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i, mask=i < n, other=0), tl.load(y + i, mask=i < n, other=0)
    by = tl.load(s + i, mask=i < n, other=0)
    tl.store(out + 0 * N + i, a + b)
    tl.store(out + 1 * N + i, a - b)
    tl.store(out + 2 * N + i, a * b)
    tl.store(out + 3 * N + i, a // b)  # with a zero in each lane behind n
    tl.store(out + 4 * N + i, a % b)
    tl.store(out + 5 * N + i, a << by)
    tl.store(out + 6 * N + i, a >> by)
    tl.store(out + 7 * N + i, (a & b) | ~(a ^ b))
    tl.store(out + 8 * N + i, tl.minimum(a, b))
    tl.store(out + 9 * N + i, tl.maximum(a, b))
    tl.store(out + 10 * N + i, tl.where(a < b, a, -b))
    order = (a < b).to(tl.int8) + (a <= b) * 2 + (a > b) * 4 + (a >= b) * 8 + (a == b) * 16 + (a != b) * 32
    tl.store(out + 11 * N + i, order.to(a.dtype))
    tl.store(out + 12 * N + i, tl.abs(a))


def _drawn(dtype: np.dtype, n: int) -> np.ndarray:
    """A third each: the edges of the type, small numbers, all of them."""
    info = np.iinfo(dtype)
    edges = np.array([info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 7], dtype)
    small, large = (
        RNG.integers(low, high, n, dtype, endpoint=True)
        for low, high in ((max(info.min, -20), 20), (info.min, info.max))
    )
    return np.choose(RNG.integers(0, 3, n), [RNG.choice(edges, n), small, large])


def _wrapped(numbers: list[int], dtype: np.dtype) -> np.ndarray:
    return np.array([number % 2 ** (8 * dtype.itemsize) for number in numbers], np.uint64).astype(dtype)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_each_size(name: str) -> None:
    dtype, n = np.dtype(name), N - 5
    x, y, s = _drawn(dtype, n), _drawn(dtype, n), RNG.integers(0, 8 * dtype.itemsize, n).astype(dtype)
    y[y == 0] = 3
    lowest = np.iinfo(dtype).min
    if lowest < 0:
        y[(x == lowest) & (y == -1)] = 3
    out = np.zeros((13, N), dtype)
    types = dict.fromkeys(("x", "y", "s", "out"), "*" + name.replace("uint", "u").replace("int", "i"))
    padded = {key: np.concatenate([v, np.full(5, 99, dtype)]) for key, v in (("x", x), ("y", y), ("s", s))}
    launch(_integers, types, {**padded, "out": out, "n": n}, N=N)
    pairs = [(int(a), int(b)) for a, b in zip(x, y)]
    # Triton's quotient is C's: towards zero, and the remainder has the dividend's sign.
    quotients = [abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) for a, b in pairs]
    order = (x < y) * 1 + (x <= y) * 2 + (x > y) * 4 + (x >= y) * 8 + (x == y) * 16 + (x != y) * 32
    expected = [
        _wrapped([a + b for a, b in pairs], dtype), _wrapped([a - b for a, b in pairs], dtype),
        _wrapped([a * b for a, b in pairs], dtype), _wrapped(quotients, dtype),
        _wrapped([a - q * b for (a, b), q in zip(pairs, quotients)], dtype),
        _wrapped([int(a) << int(by) for a, by in zip(x, s)], dtype), x >> s, (x & y) | ~(x ^ y),
        np.minimum(x, y), np.maximum(x, y), np.where(x < y, x, _wrapped([-b for _, b in pairs], dtype)),
        order.astype(dtype), _wrapped([abs(a) for a, _ in pairs], dtype),
    ]  # fmt: skip
    for number, wanted in enumerate(expected):
        np.testing.assert_array_equal(out[number, :n], wanted, err_msg=f"operation {number}")


@triton.jit
def _divided(x, y, quotient, remainder, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(quotient + i, tl.load(x + i) // tl.load(y + i))
    tl.store(remainder + i, tl.load(x + i) % tl.load(y + i))


@triton.jit
def _divided_one_by_one(x, y, quotient, remainder, N: tl.constexpr):
    for i in range(N):
        tl.store(quotient + i, tl.load(x + i) // tl.load(y + i))
        tl.store(remainder + i, tl.load(x + i) % tl.load(y + i))


@pytest.mark.parametrize("fn", [_divided, _divided_one_by_one])
@pytest.mark.parametrize("name", ["int8", "int32", "int64"])
def test_a_division_that_has_no_result_ends_no_process(fn: Any, name: str) -> None:
    # What it leaves is nobody's business; its neighbours' results are.
    lowest = np.iinfo(name).min
    x, y = np.array([[lowest, -1], [5, 0], [lowest, 0], [7, -1], [0, 3], [-1, 1], [17, 5], [-17, 5]], name).T.copy()
    arguments = {"x": x, "y": y, "quotient": np.zeros_like(x), "remainder": np.zeros_like(x)}
    launch(fn, {}, arguments, N=8)
    np.testing.assert_array_equal(arguments["quotient"][3:], [-7, 0, -1, 3, -3])
    np.testing.assert_array_equal(arguments["remainder"][3:], [0, 0, 0, 2, -2])


# ---------------------------------------------------------------- floats


# Zeros, infinities, NaN; what overflows float16 and what just does not; what only a subnormal number is near to; halves
# of a last place of bfloat16 and float16.
EDGES = np.array([
    0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 65504, 65519, 65520, -65536, 6e-8, -6e-8, 2.98e-8, 2.99e-8, 3.4e38,
    3.3961775e38, 3.3895314e38, 1e-40, -1e-38, 2.5, 1 / 3, 2.0**-14, 2.0**-15, 1.00390625, 1.01171875, 1 + 2.0**-11,
    1 + 3 * 2.0**-11, 2049, 2051, 1 + 2.0**-8 + 2.0**-30,
])  # fmt: skip


def _floats(type_: str) -> torch.Tensor:
    random = RNG.standard_normal(N) * 10.0 ** RNG.integers(-6, 6, N)
    return torch.from_numpy(np.where(RNG.random(N) < 0.5, RNG.choice(EDGES, N), random)).to(TYPES[type_])


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A copy for a kernel; bfloat16 as its bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def _read(array: np.ndarray, type_: str) -> np.ndarray:
    tensor = torch.from_numpy(array)
    return (tensor.view(torch.bfloat16).double() if type_ == "bf16" else tensor).numpy()


@triton.jit
def _computed(x, y, out, order, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + 0 * N + i, a + b)
    tl.store(out + 1 * N + i, a - b)
    tl.store(out + 2 * N + i, a * b)
    tl.store(out + 3 * N + i, a / b)
    tl.store(out + 4 * N + i, tl.minimum(a, b))
    tl.store(out + 5 * N + i, tl.maximum(a, b))
    tl.store(out + 6 * N + i, tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL))
    tl.store(out + 7 * N + i, tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL))
    tl.store(out + 8 * N + i, -a)
    tl.store(out + 9 * N + i, tl.abs(a))
    tl.store(out + 10 * N + i, tl.where(a < b, a, b))
    tl.store(order + i, (a < b) * 1 + (a <= b) * 2 + (a > b) * 4 + (a >= b) * 8 + (a == b) * 16 + (a != b) * 32)


@pytest.mark.parametrize("type_", FLOATS)
def test_floats_at_their_edges(type_: str) -> None:
    x, y = _floats(type_), _floats(type_)
    arguments = {"x": _array(x), "y": _array(y), "out": _array(torch.zeros(11, N, dtype=x.dtype)),
                 "order": np.zeros(N, np.int32)}  # fmt: skip
    launch(_computed, dict.fromkeys(("x", "y", "out"), f"*{type_}"), arguments, N=N)
    order = (x < y) * 1 + (x <= y) * 2 + (x > y) * 4 + (x >= y) * 8 + (x == y) * 16 + (x != y) * 32
    np.testing.assert_array_equal(arguments["order"], order.numpy())
    expected = [x + y, x - y, x * y, x / y, torch.fmin(x, y), torch.fmax(x, y), torch.minimum(x, y),
                torch.maximum(x, y), -x, x.abs(), torch.where(x < y, x, y)]  # fmt: skip
    for number, (got, wanted) in enumerate(zip(_read(arguments["out"], type_), expected)):
        np.testing.assert_array_equal(got, _read(_array(wanted), type_), err_msg=f"operation {number}")
        if number not in (4, 5, 6, 7):  # of two zeros any may be the larger one
            number_ = np.isfinite(got)
            np.testing.assert_array_equal(np.signbit(got[number_]), np.signbit(wanted.double().numpy()[number_]))


# ---------------------------------------------------------------- conversions


@triton.jit
def _converted(x, fp16, bf16, fp32, fp64, i1, i8, i16, i32, i64, u8, u16, u32, u64, N: tl.constexpr):
    i = tl.arange(0, N)
    _convert(x + 0 * N + i, fp16, i)
    _convert(x + 1 * N + i, bf16, i)
    _convert(x + 2 * N + i, fp32, i)
    _convert(x + 3 * N + i, fp64, i)
    _convert(x + 4 * N + i, i1, i)
    _convert(x + 5 * N + i, i8, i)
    _convert(x + 6 * N + i, i16, i)
    _convert(x + 7 * N + i, i32, i)
    _convert(x + 8 * N + i, i64, i)
    _convert(x + 9 * N + i, u8, i)
    _convert(x + 10 * N + i, u16, i)
    _convert(x + 11 * N + i, u32, i)
    _convert(x + 12 * N + i, u64, i)


@triton.jit
def _convert(source, target, i):
    if target is not None:
        tl.store(target + i, tl.load(source).to(target.dtype.element_ty))


def _source(source: str, target: str) -> torch.Tensor:
    dtype = TYPES[source]
    if source == "i1":
        return torch.from_numpy(RNG.random(N) < 0.5)
    if source not in FLOATS:
        return torch.from_numpy(_drawn(np.dtype(str(dtype).partition(".")[2]), N))
    if target in FLOATS or target == "i1":
        return _floats(source)
    # Only what fits: anything else has no result.
    most = min(float(torch.iinfo(TYPES[target]).max), 2.0**31, float(torch.finfo(dtype).max)) * 0.99
    least = max(float(torch.iinfo(TYPES[target]).min), -most)
    return torch.from_numpy(np.clip(RNG.standard_normal(N) * 10.0 ** RNG.integers(-1, 9, N), least, most)).to(dtype)


def _expected(x: torch.Tensor, source: str, target: str) -> np.ndarray:
    if target in FLOATS:
        return _rounded(_array(x).astype(np.float64) if source != "bf16" else x.double().numpy(), target)
    if target == "i1":
        return _array(x != 0)
    return _array((x.double().trunc().to(torch.int64) if source in FLOATS else x).to(TYPES[target]))


def _rounded(x: np.ndarray, type_: str) -> np.ndarray:
    """Rounded once: torch goes from float64 to bfloat16 by way of float32."""
    if type_ != "bf16":
        with np.errstate(over="ignore"):
            return x.astype(_array(torch.zeros(0, dtype=TYPES[type_])).dtype)
    step = np.ldexp(1.0, np.maximum(np.frexp(np.where(np.isfinite(x), x, 1))[1], -125) - 8)
    rounded = np.where(np.isfinite(x), np.rint(x / step) * step, x)
    return _array(torch.from_numpy(rounded).to(torch.bfloat16))  # which overflows where float32 does not


@pytest.mark.parametrize("source", TYPES)
def test_conversions(source: str) -> None:
    targets = [name for name in TYPES if name != source]
    inputs = [_source(source, name) for name in TYPES]
    expected = {name: _expected(inputs[list(TYPES).index(name)], source, name) for name in targets}
    arguments = {name: np.zeros_like(expected[name]) for name in targets}
    types = {name: f"*{name}" for name in ("x", *targets)} | {"x": f"*{source}"}
    launch(_converted, types, {"x": _array(torch.cat(inputs)), **arguments, source: None}, N=N, **{source: None})
    for name in targets:
        np.testing.assert_array_equal(_read(arguments[name], name), _read(expected[name], name), err_msg=name)


# ---------------------------------------------------------------- libdevice

_UNARY = ("ceil", "floor", "abs", "cos", "sin", "tan", "atan", "erf", "exp", "exp2", "expm1", "tanh", "fast_sinf")
_OF_POSITIVE = ("log", "log10", "log1p", "log2", "sqrt", "rsqrt", "sqrt_rn", "fast_logf")


@triton.jit
def _of_nvidia(x, y, z, out, N: tl.constexpr, UNARY: tl.constexpr, POSITIVE: tl.constexpr):
    i = tl.arange(0, N)
    a, b, c = tl.load(x + i), tl.load(y + i), tl.load(z + i)
    for k in tl.static_range(len(UNARY)):
        tl.store(out + k * N + i, getattr(libdevice, UNARY[k])(a))
    out += len(UNARY) * N
    for k in tl.static_range(len(POSITIVE)):
        tl.store(out + k * N + i, getattr(libdevice, POSITIVE[k])(tl.abs(a)))
    out += len(POSITIVE) * N
    tl.store(out + i, libdevice.pow(tl.abs(a), b))
    tl.store(out + N + i, libdevice.fma(a, b, c))
    tl.store(out + 2 * N + i, libdevice.div_rn(a, b))
    tl.store(out + 3 * N + i, libdevice.fast_dividef(a, b))


@pytest.mark.parametrize("is_950", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_functions_of_nvidias_library_that_are_known_here(is_950: bool) -> None:
    x, y, z = (3 * RNG.standard_normal(N, np.float32) for _ in range(3))
    out = np.zeros((len(_UNARY) + len(_OF_POSITIVE) + 4, N), np.float32)
    arguments = {"x": x, "y": y, "z": z, "out": out}
    constants = {"N": N, "UNARY": _UNARY, "POSITIVE": _OF_POSITIVE}
    Emulated(compile_kernel(_of_nvidia, arguments, constants), is_950=is_950).launch((1,), arguments)
    a, b, c = (torch.from_numpy(v).double() for v in (x, y, z))
    theirs = {"sqrt_rn": torch.sqrt, "fast_sinf": torch.sin, "fast_logf": torch.log}
    rows = [theirs.get(name) or getattr(torch, name) for name in (*_UNARY, *_OF_POSITIVE)]
    expected = [f(a if k < len(_UNARY) else a.abs()) for k, f in enumerate(rows)]
    expected += [a.abs() ** b, a * b + c, a / b, a / b]
    for name, found, wanted in zip(
        (*_UNARY, *_OF_POSITIVE, "pow", "fma", "div_rn", "divide"), out, expected, strict=True
    ):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-6, atol=1e-6, err_msg=name)
