"""How the library of operators is made."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from unify._config import settings
from unify._errors import InvalidArgument, TargetError
from unify.simulator import operators
from unify.simulator.ascend import library_path

torch = pytest.importorskip("torch")
TORCH = Path(torch.__file__).parent


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for libraries, and of the sources only those without which there is none: the rest takes minutes."""
    every = Path.glob

    def glob(folder: Path, pattern: str) -> Iterator[Path]:
        names = ("descriptor.cpp", "operator.cpp", "rules.cpp")
        return (path for path in every(folder, pattern) if path.suffix != ".cpp" or path.name in names)

    monkeypatch.setattr(Path, "glob", glob)
    with settings.override(toolchain_dir=tmp_path / "toolchains"):
        yield tmp_path


def test_it_is_made_once_and_takes_operators_of_the_caller_s(few: Path) -> None:
    own = few / "own.cpp"
    own.write_text("""
#include <ATen/Functions.h>
#include <operator.h>
using namespace unify::operators;
OPERATOR(aclnnOwn, (Tensor self, Out out), out = at::neg(self))
""")
    said: list[str] = []
    made = operators.library(TORCH, library_path(), more=[own], said=said.append)
    assert sorted(line.partition(" ")[2] for line in said) == ["descriptor.cpp", "operator.cpp", "own.cpp", "rules.cpp"]
    assert made.parent.parent.stat().st_mode & 0o077 == 0
    assert operators.library(TORCH, library_path(), more=[own], said=said.append) == made
    assert len(said) == 4
    assert [path.name for path in made.parent.parent.iterdir()] == [made.parent.name]
    ctypes.CDLL(str(library_path()))
    library = ctypes.CDLL(str(made))
    assert library.aclnnOwnGetWorkspaceSize(None, None, None, None) == 161001
    assert not hasattr(library, "aclnnAddGetWorkspaceSize")


def test_a_source_that_is_wrong_is_named_and_leaves_nothing(few: Path) -> None:
    own = few / "own.cpp"
    own.write_text("this is no C++")
    with pytest.raises(TargetError, match=r"own\.cpp.* failed:"):
        operators.library(TORCH, library_path(), more=[own])
    assert not list((few / "toolchains").rglob("*.*"))


def test_without_a_compiler_or_a_torch_it_says_so(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="has no include/ATen"):
        operators.library(few, library_path())
    with pytest.raises(InvalidArgument, match=r"own\.cpp is not there"):
        operators.library(TORCH, library_path(), more=[few / "own.cpp"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TargetError, match=r"'no-such-compiler' is not there\. Install"):
        operators.library(TORCH, library_path())
