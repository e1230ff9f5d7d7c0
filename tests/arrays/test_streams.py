"""torch's and CuPy's arrays on a chip: on their libraries' current streams, both ways, and alive while in use."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = [Path(__file__).with_name(name) for name in ("cases.py", "capture_cases.py")]
NAMES = [(file, name) for file in FILES for name in re.findall(r"^@case\ndef (\w+)", file.read_text(), re.MULTILINE)]


@functools.cache
def failures(file: Path) -> dict[str, str]:
    finished = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, str] = json.loads(finished.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("file", "name"), [pytest.param(*each, id=each[1]) for each in NAMES])
def test_on_a_simulated_chip(file: Path, name: str) -> None:
    failure = failures(file)[name]
    assert failure == "", failure
