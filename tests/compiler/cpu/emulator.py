"""Runs kernels that were compiled for aarch64 on a machine of another kind: Debian's qemu-user, and our own loader."""

from __future__ import annotations

import ctypes
import functools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unify.compiler.cpu import Image
from unify.compiler.cpu.processor import Features

ROOT = Path(__file__).resolve().parents[3]
_COMPILER, _EMULATOR, _LIBRARIES = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
_SOURCES = ("tests/compiler/cpu/run_object.cpp", "csrc/backends/host_elf.cpp",
            "csrc/backends/host_relocation_aarch64.cpp")  # fmt: skip
_COMPILE = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-Iunify/include", "-Icsrc"]


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="unify-aarch64-")


@functools.cache
def program() -> Path:
    """run_object.cpp and the loader of the CPU backend for aarch64. Skips the test where the tools are missing."""
    for tool, package in ((_COMPILER, "g++-aarch64-linux-gnu"), (_EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian: {package})")
    compiler = [*(["ccache"] if shutil.which("ccache") else []), _COMPILER]
    objects = []
    for source in _SOURCES:
        objects.append(Path(_folder().name, Path(source).stem + ".o"))
        subprocess.run([*compiler, *_COMPILE, "-c", source, "-o", objects[-1]], cwd=ROOT, check=True)
    built = Path(_folder().name, "run_object")
    subprocess.run([_COMPILER, *objects, "-o", built, "-ldl"], check=True)
    return built


def run(
    image: Image, target: Features, grid: tuple[int, ...], packed: Any, arguments: dict[str, Any], fault: Any
) -> int:
    """The kernel's status. Arrays are changed in place; `fault` is filled."""
    ranges = _ranges([v for v in arguments.values() if isinstance(v, np.ndarray)])
    starts, data = [], b""
    for low, high in ranges:
        data += bytes(-len(data) % 64 + low % 64)  # as well aligned as here
        starts.append(len(data))
        data += ctypes.string_at(low, high - low)
    pointers = []
    for name, type_, offset in image.parameters:
        if type_.startswith("*"):
            address = arguments[name].ctypes.data
            pointers += [(offset, start + address - r[0]) for start, r in zip(starts, ranges) if r[0] <= address < r[1]]
    head = struct.pack("<7Q", *grid, image.scratch_bytes, len(data), len(packed), len(pointers))
    request = head + b"".join(struct.pack("<2Q", *pointer) for pointer in pointers) + bytes(packed) + data
    answer = _answer(image, target, request)
    for start, (low, high) in zip(starts, ranges):
        ctypes.memmove(low, answer[start:], high - low)
    numbers, message, file = answer[len(data) :].split(b"\n")
    status, fault.kind, *program_id, fault.line = map(int, numbers.split())
    fault.program = tuple(program_id)
    fault.message, fault.file = message, file
    return status


def _answer(image: Image, target: Features, request: bytes) -> bytes:
    built = program()
    # N1 has what Kunpeng 920 has, and no more; only one of qemu's processors has bfloat16, and that has everything.
    processor = "max" if target.has("bf16") else "neoverse-n1"
    paths = [Path(_folder().name, name) for name in ("object", "request", "answer")]
    paths[0].write_bytes(image.object)
    paths[1].write_bytes(request)
    command: list[str | Path] = [
        _EMULATOR,
        "-cpu",
        processor,
        "-L",
        _LIBRARIES,
        built,
        paths[0],
        image.name,
        *paths[1:],
    ]
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert finished.returncode == 0, f"{image.name} under {_EMULATOR}: {finished.returncode}: {finished.stderr}"
    return paths[2].read_bytes()


def _ranges(arrays: list[np.ndarray[Any, Any]]) -> list[tuple[int, int]]:
    """The memory behind these arrays, without overlaps."""
    found: list[tuple[int, int]] = []
    for array in arrays:
        while isinstance(array.base, np.ndarray):
            array = array.base
        found.append(np.lib.array_utils.byte_bounds(array))
    merged: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if merged and low < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
