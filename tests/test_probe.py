"""Libraries that crash while they are loaded: refused with the reason, and nothing else suffers."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import unify as un
from unify import _probe
from unify._config import settings
from unify._device import add_backend, backends
from unify.testing.backends import compile_backend

from .conftest import Run

TOY = Path(__file__).parent / "plugin" / "toy.c"

CRASHES = {
    "segv": ("raise(SIGSEGV);", "SIGSEGV"),
    "abort": ("abort();", "SIGABRT"),
    "exit": ('fputs("no licence\\n", stderr); exit(3);', "exit status 3.*no licence"),
}
IN_GET = """
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unify/backend.h>
UNIFY_EXPORT const unify_backend* unify_backend_get(unify_backend_get_args* args) {{ (void)args; {crash} return NULL; }}
"""
IN_CONSTRUCTOR = """
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unify/backend.h>
__attribute__((constructor)) static void start(void) {{ {crash} }}
UNIFY_EXPORT const unify_backend* unify_backend_get(unify_backend_get_args* args) {{ (void)args; return NULL; }}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path):
    with settings.override(cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache" / "backends"


def library(folder: Path, source: str, crash: str) -> str:
    (folder / "crash.c").write_text(source.format(crash=crash))
    return str(compile_backend(folder / "crash.c", folder / "crash.so"))


@pytest.mark.parametrize("how", CRASHES)
@pytest.mark.parametrize("source", [IN_GET, IN_CONSTRUCTOR], ids=["in_get", "in_constructor"])
def test_a_library_that_crashes_is_refused_and_the_process_lives(tmp_path: Path, source: str, how: str) -> None:
    crash, why = CRASHES[how]
    name = f"crash_{how}_{source is IN_GET}".lower()
    status = add_backend(library(tmp_path, source, crash), name)
    assert not status.is_usable
    assert status in backends()
    with pytest.raises(un.errors.BackendError, match=f"device '{name}:0'.*crash.so.*{why}"):
        un.device(f"{name}:0")


def test_a_library_that_hangs_is_refused_and_who_waits_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "LIMIT_S", 0.5)
    monkeypatch.setattr(_probe, "QUIET_S", 0.2)
    hanging = library(tmp_path, IN_GET, "for (;;) {}")
    with pytest.warns(UserWarning, match=f"waiting for the backend {hanging}, which takes long to load: 0 s at most"):
        assert "takes longer" in _probe.why_unsafe(hanging)


def test_what_was_found_good_is_asked_once_for_each_version_of_the_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = str(compile_backend(TOY, tmp_path / "toy.so"))
    assert _probe.why_unsafe(toy) == ""
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(_probe.subprocess, "Popen", lambda *_, **__: pytest.fail("asked again"))
        assert _probe.why_unsafe(toy) == ""
    os.utime(toy, (1, 1))
    assert _probe.why_unsafe(toy) == ""
    assert len(list(cache.iterdir())) == 2


def test_what_was_found_bad_is_asked_again(tmp_path: Path, cache: Path) -> None:
    bad = library(tmp_path, IN_GET, "abort();")
    assert "SIGABRT" in _probe.why_unsafe(bad)
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"\x7fELF and no more", b"text"])
def test_what_is_no_library_is_left_to_the_loader_to_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.so").write_bytes(content)
    assert _probe.why_unsafe(str(tmp_path / "no.so")) == ""
    assert _probe.why_unsafe(str(tmp_path / "absent.so")) == ""


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with settings.override(cache_dir=tmp_path / "file"):
        assert _probe.why_unsafe(str(compile_backend(TOY, tmp_path / "toy.so"))) == ""


def test_a_crash_on_the_path_takes_no_other_backend_away(python: Run, tmp_path: Path) -> None:
    toy = compile_backend(TOY, tmp_path / "toy.so")
    path = f"{library(tmp_path, IN_CONSTRUCTOR, 'abort();')}:{toy}"
    code = "import unify as un; print([d.name for d in un.devices()], [b.why for b in un.backends() if b.why])"
    finished = python("-c", code, env={**os.environ, "UNIFY_BACKEND_PATH": path, "UNIFY_CACHE_DIR": str(tmp_path)})
    assert finished.returncode == 0, finished.stderr
    assert "['cpu', 'toy:0', 'toy:1']" in finished.stdout
    assert "SIGABRT" in finished.stdout


def test_a_program_on_the_cpu_starts_no_process(python: Run) -> None:
    code = "import sys, unify as un; un.ones(3).numpy(); print('subprocess' in sys.modules)"
    finished = python("-c", code)
    assert finished.stdout in ("True\n", "False\n")
    code = """
import unify as un
from unify import _probe
_probe.subprocess.Popen = None
print(un.ones(3).tolist())
"""
    assert python("-c", code).stdout == "[1.0, 1.0, 1.0]\n"


def test_it_asks_as_the_core_does() -> None:
    header = Path(un.get_include(), "unify", "backend.h").read_text()
    assert re.findall(r"^#define UNIFY_ABI_M\w+ (\d+)$", header, re.MULTILINE) == [*map(str, _probe._ABI)]
