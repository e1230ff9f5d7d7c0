"""Huawei's torch_npu for tests, in a folder of the user's cache: where it is installed, `import torch` needs CANN."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

from unify._config import settings
from unify.simulator import environment

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


def toolchains() -> Path:
    """A folder for UNIFY_TOOLCHAIN_DIR, where `unify simulate ascend` finds it and keeps the library of operators."""
    content = wheel()
    root = content.parents[1] / "toolchains"
    folder = root / "torch_npu" / f"torch-npu-2.13.0-{TAG}"
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.symlink_to(content)
    with settings.override(toolchain_dir=root):
        environment.find(sys.executable)  # compiles the operators the first time, which takes longer than a test may
    return root
