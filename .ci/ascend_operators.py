"""Writes which of torch's operators agree on the simulated Ascend, by torch's own samples, into the manual.

It takes some ten minutes: python .ci/ascend_operators.py [--jobs N].
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unify.simulator import environment

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "tests/simulator/operators/samples.py"
STATIC = ROOT / "docs/_static"
MEANING = {
    "agrees": "agrees with the CPU",
    "host": "agrees; torch_npu itself runs it, or a part of it, on the host",
    "differs": "differs",
    "fails": "fails",
    "none": "not tried: torch has no sample of it in this dtype",
}
# Where torch says only that numbers differ.
_STATISTICS = "torch_npu returns statistics that torch leaves out in evaluation, and float32 ones for bfloat16"
_FLOAT64 = "torch_npu makes float64 float32"
_INDICES = "the chip's indices are int32"
_MASK = "the chip's indices are a mask in a layout of its own"
KNOWN = {
    "_native_batch_norm_legit": _STATISTICS,
    "as_strided.partial_views": "the sample is a view of more memory; a copy on the device has what is viewed only",
    "double": _FLOAT64,
    "float_power": _FLOAT64,
    "native_batch_norm": _STATISTICS,
    "native_dropout_backward": "the chip's masks have a bit for each number, the sample's a byte",
    "nn.functional.adaptive_max_pool3d": _INDICES,
    "nn.functional.gelu": "the chip's GELU is that by tanh, also where approximate is 'none'",
    "nn.functional.max_pool1d": _MASK,
    "nn.functional.max_pool2d": _MASK,
    "nn.functional.max_pool3d": _INDICES,
}


def rows_of(part: int, parts: int, variables: dict[str, str]) -> list[dict[str, str]]:
    command = [sys.executable, str(SAMPLES), str(part), str(parts)]
    told = subprocess.run(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return [json.loads(line) for line in told.stdout.splitlines() if line.startswith(b"{")]


def reason(why: str) -> str:
    """The first thing that is said, in a line of a table: what the chip refuses, or torch_npu."""
    if refused := re.search(
        r"call (aclnn\w+) failed.*?AclNN_Parameter_Error\(EZ1001\): (.*?)(?: TraceBack|$)", why, re.S
    ):
        why = f"{refused[1]}: {refused[2]}"
    text = re.sub(
        r"\[ERROR\].*|The Inner error is reported as above.*?current working operator name is ", "", why, flags=re.S
    )
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")[:200]


def why(row: dict[str, str]) -> str:
    known = KNOWN.get(row["name"]) if row["result"] == "differs" else None
    return known or reason(row["why"])


def page(rows: list[dict[str, str]]) -> str:
    counts = {
        dtype: Counter(row["result"] for row in rows if row["dtype"] == dtype) for dtype in ("float32", "bfloat16")
    }
    lines = ["| | float32 | bfloat16 |", "|---|---|---|"]
    lines += [f"| {text} | {counts['float32'][key]} | {counts['bfloat16'][key]} |" for key, text in MEANING.items()]
    lines += ["", "What differs or fails, and why:", "", "| operator | dtype | | why |", "|---|---|---|---|"]
    lines += [
        f"| {row['name']} | {row['dtype']} | {row['result']} | {why(row)} |"
        for row in rows
        if row["result"] in ("differs", "fails")
    ]
    host = sorted({row["name"] for row in rows if row["result"] == "host"})
    lines += ["", f"On the host: {', '.join(host)}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    jobs = parser.parse_args().jobs
    variables = environment.install(sys.executable).variables(environment.read_chips("910B3,8g"))
    with ThreadPoolExecutor(jobs) as pool:
        parts = pool.map(lambda part: rows_of(part, jobs, variables), range(jobs))
    rows = sorted((row for part in parts for row in part), key=lambda row: (row["name"], row["dtype"]))
    kept = [json.dumps({key: row[key] for key in ("name", "dtype", "result")}) for row in rows]
    (STATIC / "ascend-operators.json").write_text("[\n" + ",\n".join(kept) + "\n]\n")
    (STATIC / "ascend-operators.md").write_text(page(rows))


if __name__ == "__main__":
    main()
