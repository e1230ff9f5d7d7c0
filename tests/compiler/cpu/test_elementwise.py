"""Arithmetic, conversions and math functions against NumPy, over types and odd lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from .harness import run


@triton.jit
def binary_kernel(x, y, out, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    a = tl.load(x + i, mask=inside)
    b = tl.load(y + i, mask=inside, other=1)
    if OP == "add":
        c = a + b
    elif OP == "sub":
        c = a - b
    elif OP == "mul":
        c = a * b
    elif OP == "div":
        c = a / b
    elif OP == "floordiv":
        c = a // b
    elif OP == "mod":
        c = a % b
    elif OP == "max":
        c = tl.maximum(a, b)
    elif OP == "min":
        c = tl.minimum(a, b)
    elif OP == "and":
        c = a & b
    elif OP == "or":
        c = a | b
    elif OP == "xor":
        c = a ^ b
    elif OP == "shl":
        c = a << b
    elif OP == "shr":
        c = a >> b
    elif OP == "lt":
        c = a < b
    else:
        c = tl.where(a == b, a, b)
    tl.store(out + i, c, mask=inside)


def _c_div(a, b):
    return (np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64)) * np.sign(a) * np.sign(b)).astype(a.dtype)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "float32", "float64", "float16"])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "max", "min", "where", "lt"])
def test_binary_operation_agrees_with_numpy(dtype, op):
    rng = np.random.default_rng(1)
    n = 301
    if dtype.startswith("int"):
        x, y = (rng.integers(-100, 100, n).astype(dtype) for _ in range(2))
    else:
        x, y = (rng.standard_normal(n).astype(dtype) for _ in range(2))
    y[::7] = x[::7]
    out = np.zeros(n, np.int8 if op == "lt" else dtype)
    run(binary_kernel, (5,), {"x": x, "y": y, "out": out, "n": n}, OP=op, BLOCK=64)
    with np.errstate(over="ignore"):
        want = {"add": x + y, "sub": x - y, "mul": x * y, "max": np.maximum(x, y), "min": np.minimum(x, y),
                "where": np.where(x == y, x, y), "lt": (x < y).astype(np.int8)}[op]  # fmt: skip
    np.testing.assert_allclose(out, want, rtol=2e-3 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint32"])
@pytest.mark.parametrize("op", ["floordiv", "mod", "and", "or", "xor", "shl", "shr"])
def test_integer_operation_agrees_with_c(dtype, op):
    rng = np.random.default_rng(2)
    n = 200
    info = np.iinfo(dtype)
    x = rng.integers(max(info.min + 1, -(2**40)), min(info.max, 2**40), n).astype(dtype)
    y = rng.integers(1, 7, n).astype(dtype)
    if info.min < 0 and op in ("floordiv", "mod"):
        y[::2] *= -1
    out = np.zeros(n, dtype)
    run(binary_kernel, (4,), {"x": x, "y": y, "out": out, "n": n}, OP=op, BLOCK=64)
    quotient = _c_div(x, y) if info.min < 0 else x // y
    want = {"floordiv": quotient, "mod": x - quotient * y, "and": x & y, "or": x | y, "xor": x ^ y, "shl": x << y,
            "shr": x >> y}[op]  # fmt: skip
    np.testing.assert_array_equal(out, want)


@triton.jit
def cast_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n).to(out.dtype.element_ty), mask=i < n)


@pytest.mark.parametrize("source", ["int8", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("target", ["int8", "int32", "int64", "float16", "float32", "float64"])
def test_cast_agrees_with_numpy(source, target):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(100) * 50).astype(source)
    out = np.zeros(100, target)
    run(cast_kernel, (1,), {"x": x, "out": out, "n": 100}, BLOCK=128)
    np.testing.assert_array_equal(out, x.astype(target))


def test_double_to_half_rounds_once():
    # Just above a tie of half: rounding through float first would land on the tie and then go down to even.
    x = np.array([1 + 2**-11 + 2**-30, 1 + 2**-11, -(1 + 2**-11 + 2**-30), 65519.9999, 1e-7, 0.0], np.float64)
    out = np.zeros(6, np.float16)
    run(cast_kernel, (1,), {"x": x, "out": out, "n": 6}, BLOCK=16)
    np.testing.assert_array_equal(out, x.astype(np.float16))


@pytest.mark.parametrize("arch", ["", "x86-64-v3"])
def test_bfloat16_agrees_with_torch(arch):
    from .harness import compile_kernel

    values = torch.randn(100, generator=torch.Generator().manual_seed(4))
    values[0], values[1] = float("nan"), float("inf")
    out = np.zeros(100, np.uint16)
    arguments = {"x": values.numpy(), "out": out, "n": 100}
    assert compile_kernel(cast_kernel, arguments, {"BLOCK": 128}, arch=arch).prepare((1,), arguments)() == 0
    assert np.isnan(torch.from_numpy(out[:1].view(np.int16)).view(torch.bfloat16).float().item())
    np.testing.assert_array_equal(out[1:], values[1:].bfloat16().view(torch.uint16).numpy())


@triton.jit
def scalar_bfloat_kernel(x, scale, out, rows, N: tl.constexpr):
    i = tl.arange(0, N)
    s = tl.load(scale)
    for row in range(1, rows):
        tl.store(out + row * N + i, tl.load(x + row * N + i) - s)
    i = tl.arange(0, N // 2)
    tl.store(out + i, tl.load(x + i) - s)


@pytest.mark.parametrize("arch", ["", "x86-64-v3"])
def test_a_scalar_bfloat16_meets_vectors_in_later_blocks(arch):
    from .harness import compile_kernel

    generator = torch.Generator().manual_seed(4)
    x, scale = (torch.randn(shape, generator=generator).bfloat16() for shape in ((3, 16), 1))
    out = torch.zeros_like(x)
    arguments = {name: value.view(torch.uint16).numpy() for name, value in (("x", x), ("scale", scale), ("out", out))}
    arguments["rows"] = 3
    assert compile_kernel(scalar_bfloat_kernel, arguments, {"N": 16}, arch=arch).prepare((1,), arguments)() == 0
    torch.testing.assert_close(out[1:], (x - scale)[1:], rtol=0, atol=0)
    torch.testing.assert_close(out[0, :8], (x - scale)[0, :8], rtol=0, atol=0)


@triton.jit
def unary_kernel(x, out, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n)
    if OP == "exp":
        r = tl.exp(v)
    elif OP == "exp2":
        r = tl.exp2(v)
    elif OP == "log":
        r = tl.log(v)
    elif OP == "log2":
        r = tl.log2(v)
    elif OP == "sqrt":
        r = tl.sqrt(v)
    elif OP == "rsqrt":
        r = tl.rsqrt(v)
    elif OP == "sin":
        r = tl.sin(v)
    elif OP == "cos":
        r = tl.cos(v)
    elif OP == "erf":
        r = tl.erf(v)
    elif OP == "floor":
        r = tl.floor(v)
    elif OP == "ceil":
        r = tl.ceil(v)
    elif OP == "sigmoid":
        r = tl.sigmoid(v)
    else:
        r = tl.abs(v)
    tl.store(out + i, r, mask=i < n)


_REFERENCE = {
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin, "cos": np.cos, "erf": lambda x: torch.erf(torch.from_numpy(x)).numpy(), "floor": np.floor,
    "ceil": np.ceil, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "abs": np.abs,
}  # fmt: skip


@pytest.mark.parametrize("arch", ["", "x86-64-v3"])
@pytest.mark.parametrize("op", list(_REFERENCE))
def test_math_function_is_within_4_ulp(op, arch):
    from .harness import compile_kernel

    rng = np.random.default_rng(5)
    x = np.concatenate([rng.standard_normal(3000) * 3, rng.uniform(-100, 100, 1000), rng.uniform(0, 2, 1000)])
    x = (np.abs(x) if op in ("log", "log2", "sqrt", "rsqrt") else x).astype(np.float32)
    out = np.zeros_like(x)
    arguments = {"x": x, "out": out, "n": len(x)}
    kernel = compile_kernel(unary_kernel, arguments, {"OP": op, "BLOCK": 256}, arch=arch)
    assert kernel.prepare((-(-len(x) // 256),), arguments)() == 0
    want = _REFERENCE[op](x.astype(np.float64))
    with np.errstate(over="ignore"):
        unit = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    # Libraries that were loaded earlier may have switched the processor to flushing subnormal numbers to zero.
    normal = np.isfinite(unit) & ((np.abs(want) >= 2.0**-126) | (want == 0))
    assert (np.abs(out - want)[normal] / np.maximum(unit[normal], 2.0**-149)).max() <= 4
    assert (np.abs(out - want)[np.abs(want) < 2.0**-126] <= 2.0**-126).all()


@pytest.mark.parametrize("arch", ["", "x86-64-v3"])
def test_special_values_of_exp_and_log(arch):
    from .harness import compile_kernel

    x = np.array(
        [np.inf, -np.inf, np.nan, 0.0, -0.0, 88.0, -87.5, -100, -103, 200, 1e-40, -1.0, 1.0, 1e38, 150, -149],
        np.float32,
    )
    for op in ("exp", "exp2", "log", "log2"):
        out = np.zeros_like(x)
        arguments = {"x": x, "out": out, "n": 16}
        assert (
            compile_kernel(unary_kernel, arguments, {"OP": op, "BLOCK": 16}, arch=arch).prepare((1,), arguments)() == 0
        )
        with np.errstate(all="ignore"):
            want = _REFERENCE[op](x.astype(np.float64)).astype(np.float32)
        np.testing.assert_allclose(out, want, rtol=1e-6, atol=1.2e-38, err_msg=op)


@triton.jit
def random_kernel(out, seed, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.randint(seed, i))


def test_philox_agrees_with_its_definition():
    def philox(seed, counter):
        c, k = [counter, 0, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
        for _ in range(10):
            a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return c[0]

    out = np.zeros(64, np.uint32)
    run(random_kernel, (1,), {"out": out, "seed": 1234}, BLOCK=64)
    np.testing.assert_array_equal(out, [philox(1234, i) for i in range(64)])
