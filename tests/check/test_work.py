"""One kernel for one target: what comes out, that it is kept, and that nothing of it is lost."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import triton.language as tl

import unify as un
from unify._config import settings
from unify.check import work
from unify.check.subject import Outcome
from unify.compiler import Binary, Options, Target, target, toolchain
from unify.compiler.target import register_target

from .kernels import outcome_of


@un.jit
def add(x, y, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i) + 1)


FLOATS = {"x": "*fp32:16", "y": "*fp32:16"}


def text() -> str:
    return un.compile(add, types=FLOATS, stages=("ttir",)).stages["ttir"]


def job(target: str, key: str = "key", ttir: str | None = None) -> work.Work:
    return work.Work("add", text() if ttir is None else ttir, target, {}, key)


@pytest.fixture
def file_of_adapter(tmp_path: Path) -> Iterator[Path]:
    """Stands in place of the vendor's first program, and is to be written."""
    with settings.override(toolchain_dir=tmp_path / "toolchains"):
        (folder,) = (chosen.folder for chosen in toolchain.toolchains() if chosen.name == "ascend")
        folder.mkdir(parents=True)
        (folder / toolchain._RECORD).write_text("{}")
        adapter = folder / "triton-adapter-opt"
        adapter.touch(0o755)
        yield adapter


def test_what_came_out_and_what_it_takes() -> None:
    assert outcome_of(add, "cpu", FLOATS) == Outcome("ok")
    outcome = outcome_of(add, "cuda:90", FLOATS)
    assert (outcome.status, outcome.reason, outcome.memory["threads"]) == ("ok", None, 128)
    assert outcome.memory["registers"] > 0


def test_an_outcome_is_kept_also_of_one_that_failed(tmp_path: Path) -> None:
    with settings.override(cache_dir=tmp_path, no_cache=False):
        assert work.known("good") is None
        assert work.known("bad") is None
        good = work.done(job("cpu", "good"))
        bad = work.done(job("cpu", "bad", text().replace("arith.addf", "arith.nonsense")))
        assert bad.status == "failed"
        assert bad.reason
        assert work.known("good") == good
        assert work.known("bad") == bad


def test_a_key_changes_with_all_that_decides() -> None:
    source: dict[str, object] = {"ttir": "x"}
    keys = {
        work.entry_key(source, "cpu", {}),
        work.entry_key({"ttir": "y"}, "cpu", {}),
        work.entry_key(source, "cuda:90", {}),
        work.entry_key(source, "cpu", {"num_warps": 8}),
    }
    assert len(keys) == 4
    assert work.entry_key(source, "cpu", {}) in keys


def test_another_set_of_rules_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = work.entry_key({}, "cpu", {})
    monkeypatch.setattr(work, "_version", lambda: "changed")
    assert work.entry_key({}, "cpu", {}) != before


def test_a_compiler_that_breaks_is_told_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(ttir: str, target: Target, options: Options) -> Binary:
        raise RecursionError("too deep")

    monkeypatch.setattr(target, "_COMPILERS", dict(target._COMPILERS))  # forgotten after this test
    register_target("breaking", breaks)
    with settings.override(cache_dir=tmp_path, no_cache=False):
        outcome = work.done(job("breaking"))
        assert outcome == Outcome("failed", "unify's own failure: RecursionError: too deep")
        assert work.known("key") is None


def test_an_accident_is_told_and_not_kept(tmp_path: Path, file_of_adapter: Path) -> None:
    with settings.override(cache_dir=tmp_path / "cache", no_cache=False):
        file_of_adapter.write_text("#!/bin/sh\nkill -KILL $$\n")
        outcome = work.done(job("ascend:910B3"))
        assert outcome.reason == "triton-adapter-opt crashed (SIGKILL)"
        assert work.known("key") is None
        file_of_adapter.write_text("#!/bin/sh\necho 'error: no' >&2\nexit 1\n")
        outcome = work.done(job("ascend:910B3"))
        assert (outcome.status, outcome.reason) == ("failed", "no")
        assert work.known("key") == outcome


def test_a_target_that_nobody_knows_is_the_callers_mistake() -> None:
    with pytest.raises(un.errors.TargetError, match="no target 'ascend:910B9'"):
        work.done(job("ascend:910B9"))


def test_processes_do_all_of_it_and_share_what_is_set_here(tmp_path: Path) -> None:
    with settings.override(cache_dir=tmp_path, no_cache=False):
        jobs = [job("cpu", "one"), job("cuda:90", "two")]
        found = {each.key: outcome.status for each, outcome in work.in_processes(iter(jobs), 2)}
        assert found == {"one": "ok", "two": "ok"}
        assert work.known("one") is not None


DEADLY = """
import os, signal
from unify.check import work

real = work.done

def done(each):
    if each.key == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(each)
"""


def test_a_process_that_ends_loses_its_own_kernel_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly_work.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)  # where the process finds it, too
    monkeypatch.setattr(work, "done", importlib.import_module("deadly_work").done)
    jobs = [job("cpu", "one"), job("cpu", "dies"), job("cpu", "three")]
    with settings.override(no_cache=True):
        found = {each.key: outcome for each, outcome in work.in_processes(iter(jobs), 1)}
    assert found["one"].status == found["three"].status == "ok"
    assert found["dies"] == Outcome("failed", "the compiler crashed")
