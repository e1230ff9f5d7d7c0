"""The scripts for machines with a GPU run from end to end on a simulated one, and tell no speeds there."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from ..conftest import Run

SIMULATED = {**os.environ, "UNIFY_SIMULATE": "cuda:90"}


def load(root: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, root / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_simulated_gpu_is_not_measured(root: Path, python: Run) -> None:
    finished = python(str(root / "benchmarks/gpu.py"), "launch", env=SIMULATED)
    assert finished.returncode == 2
    assert "simulated" in finished.stderr
    assert not finished.stdout


@pytest.mark.parametrize("cases", [("launch", "graph"), ("allocate-1k", "copy"), ("softmax",), ("moe", "decode")])
def test_the_scripts_run_on_a_simulated_gpu_and_print_no_times(root: Path, python: Run, cases: tuple[str, ...]) -> None:
    finished = python(str(root / "benchmarks/gpu.py"), "--smoke", *cases, env=SIMULATED)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert all(" ran" in line or "not measured" in line for line in finished.stdout.splitlines())
    assert "FAILED" not in finished.stdout


def test_the_pages_table_is_what_the_results_say(root: Path) -> None:
    module = load(root, "gpu_table")
    text = module.PAGE.read_text()
    reports = [module.json.loads(path.read_text()) for path in sorted(module.HERE.glob("results/*/gpu.json"))]
    assert module.page(text, reports) == text, "run python benchmarks/gpu_table.py --write"


def test_a_measured_row_takes_the_place_of_not_measured(root: Path) -> None:
    module = load(root, "gpu_table")
    row = {"case": "softmax-8192x4096", "about": "softmax", "peer_name": "torch", "goal": 1.0, "ratio": 1.25}
    row |= {"ours": 2.5, "peer": 2.0, "unit": "GB/s", "is_noisy": False, "limit_fraction": 0.8}
    missing = {"case": "rms_norm-1x1", "peer_name": "torch", "missing": "torch is not installed"}
    lines = module.table([{"card": "H100", "date": "2027-01-01", "rows": [row, missing]}]).splitlines()
    shown = "| softmax | torch | 1 | 1.25 (2.5 to 2 GB/s) | 80% | H100, 2027-01-01 |"
    assert sum(shown in line for line in lines) == 1
    assert sum(module.NOT_MEASURED in line for line in lines) == len(module.QUESTIONS) - 1
