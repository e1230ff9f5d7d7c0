"""Measures everything on this machine and writes what docs/benchmarks.md shows: python benchmarks/results/record.py

For each number of threads up to the cores there are (1, 2, 4, …): the limits, all cases as `unify bench --json` prints
them, a figure, and one table for the page. Takes some twenty minutes a number of threads. A case during which other
programs used the same cores is taken again, up to twice; whether it is depends on them, never on the ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from unify.bench import Comparison, plot
from unify.bench.compare import DISTURBED_CORES
from unify.bench.plot import number
from unify.bench.process import physical_cpus

HERE = Path(__file__).parent
RETAKES = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="as for `unify bench`; none: all")
    parser.add_argument("--repeats", type=int, help="pairs a case")
    parser.add_argument("--model", help="as for `unify bench`")
    options = parser.parse_args()
    cores = len(physical_cpus())
    rows: list[dict[str, Any]] = []
    for threads in [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]:
        limits = _bench("roofline", "--threads", str(threads))[0]
        folder = HERE / f"{limits['processor']}-{cores}"
        folder.mkdir(exist_ok=True)
        _write(folder / f"roofline-{threads}.json", [limits])
        extra = [f"--{name}={value}" for name in ("repeats", "model") if (value := getattr(options, name)) is not None]
        taken = _quiet(options.cases, [f"--threads={threads}", *extra])
        _write(folder / f"threads-{threads}.json", taken)
        told = [Comparison(**row) for row in taken if not is_disturbed(row)]
        plot.save(told, folder / f"ratios-{threads}.svg", f"{limits['processor']}, {threads} thread(s) a side")
        rows += taken
        (folder / "table.md").write_text(table(rows, limits["processor"], cores))
    return 0


def _quiet(cases: list[str], options: list[str]) -> list[dict[str, Any]]:
    rows = {row["case"]: row for row in _bench(*cases, *options)}
    for _ in range(RETAKES):
        disturbed = [name for name, row in rows.items() if is_disturbed(row)]
        if disturbed:
            rows |= {row["case"]: row for row in _bench(*disturbed, *options)}
    return list(rows.values())


def is_disturbed(row: dict[str, Any]) -> bool:
    """Whether other programs used the cores: then the ratio says who suffers more from them, and nothing else."""
    return bool(row["neighbour_cores"] > DISTURBED_CORES)


def _bench(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "unify", "bench", "--json", *arguments]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not answer.stdout:
        sys.exit(answer.returncode)
    rows: list[dict[str, Any]] = json.loads(answer.stdout)
    return rows


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(path)


def table(rows: list[dict[str, Any]], processor: str, cores: int) -> str:
    """The page's table: one row a case and number of threads."""
    lines = [
        f"Measured on {date.today():%Y-%m-%d}, {processor}, {cores} cores of a virtual machine, by `record.py`.",
        "",
        "| case | threads | ours | peer | unit | ratio | middle half | against |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: [r["case"] for r in rows].index(row["case"])):
        mark = "~" if row["is_noisy"] else ""
        figures = [number(row["ours"]), number(row["peer"]), row["unit"], f"{row['ratio']:.2f}×{mark}"]
        figures.append(f"{row['ratio_q1']:.2f}–{row['ratio_q3']:.2f}")
        if is_disturbed(row):
            figures = ["", "", row["unit"], "disturbed", ""]
        cells = [f"`{row['case']}`", str(row["threads"]), *figures, f"{row['peer_name']} {row['peer_version']}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
