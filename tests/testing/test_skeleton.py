"""`unify new-backend`: what it writes builds at once, and passes what a backend must do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import unify as un
from unify import cli
from unify.testing import run, skeleton
from unify.testing.backends import compile_backend


def test_what_is_written_is_a_package_of_that_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new-backend", "mychip", "--directory", str(tmp_path)]) == 0
    folder = tmp_path / "unify-mychip"
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    package = {"unify_mychip/__init__.py", "unify_mychip/spec.py"}
    assert written == {"README.md", "pyproject.toml", "setup.py", "src/backend.c"} | package
    assert not [path for path in written if "@NAME@" in (folder / path).read_text()]
    shown = capsys.readouterr().out
    for command in ("cd ", "pip install", "unify test-backend mychip"):
        assert command in shown
    for path in ("setup.py", *package):
        compile((folder / path).read_text(), path, "exec")


def test_what_it_names_of_unify_is_there(tmp_path: Path, root: Path) -> None:
    skeleton.write("mychip", tmp_path)
    text = "".join(path.read_text() for path in (tmp_path / "unify-mychip").rglob("*.[cm]*") if path.is_file())
    pages = set(re.findall(r"docs/[\w/]+\.md", text))
    assert pages
    assert not [page for page in pages if not (root / page).exists()]
    table = (root / "unify/include/unify/backend.h").read_text()
    functions = set(re.findall(r"\b(?:capture|graph|device|virtual|ipc|event|stream|memory)_[a-z_]+\b", text))
    named = {name for name in functions if re.search(rf"\b{name}\b", table)}
    assert {"capture_update", "graph_destroy"} <= named
    assert not {name for name in functions - named if name.startswith(("capture", "graph"))}


def test_it_builds_without_a_warning_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skeleton.write("mychip", tmp_path)
    folder = tmp_path / "unify-mychip"
    library = compile_backend(folder / "src" / "backend.c", folder / "unify_mychip" / "libunify_mychip.so")
    monkeypatch.setenv("UNIFY_BACKEND_PATH", str(library))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    report = run.run("mychip", spec="unify_mychip.spec:spec", select="not slow and not process and not leaks")
    assert [(result.case, result.why) for result in report.of("failed")] == []
    assert len(report.of("passed")) > 400


def test_setup_builds_the_library_that_the_package_names(tmp_path: Path) -> None:
    skeleton.write("mychip", tmp_path)
    folder = tmp_path / "unify-mychip"
    environment = {**un._config.environment(), "PYTHONPATH": str(Path(un.__file__).parents[1])}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
    assert (folder / "unify_mychip" / "libunify_mychip.so").is_file()


@pytest.mark.parametrize(
    "name", ["", "My", "9chip", "my-chip", "../chip", "class", "cpu", "cuda", "ascend", "a" * 40, "naïve", "_x"]
)
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="new-backend"):
        skeleton.write(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "unify-mychip").mkdir()
    with pytest.raises(un.errors.InvalidArgument, match="is there already"):
        skeleton.write("mychip", tmp_path)
    with pytest.raises(un.errors.InvalidArgument, match="is no folder"):
        skeleton.write("mychip", tmp_path / "absent")
