"""What is said where the vendor's own passes do not take a module."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import triton
import triton.language as tl

import unify as un
from unify.simulator import emulator
from unify.simulator.emulator.lowering import to_buffers

from ...compiler.cpu.harness import ttir
from .harness import linalg, tool


@triton.jit
def _short(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at).to(tl.float32))


def test_what_the_vendors_compiler_left_over_is_named_with_the_kernels_line() -> None:
    text = linalg(ttir(_short, {"x": "*fp8e4nv", "out": "*fp32", "N": "constexpr"}, {"N": 64}, set()))
    with pytest.raises(un.errors.CompileError, match=r"test_lowering\.py:\d+: .*left tt\.fp_to_fp as it was") as error:
        emulator.build(text, tool("bishengir-opt"))
    lines = Path(__file__).read_text().splitlines()
    assert error.value.line is not None
    assert "to(tl.float32)" in lines[error.value.line - 1]


def _program(folder: Path, body: str) -> Path:
    path = folder / "opt"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return path


def test_a_tool_that_ends_without_a_word_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        un.errors.CompileError, match="opt cannot prepare this kernel to run on the CPU: it said nothing"
    ):
        to_buffers("module {}", _program(tmp_path, "exit 3"))


def test_a_tools_error_is_told_with_its_place(tmp_path: Path) -> None:
    body = 'echo "/home/me/moe.py:12:9: error: no such op" >&2; exit 1'
    with pytest.raises(un.errors.CompileError, match=r"^/home/me/moe\.py:12: no such op$") as error:
        to_buffers("module {}", _program(tmp_path, body))
    assert (error.value.file, error.value.line, error.value.reason) == ("/home/me/moe.py", 12, "no such op")


def test_a_place_in_the_temporary_file_is_a_line_of_the_vendors_text(tmp_path: Path) -> None:
    body = 'echo "$1:4:1: error: odd" >&2; exit 1'
    with pytest.raises(un.errors.CompileError, match="line 4 of the vendor's linalg text: odd"):
        to_buffers("module {}", _program(tmp_path, body))


def test_a_missing_tool_is_an_error_of_the_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        to_buffers("module {}", tmp_path / "absent")
    assert os.listdir(tmp_path) == []
