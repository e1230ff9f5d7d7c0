"""How fast is unify on this Nvidia GPU? All questions of gpu_*.py, each against each peer that is installed.

    python benchmarks/gpu.py                     # all; writes benchmarks/results/<card>/gpu.json
    python benchmarks/gpu.py launch attention    # some, by a part of their names
    python benchmarks/gpu.py --smoke             # small sizes, once, no times: does everything run?

Both sides work in this process and take turns. A peer that is missing is a line with its reason.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import gpu_kernels  # noqa: E402
import gpu_launch  # noqa: E402
import gpu_memory  # noqa: E402
import gpu_models  # noqa: E402
from gpu_goals import goal_of, limit_s  # noqa: E402

import unify as un  # noqa: E402
from unify.bench import Case, Setup, Side  # noqa: E402
from unify.bench.compare import difference_of  # noqa: E402
from unify.bench.timing import alternate, quantile, ratio_of, timed, warm_calls_for  # noqa: E402
from unify.bench.worker import sampled_values  # noqa: E402
from unify.errors import Error, UnsupportedError  # noqa: E402

QUESTIONS = (gpu_launch, gpu_memory, gpu_kernels, gpu_models)
PACKAGES = ("unify-runtime", "triton", "torch", "cupy", "cupy-cuda12x", "cupy-cuda13x", "cuda-core", "numpy")


class Sampler:
    """A side, in this process."""

    def __init__(self, side: Side) -> None:
        self.side = side

    def sample(self, calls: int, warm_calls: int) -> float:
        side = self.side
        if side.cost is not None:
            return side.cost(calls)
        if warm_calls:
            timed(side.step, side.finish, warm_calls)
        return timed(side.step, side.finish, calls)


def compare(case: Case, ours: Side, name: str, setup: Setup, repeats: int | None) -> dict[str, Any]:
    """A row of the report; without `repeats` each side works once and no time is taken."""
    try:
        peer = case.peers[name](setup)
        difference = difference_of(case, sampled_values(ours), sampled_values(peer))
    except UnsupportedError as error:
        return {"case": case.name, "peer_name": name, "missing": str(error)}
    sides, calls = (Sampler(ours), Sampler(peer)), case.calls or 1
    for side in sides:
        side.sample(calls, warm_calls_for(calls))
    row: dict[str, Any] = {"case": case.name, "about": case.about, "peer_name": name, "goal": goal_of(case, name)}
    if repeats is None:
        return {**row, "largest_difference": difference}
    ratio = ratio_of(pairs := alternate(*sides, repeats, (calls, calls)))
    cost, theirs = (quantile([getattr(pair, side) for pair in pairs], 0.5) for side in ("ours", "peer"))
    least = limit_s(case, un.device(setup.device))
    work = case.work if case.unit.is_rate else 1.0
    return {
        **row,
        "unit": case.unit.name,
        "ours": case.unit.of(cost, work),
        "peer": case.unit.of(theirs, work),
        "ratio": ratio.median,
        "ratio_min": ratio.low,
        "ratio_max": ratio.high,
        "ratio_q1": ratio.first_quartile,
        "ratio_q3": ratio.third_quartile,
        "is_noisy": ratio.is_noisy,
        "repeats": len(pairs),
        "limit_fraction": None if least is None else least / cost,
        "largest_difference": difference,
    }


def run(case: Case, setup: Setup, repeats: int | None) -> Iterator[dict[str, Any]]:
    """The rows of a case. What fails, on our side or on theirs, is a row with its error: the others go on."""
    try:
        ours = case.ours(setup)
        Sampler(ours).sample(case.calls or 1, 1)
    except Exception as error:
        yield {"case": case.name, "peer_name": "", "error": f"unify: {type(error).__name__}: {error}"}
        return
    for name in case.peers:
        try:
            yield compare(case, ours, name, setup, repeats)
        except Exception as error:
            yield {"case": case.name, "peer_name": name, "error": f"{type(error).__name__}: {error}"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="by a part of the name; default: all")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--repeats", type=int, default=15, help="pairs (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="small sizes, once, no times")
    parser.add_argument("--output", type=Path, help="folder of the JSON (default: benchmarks/results/<card>)")
    options = parser.parse_args(arguments)
    try:
        device = un.device(options.device)
    except Error as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    if device.properties.get("simulated") and not options.smoke:
        print(f"gpu: {device.name} is simulated: its times say nothing. Only --smoke runs there.", file=sys.stderr)
        return 2
    chosen = [
        case
        for question in QUESTIONS
        for case in question.cases(is_smoke=options.smoke)
        if not options.cases or any(part in case.name for part in options.cases)
    ]
    setup, rows = Setup(threads=1, device=options.device), []
    for case in chosen:
        for row in run(case, setup, None if options.smoke else options.repeats):
            rows.append(row)
            print(line_of(row), flush=True)
    if not options.smoke:
        folder = options.output or HERE / "results" / card_of(device)
        write(folder / "gpu.json", rows, device)
    return 1 if not rows or any("error" in row for row in rows) else 0


def line_of(row: dict[str, Any]) -> str:
    """A row to read."""
    start = f"{row['case']:26} {row['peer_name']:12}"
    if why := row.get("missing"):
        return f"{start} not measured: {why}"
    if why := row.get("error"):
        return f"{start} FAILED: {why}"
    if "ratio" not in row:
        return f"{start} ran"
    goal = "" if row["goal"] is None else f" of {row['goal']:.2f} asked"
    share = "" if row["limit_fraction"] is None else f", {row['limit_fraction']:.0%} of the chip's limit"
    noisy = " ~" if row["is_noisy"] else ""
    return (
        f"{start} {row['ratio']:.2f}{noisy} ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f}){goal}: "
        f"{row['ours']:.4g} to {row['peer']:.4g} {row['unit']}{share}"
    )


def card_of(device: Any) -> str:
    """The card's name as a folder's: "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", device.properties["name"].lower()).strip("-")


def write(path: Path, rows: list[dict[str, Any]], device: Any) -> None:
    """Adds the rows to what the file has; those measured again take the place of what was there."""
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {(row["case"], row["peer_name"]) for row in rows}
    properties = device.properties
    report = {
        "card": properties["name"],
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {_processor()}",
        "driver": properties.get("driver_version"),
        "compute_capability": properties["target"].partition(":")[2],
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "rows": [*(row for row in kept if (row["case"], row["peer_name"]) not in new), *rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{path}; `python benchmarks/gpu_table.py --write` puts it into docs/measurements.md")


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "unknown processor"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
