"""What all tests share."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unify.compiler import toolchain

from .programs import Program

ROOT = Path(__file__).resolve().parents[1]


def pytest_sessionstart() -> None:
    """Refuses to run without vendors' compilers that REQUIRED_TOOLCHAINS names, whose tests would be skipped."""
    for name in os.environ.get("REQUIRED_TOOLCHAINS", "").split():
        if not toolchain.is_installed(name):
            raise pytest.UsageError(f"the compilers for {name} are not installed: unify toolchain install {name}")


def pytest_collection_finish() -> None:
    """What was imported is not looked through again by each gc.collect() of a test."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository, or the unpacked source distribution."""
    return ROOT


@pytest.fixture
def python(tmp_path: Path) -> Run:
    """Runs Python afresh, away from the source tree: `python("-c", "import unify")`. Returns the finished process."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        settings = {"capture_output": True, "text": True, "cwd": tmp_path, "timeout": 300, "check": False, **options}
        return subprocess.run(command, **settings)  # type: ignore[call-overload]

    return run


@pytest.fixture
def program(request: pytest.FixtureRequest, python: Run, tmp_path: Path) -> Program:
    """Runs a program that begins with the test file's PRELUDE and has its KERNELS; returns the lines printed."""
    prelude, kernels = (getattr(request.module, name, "") for name in ("PRELUDE", "KERNELS"))
    return Program(python, tmp_path, prelude, kernels)
