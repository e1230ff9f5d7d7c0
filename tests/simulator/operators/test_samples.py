"""Torch's own samples of its operators: what agrees is what the manual's list says, and enough of it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).with_name("samples.py")
LIST = Path(__file__).parents[3] / "docs/_static/ascend-operators.json"
AGREES = ("agrees", "host")  # by the chip's operator, or as torch_npu itself has it run on the host


def listed() -> dict[tuple[str, str], str]:
    """The result of each operator and dtype, as `.ci/ascend_operators.py` found it."""
    rows = json.loads(LIST.read_text())
    return {(row["name"], row["dtype"]): row["result"] for row in rows}


def found(environment: dict[str, str], part: int, parts: int) -> dict[tuple[str, str], tuple[str, str]]:
    command = [sys.executable, SAMPLES, str(part), str(parts)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    rows = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert rows, finished.stderr[-2000:]
    return {(row["name"], row["dtype"]): (row["result"], row["why"]) for row in rows}


def test_most_operators_agree_in_both_dtypes() -> None:
    results: dict[str, set[str]] = {}
    for (name, _), result in listed().items():
        results.setdefault(name, set()).add(result)
    assert sum(each == {"agrees"} for each in results.values()) >= 250


@pytest.mark.parametrize(
    ("part", "parts"), [(3, 40), *(pytest.param(part, 8, marks=pytest.mark.slow) for part in range(8))]
)
def test_what_is_said_to_agree_does(npu_environment: dict[str, str], part: int, parts: int) -> None:
    known, wrong = listed(), []
    for key, (result, why) in found(npu_environment, part, parts).items():
        if known[key] in AGREES and result not in AGREES:
            wrong.append((*key, result, why[:300]))
    assert not wrong
