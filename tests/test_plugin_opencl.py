"""The backend over OpenCL in examples/plugins builds from the header alone. `make test-opencl` runs the suite on it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import unify as un

SOURCE = Path(__file__).parents[1] / "examples" / "plugins" / "opencl" / "src"


def test_it_includes_unifys_header_and_opencls_and_nothing_else_of_ours() -> None:
    for path in SOURCE.iterdir():
        included = set(re.findall(r'#include ["<]([^">]+/[^">]+)', path.read_text()))
        assert included <= {"CL/cl.h", "unify/backend.h"}, path.name
        assert len(path.read_text().splitlines()) <= 600, path.name


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("c++") is None or not Path("/usr/include/CL/cl.h").exists():
        pytest.skip("no C++ compiler, or no headers of OpenCL: apt install opencl-headers")
    command = [
        "c++",
        "-std=c++17",
        "-O0",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Werror",
        "-shared",
        "-fPIC",
        "-pthread",
    ]
    command += [f"-I{un.get_include()}", "-o", str(tmp_path / "opencl.so"), *map(str, sorted(SOURCE.glob("*.cpp")))]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_each_error_of_opencl_has_its_name_once() -> None:
    entries = re.findall(r"^CL_ERROR\((CL_\w+), (-\d+)\)$", (SOURCE / "errors.inc").read_text(), re.MULTILINE)
    assert len(entries) > 60
    assert len({name for name, _ in entries}) == len({number for _, number in entries}) == len(entries)
    header = Path("/usr/include/CL/cl.h")
    if header.exists():
        known = dict(re.findall(r"^#define (CL_\w+)\s+(-\d+)\s*$", header.read_text(), re.MULTILINE))
        assert [name for name, number in entries if known.get(name, number) != number] == []
