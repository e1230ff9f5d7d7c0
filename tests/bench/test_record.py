"""The table that the documentation shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "record.py"


def test_the_table_groups_a_cases_threads_and_tells_no_ratio_that_others_made() -> None:
    spec = importlib.util.spec_from_file_location("record", RECORD)
    assert spec is not None
    assert spec.loader is not None
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    row = {"ours": 2.0, "peer": 1.0, "unit": "GB/s", "ratio": 2.0, "ratio_q1": 1.9, "ratio_q3": 2.125}
    row |= {"peer_name": "torch", "peer_version": "2.13.0"}
    rows = [
        row | {"case": case, "threads": threads, "is_noisy": threads == 2, "neighbour_cores": 0.9 * (case == "norm")}
        for threads in (1, 2)
        for case in ("gemm", "norm")
    ]
    lines = record.table(rows, "znver5", 2).splitlines()[4:]
    assert lines == [
        "| `gemm` | 1 | 2.00 | 1.00 | GB/s | 2.00× | 1.90–2.12 | torch 2.13.0 |",
        "| `gemm` | 2 | 2.00 | 1.00 | GB/s | 2.00×~ | 1.90–2.12 | torch 2.13.0 |",
        "| `norm` | 1 |  |  | GB/s | disturbed |  | torch 2.13.0 |",
        "| `norm` | 2 |  |  | GB/s | disturbed |  | torch 2.13.0 |",
    ]
