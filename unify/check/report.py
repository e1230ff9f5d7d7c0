"""What `unify check` prints: a table of kernels and targets, what was found below it, or JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from .subject import ERROR, Finding, Kernel, Outcome, Refused, Row, Variant

_SPACES = ("ub", "l1", "l0c")
_CORES = {"aiv": "vector", "aic": "cube", "mix": "both"}


def row_of(kernel: Kernel, target: str, outcomes: Sequence[tuple[Variant, Outcome]]) -> Row:
    """A kernel's line. Where all variants count, the first one that failed speaks for them, else the largest one."""
    passed = [pair for pair in outcomes if pair[1].status != "failed"]
    failed = [pair for pair in outcomes if pair[1].status == "failed"]
    if kernel.needs_all:
        chosen = failed[0] if failed else max(passed, key=lambda pair: pair[1].memory.get("ub_bytes") or 0)
        found = _together(outcome for _, outcome in outcomes)
    else:
        chosen = passed[0] if passed else failed[0]
        found = chosen[1].findings
    variant, outcome = chosen
    file, line = _place(kernel, outcome)
    refused = [Refused(v.constants, o.reason, *_place(kernel, o)) for v, o in failed] if passed else []
    return Row(
        kernel.name, target, outcome.status, outcome.reason, file, line, found, outcome.memory, variant.constants,
        len(outcomes), len(passed), () if kernel.needs_all else tuple(refused),
    )  # fmt: skip


def _place(kernel: Kernel, outcome: Outcome) -> tuple[str, int]:
    return (outcome.file, outcome.line or 0) if outcome.file else (kernel.file, kernel.line)


def _together(outcomes: Iterable[Outcome]) -> tuple[Finding, ...]:
    found: dict[tuple[str, str, int], Finding] = {}
    for outcome in outcomes:
        for finding in outcome.findings:
            found.setdefault((finding.rule, finding.file, finding.line), finding)
    return tuple(found.values())


def is_bad(row: Row) -> bool:
    """Whether a gate must close: it does not compile, or would not work."""
    return row.status == "failed" or any(finding.severity == ERROR for finding in row.findings)


def as_json(rows: Sequence[Row]) -> str:
    """A list of objects, one for each kernel and target."""
    return json.dumps([row.as_dict() for row in rows], indent=2)


def show(rows: Sequence[Row], left_out: dict[str, str]) -> None:
    """Prints the table, and below it each finding once, with the targets that it is about."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(_table(rows))
    for (rule, severity, text, source), places in _grouped(rows).items():
        console.print(f"\n[bold]{rule}[/] ({severity}): {escape(text)}")
        if source:
            console.print(f"  [dim]source: {escape(source)}[/]")
        for (kernel, file, targets), lines in _together_by_kernel(places).items():
            place = f"{shown(file)}:{', '.join(map(str, sorted(lines)))}"
            console.print(f"  {escape(place)}  {kernel}: {', '.join(targets)}")
    for name, reason in left_out.items():
        console.print(f"\nnot checked: {escape(name)}: {escape(reason)}")
    bad = sum(map(is_bad, rows))
    unknown = f" {len(left_out)} not checked." if left_out else ""
    lowered = " lowered: all but the vendor's assembler, which only CANN has." if _has(rows, "lowered") else ""
    console.print(f"\n{len(rows) - bad} of {len(rows)} pass.{unknown}{lowered}")


def shown(file: str) -> str:
    """A file's path, as seen from here if it is below."""
    below = os.path.relpath(file)
    return file if below.startswith("..") else below


def _has(rows: Sequence[Row], status: str) -> bool:
    return any(row.status == status for row in rows)


def _table(rows: Sequence[Row]) -> Any:
    from rich.table import Table

    columns = [title for title in _HEADINGS if any(_cells(row)[title] for row in rows)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kernel", overflow="fold", min_width=24)
    table.add_column("target", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = _cells(row)
        name = row.kernel if row.tried == 1 else f"{row.kernel} ({row.passed} of {row.tried})"
        table.add_row(name, row.target, row.status, *(cells[title] or "–" for title in columns))
    return table


_HEADINGS = ("cores", "UB KiB", "L1 KiB", "L0C KiB", "doubled", "blocks", "registers", "shared KiB", "findings")


def _cells(row: Row) -> dict[str, str]:
    memory = row.memory
    cells = dict.fromkeys(_HEADINGS, "")
    cells["findings"] = str(len(row.findings) or "")
    cells["cores"] = _CORES.get(str(memory.get("mode")), "")
    for space in _SPACES:
        used, limit = memory.get(f"{space}_bytes"), memory.get(f"{space}_limit")
        if used is not None and limit:
            cells[f"{space.upper()} KiB"] = f"{used / 1024:.1f} / {limit // 1024}"
    if "double_buffered" in memory:
        cells["doubled"] = "yes" if memory["double_buffered"] else "no"
        cells["blocks"] = "any" if memory.get("grid_limit") is None else f"≤ {memory['grid_limit']:,}"
    if "registers" in memory:
        cells["registers"] = str(memory["registers"])
        cells["shared KiB"] = f"{memory.get('shared_bytes', 0) / 1024:.1f}"
    return cells


_Places = dict[tuple[str, str, int], list[str]]  # a kernel, a file and a line: targets


def _together_by_kernel(places: _Places) -> dict[tuple[str, str, tuple[str, ...]], list[int]]:
    """The lines of a kernel that are about the same targets."""
    found: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
    for (kernel, file, line), targets in places.items():
        found.setdefault((kernel, file, tuple(targets)), []).append(line)
    return found


def _with(reason: str | None, constants: dict[str, str]) -> str:
    shown = ", ".join(f"{name}={text}" for name, text in constants.items())
    return f"{reason} (with {shown})" if shown else str(reason)


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str, str], _Places]:
    """What is said, once, with the places and targets that it is about; reasons for a failure first."""
    found: dict[tuple[str, str, str, str], _Places] = {}

    def add(row: Row, said: tuple[str, str, str, str], file: str | None, line: int | None) -> None:
        targets = found.setdefault(said, {}).setdefault((row.kernel, file or row.kernel, line or 0), [])
        if row.target not in targets:
            targets.append(row.target)

    for row in rows:
        if row.status == "failed":
            text = _with(row.reason, row.constants) if row.tried > 1 else str(row.reason)
            if row.reason not in [finding.text for finding in row.findings]:
                add(row, ("failed", ERROR, text, ""), row.file, row.line)
        for refused in row.refused:
            said = ("refused", "one configuration of a tuner", _with(refused.reason, refused.constants), "")
            add(row, said, refused.file, refused.line)
    for row in rows:
        for finding in row.findings:
            said = (finding.rule, finding.severity, finding.text, finding.source)
            add(row, said, finding.file, finding.line)
    return found
