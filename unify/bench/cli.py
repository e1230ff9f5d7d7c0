"""`unify bench`: lists the cases, runs them, reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unify._errors import Error, UnsupportedError

from . import plot
from .case import Case, Setup
from .cases import find_cases
from .compare import Comparison, compare_case, measure_limits
from .peers import PEERS, Peer, find_peer
from .process import choose_cpus
from .roofline import Roofline


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    cases: Sequence[str] = ()
    list: bool = False
    vs: str | None = None
    threads: int = 0
    device: str = "cpu"
    repeats: int | None = None
    json: bool = False
    plot: Path | None = None
    model: str = "smollm2-135m"
    roofline: bool = False  # the machine's limits in place of a comparison

    @classmethod
    def of(cls, args: Any) -> Options:
        """Reads an argparse namespace; what it lacks has its default."""
        given = {name: value for name in cls.__dataclass_fields__ if (value := getattr(args, name, None)) is not None}
        given.setdefault("cases", getattr(args, "case", None) or ())
        if "plot" in given:
            given["plot"] = Path(given["plot"])
        options = cls(**given)
        return replace(options, cases=(), roofline=True) if tuple(options.cases) == ("roofline",) else options


@dataclass
class _Report:
    rows: list[Comparison] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def run(args: Any) -> int:
    """Runs `unify bench` and returns its exit status: 0, or 1 if a case failed. Raises Error before the first runs."""
    options = Options.of(args)
    if options.list:
        return _list(options)
    chosen = [] if options.roofline else _chosen(options)
    cpus = choose_cpus(options.threads)
    if options.plot is not None:
        plot.check(options.plot)
    needs_limits = options.roofline or any(case.flops or case.bytes for case, _ in chosen)
    limits = measure_limits(len(cpus), cpus) if needs_limits else None
    if limits is not None and options.roofline:
        return _show_limits(limits, options)
    report = _run_all(chosen, options, cpus, limits)
    return _show(
        report, options, f"{limits.processor if limits else options.device}, {len(cpus)} thread(s) a side", limits
    )


def _chosen(options: Options) -> list[tuple[Case, Peer]]:
    """Pairs each case with its peer. What was asked for must be there; of the rest, the missing are left out."""
    cases = find_cases(options.cases)
    if options.vs is not None:
        peer = find_peer(options.vs)
        chosen = [(case, peer) for case in cases if peer.name in case.peers]
        if not chosen:
            known = sorted({name for case in cases for name in case.peers})
            raise UnsupportedError(
                f"bench: none of these cases has the peer {peer.name}. They have {', '.join(known)}."
            )
        return chosen
    pairs = [(case, next((PEERS[name] for name in case.peers if PEERS[name].is_installed), None)) for case in cases]
    for case, found in pairs:
        if found is None and options.cases:
            find_peer(next(iter(case.peers)))  # raises, and says what to install
        elif found is None:
            print(f"unify: bench: {case.name} left out: none of {', '.join(case.peers)} is installed.", file=sys.stderr)
    return [(case, found) for case, found in pairs if found is not None]


def _setup(case: Case, options: Options, threads: int) -> Setup:
    model = _model(options.model) if case.needs_model else None
    return Setup(threads=threads, device=options.device, model=model)


def _model(name: str) -> Path:
    """The file of a model, by path, or by a name that is fetched at its first use."""
    if (path := Path(name).expanduser()).is_file():
        return path
    from unify.models import model_path

    return model_path(name)


def _run_all(
    chosen: list[tuple[Case, Peer]], options: Options, cpus: Sequence[int], limits: Roofline | None
) -> _Report:
    from rich.console import Console

    report = _Report()
    console = Console(stderr=True)
    with console.status("") as status:
        for place, (case, peer) in enumerate(chosen, 1):
            title = f"{place} of {len(chosen)}, {case.name} against {peer.name}: "
            try:
                row = _run_one(case, peer, options, cpus, limits, _Title(title, status.update))
                report.rows.append(row)
                if not console.is_terminal:  # a log has no line that changes
                    simulated = " (simulated)" if row.simulated else ""
                    spread = f", noisy: {row.ratio_min:.2f}-{row.ratio_max:.2f}" if row.is_noisy else ""
                    print(f"{title}{row.ratio:.2f}{spread}{simulated}", file=sys.stderr, flush=True)
            except Error as error:
                report.failures.append(case.name)
                console.print(f"unify: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return report


@dataclass(frozen=True)
class _Title:
    text: str
    show: Callable[[str], object]

    def __call__(self, what: str) -> None:
        self.show(self.text + what)


def _run_one(
    case: Case, peer: Peer, options: Options, cpus: Sequence[int], limits: Roofline | None, progress: _Title
) -> Comparison:
    setup = _setup(case, options, len(cpus))
    return compare_case(case, peer, setup, cpus, repeats=options.repeats, limits=limits, progress=progress)


def _show(report: _Report, options: Options, title: str, limits: Roofline | None) -> int:
    if options.json:
        print(json.dumps([row.as_dict() for row in report.rows], indent=2))
    elif report.rows:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(plot.table(report.rows))
        console.print("\n".join(_footer(report.rows, title, limits)), highlight=False)
    if options.plot is not None and report.rows:
        plot.save(report.rows, options.plot, title)
    return 1 if report.failures else 0


def _footer(rows: Sequence[Comparison], title: str, limits: Roofline | None) -> list[str]:
    lines = [f"\n{title}. Ratio: our speed over the peer's, median over pairs; a bar of full length is four times."]
    if limits is not None:
        fp32, reading = plot.number(limits.fp32_gflops), plot.number(limits.read_gb_s)
        bf16, int8 = _maybe(limits.bf16_gflops), _maybe(limits.int8_gops)
        lines.append(f"Limits measured now: fp32 {fp32}, bf16 {bf16}, int8 {int8} GFLOP/s; reading {reading} GB/s.")
    if any(row.simulated for row in rows):
        lines.append("simulated: no such chip is here. Our speed is this machine's, and says nothing of a chip's.")
    if any(row.is_noisy for row in rows):
        busiest, threads = max(row.neighbour_cores for row in rows), rows[0].threads
        lines += [
            "noisy: the middle half of the pairs is spread over more than 10 %, they are fewer than three, or other",
            f"  programs used these cores (at most {busiest:.2f} of {threads}). Such a ratio says little: a side",
            "  may have stalled. Repeat it on a quieter machine, or with more --repeats.",
        ]
    return lines


def _maybe(value: float | None) -> str:
    return "none" if value is None else plot.number(value)


def _show_limits(limits: Roofline, options: Options) -> int:
    if options.json:
        print(json.dumps([{"case": "roofline", **limits.as_dict()}], indent=2))
        return 0
    for name, value in limits.as_dict().items():
        print(f"{name:14} {plot.number(value) if isinstance(value, float) else value}")
    return 0


def _list(options: Options) -> int:
    cases = find_cases(options.cases)
    if options.json:
        print(
            json.dumps([{"case": c.name, "about": c.about, "unit": c.unit.name, "peers": list(c.peers)} for c in cases])
        )
        return 0
    width = max(len(case.name) for case in cases)
    for case in cases:
        peers = ", ".join(name if PEERS[name].is_installed else f"{name} (not installed)" for name in case.peers)
        print(f"{case.name:{width}}  {case.about} [{case.unit.name}; against {peers}]")
    if not options.cases:
        print(f"{'roofline':{width}}  what the machine can do at most: arithmetic, memory bandwidth, a native call")
    return 0
