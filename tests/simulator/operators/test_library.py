"""How the library of operators is made."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unify._config import settings
from unify._errors import InvalidArgument, TargetError
from unify.simulator import environment, operators
from unify.simulator.ascend import library_path
from unify.simulator.cli import check_fault

from .. import torch_npu

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
    base = operators.library(TORCH, library_path(), said=said.append)
    assert sorted(line.partition(" ")[2] for line in said) == ["descriptor.cpp", "operator.cpp", "rules.cpp"]
    made = operators.extension(TORCH, library_path(), base, [own], said=said.append)
    assert said[3:] == ["[1/1] own.cpp"]  # and nothing of the base again
    assert base.parent.parent.stat().st_mode & 0o077 == 0
    assert operators.library(TORCH, library_path(), said=said.append) == base
    assert operators.extension(TORCH, library_path(), base, [own], said=said.append) == made
    assert len(said) == 4
    assert {path.name for path in base.parent.parent.iterdir()} == {base.parent.name, made.parent.name}
    ctypes.CDLL(str(library_path()))
    library = ctypes.CDLL(str(made))
    assert library.aclnnOwnGetWorkspaceSize(None, None, None, None) == 161001
    assert hasattr(library, "aclCreateIntArray")  # of the base
    assert not hasattr(library, "aclnnAddGetWorkspaceSize")


def test_a_program_gets_the_caller_s_operator_in_place_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.cpp").write_text("""
#include <ATen/Functions.h>
#include <aclop.h>
using namespace unify::operators;
OPERATOR(aclnnRenorm, (Tensor self, Scalar p, int64_t dim, Scalar most, Out out),
         out = at::renorm(self, p, dim, most).add(1))
ACLOP(Mine, (Tensor x, Out y), y = at::mish(x))
""")
    (tmp_path / "program.py").write_text("""
import torch, torch_npu
x = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
torch.testing.assert_close(torch.renorm(x.npu(), 2, 0, 1.0).cpu(), torch.renorm(x, 2, 0, 1.0) + 1)
assert (x.npu() + x.npu()).cpu().equal(x + x)
""")
    monkeypatch.setenv("UNIFY_SIMULATED_OPERATORS", str(tmp_path / "mine.cpp"))
    with settings.override(toolchain_dir=torch_npu.toolchains()):
        found = environment.find(sys.executable)
        variables = found.variables(environment.read_chips("910B3,1g"))
    check_fault("0:aclnnRenorm:0:aicore", found.libraries, 1)
    check_fault("0:aclnnAdd:0:aicore", found.libraries, 1)
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_source_that_is_wrong_is_named_and_leaves_nothing(few: Path) -> None:
    own = few / "own.cpp"
    own.write_text("this is no C++")
    with pytest.raises(TargetError, match=r"own\.cpp.* failed:"):
        operators.extension(TORCH, library_path(), library_path(), [own])
    assert not list((few / "toolchains").rglob("*.*"))


def test_without_a_compiler_or_a_torch_it_says_so(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="has no include/ATen"):
        operators.library(few, library_path())
    with pytest.raises(InvalidArgument, match=r"own\.cpp is not there"):
        operators.extension(TORCH, library_path(), library_path(), [few / "own.cpp"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TargetError, match=r"'no-such-compiler' is not there\. Install"):
        operators.library(TORCH, library_path())
