"""How arguments, options and grids reach a kernel, and which are refused."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton.language as tl

import unify as un
from unify._config import settings
from unify.compiler import Binary, Options, Target, cpu
from unify.compiler.target import register_target

MOST_PARAMETERS = 96


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
