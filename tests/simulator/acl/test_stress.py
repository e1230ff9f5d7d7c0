"""Many threads in C++ at once: stress.cpp. Under a sanitizer: ../build.py ascend FOLDER thread, then the program."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..build import build_program
from .driver import LIBRARY, image


def test_sixteen_threads_three_devices_and_resets_beside_them(tmp_path: Path) -> None:
    (tmp_path / "add.elf").write_bytes(image("add", "((float*)args[3])[i] += 1.0f;"))
    command = [build_program("ascend", tmp_path, []), LIBRARY, tmp_path / "add.elf"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (finished.stdout, finished.returncode) == ("well\n", 0), finished.stderr
