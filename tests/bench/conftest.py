"""A file of cases whose costs are written down, so that no test depends on time."""

from __future__ import annotations

from pathlib import Path

import pytest

CASES = """
import os, sys
from unify.bench import Case, Side
from unify.bench.case import GFLOPS, MICROSECONDS

def fixed(cost, values=(1.0, 2.0)):
    def build(setup):
        print("a library that talks on standard output")
        return Side(cost=lambda calls: cost, result=lambda: list(values))
    return build

def fails(setup):
    raise ValueError("no such weights")

def dies(setup):
    print("last words", file=sys.stderr, flush=True)
    os._exit(3)

def threads(setup):
    told = [int(os.environ[name]) for name in ("OMP_NUM_THREADS", "UNIFY_CPU_THREADS")]
    seen = [len(os.sched_getaffinity(0)), setup.threads, *told]
    return Side(cost=lambda calls: 1.0, result=lambda: seen)

def case(name, ours, peer, **fields):
    fields = {"unit": MICROSECONDS, "repeats": 4, "calls": 1, **fields}
    return Case(name=name, subject="told", about="a cost that is told", ours=ours, peers={"numpy": peer}, **fields)

def cases():
    return [
        case("twice", fixed(1e-6), fixed(2e-6), tolerance=1e-6),
        case("rate", fixed(2.0), fixed(1.0), unit=GFLOPS, work=6e9),
        case("other", fixed(1.0), fixed(1.0, (1.0, 2.5)), tolerance=0.1),
        case("shapes", fixed(1.0), fixed(1.0, (1.0,)), tolerance=0.1),
        case("not-a-number", fixed(1.0, (float("nan"), 2.0)), fixed(1.0), tolerance=0.1),
        case("fails", fails, fixed(1.0)),
        case("dies", fixed(1.0), dies),
        case("threads", threads, threads, tolerance=0.0),
        case("fresh", fixed(3e-6), fixed(6e-6), is_fresh=True),
    ]
"""


@pytest.fixture
def case_file(tmp_path: Path) -> Path:
    path = tmp_path / "told.py"
    path.write_text(CASES)
    return path
