"""The table "Nvidia GPUs" of docs/measurements.md, from benchmarks/results/*/gpu.json.

python benchmarks/gpu_table.py            # prints it
python benchmarks/gpu_table.py --write    # puts it into docs/measurements.md, between its two comments
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "measurements.md"
BEGIN, END = "<!-- gpu_table.py writes from here -->", "<!-- to here -->"
NOT_MEASURED = "not measured: no machine with one was at hand"

# What is asked, in the order of the page: a name or the start of several, about, peers, goal, the word for CASES=.
QUESTIONS = (
    ("launch-triton", "launch of a Triton kernel, 8 arguments, host time", "C++ loop; Triton, cuda.core, CuPy", "0.8"),
    ("launch-raw", "launch of a raw kernel", "C++ loop; cuda.core, CuPy", "0.8"),
    ("graph-node", "replay of a graph, a node of 100", "torch, CuPy", ""),
    ("allocate", "allocate and free, 1 KiB to 64 MiB", "torch, CuPy", ""),
    ("copy", "copy of 256 MiB: to the device, back, on it", "C++ loop; torch", ""),
    ("attention", "attention, bf16, 4,096 tokens, heads of 64 and 128", "torch's flash and cuDNN", "0.9"),
    ("matmul", "products, bf16, from 4,096 cubed", "torch (cuBLAS)", "0.85"),
    ("rms_norm", "RMS norm, bf16", "torch", "1.0"),
    ("softmax", "softmax, bf16", "torch", "1.0"),
    ("moe", "experts, 8 of 64, bf16, 1 to 2,048 tokens", "torch's grouped product", "1.0"),
    ("paged-decode", "decoding over pages, 64 sequences of 8,192 keys", "torch, not paged", "1.0"),
    ("mla-decode", "the same over DeepSeek-V3's latent rows", "torch's products", "1.5"),
)


def table(reports: list[dict[str, Any]]) -> str:
    """Markdown: a line for each row that was measured, and one for each question that no report answers."""
    lines = [
        "| what | against | asked | ratio | of the chip's limit | card | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for start, about, peers, goal in QUESTIONS:
        command = f'`make gpu-bench CASES="{start}"`'
        measured = [
            (report, row)
            for report in reports
            for row in report["rows"]
            if row["case"].startswith(start) and "ratio" in row
        ]
        if not measured:
            lines.append(f"| {about} | {peers} | {goal} | {NOT_MEASURED} | | | {command} |")
        lines += [_line(report, row, command) for report, row in measured]
    return "\n".join(lines)


def _line(report: dict[str, Any], row: dict[str, Any], command: str) -> str:
    noisy = ", noisy" if row["is_noisy"] else ""
    ratio = f"{row['ratio']:.2f} ({row['ours']:.4g} to {row['peer']:.4g} {row['unit']}){noisy}"
    share = "" if row["limit_fraction"] is None else f"{row['limit_fraction']:.0%}"
    goal = "" if row["goal"] is None else f"{row['goal']:g}"
    card = f"{report['card']}, {report['date']}"
    return f"| {row['about']} | {row['peer_name']} | {goal} | {ratio} | {share} | {card} | {command} |"


def page(text: str, reports: list[dict[str, Any]]) -> str:
    """The page with the table in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(reports)}\n{END}{after}"


def main() -> None:
    reports = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*/gpu.json"))]
    if "--write" in sys.argv:
        PAGE.write_text(page(PAGE.read_text(), reports))
    else:
        print(table(reports))


if __name__ == "__main__":
    main()
