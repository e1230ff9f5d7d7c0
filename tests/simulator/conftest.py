"""What tests of the simulated drivers share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from unify.simulator.ascend import library_path, link_libraries
from unify.simulator.operators import library

from .. import acl_headers
from .driver import LIBRARY, Driver

ROOT = Path(__file__).parents[2]
START = """
import ctypes, os, sys
acl = ctypes.CDLL("libascendcl.so")
assert acl.unify_simulator_configure(2, b"910B3", ctypes.c_uint64(1 << 30)) == 0
import torch, torch_npu
def plan(text, device=0):
    assert acl.unify_simulator_fail(device, text.encode()) == 0
def raised(work):
    try:
        work()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("nothing was raised")
"""


@pytest.fixture
def driver() -> Iterator[Driver]:
    """Two devices of 64 MiB, the first one's context current, and nothing left of another test."""
    if not LIBRARY.exists():
        pytest.fail(f"{LIBRARY} is not built: make build")
    made = Driver(count=2)
    made.open()
    yield made
    for device in (0, 1):
        made.library.unify_simulator_clear(device)
        while made.live("retained", device):
            assert made.result("cuDevicePrimaryCtxRelease", device) == "CUDA_SUCCESS"
    made.result("cuCtxSetCurrent", 0)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """torch_npu's wheel's content, and links to the simulated libraries.

    It is put into a folder of the user's cache, and no environment: with it, `import torch` needs CANN.
    """
    pytest.importorskip("torch")
    if not version("torch").startswith("2.13.0"):
        pytest.skip("torch_npu 2.13.0 needs torch 2.13.0")
    cache = acl_headers.folder().parents[1] / f"cp{sys.version_info[0]}{sys.version_info[1]}"
    with (cache.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker fetches it
        if not cache.exists():
            scratch = Path(tempfile.mkdtemp(dir=cache.parent))
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch]
            if subprocess.run([*command, acl_headers.WHEEL], check=False).returncode != 0:
                shutil.rmtree(scratch)
                pytest.skip("torch_npu cannot be installed")
            scratch.rename(cache)
    links = tmp_path_factory.mktemp("libraries")
    link_libraries(links, library(Path(import_module("torch").__file__).parent, library_path()))
    return cache, links


@pytest.fixture
def run(folders: tuple[Path, Path], tmp_path: Path):
    """Runs a program with torch_npu on simulated chips, after START; returns what it printed."""

    def ran(program: str, start: str = START) -> str:
        (tmp_path / "program.py").write_text(start + program)
        environment = {**os.environ, "PYTHONPATH": f"{folders[0]}:{ROOT}", "LD_LIBRARY_PATH": str(folders[1])}
        command = [sys.executable, "program.py"]
        finished = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert finished.returncode == 0, finished.stderr[-4000:]
        return finished.stdout

    return ran
