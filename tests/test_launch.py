"""How arguments, options and grids reach a kernel, and which are refused."""

from __future__ import annotations

import gc
import importlib.util
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl

import unify as un
from unify._config import settings
from unify.compiler import Binary, Options, Target, cpu
from unify.compiler.target import register_target

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
MOST_PARAMETERS = 96


def keep(out, value):
    tl.store(out, value)


@un.jit
def stored(out, value):
    tl.store(out, value)


def annotated(annotation: str) -> un.Kernel:
    def keep(out, value):
        tl.store(out, value)

    keep.__annotations__["value"] = f"tl.{annotation}"
    return un.jit(keep)


def zeros(dtype: str) -> np.ndarray[Any, Any]:
    return np.zeros(1, "float32" if dtype == "bfloat16" else dtype)


def converted(value: float, dtype: str) -> np.generic:
    """The number in this type; through a double, as Triton does."""
    if dtype == "bfloat16":
        return np.float32(torch.tensor(float(value), dtype=torch.float64).to(torch.bfloat16).item())
    with np.errstate(over="ignore"):
        return np.dtype(dtype).type(np.float64(int(value)) if dtype in FLOATS else value)


# ---- numbers ----


@pytest.mark.parametrize("annotation", INTEGERS)
@pytest.mark.parametrize("value", [3.0, 2.7, float("nan"), np.float32(3.0), np.float64(2.7)], ids=repr)
def test_a_float_is_refused_where_an_integer_is_annotated(annotation: str, value: float) -> None:
    out = zeros(annotation)
    with pytest.raises(un.errors.DTypeError, match=r"keep: argument 'value' is annotated as [iu]\d+ and is .*float"):
        annotated(annotation)[1](out, value)
    assert out[0] == 0


@pytest.mark.parametrize("annotation", [*INTEGERS, *FLOATS])
@pytest.mark.parametrize("value", [True, False, 5, np.int64(5), np.uint8(5), np.bool_(True)], ids=repr)
def test_an_integer_becomes_what_its_parameter_is_annotated_as(annotation: str, value: int) -> None:
    out = zeros(annotation)
    annotated(annotation)[1](out, value)
    assert out[0] == converted(value, annotation)


@pytest.mark.parametrize("annotation", FLOATS)
@pytest.mark.parametrize("value", [2**63, 2**63 + 2**11, 2**64 - 1, 2**62, -(2**63), np.uint64(2**63)], ids=repr)
def test_an_integer_of_64_bits_keeps_its_sign_as_a_float(annotation: str, value: int) -> None:
    out = zeros(annotation)
    annotated(annotation)[1](out, value)
    assert out[0] == converted(value, annotation)


@pytest.mark.parametrize("value", [2**63, 2**63 + 16, 2**64 - 1], ids=repr)
def test_an_integer_above_63_bits_is_unsigned(value: int) -> None:
    out = zeros("uint64")
    stored[1](out, value)
    assert out[0] == value
    out = zeros("float64")
    stored[1](out, value)
    assert out[0] == float(value)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
@pytest.mark.parametrize("kernel", [stored, annotated("float32"), annotated("uint64")], ids=["plain", "float", "uint"])
def test_an_integer_beyond_64_bits_is_refused(kernel: un.Kernel, value: int) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=f"'value' does not fit 64 bits: {value}"):
        kernel[1](zeros("float64"), value)


@pytest.mark.parametrize(
    "value",
    [np.int8(-3), np.uint8(200), np.int64(7), np.int64(2**40), np.uint64(2**63 + 5), np.bool_(True), np.float16(1.5),
     np.float32(0.1), np.float64(1.5), np.longdouble(2.5), np.int64(1), np.int32(16)],
    ids=repr,
)  # fmt: skip
def test_a_numpy_scalar_is_a_number(value: np.generic) -> None:
    is_float = not isinstance(value, (np.integer, np.bool_))
    out = np.zeros(1, np.float32 if is_float else value.dtype)
    stored[1](out, value)
    assert out[0] == out.dtype.type(value)


def test_a_numpy_scalar_shares_the_code_of_the_number_that_it_is() -> None:
    kernel = annotated("float32")
    plain = un.jit(keep)
    for one, other in (
        (7, np.int64(7)),
        (1, np.int8(1)),
        (16, np.uint16(16)),
        (True, np.bool_(True)),
        (0.5, np.float16(0.5)),
    ):
        for each in (kernel, plain):
            each[1](zeros("float32"), one)
            count = len(each.binaries)
            each[1](zeros("float32"), other)
            assert len(each.binaries) == count


@pytest.mark.parametrize("value", [np.complex64(1), np.datetime64(3, "s"), np.timedelta64(3), np.str_("x")], ids=repr)
def test_a_numpy_scalar_that_is_no_number_is_refused(value: np.generic) -> None:
    message = "stored: argument 'value' is .* A kernel takes arrays, real numbers and None"
    with pytest.raises(un.errors.DTypeError, match=message):
        stored[1](zeros("float32"), value)


def test_a_scalar_array_stays_an_array() -> None:
    @un.jit
    def copied(out, x):
        tl.store(out, tl.load(x))

    for x in (np.array(7), torch.tensor(7), un.asarray(np.array(7))):
        out = zeros("int64")
        copied[1](out, x)
        assert out[0] == 7


def test_an_object_that_is_no_argument_is_named() -> None:
    with pytest.raises(un.errors.InvalidArgument, match="kernel stored: argument 'value'.*dict"):
        stored[1](zeros("float32"), {"a": 1})


# ---- annotated arrays ----


@pytest.mark.parametrize("value", [np.zeros(1, np.int32), torch.zeros(1, dtype=torch.int32), un.zeros(1, un.int32)])
def test_an_array_is_refused_where_a_number_is_annotated(value: Any) -> None:
    with pytest.raises(
        un.errors.DTypeError, match="'value' is annotated as i32 and is an array.*'value'|annotated as i32"
    ):
        annotated("int32")[1](zeros("int32"), value)


@pytest.mark.parametrize("value", [0, 3, 2**40, True, 1.5], ids=repr)
def test_a_number_is_refused_where_an_array_is_annotated(value: float) -> None:
    def read(x, out):
        tl.store(out, tl.load(x))

    read.__annotations__["x"] = "*fp32"
    with pytest.raises(un.errors.DTypeError, match=r"read: argument 'x' is annotated as \*fp32 and is "):
        un.jit(read)[1](value, zeros("float32"))


@pytest.mark.parametrize("annotation", [tl.pointer_type(tl.int32), "*i32", "const *i32"], ids=str)
@pytest.mark.parametrize(
    ("dtype", "elements"), [(np.float32, "fp32"), (np.uint32, "u32"), (np.int64, "i64"), (np.int8, "i8")]
)
def test_an_array_of_other_elements_than_its_annotation_is_refused(
    annotation: object, dtype: type, elements: str
) -> None:
    def read(x, out):
        tl.store(out, tl.load(x))

    read.__annotations__["x"] = annotation
    kernel, out = un.jit(read), zeros("int32")
    kernel[1](np.array([7], np.int32), out)
    assert out[0] == 7
    with pytest.raises(un.DTypeError, match=rf"'x' is annotated as \*k?i32 and its elements are {elements}; convert"):
        kernel[1](np.array([1], dtype), out)
    assert out[0] == 7


def test_bytes_stand_for_elements_that_have_no_dtype() -> None:
    def widen(x, out):
        tl.store(out, tl.load(x).to(tl.float32))

    widen.__annotations__["x"] = "*fp8e4b15"
    out = zeros("float32")
    un.jit(widen)[(1,)](np.array([0x78], np.uint8), out)  # its exponent, 15, less the bias
    assert out[0] == 1


# ---- constants ----


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
def test_zeros_of_two_signs_are_two_constants(kind: type) -> None:
    @un.jit
    def sign(out, ZERO: tl.constexpr):
        tl.store(out, 1.0 / tl.full([], ZERO, tl.float32))

    for zero in (0.0, -0.0, 0.0):
        out = zeros("float32")
        sign[1](out, float(zero) if kind is float else kind(zero))
        assert out[0] == np.copysign(np.inf, zero)


def test_equal_constants_of_two_types_inside_a_tuple_are_two_constants() -> None:
    @un.jit
    def halved(out, PAIR: tl.constexpr):
        tl.store(out, PAIR[0] / 2)
        tl.store(out + 1, 1.0 / tl.full([], PAIR[1], tl.float32))

    for pair in ((1, 0.0), (1.0, 0.0), (1, -0.0), (1, 0.0)):
        out = np.zeros(2, np.float32)
        halved[1](out, pair)
        assert out.tolist() == [0.5, np.copysign(np.inf, pair[1])]
    assert len(halved.binaries) == 3


def test_a_constant_that_is_not_a_number_compiles_once() -> None:
    @un.jit
    def fill(out, VALUE: tl.constexpr):
        tl.store(out, VALUE)

    for _ in range(3):
        out = zeros("float32")
        fill[1](out, float("nan"))
        assert np.isnan(out[0])
    assert fill._launchers._dispatcher.size() == 1


# ---- options and grids ----


@pytest.mark.parametrize("value", [[4], {}, "four", 2.5, None])
def test_an_option_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(un.errors.Error, match="num_warps"):
        stored[1](zeros("int32"), 3, num_warps=value)


@pytest.mark.parametrize("grid", [(2**31, 2**31, 4), (2**32 - 1, 2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1, 2)])
def test_a_grid_of_more_programs_than_can_be_counted_is_refused(grid: tuple[int, ...]) -> None:
    for each in (grid, lambda meta: grid):
        with pytest.raises(un.errors.InvalidArgument, match=r"grid.*2\*\*64"):
            stored[each](zeros("int32"), 3)


@pytest.mark.parametrize(
    "grid", [-1, (1, -1), 2**32, (1, 2**32), 2**70, -(2**70), (), (1, 1, 1, 1), "1", 1.5, (1.5,), None]
)
def test_what_is_no_grid_is_refused(grid: Any) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="a grid"):
        stored[grid](zeros("int32"), 3)
    with pytest.raises(un.errors.InvalidArgument, match="a grid"):
        stored[lambda meta: grid](zeros("int32"), 3)


def test_an_empty_grid_is_empty_along_any_axis() -> None:
    for grid in ((0, 2**31, 2**31), (2**31, 2**31, 0)):
        out = zeros("int32")
        stored[grid](out, 3)
        assert out[0] == 0


# ---- many arguments ----


def of_many_parameters(folder: Path, count: int) -> un.Kernel:
    """A kernel that writes 1, 2, 3 … through its pointers."""
    names = [f"p{i}" for i in range(count)]
    body = "".join(f"    tl.store({name}, {i + 1})\n" for i, name in enumerate(names))
    path = folder / "many.py"
    path.write_text(f"import triton.language as tl\n\n\ndef many({', '.join(names)}):\n{body}")
    spec = importlib.util.spec_from_file_location("many", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return un.jit(module.many)


@pytest.mark.parametrize("is_checked", [False, True], ids=["plain", "checked"])
def test_a_kernel_may_have_as_many_arrays_as_parameters(tmp_path: Path, is_checked: bool) -> None:
    kernel = of_many_parameters(tmp_path, MOST_PARAMETERS)
    out = un.zeros((MOST_PARAMETERS,), un.int32)
    with settings.override(check_bounds=is_checked):
        kernel[1](*(out[i : i + 1] for i in range(MOST_PARAMETERS)))
    assert out.tolist() == list(range(1, MOST_PARAMETERS + 1))


def test_a_kernel_of_too_many_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="many has 97 parameters, at most 96"):
        of_many_parameters(tmp_path, MOST_PARAMETERS + 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda binary: {"args_bytes": 8},
        lambda binary: {"args_bytes": 1 << 20},
        lambda binary: {"parameters": tuple(replace(p, offset=p.offset + 4096) for p in binary.parameters)},
        lambda binary: {"parameters": tuple(replace(p, type="high") for p in binary.parameters)},
        lambda binary: {"parameters": tuple(replace(p, type="i64") for p in binary.parameters)},
    ],
    ids=["small", "large", "beyond", "words of a number", "number of an array"],
)
def test_what_a_compiler_says_of_the_arguments_is_checked(tmp_path: Path, damage: Any) -> None:
    def add(out, value):
        tl.store(out, value)

    def compile_damaged(ttir: str, target: Target, options: Options) -> Binary:
        binary = cpu.compile(ttir, target, options)
        return replace(binary, **damage(binary))

    register_target("cpu", compile_damaged)
    try:
        with (
            settings.override(cache_dir=tmp_path),
            pytest.raises(un.Error, match="add: its compiler describes 2 fields"),
        ):
            un.jit(add)[1](np.zeros(1, np.int32), 3)
    finally:
        register_target("cpu", cpu.compile)


@un.jit
def copied(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i))


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_an_array_that_is_dropped_after_its_launch_lives_until_it_ran(library: str) -> None:
    make = np.full if library == "numpy" else torch.full
    stream, is_open = un.Stream("cpu"), threading.Event()
    out = np.zeros(4096, np.float32)
    copied[1](make((4096,), 3.0), np.zeros(4096), N=4096)  # compiled beforehand
    copied[1](np.zeros(4096, np.float32), out, N=4096)
    stream.host_call(is_open.wait)
    x = make((4096,), 3.0)
    x = x.astype(np.float32) if library == "numpy" else x
    is_alive = weakref.ref(x)
    copied[1](x, out, N=4096, stream=stream)
    del x
    assert is_alive() is not None
    is_open.set()
    stream.synchronize()
    assert (out == 3).all()
    assert is_alive() is None


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_an_array_of_a_recorded_launch_lives_as_long_as_the_graph(library: str) -> None:
    make = np.ones if library == "numpy" else torch.ones
    x = make(64, dtype=np.float32) if library == "numpy" else make(64)
    is_alive, out = weakref.ref(x), np.zeros(64, np.float32)
    copied[1](x, out, N=64)
    with un.Graph.capture(un.Stream("cpu")) as graph:
        copied[1](x, out, N=64)
    del x
    graph.launch()
    un.synchronize()
    assert (out == 1).all()
    assert is_alive() is not None
    del graph
    gc.collect()
    assert library == "torch" or is_alive() is None  # torch revives the object that a weak reference points to
