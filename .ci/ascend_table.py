"""Writes docs/_static/ascend-kernels.md: what unify's kernels take of an Ascend's cores, by the vendor's compilers.

.ci/ascend_table.py            write it
.ci/ascend_table.py --check    compare it; exit status 1 if it is another one
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "docs" / "_static" / "ascend-kernels.md"
CHIPS = {"910B3": "196,608", "910C": "196,608", "950": "253,952"}
COLUMNS = {"ub_bytes": "UB", "l1_bytes": "L1", "l0c_bytes": "L0C", "workspace_bytes": "workspace"}


def rows() -> list[dict[str, Any]]:
    """What `unify compile --shipped --json` says of each kernel on each chip."""
    targets = [part for chip in CHIPS for part in ("--target", f"ascend:{chip}")]
    command = [sys.executable, "-m", "unify", "compile", "--shipped", "--json", *targets]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    found: list[dict[str, Any]] = json.loads(finished.stdout)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """A line a kernel, a cell a chip."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for row in found:
        used = [f"{title} {row[column]:,}" for column, title in COLUMNS.items() if row[column]]
        cells[row["kernel"]][row["target"].partition(":")[2]] = f"{row['status']}: {', '.join(used)}"
    lines = [
        "<!-- Written by .ci/ascend_table.py from what `unify compile --shipped --json` says. -->",
        f"| kernel | {' | '.join(f'{chip} (UB {limit})' for chip, limit in CHIPS.items())} |",
        f"|{'---|' * (1 + len(CHIPS))}",
    ]
    lines += [f"| {kernel} | {' | '.join(of[chip] for chip in CHIPS)} |" for kernel, of in cells.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Returns the exit status."""
    text = table(rows())
    if "--check" not in sys.argv:
        FILE.write_text(text)
        return 0
    if FILE.read_text() == text:
        return 0
    print(f"{FILE} is not what the compilers say now: run .ci/ascend_table.py.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
