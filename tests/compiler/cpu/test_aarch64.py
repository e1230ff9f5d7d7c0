"""Kernels for aarch64 give what they give on this machine: cross-compiled, and run by our loader in an emulator.

Needs Debian's g++-aarch64-linux-gnu and qemu-user. What this machine gives is compared with NumPy in the other files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import unify.compiler
from unify.compiler import Specialization, Target
from unify.compiler.cpu.link import features

from . import emulator
from .harness import Compiled, compile_kernel
from .test_atomic import atomic_kernel
from .test_bounds import divide_kernel
from .test_control import assert_kernel, layout_kernel
from .test_dot import dot_kernel, matmul_kernel
from .test_elementwise import binary_kernel, cast_kernel, random_kernel, unary_kernel
from .test_reduce import byte_dots_kernel, reduce_kernel, scan_kernel, softmax_kernel

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*can_reorder"),
    pytest.mark.skipif(features("").triple.startswith("aarch64"), reason="this machine runs them without an emulator"),
]


@triton.jit
def attention_kernel(q, k, v, out, n, SCALE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """Flash attention: M queries against n keys, N at a time."""
    m, d = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, D)
    query = tl.load(q + m[:, None] * D + d[None, :])
    largest, total, acc = (
        tl.full([M], -float("inf"), tl.float32),
        tl.zeros([M], tl.float32),
        tl.zeros([M, D], tl.float32),
    )
    for start in range(0, n, N):
        key = start + tl.arange(0, N)
        inside = key < n
        scores = tl.dot(query, tl.load(k + key[None, :] * D + d[:, None], mask=inside[None, :], other=0.0)) * SCALE
        scores = tl.where(inside[None, :], scores, -float("inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        p, shrink = tl.exp(scores - larger[:, None]), tl.exp(largest - larger)
        values = tl.load(v + key[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
        acc = tl.dot(p.to(values.dtype), values, acc * shrink[:, None])
        largest, total = larger, total * shrink + tl.sum(p, 1)
    tl.store(out + m[:, None] * D + d[None, :], acc / total[:, None])


@triton.jit
def tanh_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.extra.libdevice.tanh(tl.load(x + i)))


@triton.jit
def float8_kernel(x, out, N: tl.constexpr, TYPE: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(TYPE).to(tl.float32))


@triton.jit
def gather_kernel(x, index, out, M: tl.constexpr, N: tl.constexpr):
    place = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + place, tl.gather(tl.load(x + place), tl.load(index + place), 1))


@dataclass
class Case:
    """One launch. rtol, atol: how far another order of the same sums may be off, and other functions of libm."""

    kernel: Any
    arguments: dict[str, Any]
    constants: dict[str, Any]
    grid: tuple[int, ...] = (1,)
    types: dict[str, str] | None = None
    rtol: float = 0
    atol: float = 0

    def compile(self, arch: str) -> Compiled:
        return compile_kernel(self.kernel, self.arguments, self.constants, arch=arch, types=self.types)

    def run(self, arch: str) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays as the kernel leaves them."""
        copies = {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in self.arguments.items()}
        assert self.compile(arch).prepare(self.grid, copies)() == 0
        return {name: v for name, v in copies.items() if isinstance(v, np.ndarray)}


def _numbers(shape: Any, dtype: str = "float32", scale: float = 1) -> np.ndarray[Any, Any]:
    value = np.random.default_rng(5).standard_normal(shape) * scale
    if dtype == "bfloat16":
        return torch.from_numpy(value).bfloat16().view(torch.uint16).numpy()
    return value.astype(dtype)


def _binary(op: str, dtype: str) -> Case:
    x, y = _numbers(301, dtype, 40), _numbers(301, dtype, 40)[::-1].copy()
    y = np.abs(y) % 7 if op == "shr" else np.where(y == 0, 3, y).astype(dtype)
    return Case(binary_kernel, {"x": x, "y": y, "out": np.zeros_like(x), "n": 301}, {"OP": op, "BLOCK": 64}, (5,))


def _unary(op: str) -> Case:
    x = np.concatenate(
        [_numbers(1000, scale=9), [np.inf, -np.inf, np.nan, 0.0, 1e-40, 150.0, -149.0]], dtype=np.float32
    )
    arguments = {"x": x, "out": np.zeros_like(x), "n": len(x)}
    return Case(unary_kernel, arguments, {"OP": op, "BLOCK": 256}, (4,), rtol=1e-6, atol=1.2e-38)


def _cast(source: str, target: str) -> Case:
    x = _numbers(100, source, 50)
    types = {name: "*bf16" for name, dtype in (("x", source), ("out", target)) if dtype == "bfloat16"}
    out = np.zeros(100, "uint16" if target == "bfloat16" else target)
    return Case(cast_kernel, {"x": x, "out": out, "n": 100}, {"BLOCK": 128}, types=types)


def _dot(dtype: str, shape: tuple[int, int, int], transposed: bool = False) -> Case:
    m, n, k = shape
    a, b = _numbers((m, k), dtype, 30 if dtype == "int8" else 1), _numbers((k, n), dtype, 30 if dtype == "int8" else 1)
    out = np.zeros((m, n), {"int8": "int32", "float64": "float64"}.get(dtype, "float32"))
    strides = {"am": k, "ak": 1, "bk": 1 if transposed else n, "bn": k if transposed else 1}
    constants = {"M": m, "N": n, "K": k, "TRANS": transposed, "ADD": True}
    exact = dtype == "int8"
    return Case(dot_kernel, {"a": a, "b": b, "c": out + 1, "out": out, **strides}, constants,
                rtol=0 if exact else 1e-5, atol=0 if exact else 1e-5)  # fmt: skip


def _byte_dots(a_type: str, b_type: str, nibble: bool) -> Case:
    rng = np.random.default_rng(0)
    codes, x = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((3, 16, 4), (3, 4)))
    arguments = {"codes": codes.view(a_type), "x": x.view(b_type), "out": np.zeros(16, np.int32)}
    return Case(byte_dots_kernel, arguments, {"N": 16, "TERMS": 3, "NIBBLE": nibble})


def _reduce(op: str, dtype: str, axis: int) -> Case:
    x = _numbers((16, 64), dtype, 30)
    out = np.zeros((64, 16)[axis], "int32" if op.startswith("arg") else dtype)
    rtol = 2e-3 if dtype == "float16" else 1e-6
    return Case(
        reduce_kernel, {"x": x, "out": out}, {"M": 16, "N": 64, "AXIS": axis, "OP": op}, rtol=rtol, atol=20 * rtol
    )


def _scan(op: str) -> Case:
    x = 1 + _numbers((8, 32), scale=0.1)
    constants = {"M": 8, "N": 32, "AXIS": 1, "OP": op, "REVERSE": op == "sum"}
    return Case(scan_kernel, {"x": x, "y": x[::-1].copy(), "out": np.zeros_like(x)}, constants, rtol=1e-5)


def _attention(dtype: str) -> Case:
    q, k, v = (_numbers(shape, dtype) for shape in ((64, 32), (80, 32), (80, 32)))
    arguments = {"q": q, "k": k, "v": v, "out": np.zeros((64, 32), np.float32), "n": 80}
    types = dict.fromkeys("qkv", "*bf16") if dtype == "bfloat16" else None
    # p is rounded to bfloat16, where its neighbours are 2^-8 apart.
    tolerance = 2.0**-8 if dtype == "bfloat16" else 1e-5
    constants = {"SCALE": 0.18, "M": 32, "N": 32, "D": 32}
    return Case(attention_kernel, arguments, constants, (2,), types, rtol=tolerance, atol=tolerance)


def _division() -> Case:
    x, y = np.array([-128, 127, 17, 0, 5, 100], np.int8), np.array([-1, 3, 5, 7, -2, 9], np.int8)
    return Case(divide_kernel, {"x": x, "y": y, "quotient": x * 0, "remainder": x * 0, "n": 6}, {"N": 16})


def _matmul() -> Case:
    m, n, k = 33, 47, 65
    a, b = _numbers((m, k)), _numbers((k, n))
    sizes = {"M": m, "N": n, "K": k, "am": k, "ak": 1, "bk": n, "bn": 1, "cm": n, "cn": 1}
    constants = {"BM": 32, "BN": 32, "BK": 32, "WRAP": False}
    return Case(matmul_kernel, {"a": a, "b": b, "c": np.zeros((m, n), np.float32), **sizes}, constants, (4,),
                rtol=1e-5, atol=1e-5)  # fmt: skip


def _atomics() -> Case:
    x = np.random.default_rng(3).integers(0, 1000, 100).astype(np.int32)
    arguments = {"x": x, "out": np.zeros(5, np.int32), "flags": np.zeros(6, np.float32), "n": 100}
    return Case(atomic_kernel, arguments, {"BLOCK": 32}, (4,))


def _gather() -> Case:
    index = np.random.default_rng(3).integers(0, 32, (8, 32)).astype(np.int32)
    x = _numbers((8, 32))
    return Case(gather_kernel, {"x": x, "index": index, "out": np.zeros_like(x)}, {"M": 8, "N": 32})


def _softmax() -> Case:
    x = _numbers((3, 1000), scale=5)
    return Case(
        softmax_kernel, {"x": x, "out": np.zeros_like(x), "n": 1000, "row": 1000}, {"BLOCK": 1024}, (3,), rtol=4e-6
    )


def _moved(op: str) -> Case:
    x, y = _numbers(16), _numbers(16) + 1
    return Case(layout_kernel, {"x": x, "y": y, "out": np.zeros(32, np.float32)}, {"N": 16, "OP": op})


def _float8(type_: Any) -> Case:
    x = _numbers(256, scale=20)
    return Case(float8_kernel, {"x": x, "out": np.zeros_like(x)}, {"N": 256, "TYPE": type_})


def _random() -> Case:
    return Case(random_kernel, {"out": np.zeros(64, np.uint32), "seed": 1234}, {"BLOCK": 64})


def _tanh() -> Case:
    x = _numbers(256, scale=3)
    return Case(tanh_kernel, {"x": x, "out": np.zeros_like(x)}, {"N": 256}, rtol=5e-7)


CASES: dict[str, Callable[[], Case]] = {
    **{f"{op} {dtype}": functools.partial(_binary, op, dtype)
       for op, dtype in (("add", "float16"), ("max", "float32"), ("div", "float32"), ("floordiv", "int32"),
                         ("mod", "int64"), ("shr", "int8"))},
    **{op: functools.partial(_unary, op) for op in ("exp", "exp2", "log", "log2", "erf", "sin", "floor", "rsqrt")},
    "tanh": _tanh,
    **{f"{source} to {target}": functools.partial(_cast, source, target)
       for source, target in (("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "float16"),
                              ("float64", "bfloat16"), ("float32", "int8"), ("int64", "float16"))},
    **{f"dot {dtype} {shape}": functools.partial(_dot, dtype, shape)
       for dtype in ("float32", "bfloat16", "float16", "int8") for shape in ((32, 64, 32), (1, 16, 64))},
    "dot float64": functools.partial(_dot, "float64", (16, 16, 16)),
    "dot of few columns": functools.partial(_dot, "bfloat16", (32, 2, 16)),
    "dot transposed bfloat16": functools.partial(_dot, "bfloat16", (16, 32, 32), True),
    "dot transposed int8": functools.partial(_dot, "int8", (16, 32, 32), True),
    "matmul of odd shapes": _matmul,
    **{f"bytes {a}·{b}{' nibble' * nibble}": functools.partial(_byte_dots, a, b, nibble)
       for a in ("uint8", "int8") for b in ("uint8", "int8") for nibble in (False, True)},
    **{f"{op} {dtype} along {axis}": functools.partial(_reduce, op, dtype, axis)
       for op, dtype, axis in (("sum", "float32", 1), ("max", "float16", 0), ("argmin", "int8", 1))},
    "sum backwards": functools.partial(_scan, "sum"),
    "linear scan": functools.partial(_scan, "linear"),
    "sort": functools.partial(_moved, "sort"),
    "permute": functools.partial(_moved, "permute"),
    "softmax": _softmax,
    "attention float32": functools.partial(_attention, "float32"),
    "attention bfloat16": functools.partial(_attention, "bfloat16"),
    "atomics": _atomics,
    "divisions that would trap": _division,
    "gather": _gather,
    "philox": _random,
    "float8e4nv": functools.partial(_float8, tl.float8e4nv),
    "float8e5": functools.partial(_float8, tl.float8e5),
}  # fmt: skip


@functools.cache
def _here(name: str) -> dict[str, np.ndarray[Any, Any]]:
    return CASES[name]().run("")


# Each name with the processors whose instructions may come in: sdot and udot; usdot and bfdot.
_RUNS = [
    *(("aarch64", name) for name in CASES),
    *(("kunpeng920", name) for name in CASES if "int8" in name and name.startswith(("dot", "bytes"))),
    *(("neoverse-v1", name) for name in CASES if "bfloat16" in name or name.startswith("bytes uint8·int8")),
]


@pytest.mark.parametrize(("arch", "name"), _RUNS)
def test_kernel_gives_what_it_gives_here(arch: str, name: str) -> None:
    emulator.program()
    case = CASES[name]()
    for argument, found in case.run(arch).items():
        np.testing.assert_allclose(found, _here(name)[argument], rtol=case.rtol, atol=case.atol, err_msg=argument)


def test_a_target_names_the_processor() -> None:
    specialization = Specialization({"x": "*fp32", "out": "*fp32", "N": "constexpr"}, {"N": 64}, frozenset())
    binary = unify.compiler.compile(tanh_kernel, Target.parse("cpu:kunpeng920"), specialization)
    assert (binary.target, binary.image[18:20]) == ("cpu:kunpeng920", b"\xb7\0")  # EM_AARCH64


def test_failed_assertion_tells_program_and_line() -> None:
    emulator.program()
    arguments = {"x": np.array([1, 2, 7, 1, 9], np.int32), "n": 5}
    kernel = compile_kernel(assert_kernel, arguments, arch="aarch64", debug=True)
    assert kernel.prepare((5,), arguments)() != 0
    assert (kernel.fault.kind, tuple(kernel.fault.program)) == (1, (2, 0, 0))
    assert b"value too large" in kernel.fault.message
    assert kernel.fault.file.endswith(b"test_control.py")


def test_an_object_of_another_processor_is_refused() -> None:
    emulator.program()
    arguments = {"x": np.zeros(5, np.int32), "n": 5}
    kernel = compile_kernel(assert_kernel, arguments, arch="x86-64-v3", debug=True)
    with pytest.raises(AssertionError, match="not a relocatable aarch64 object"):
        emulator.run(kernel.image, kernel.target, (1, 1, 1), kernel.pack(arguments), arguments, kernel.fault)
