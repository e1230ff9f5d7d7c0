"""Python source to TTIR: what is in the text, and where an error is said to be."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import triton
import triton.language as tl

import unify as un
from unify.compiler import Specialization, to_ttir
from unify.compiler.frontend import source_key
from unify.errors import CompileError


def text_of(kernel: Any, types: dict[str, str], aligned: tuple[str, ...] = (), **constants: Any) -> str:
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    specialization = Specialization(signature, constants, frozenset(aligned))
    return to_ttir(kernel, specialization, num_warps=4, num_stages=3, debug=False)


def error_of(kernel: Any, **constants: Any) -> CompileError:
    with pytest.raises(CompileError) as raised:
        text_of(kernel, {"x": "*fp32"}, **constants)
    return raised.value


def line_of(function: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(function.fn)
    return first + next(i for i, line in enumerate(lines) if text in line)


@triton.jit
def undefined_inside(x):
    y = x + 1
    return tl.no_such_function(y)


@triton.jit
def asserts(value: tl.constexpr):
    tl.static_assert(value % 16 == 0, "value must be a multiple of 16")


@triton.jit
def asserts_in_silence(value: tl.constexpr):
    tl.static_assert(value % 16 == 0)


@triton.jit
def between(x, value: tl.constexpr):
    asserts(value)
    return x


@triton.jit
def calls_undefined(x):
    tl.store(x, undefined_inside(tl.load(x)))


@triton.jit
def calls_through_two(x, N: tl.constexpr):
    tl.store(x, between(tl.load(x), N))


@triton.jit
def calls_silent(x, N: tl.constexpr):
    asserts_in_silence(N)
    tl.store(x, 1.0)


@triton.jit
def misuses_the_library(x, N: tl.constexpr):
    values = tl.load(x + tl.arange(0, N))
    total = tl.sum(values, axis=3)
    tl.store(x, total)


@triton.jit
def recursive(x):
    recursive(x)


def test_an_error_in_a_called_function_has_its_line_and_reason() -> None:
    error = error_of(calls_undefined)
    assert "no_such_function" in str(error.reason)
    assert (error.file, error.line) == (__file__, line_of(undefined_inside, "no_such_function"))
    assert str(error).startswith(f"{__file__}:{error.line}: kernel calls_undefined: ")
    assert "\n  return tl.no_such_function(y)" in str(error)
    assert f"\n  called at {__file__}:{line_of(calls_undefined, 'tl.store')}" in str(error)


def test_an_error_two_calls_deep_names_each_call() -> None:
    error = error_of(calls_through_two, N=8)
    assert error.reason == "static_assert: value must be a multiple of 16"
    assert error.line == line_of(asserts, "tl.static_assert")
    places = [line_of(between, "asserts(value)"), line_of(calls_through_two, "tl.store")]
    assert [line for line in str(error).splitlines() if "called at" in line] == [
        f"  called at {__file__}:{place}" for place in places
    ]
    assert "tt.store" in text_of(calls_through_two, {"x": "*fp32"}, N=16)


def test_an_assertion_without_a_message_is_named_as_one() -> None:
    error = error_of(calls_silent, N=8)
    assert error.reason == "a static_assert does not hold"
    assert error.line == line_of(asserts_in_silence, "tl.static_assert")


def test_an_error_in_tritons_library_has_the_callers_line() -> None:
    error = error_of(misuses_the_library, N=16)
    assert (error.file, error.line) == (__file__, line_of(misuses_the_library, "tl.sum"))
    assert "axis" in str(error.reason)


def test_a_function_that_calls_itself_is_an_error_of_one_reason() -> None:
    error = error_of(recursive)
    assert error.file == __file__
    assert len(str(error)) < 2000


def module_from(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HELPER = """
import triton
import triton.language as tl


@triton.jit
def helper(x):
    return x + no_such_name
"""


def test_the_file_is_that_of_the_called_function_even_if_two_files_have_the_same_text(tmp_path: Path) -> None:
    first = module_from(tmp_path / "first.py", HELPER)
    second = module_from(tmp_path / "second.py", "\n\n" + HELPER)

    @un.jit
    def closure(x):
        tl.store(x, second.helper(tl.load(x)))

    assert first.helper.src == second.helper.src
    error = error_of(closure)
    assert error.file == str(tmp_path / "second.py")
    assert error.line == 10
    assert "no_such_name" in str(error.reason)


@triton.jit
def scaled(x, n, factor, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(x + i, tl.load(x + i, mask=i < n) * factor, mask=i < n)


def test_what_a_kernel_is_specialised_for_is_in_the_text() -> None:
    types = {"x": "*fp32", "n": "i32", "factor": "fp32"}
    text = text_of(scaled, types, aligned=("x",), N=64)
    assert "tensor<64xf32>" in text
    assert text.count("tt.divisibility = 16 : i32") == 1
    fixed = text_of(scaled, {"x": "*fp32", "factor": "fp32"}, n=7, N=64)
    assert "dense<7> : tensor<64xi32>" in fixed
    assert "tt.divisibility" not in fixed


def test_the_text_says_where_each_operation_comes_from() -> None:
    text = text_of(scaled, {"x": "*fp32", "n": "i32", "factor": "fp32"}, N=64)
    assert f'"{__file__}":{line_of(scaled, "tl.store")}:' in text


@triton.jit(noinline=True)
def apart(x):
    return x * 2


@triton.jit
def calls_apart(x):
    tl.store(x, apart(tl.load(x)))


def test_calls_are_inlined_also_those_marked_otherwise() -> None:
    assert "tt.call" not in text_of(calls_apart, {"x": "*fp32"})


def is_no_kernels(x):
    return x


@triton.jit
def calls_what_none_may(x, IS_ODD: tl.constexpr = False):
    if IS_ODD:
        x = is_no_kernels(x)
    return x


@triton.jit
def calls_it_in_turn(x):
    tl.store(x, calls_what_none_may(1))


def test_a_source_without_a_key_has_none_the_next_time_either() -> None:
    for kernel in (calls_it_in_turn, calls_what_none_may, calls_it_in_turn):
        with pytest.raises(CompileError, match="Unsupported function referenced"):
            source_key(kernel)


@triton.jit
def swaps(x):
    i = tl.arange(0, 64)
    tl.atomic_cas(x + i, 0, i)  # of a tile, with a scalar


def test_what_does_not_verify_has_the_line_and_mlirs_words() -> None:
    with pytest.raises(CompileError, match="kernel swaps: 'tt.atomic_cas' op failed to verify") as raised:
        text_of(swaps, {"x": "*i32"})
    assert raised.value.reason == "'tt.atomic_cas' op failed to verify that ptr type matches cmp type"
    assert (raised.value.file, raised.value.line) == (__file__, line_of(swaps, "# of a tile"))


def test_a_failure_of_tritons_own_is_the_kernels() -> None:
    with pytest.raises(
        CompileError, match="kernel swaps: Triton's own failure: ValueError: not enough values"
    ) as raised:
        text_of(swaps, {"x": "tensordesc<"})
    assert raised.value.line == line_of(swaps, "@triton.jit")


def test_the_key_follows_the_source_after_a_call_was_refused(tmp_path: Path) -> None:
    source = """import triton, triton.language as tl
def helper(x): pass
@triton.jit
def kernel(x, DEBUG: tl.constexpr = False):
    if DEBUG:
        helper(x)
    tl.store(x, {})
"""
    keys = []
    for value in (1, 22):  # of another length: a file of the same second and size may come from the .pyc
        module = module_from(tmp_path / "edited.py", source.format(value))
        with pytest.raises(CompileError):
            source_key(module.kernel)
        module.kernel.__globals__["helper"] = None  # mended
        keys.append(source_key(module.kernel))
    assert keys[0] != keys[1]
