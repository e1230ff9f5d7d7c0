"""Rules of the source that no linter knows. What a rule looks at is in its first line; what breaks it is named."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import unify as un

ROOT = Path(__file__).parents[1]
HEADER = ROOT / "unify" / "include" / "unify" / "backend.h"
# Longer than a subject should be. A file that got shorter must leave the list.
LONG_FILES = {
    "csrc/backends/host.cpp",
    "csrc/python/kernel.cpp",
    "unify/compiler/mlir.py",  # a parser: one grammar
}


def files(folder: str, *suffixes: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code(path: Path) -> str:
    """A C++ file without its comments."""
    return re.sub(r"//.*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL if path.suffix == ".h" else 0)


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """The dotted names that a Python file reads or calls, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node), node.lineno


def test_files_have_one_subject() -> None:
    everything = files("unify", ".py", ".h", ".pyi") + files("csrc", ".cpp", ".h", ".inc") + files("tests", ".py")
    long = {name(path) for path in everything if len(path.read_text().splitlines()) > 600}
    assert long == LONG_FILES


def test_the_core_names_no_vendor() -> None:
    for path in files("csrc/core", ".cpp", ".h"):
        found = re.search(r"\b\w*(cuda|ascend|\bacl|npu|nvidia|huawei)\w*", code(path), re.IGNORECASE)
        assert found is None, f"{name(path)}: {found and found[0]}"


def test_includes_run_down() -> None:
    floors = {
        "csrc/core": ("backends/", "python/", "pybind11", "Python.h"),
        "csrc/backends": ("core/", "python/", "pybind11", "Python.h"),
        "unify/include": ("core/", "backends/", "python/", "pybind11"),
    }
    for folder, above in floors.items():
        for path in files(folder, ".cpp", ".h"):
            for included in re.findall(r'#include [<"]([^>"]+)', path.read_text()):
                assert not included.startswith(above), f"{name(path)} includes {included}"


def test_one_file_loads_the_backends_that_are_built_in() -> None:
    builtin = re.compile(r"unify_host_backend\w*")
    users = {name(path) for path in files("csrc/core", ".cpp", ".h") if builtin.search(code(path))}
    assert users <= {"csrc/core/registry.cpp"}


def test_the_environment_is_read_in_one_place() -> None:
    reads = {"os.environ", "os.getenv", "environ", "getenv"}
    for path in files("unify", ".py"):
        if name(path) in ("unify/_config.py", "unify/testing/backends.py"):  # the second asks for CC, as build tools do
            continue
        for read, line in calls(path):
            assert read not in reads, f"{name(path)}:{line} reads the environment; add a setting to _config.TABLE"
    for path in files("csrc", ".cpp", ".h"):
        assert "getenv" not in code(path), f"{name(path)} reads the environment; pass the value from Python"


def test_nothing_that_was_read_is_run() -> None:
    forbidden = {"pickle.load", "pickle.loads", "torch.load", "eval", "exec", "marshal.loads", "yaml.load", "os.system"}
    for path in files("unify", ".py"):
        if "testing" in path.parts:
            continue
        for call, line in calls(path):
            assert call not in forbidden, f"{name(path)}:{line}: {call}"


def test_public_names_say_what_they_are() -> None:
    for public in un.__all__:
        value = getattr(un, public)
        if callable(value) and not isinstance(value, un.DType):
            assert (value.__doc__ or "").strip(), f"unify.{public} has no docstring"
            assert getattr(value, "__module__", "unify").split(".")[0] == "unify", f"unify.{public} is a stranger's"


@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c", "c11"), ("c++", "c++17")])
@pytest.mark.parametrize("header", ["backend.h", "host_kernel.h"])
def test_headers_stand_alone_in_c_and_in_cpp(header: str, language: str, standard: str) -> None:
    command = ["cc", "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    command += ["-fsyntax-only", "-I", un.get_include(), "-"]
    source = f"#include <unify/{header}>\n"
    finished = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def table() -> str:
    return HEADER.read_text().partition("typedef struct unify_backend {")[2].partition("} unify_backend;")[0]


def contracts() -> list[tuple[str, str]]:
    """Each function of the backend's table, with the comment above it."""
    pattern = re.compile(r"/\*((?:(?!\*/).)*)\*/\s*\w[\w\s*]*\(\*(\w+)\)", re.DOTALL)
    return [(function, comment) for comment, function in pattern.findall(table())]


def test_every_function_of_the_interface_has_a_contract() -> None:
    found = dict(contracts())
    assert found.keys() == set(re.findall(r"\(\*(\w+)\)\(", table()))
    assert len(found) >= 36
    for function, comment in found.items():
        for label in ("Order:", "Memory:", "Threads:", "Errors:"):
            assert label in comment, f"{function} does not say {label}"


@pytest.mark.parametrize("folder", ["ops", "models"])
def test_tests_mirror_the_source(folder: str) -> None:
    tested = {path.name for path in files(f"tests/{folder}", ".py")}
    for path in files(f"unify/{folder}", ".py"):
        if path.stem not in ("__init__", "cli"):  # a command line is tested in tests/test_cli.py
            assert f"test_{path.name}" in tested, f"{name(path)} has no tests/{folder}/test_{path.name}"
