"""The command that runs Triton's tests, on a checkout that is made up here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).parents[1] / ".ci" / "triton_conformance.py"
CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--device")

@pytest.fixture
def device(request):
    return request.config.getoption("--device")
"""
CASES = """
import os, pytest

def test_passes(device): assert device == "cpu"
def test_fails(): raise ValueError("what went wrong")
def test_of_a_gpu(): raise KeyError("Unknown key: 'ttgir'")
@pytest.mark.parametrize("n", [0, 1])
def test_ends_the_process(n): os.abort()
def test_is_skipped(): pytest.skip("why")
def test_behind_the_crash(): pass
"""
TUTORIAL = "import triton.testing\ntriton.testing.Mark.run(None)\nprint('{}')\n"


def test_each_case_is_counted_also_behind_a_crash(tmp_path: Path) -> None:
    tests = tmp_path / "python" / "test" / "unit" / "language"
    tests.mkdir(parents=True)
    (tmp_path / "python" / "test" / "conftest.py").write_text(CONFTEST)
    (tests / "test_some.py").write_text(CASES)
    (tests / "test_broken.py").write_text("raise RuntimeError('no import')")
    tutorials = tmp_path / "python" / "tutorials"
    tutorials.mkdir()
    (tutorials / "01-same.py").write_text(TUTORIAL.format("✅ match"))
    (tutorials / "02-different.py").write_text(TUTORIAL.format("❌ differ"))
    output = tmp_path / "cases.json"
    command = [sys.executable, COMMAND, tmp_path, f"--json={output}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    cases = json.loads(output.read_text())["test_some.py"]
    assert {name: outcome for name, (outcome, _) in cases.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_of_a_gpu": "gpu",
        "test_ends_the_process[0]": "crashed",
        "test_ends_the_process[1]": "crashed",
        "test_is_skipped": "skipped",
        "test_behind_the_crash": "passed",
    }
    assert finished.returncode == 1
    table = [line.split() for line in finished.stdout.splitlines()]
    assert ["test_some.py", "2", "1", "1", "1", "2"] in table
    assert ["01-same.py", "1", "0", "0", "0", "0"] in table
    assert ["02-different.py", "0", "1", "0", "0", "0"] in table
    assert "1 failed test_some.py::test_fails  ValueError: what went wrong" in finished.stdout
    assert "RuntimeError: no import" in finished.stdout
