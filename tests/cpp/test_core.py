"""The core's own tests, in C++ and without Python: test_core.cpp."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .build import build


def test_the_core_works_without_python(tmp_path: Path) -> None:
    finished = subprocess.run(
        [build(tmp_path), str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
