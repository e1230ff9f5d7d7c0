"""UNIFY_DUMP writes what a kernel went through."""

from __future__ import annotations

from pathlib import Path

import pytest
import triton
import triton.language as tl

import unify as un
from unify._config import settings
from unify.compiler import Options, Specialization, Target, cache, compile
from unify.errors import CompileError, InvalidArgument


@triton.jit
def doubled(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at) * 2)


@triton.jit
def refused(x, N: tl.constexpr):
    tl.store(x + tl.arange(0, N), tl.inline_asm_elementwise("nop", "=r,r", [tl.arange(0, N)], tl.int32, True, 1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIFY_DUMP", "ttir,llvm,asm")
    monkeypatch.setenv("UNIFY_DUMP_DIR", str(tmp_path / "dump"))
    return tmp_path / "dump"


def test_each_stage_is_a_file_named_for_its_kernel(folder: Path) -> None:
    x, out = un.ones(16, un.float32), un.empty(16, un.float32)
    un.jit(doubled)[(1,)](x, out, N=16)
    files = {path.suffix: path for path in folder.iterdir()}
    assert files.keys() == {".ttir", ".llvm", ".asm"}
    assert len({path.stem for path in files.values()}) == 1
    assert files[".asm"].name.startswith("doubled.")
    assert "tt.load" in files[".ttir"].read_text()
    assert "define" in files[".llvm"].read_text()
    assert ".text" in files[".asm"].read_text()


def test_a_kernel_that_does_not_compile_leaves_what_there_was(folder: Path) -> None:
    with pytest.raises(CompileError):
        un.jit(refused)[(1,)](un.ones(16, un.int32), N=16)
    assert [path.suffix for path in folder.iterdir()] == [".ttir"]


@pytest.mark.parametrize("place", ["a-file", "/proc/unify"])
def test_a_folder_that_cannot_be_written_is_one_warning(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("UNIFY_DUMP_DIR", str(tmp_path / place))
    x, out = un.ones(16, un.float32), un.empty(16, un.float32)
    with pytest.warns(RuntimeWarning, match=r"nothing is written to .*: .*Set UNIFY_DUMP_DIR") as caught:
        _ = [un.jit(doubled)[(1,)](x, out, N=16) for _ in range(2)]
    assert len(caught) == 1
    assert out.tolist() == [2.0] * 16


@pytest.mark.parametrize("dump", ["", "asm"])
def test_a_program_gets_the_stages_it_asks_for_and_they_are_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dump: str
) -> None:
    monkeypatch.setenv("UNIFY_DUMP", dump)
    specialization = Specialization({"x": "*fp32", "out": "*fp32", "N": "constexpr"}, {"N": 16})
    with settings.override(cache_dir=tmp_path, no_cache=False):
        plain, *asked = (
            compile(doubled, Target("cpu"), specialization, Options(stages=stages))
            for stages in ((), ("ttir", "llvm"), ("asm",))
        )
        (kept,) = tmp_path.rglob("*.kernel")
    assert [list(binary.stages) for binary in (plain, *asked)] == [[], ["ttir", "llvm"], ["asm"]]
    assert "tt.load" in asked[0].stages["ttir"]
    assert ".text" in asked[1].stages["asm"]
    with pytest.raises(InvalidArgument, match=r"no stage lvm; cpu has asm, llvm, source, ttir"):
        compile(doubled, Target("cpu"), specialization, Options(stages=("lvm",)))
    assert folder.exists() == bool(dump)
    entry = cache.decode(kept.read_bytes())
    assert entry is not None
    assert entry.stages == {}
