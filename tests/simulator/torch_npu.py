"""Huawei's torch_npu for tests, in a folder of the user's cache: where it is installed, `import torch` needs CANN."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from unify.simulator.ascend import library_path
from unify.simulator.operators import library

from .. import acl_headers

TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"


def wheel() -> Path:
    """The wheel's content. Skips without the torch that it is made for, or without a network the first time."""
    pytest.importorskip("torch")
    if not version("torch").startswith("2.13.0"):
        pytest.skip("torch_npu 2.13.0 needs torch 2.13.0")
    cache = acl_headers.folder().parents[1] / TAG
    with (cache.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker fetches it
        if not cache.exists():
            scratch = Path(tempfile.mkdtemp(dir=cache.parent))
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch]
            if subprocess.run([*command, acl_headers.WHEEL], check=False).returncode != 0:
                shutil.rmtree(scratch)
                pytest.skip("torch_npu cannot be installed")
            scratch.rename(cache)
    return cache


def operators() -> Path:
    """The library of operators for this Python's torch."""
    return library(Path(import_module("torch").__file__ or "").parent, library_path())


def toolchains() -> Path:
    """A folder for UNIFY_TOOLCHAIN_DIR, where `unify simulate ascend` finds all of it."""
    content = wheel()
    root = content.parents[1] / "toolchains"
    folder = root / "torch_npu"
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in ((f"torch-npu-2.13.0-{TAG}", content), (operators().parent.name, operators().parent)):
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(target)
    return root
