"""What programs did on simulated chips: the processes' own files, put together, as tables, JSON and a trace."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from . import lines

# Of a die's memory, where somebody whom one can cite says how fast it is: csrc/simulator/ascend/chips.cpp has the rest.
BANDWIDTH = {"910C": (1.6e12, "arXiv 2506.12708, section 3, of one of the chip's two dies")}
_NOT_SERVED = (207000, 200001)  # ACL_ERROR_RT_FEATURE_NOT_SUPPORT, ACL_ERROR_API_NOT_SUPPORT
_OPERATORS = ("aclnn", "aclop")  # how the vendor's are named, and the older ones of them
_ABSENT = "operator "  # how calls begin that are none, but operators: operators/aclop.cpp
_Work = dict[str, dict[str, int]]


def merge(folder: Path, status: int | None = None) -> dict[str, Any]:
    """Puts together what the processes of a program wrote into a folder: the report as one object of JSON.

    status: the program's. Processes that were killed or ended by _exit are named: their last moments are missing.
    """
    processes, cut_off = [], []
    for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem)):
        one = json.loads(path.read_text(errors="replace") or "{}")
        if one:
            processes.append(one)
        if not one.get("ended"):
            cut_off.append(int(path.stem))
    kernels = _sum(one["kernels"] for one in processes)
    calls = _count(one["calls"] for one in processes)
    failures = _failures(one["failures"] for one in processes)
    merged: dict[str, Any] = {
        "status": status,
        "chip": next((one["chip"] for one in processes if "chip" in one), None),
        "processes": [{"pid": one["pid"], "command": one["command"]} for one in processes],
        "processes_cut_off": cut_off,
        "operators": {name: work for name, work in kernels.items() if name.startswith(_OPERATORS)},
        "collectives": {name: work for name, work in kernels.items() if name.startswith("Hccl")},
        "kernels": {name: work for name, work in kernels.items() if not name.startswith((*_OPERATORS, "Hccl"))},
        "absent_operators": {
            one["call"].removeprefix(_ABSENT): one["count"] for one in failures if one["call"].startswith(_ABSENT)
        },
        "copies": _sum(one["copies"] for one in processes),
        "others": _sum(one["others"] for one in processes),
        "synchronisations": {name: count for name, count in calls.items() if name.startswith("aclrtSynchronize")},
        "calls": calls,
        "failed_calls": [one for one in failures if not one["call"].startswith(_ABSENT)],
        "devices": [
            {"pid": one["pid"], "device": number, **device}
            for one in processes
            for number, device in enumerate(one.get("devices", ()))
        ],
    }
    merged["faults_left"] = _in_all([one["faults_left"] for one in processes if "faults_left" in one])
    merged["on_host"] = lines.read(folder, "fallback")  # unify/simulator/fallback.py
    merged["changes"] = lines.read(folder, "transfer")  # unify/simulator/transfer.py
    merged["estimate"] = _estimate(merged)
    return merged


def _sum(parts: Iterable[_Work]) -> _Work:
    total: _Work = {}
    for part in parts:
        for name, work in part.items():
            into = total.setdefault(name, dict.fromkeys(work, 0))
            for key, value in work.items():
                into[key] += value
    return dict(sorted(total.items(), key=lambda item: (-item[1]["count"], item[0])))


def _count(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _failures(parts: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    total: dict[tuple[str, int], dict[str, Any]] = {}
    for part in parts:
        for one in part:
            into = total.setdefault((one["call"], one["result"]), {**one, "count": 0})
            into["count"] += one["count"]
    for one in total.values():
        one["is_served"] = one["result"] not in _NOT_SERVED
    return sorted(total.values(), key=lambda one: (one["is_served"], -one["count"], one["call"]))


def _in_all(parts: list[list[str]]) -> list[str]:
    return sorted(set[str].intersection(*map(set, parts))) if parts else []


def _estimate(merged: dict[str, Any]) -> dict[str, Any] | None:
    """The time that the chip's memory needs for the bytes, each moved once; None where nobody says how fast it is."""
    if merged["chip"] not in BANDWIDTH:
        return None
    bandwidth, source = BANDWIDTH[merged["chip"]]
    works = [*merged["operators"].values(), *(merged["copies"][name] for name in merged["copies"])]
    moved = sum(work["bytes"] for work in works)
    return {"memory_seconds": moved / bandwidth, "bytes": moved, "bytes_per_s": bandwidth, "source": source}


# ---------------------------------------------------------------- as text


def as_json(merged: dict[str, Any]) -> str:
    """One object, and a line's end."""
    return json.dumps(merged, indent=2) + "\n"


def write_json(merged: dict[str, Any], path: Path) -> None:
    """Writes it whole, or leaves what was there."""
    _write_whole(path, lambda out: out.write(as_json(merged)))


def show(merged: dict[str, Any]) -> None:
    """Prints the report on standard error."""
    from rich.console import Console

    # A file or a pipe has no width; lines are then as long as they need.
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
    console.rule(_title(merged), style="dim", align="left")
    if not merged["processes"] and not merged["processes_cut_off"]:
        console.print("Nothing was done on a device: no process of the program called the vendor's library.")
        return
    for title, name in (("operators", "operators"), ("collectives", "collectives"), ("kernels", "kernels")):
        _show_works(console, title, merged[name])
    _show_counts(console, "operators that the simulated device does not have", merged["absent_operators"])
    _show_works(console, "copies and fills", merged["copies"])
    _show_works(console, "others", {name: work for name, work in merged["others"].items() if name != "wait"})
    _show_counts(console, "synchronisations", merged["synchronisations"])
    _show_failures(console, merged["failed_calls"])
    _show_devices(console, merged)
    _show_lines(console, "operators that torch_npu computed on the host", merged["on_host"])
    _show_lines(console, "changed by transfer_to_npu", merged["changes"])
    for line in notes(merged):
        console.print(line, soft_wrap=True)


def _title(merged: dict[str, Any]) -> str:
    count = len(merged["processes"])
    many = f", {count} processes" if count > 1 else ""
    return f"simulated Ascend{' ' + merged['chip'] if merged['chip'] else ''}{many}"


def notes(merged: dict[str, Any]) -> Iterator[str]:
    """What stands below the tables, a line each."""
    cut_off = merged["processes_cut_off"]
    if cut_off:
        numbers = ", ".join(map(str, cut_off))
        yield (
            f"Killed, or ended by os._exit: {len(cut_off)} process(es), {numbers}; what they did in their last 0.2 s "
            "may be missing."
        )
    if merged["faults_left"]:
        yield f"Faults that never came: {', '.join(merged['faults_left'])}. Each process counts its own calls."
    estimate = merged["estimate"]
    if estimate is not None:
        yield (
            f"Estimate: {_seconds(estimate['memory_seconds'])} for the chip's memory to move "
            f"{_bytes(estimate['bytes'])} once at {estimate['bytes_per_s'] / 1e12:g} TB/s ({estimate['source']}); "
            "computing, launches and the host's part come on top. Times here are this machine's, not a chip's."
        )
    elif merged["chip"]:
        yield f"No estimate of time: no figure that could be cited is known for the memory of a {merged['chip']}."


def _table(console: Any, title: str, *columns: str) -> Any:
    from rich.table import Table

    console.print(f"\n{title}", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", header_style="dim", overflow="fold")
    return table


def _show_works(console: Any, title: str, works: _Work) -> None:
    if not works:
        return
    has_bytes = any(work["bytes"] for work in works.values())
    has_failed = any(work["failed"] for work in works.values())
    columns = ["name", "times", *(["failed"] if has_failed else []), *(["bytes"] if has_bytes else [])]
    table = _table(console, title, *columns)
    for name, work in works.items():
        row = [name, f"{work['count']:,}"]
        row += [f"{work['failed']:,}" if work["failed"] else ""] if has_failed else []
        row += [_bytes(work["bytes"]) if work["bytes"] else ""] if has_bytes else []
        table.add_row(*row)
    console.print(table)


def _show_counts(console: Any, title: str, counts: dict[str, int]) -> None:
    if not counts:
        return
    table = _table(console, title, "name", "times")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    console.print(table)


def _show_failures(console: Any, failures: list[dict[str, Any]]) -> None:
    if not failures:
        return
    table = _table(console, "calls that failed", "call", "times", "result", "")
    table.columns[3].justify = "left"
    for one in failures:
        reason = one["reason"] if one["is_served"] else "the simulated device does not have it"
        table.add_row(one["call"], f"{one['count']:,}", str(one["result"]), reason)
    console.print(table)


def _show_lines(console: Any, title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    table = _table(console, title, "line", "times", "")
    table.columns[2].justify = "left"
    for one in rows:
        line = f"{os.path.relpath(one['file'])}:{one['line']}" if one["file"] else "no line"
        table.add_row(line, f"{one['count']:,}", one["what"])
    console.print(table)


def _show_devices(console: Any, merged: dict[str, Any]) -> None:
    used = [device for device in merged["devices"] if device["peak_bytes"]]
    if not used:
        return
    has_several = len(merged["processes"]) > 1
    table = _table(console, "memory", "device", *(["process"] if has_several else []), "most in use", "of")
    for device in used:
        process = [str(device["pid"])] if has_several else []
        table.add_row(f"npu:{device['device']}", *process, _bytes(device["peak_bytes"]), _bytes(device["memory_bytes"]))
    console.print(table)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


# ---------------------------------------------------------------- the trace


def write_trace(folder: Path, path: Path, commands: dict[int, str]) -> None:
    """Writes what all processes did as one file for https://ui.perfetto.dev: a track for each stream of each device.

    folder: where they left it; commands: theirs, by process.
    """
    files = sorted(folder.glob("*.jsonl"), key=lambda file: int(file.stem))
    first = min((event["begin"] for file in files for event in _events(file)), default=0)

    def write(out: Any) -> None:
        out.write('{"displayTimeUnit": "ns", "traceEvents": [')
        comma = ""
        for event in _tracks(files, first, commands):
            out.write(comma + "\n" + json.dumps(event))
            comma = ","
        out.write("\n]}\n")

    _write_whole(path, write)


def _events(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(errors="replace") as lines:
        for line in lines:
            if line.endswith("}\n"):  # the last one of a process that was killed may be cut
                yield json.loads(line)


def _tracks(files: list[Path], first: int, commands: dict[int, str]) -> Iterator[dict[str, Any]]:
    # Perfetto's processes are the devices of processes here, its threads their streams.
    devices: dict[tuple[int, int], int] = {}
    streams: set[tuple[int, int]] = set()
    for file in files:
        process = int(file.stem)
        for event in _events(file):
            key = process, event["device"]
            if key not in devices:
                devices[key] = len(devices) + 1
                what = commands.get(process, "")
                name = f"npu:{event['device']} of process {process}" + (f" ({what})" if what else "")
                yield {"ph": "M", "name": "process_name", "pid": devices[key], "args": {"name": name}}
            track = devices[key], event["stream"] + 1
            if track not in streams:
                streams.add(track)
                name = f"stream {event['stream']}" if event["stream"] >= 0 else "calls that do their work at once"
                yield {"ph": "M", "name": "thread_name", "pid": track[0], "tid": track[1], "args": {"name": name}}
            args = {key: event[key] for key in ("bytes", "result") if key in event}
            yield {
                "ph": "X", "name": event["name"], "pid": track[0], "tid": track[1],
                "ts": (event["begin"] - first) / 1000, "dur": event["ns"] / 1000, "args": args,
            }  # fmt: skip


def _write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Never leaves half a file under the name that was asked for."""
    if not path.is_file():  # /dev/stdout, say
        with path.open("w") as out:
            write(out)
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w") as out:
            write(out)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
