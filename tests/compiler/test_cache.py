"""Compiled kernels on disk: damaged, forbidden and contended, a kernel runs all the same."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import triton.language as tl

import unify as un
from unify import compiler
from unify._config import settings
from unify.compiler import cache


def adder() -> Any:
    """A kernel anew, without what its last object remembered."""

    @un.jit
    def add(x, y, n, VALUE: tl.constexpr):
        i = tl.arange(0, 16)
        tl.store(y + i, tl.load(x + i, mask=i < n) + VALUE, mask=i < n)

    return add


def run(value: float) -> float:
    """x + value for x = 1, by a kernel that is loaded or compiled for this call."""
    x, y = un.ones(16), un.zeros(16)
    adder()[(1,)](x, y, 16, VALUE=value)
    result: float = y.numpy()[3].item()
    return result - 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty cache; the warnings that came once come again."""
    cache.warn_once.cache_clear()
    with settings.override(cache_dir=tmp_path, no_cache=False, dump=()):
        yield tmp_path / "kernels"
    cache.warn_once.cache_clear()


def entry(folder: Path) -> Path:
    """The only file there is."""
    (found,) = folder.iterdir()
    return found


def test_a_kernel_is_compiled_once_and_readable_by_its_user_alone(folder: Path) -> None:
    assert run(2.0) == 2.0
    kept = entry(folder)
    before = kept.stat()
    assert before.st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert run(2.0) == 2.0
    assert kept.stat().st_ino == before.st_ino  # a compiled one would have replaced it


def test_another_value_is_another_entry(folder: Path) -> None:
    assert [run(value) for value in (2.0, 3.0, 2.0)] == [2.0, 3.0, 2.0]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:4],
        lambda content: content[:40],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
        lambda content: content[:-100] + bytes([content[-100] ^ 128]) + content[-99:],
        lambda content: b"UNIFYK00" + content[8:],
        lambda content: bytes(len(content)),
    ],
    ids=["empty", "magic", "header", "half", "last-byte", "one-more", "header-bit", "code-bit", "version", "zeros"],
)
def test_a_damaged_entry_counts_as_absent_and_is_replaced(folder: Path, damage: Any) -> None:
    run(2.0)
    kept = entry(folder)
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert cache.decode(kept.read_bytes()) is None
    assert run(2.0) == 2.0
    assert cache.decode(entry(folder).read_bytes()) is not None


def test_an_entry_that_is_a_folder_costs_only_time(folder: Path) -> None:
    run(2.0)
    kept = entry(folder)
    kept.unlink()
    kept.mkdir()
    with pytest.warns(RuntimeWarning, match="compiled kernels are not kept"):
        assert run(2.0) == 2.0
    assert kept.is_dir()


def plant(folder: Path) -> None:
    """Puts what adds 5 where what adds 2 is expected."""
    run(5.0)
    other = entry(folder)
    foreign = other.read_bytes()
    other.unlink()
    run(2.0)
    entry(folder).write_bytes(foreign)


def test_a_planted_entry_would_be_believed_in_a_folder_of_ones_own(folder: Path) -> None:
    plant(folder)
    assert run(2.0) == 5.0  # what the next two tests would see if nobody looked


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_to_is_neither_read_nor_written(folder: Path, mode: int) -> None:
    plant(folder)
    folder.chmod(mode)
    before = entry(folder).stat().st_ino
    with pytest.warns(RuntimeWarning, match=r"writable by others or not yours.*chmod 700") as caught:
        assert (run(2.0), run(3.0)) == (2.0, 3.0)
    assert len(caught) == 1
    assert entry(folder).stat().st_ino == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders away")
def test_a_folder_of_somebody_else_is_neither_read_nor_written(folder: Path) -> None:
    plant(folder)
    os.chown(folder, 54321, -1)
    with pytest.warns(RuntimeWarning, match="not yours"):
        assert run(2.0) == 2.0


@pytest.mark.parametrize("place", ["a-file", "/proc/unify"])
def test_a_cache_that_cannot_be_written_is_one_warning(folder: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("")
    with (
        settings.override(cache_dir=tmp_path / place),
        pytest.warns(RuntimeWarning, match=r"compiled kernels are not kept in .*Set UNIFY_CACHE_DIR") as caught,
    ):
        assert [run(value) for value in (2.0, 3.0)] == [2.0, 3.0]
    assert len(caught) == 1


def test_an_entry_on_a_read_only_file_system_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(folder)

    def refuse(path: Any, *args: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(2.0) == 5.0  # the entry's, not a compiled one


def test_without_a_cache_nothing_is_read_or_written(folder: Path) -> None:
    plant(folder)
    before = entry(folder).stat()
    with settings.override(no_cache=True), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(2.0) == 2.0
    assert entry(folder).stat() == before


_PROGRAM = """
import resource, sys, warnings
from tests.compiler.test_cache import run
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print([run(value) for value in (2.0, 3.0)], *[w.message for w in caught])
"""


def start(root: Path, folder: Path, limit: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "UNIFY_CACHE_DIR": str(folder.parent), "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(limit)], stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    )


def test_a_full_disk_costs_one_warning_and_leaves_no_piece(root: Path, folder: Path) -> None:
    out, _ = start(root, folder, 500).communicate(timeout=120)
    assert out.startswith("[2.0, 3.0] compiled kernels are not kept")
    assert out.count("not kept") == 1
    assert list(folder.iterdir()) == []


def test_processes_that_compile_the_same_kernel_at_once_all_get_it(root: Path, folder: Path) -> None:
    processes = [start(root, folder, 0) for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["[2.0, 3.0]\n"] * 3
    kept = list(folder.iterdir())
    assert len(kept) == 2
    assert all(cache.decode(path.read_bytes()) is not None for path in kept)


def test_the_least_recently_used_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(2.0)
    old = entry(folder)
    os.utime(old, (0, 0))
    run(3.0)
    (recent,) = set(folder.iterdir()) - {old}
    os.utime(recent, (1, 1))
    run(2.0)  # uses the old one
    monkeypatch.setattr(cache, "_MOST_BYTES", 2 * recent.stat().st_size + 100)
    run(4.0)
    assert old.exists()
    assert not recent.exists()
    assert run(3.0) == 3.0


@un.jit
def refused(x, N: tl.constexpr):
    tl.store(x, tl.inline_asm_elementwise("no_such_instruction $0", "=r,r", [tl.load(x)], tl.int32, True, N))


class Half:
    """A target's compile half that refuses, as it is told to."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        self.calls = 0

    def __call__(self, ttir: str, target: Any, options: Any) -> Any:
        self.calls += 1
        raise un.errors.CompileError(f"no {self.calls}", **self.fields)


def refuse(monkeypatch: pytest.MonkeyPatch, half: Half) -> list[tuple[str, str | None, int | None, str | None]]:
    """Compiles one kernel twice for a target with this half."""
    monkeypatch.setattr(compiler, "compiler_for", lambda target: half)
    errors = []
    for _ in range(2):
        with pytest.raises(un.errors.CompileError) as raised:
            un.compile(refused, "cpu", {"x": "*i32"}, {"N": 1})
        errors.append((str(raised.value), raised.value.file, raised.value.line, raised.value.reason))
    return errors


def test_what_a_target_refuses_is_kept_with_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Half(file="norm.py", line=12, reason="too large")
    first, second = refuse(monkeypatch, half)
    assert first == second == ("no 1", "norm.py", 12, "too large")
    assert half.calls == 1
    with settings.override(no_cache=True), pytest.raises(un.errors.CompileError, match="no 2"):
        un.compile(refused, "cpu", {"x": "*i32"}, {"N": 1})


@pytest.mark.parametrize("fields", [{"line": 12, "is_accident": True}, {"reason": "a tool was not done"}])
def test_what_may_go_well_the_next_time_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    half = Half(**fields)
    first, second = refuse(monkeypatch, half)
    assert (first[0], second[0], half.calls) == ("no 1", "no 2", 2)
    assert not folder.exists()
