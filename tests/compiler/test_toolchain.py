"""Vendors' compilers: fetched by pip from an index, checked by their hashes, and run from a folder of their own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import subprocess
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import unify as un
from unify.compiler import toolchain
from unify.compiler.toolchain import Toolchain, Wheel

from ..conftest import Run

METADATA = "Metadata-Version: 2.1\nName: toy-compiler\nVersion: 1.5\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """A toolchain of one wheel with one program, in a folder that pip takes for an index."""
    index = tmp_path / "index"
    index.mkdir()
    tag = f"cp311-cp311-manylinux_2_28_{platform.machine()}"
    path = index / f"toy_compiler-1.5-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/bin/toycc", "#!/bin/sh\necho toycc 1.5 $@\n")
        archive.writestr("toy/__init__.py", "raise RuntimeError")
        archive.writestr("toy_compiler-1.5.dist-info/METADATA", METADATA)
        archive.writestr("toy_compiler-1.5.dist-info/WHEEL", WHEEL.format(tag=tag))
        archive.writestr("toy_compiler-1.5.dist-info/RECORD", "")
    for variable, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(index)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("UNIFY_TOOLCHAIN_DIR", str(tmp_path / "toolchains"))
    hashes = {platform.machine(): hashlib.sha256(path.read_bytes()).hexdigest()}
    chosen = Toolchain(
        "toy", "a toy", (Wheel("toy-compiler", "1.5", 1, hashes, ("toy/bin/toycc",)),), "311", ("manylinux_2_28",)
    )
    monkeypatch.setitem(toolchain._TABLE, "toy", chosen)
    return chosen


def own_files(folder: Path) -> set[str]:
    return {name for name in files_in(folder) if not name.endswith(".lock")}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_its_programs_are_taken_and_nothing_else(toy: Toolchain, tmp_path: Path) -> None:
    with pytest.raises(un.errors.TargetError, match=r"unify toolchain install toy.*\(1 MB\)"):
        toolchain.find("toy")
    folder = toolchain.install("toy", quiet=True)
    assert folder == toolchain.find("toy") == tmp_path / "toolchains/toy/1.5"
    assert own_files(tmp_path / "toolchains") == {"toy/1.5/toycc", "toy/1.5/installed.json"}
    said = subprocess.run([folder / "toycc", "x"], capture_output=True, text=True, check=True).stdout
    assert said == "toycc 1.5 x\n"


def test_what_is_there_is_not_fetched_again(toy: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain.install("toy", quiet=True)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert toolchain.install("toy", quiet=True) == toy.folder


def test_a_file_of_another_hash_is_refused(
    toy: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = dataclasses.replace(toy.wheels[0], hashes={platform.machine(): "0" * 64})
    monkeypatch.setitem(toolchain._TABLE, "toy", dataclasses.replace(toy, wheels=(wrong,)))
    with pytest.raises(un.errors.TargetError, match="pip could not fetch toy-compiler"):
        toolchain.install("toy", quiet=True)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert own_files(tmp_path / "toolchains") == set()


def test_a_program_that_does_not_run_is_not_installed(
    toy: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dataclasses.replace(toy.wheels[0], members=("toy/__init__.py",))
    monkeypatch.setitem(toolchain._TABLE, "toy", dataclasses.replace(toy, wheels=(wrong,)))
    with pytest.raises(un.errors.TargetError, match=r"__init__\.py does not run on this machine"):
        toolchain.install("toy", quiet=True)
    assert own_files(tmp_path / "toolchains") == set()


def test_nothing_is_run_from_where_others_may_write(toy: Toolchain) -> None:
    toolchain.install("toy", quiet=True).chmod(0o777)
    with pytest.raises(un.errors.TargetError, match="writable by others"):
        toolchain.find("toy")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda program: program.write_text("#!/bin/sh\n"), "toycc is not what was installed"),
        (lambda program: program.chmod(0o644), "toycc cannot be run"),
        (lambda program: program.unlink(), "toycc is gone"),
        (lambda program: program.with_name("installed.json").write_text("{"), "installed.json cannot be read"),
    ],
    ids=["truncated", "mode", "deleted", "record"],
)
def test_what_was_damaged_is_not_run_and_is_mended(toy: Toolchain, harm: Callable[[Path], object], words: str) -> None:
    program = toolchain.install("toy", quiet=True) / "toycc"
    harm(program)
    assert not toolchain.is_installed("toy")
    with pytest.raises(un.errors.TargetError, match=rf"damaged: {words}.*`unify toolchain install toy`"):
        toolchain.find("toy")
    toolchain.install("toy", quiet=True)
    assert toolchain.find("toy") == toy.folder
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "toycc 1.5\n"


def test_an_attempt_that_did_not_end_is_begun_anew(toy: Toolchain) -> None:
    toy.folder.mkdir(parents=True)
    (toy.folder / "toycc").write_text("half of it")
    killed = toy.folder.parent / ".installing-killed"
    killed.mkdir()
    toolchain.install("toy", quiet=True)
    assert files_in(toy.folder) == {"toycc", "installed.json"}
    assert not killed.exists()


def test_the_second_of_two_waits_and_takes_what_the_first_made(
    toy: Toolchain, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    toolchain.install("toy", quiet=True)
    made, aside = toy.folder, toy.folder.with_name("made")
    made.rename(aside)
    monkeypatch.setenv("PIP_FIND_LINKS", "")  # it could not be fetched again
    with ThreadPoolExecutor() as pool, toolchain._alone(toy):
        second = pool.submit(toolchain.install, "toy")
        while "waiting" not in capfd.readouterr().err:
            assert not second.done()
        aside.rename(made)
    assert second.result() == made


def test_it_can_be_removed(toy: Toolchain) -> None:
    assert not toolchain.remove("toy")
    toolchain.install("toy", quiet=True)
    assert toolchain.remove("toy")
    assert not toolchain.is_installed("toy")


def test_other_machines_and_names_are_told(toy: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(un.errors.TargetError, match="Linux on .*; this is Linux on riscv64"):
        toolchain.install("toy", quiet=True)
    with pytest.raises(un.errors.TargetError, match=r"no toolchain 'gcc'\. Known: ascend"):
        toolchain.install("gcc")


def test_tests_do_not_run_without_the_compilers_that_ci_requires(python: Run, root: Path, tmp_path: Path) -> None:
    empty = str(Path(__file__).with_name("kernels.py"))  # has no tests
    for required, code in (("ascend", pytest.ExitCode.USAGE_ERROR), ("", pytest.ExitCode.NO_TESTS_COLLECTED)):
        environment = {**os.environ, "REQUIRED_TOOLCHAINS": required, "UNIFY_TOOLCHAIN_DIR": str(tmp_path)}
        finished = python("-m", "pytest", "-p", "no:cacheprovider", empty, cwd=root, env=environment)
        assert finished.returncode == code
        assert ("the compilers for ascend are not installed" in finished.stderr) == bool(required)
