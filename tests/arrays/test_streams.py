"""torch's and CuPy's arrays on a chip: on their libraries' current streams, both ways, and alive while in use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("cases.py")
NAMES = re.findall(r"^@case\ndef (\w+)", CASES.read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    finished = subprocess.run([sys.executable, CASES], capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, str] = json.loads(finished.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_on_a_simulated_chip(name: str, failures: dict[str, str]) -> None:
    assert failures[name] == "", failures[name]
