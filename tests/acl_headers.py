"""Huawei's own headers of ACL and HCCL, to compare declarations with: they have the vendor's licence and are no part of
unify.

They are read out of torch_npu's wheel on the package index, by ranges of bytes, and kept in the user's cache.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

WHEEL = "torch-npu==2.13.0"  # of ACL 1.17
FOLDERS = ("torch_npu/include/acl/", "torch_npu/include/third_party/hccl/")


class RemoteFile(io.RawIOBase):
    """A file on the package index, of which only what is read is fetched."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.position = 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
            self.size = int(answer.headers["Content-Length"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        end = min(self.position + len(buffer), self.size)
        if end <= self.position:
            return 0
        ranged = urllib.request.Request(self.url, headers={"Range": f"bytes={self.position}-{end - 1}"})
        with urllib.request.urlopen(ranged, timeout=60) as answer:
            if answer.status != 206:
                raise OSError(f"{self.url}: the server sends no parts of a file")
            content = answer.read()
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def wheel_url(scratch: Path) -> str:
    """Where pip would download the wheel from: its settings, index and proxy count."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed"]
    command += ["--report", "-", "--target", str(scratch / "nothing"), "--only-binary", ":all:"]
    command += ["--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", WHEEL]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise OSError(finished.stderr.strip().splitlines()[-1])
    return json.loads(finished.stdout)["install"][0]["download_info"]["url"]


def folder() -> Path:
    """A folder with the vendor's headers. Skips without a compiler, or without a network the first time."""
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unify-tests" / WHEEL
    if not all((cache / each).exists() for each in FOLDERS):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                url = wheel_url(Path(scratch))
                with zipfile.ZipFile(io.BufferedReader(RemoteFile(url), 1 << 20)) as wheel:
                    wheel.extractall(scratch, [name for name in wheel.namelist() if name.startswith(FOLDERS)])
            except OSError as error:
                pytest.skip(f"the vendor's headers cannot be fetched: {error}")
            shutil.copytree(Path(scratch) / "torch_npu", cache / "torch_npu", dirs_exist_ok=True)
    return cache / "torch_npu" / "include"
