"""`unify test-backend`: the conformance suite on one device, in processes that may die of what they find."""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml  # only written
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from unify._config import environment
from unify._errors import BackendError, InvalidArgument, TimeoutExpired, UnsupportedError

_NO_CONCEPTS = ("start", "exit", "spec")  # of results that no case has: a run's own

Outcome = Literal["passed", "skipped", "expected", "failed"]

SILENCE_S = 60.0  # longer than any case takes: what is silent for so long hangs
_PROBE_S = 120.0
_START_S = 300.0  # to import and collect, on a busy machine

_DESCRIBE = """
import json, sys, unify as un
device = un.device(sys.argv[1])
about = {name: device.properties[name] for name in ("name", "driver_version", "target")}
print(json.dumps({"device": device.name, **about, "capabilities": device.capabilities}))
"""


@dataclass(frozen=True)
class Result:
    """What became of a case. why: the reason of a skip, or the first line of a failure."""

    case: str
    outcome: Outcome
    why: str = ""
    seconds: float = 0.0

    @property
    def concept(self) -> str:
        """The part of the suite that the case belongs to."""
        return self.case.partition("::")[0]


@dataclass
class Report:
    """A run of the suite on a device."""

    device: dict[str, Any]
    spec: str | None
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, outcome: Outcome) -> list[Result]:
        """The results of one kind."""
        return [result for result in self.results if result.outcome == outcome]

    @property
    def status(self) -> int:
        """The exit status: 0 if nothing failed and something passed."""
        return 0 if self.of("passed") and not self.of("failed") else 1

    def rerun(self, result: Result) -> str:
        """The command that runs one case again; all of them, where what failed is none."""
        spec = f" --spec {self.spec}" if self.spec else ""
        select = "" if result.concept in _NO_CONCEPTS else f" -k '{result.case}'"
        return f"unify test-backend {self.device['device']}{spec}{select}"

    def as_json(self) -> dict[str, Any]:
        """One object for programs: the device, counts, concepts, and each case that did not simply pass."""
        kinds: tuple[Outcome, ...] = ("passed", "skipped", "expected", "failed")
        concepts = {
            concept: {kind: sum(result.outcome == kind for result in results) for kind in kinds}
            for concept, results in _by_concept(self.results).items()
        }
        return {
            **self.device,
            "spec": self.spec,
            "counts": {kind: len(self.of(kind)) for kind in kinds},
            "concepts": concepts,
            "skipped": [asdict(result) for result in self.of("skipped")],
            "expected": [asdict(result) for result in self.of("expected")],
            "failed": [{**asdict(result), "rerun": self.rerun(result)} for result in self.of("failed")],
            "seconds": round(self.seconds, 1),
        }


def run(
    device: str,
    *,
    spec: str | None = None,
    select: str | None = None,
    timeout_s: float = SILENCE_S,
    on_start: Callable[[str], None] = lambda case: None,
    on_result: Callable[[Result, int, int], None] = lambda result, done, total: None,
) -> Report:
    """Runs the suite on a device and reports each case as it ends: on_result(result, done, total).

    spec: "module:attribute" of a unify.testing.Spec; select: a case such as "copy::test_fills*", or an expression for
    pytest's -k. A case that ends the process, or is not done after timeout_s, fails, and the others run on in a new
    one. on_start(case) is called as a case begins. Raises UnsupportedError without pytest, BackendError for a device
    that cannot be opened.
    """
    start = time.monotonic()
    report = Report(_describe(device), spec)
    results: dict[str, Result] = {}
    arguments = _arguments(report.device["device"], spec, select)
    total = 0
    while True:
        before = len(results)
        crash: Result | None = None
        for event in _one_process(arguments, list(results), timeout_s):
            if isinstance(event, int):
                total = event + before
                continue
            if isinstance(event, str):
                on_start(event)
                continue
            is_new = event.case not in results
            if is_new or event.outcome == "failed" or results[event.case].outcome == "passed":  # or in its clean-up
                results[event.case] = event
            if is_new:
                on_result(event, len(results), total)
            crash = event if event.why.startswith(_DIED) else None
        if crash is None or len(results) == before:  # without a case that is new, the next would end as this did
            break
    report.results = list(results.values())
    report.seconds = time.monotonic() - start
    if spec is not None or not select:
        report.results += _stale(report, spec, select)
    return report


def cases(device: str, *, spec: str | None = None, select: str | None = None) -> list[str]:
    """The cases that `run` would run. Raises as `run`."""
    name = _describe(device)["device"]
    with tempfile.TemporaryDirectory(prefix="unify-test-") as folder:
        path = Path(folder, "report")
        command = [*_arguments(name, spec, select), "--collect-only", f"--unify-report={path}"]
        finished = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        found = next((event["cases"] for event in events if event["event"] == "collected"), None)
    if found is None:
        raise BackendError(f"test-backend: the suite does not start:\n{_end(finished.stdout + finished.stderr)}")
    return list(found)


def as_junit(report: Report) -> bytes:
    """The report as JUnit XML, which CI servers read."""
    suite = xml.Element(
        "testsuite", name=f"unify {report.device['device']}", tests=str(len(report.results)),
        failures=str(len(report.of("failed"))), skipped=str(len(report.of("skipped")) + len(report.of("expected"))),
        errors="0", time=f"{report.seconds:.1f}",
    )  # fmt: skip
    for result in report.results:
        name = _printable(result.case.partition("::")[2])
        case = xml.SubElement(suite, "testcase", classname=result.concept, name=name, time=f"{result.seconds:.3f}")
        if result.outcome == "failed":
            xml.SubElement(case, "failure", message=_printable(result.why))
        elif result.outcome != "passed":
            xml.SubElement(case, "skipped", message=_printable(result.why))
    return bytes(xml.tostring(suite, encoding="utf-8", xml_declaration=True))


def as_text(report: Report) -> str:
    """What follows the table: why cases were skipped, which are expected to fail, and each failure on a line."""
    lines: list[str] = []
    prefix = f"{report.device['device']}: "
    for title, outcome in (("skipped", "skipped"), ("known to fail", "expected")):
        reasons = collections.Counter(result.why.removeprefix(prefix) for result in report.of(outcome))  # type: ignore[arg-type]
        if reasons:
            lines += ["", f"{title}:", *(f"  {count:4}  {reason}" for reason, count in reasons.most_common())]
    failed = report.of("failed")
    if failed:
        lines += ["", "failed:"]
        for result in failed:
            words = [line for line in result.why.splitlines() if line.strip()] or ["no message"]
            lines += [f"  {result.case}", *(f"      {line[:200]}" for line in words[:_WHY_LINES])]
        lines += ["", f"one of them again:  {report.rerun(failed[0])}"]
    counts = ", ".join(
        f"{len(report.of(kind))} {word}"  # type: ignore[arg-type]
        for kind, word in (
            ("passed", "passed"),
            ("skipped", "skipped"),
            ("expected", "known to fail"),
            ("failed", "failed"),
        )
        if kind in ("passed", "failed") or report.of(kind)  # type: ignore[arg-type]
    )
    return "\n".join([*lines, "", f"{report.device['device']}: {counts} in {report.seconds:.0f} s"])


_DIED = "the process of the case "
_WHY_LINES = 6  # of a failure: NumPy says in its first ones that arrays differ, where, and by how much


def _by_concept(results: list[Result]) -> dict[str, list[Result]]:
    grouped: dict[str, list[Result]] = {}
    for result in results:
        grouped.setdefault(result.concept, []).append(result)
    return grouped


def _printable(text: str) -> str:
    """Without what XML cannot have in it."""
    return re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd]", "?", text)


def _stale(report: Report, spec: str | None, select: str | None) -> list[Result]:
    """A line of the spec that means no case any more is a failure: it would hide the next of its name."""
    from . import spec as specs

    if select:
        return []
    found = specs.find(report.device["device"].partition(":")[0], spec)
    names = [result.case for result in report.results]
    return [
        Result(f"spec::{pattern}", "failed", "no case of the suite is meant by this pattern")
        for pattern in (*found.unsupported, *found.expected_failures)
        if not any(specs.matches(pattern, name) for name in names)
    ]


def _environment() -> dict[str, str]:
    """Of the processes that test: this unify, and nothing of the user's pytest."""
    root = str(Path(__file__).resolve().parents[2])
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH", "")]))
    variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    variables.pop("PYTEST_ADDOPTS", None)
    return variables


def _describe(device: str) -> dict[str, Any]:
    """Opens the device in a process of its own, which may die of it."""
    if importlib.util.find_spec("pytest") is None:
        raise UnsupportedError("test-backend: the suite runs under pytest: pip install 'unify-runtime[test]'")
    command = [sys.executable, "-c", _DESCRIBE, device]
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_environment(), timeout=_PROBE_S
        )
    except subprocess.TimeoutExpired:
        raise TimeoutExpired(f"test-backend: opening {device} takes longer than {_PROBE_S:.0f} s.") from None
    if finished.returncode < 0:
        raise BackendError(f"test-backend: opening {device} ended its process with {_signal(-finished.returncode)}.")
    if finished.returncode:
        last = finished.stderr.strip().splitlines() or ["nothing was said"]
        kind = InvalidArgument if last[-1].startswith("unify.InvalidArgument: ") else BackendError
        raise kind("test-backend: " + re.sub(r"^unify[.\w]*: ", "", last[-1]))
    described: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return described


def _arguments(device: str, spec: str | None, select: str | None) -> list[str]:
    suite = Path(__file__).with_name("conformance")
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={suite}", "-p", "no:cacheprovider"]
    command += ["-p", "unify.testing.plugin", "--import-mode=importlib", f"--unify-device={device}"]
    command += [f"--unify-spec={spec}"] if spec else []
    if select:
        command += [f"--unify-match={select}"] if "::" in select else ["-k", select]
    return [*command, "--pyargs", "unify.testing.conformance"]


def _one_process(arguments: list[str], without: list[str], timeout_s: float) -> Iterator[Result | int | str]:
    """Runs the cases in a process, without those that are done.

    Gives their number, and then for each its name as it begins, and what becomes of it.
    """
    with tempfile.TemporaryDirectory(prefix="unify-test-") as folder:
        path, left_out, said = Path(folder, "report"), Path(folder, "without"), Path(folder, "said")
        path.touch()
        left_out.write_text("\n".join(without))
        command = [*arguments, f"--unify-report={path}", f"--unify-without={left_out}"]
        with said.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
            )
        try:
            yield from _follow(process, path, said, timeout_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _follow(process: subprocess.Popen[bytes], path: Path, said: Path, timeout_s: float) -> Iterator[Result | int | str]:
    running: str | None = None
    is_collected = False
    last_word = time.monotonic()
    with path.open() as lines:
        while True:
            has_ended = process.poll() is not None  # asked before reading, so that nothing is left behind
            for line in _whole_lines(lines):
                last_word = time.monotonic()
                event = json.loads(line)
                if event["event"] == "collected":
                    is_collected = True
                    yield len(event["cases"])
                elif event["event"] == "start":
                    running = event["case"]
                    yield event["case"]
                elif event["event"] == "done":
                    running = None
                else:
                    yield Result(event["case"], event["outcome"], event["why"], event["seconds"])
            if has_ended:
                break
            limit_s = timeout_s if running is not None else max(timeout_s, _START_S)
            if time.monotonic() - last_word > limit_s:
                process.send_signal(signal.SIGABRT)  # pytest then writes where every thread stands
                time.sleep(1)
                yield Result(running or "start::", "failed", f"{_DIED}said nothing for {limit_s:g} s: it hangs")
                return
            time.sleep(0.05)
    words = _end(said.read_text(errors="replace"))
    if process.returncode < 0 and running is not None:
        yield Result(running, "failed", f"{_DIED}ended with {_signal(-process.returncode)}")
    elif process.returncode < 0:
        yield Result("exit::the_process", "failed", f"after the last case it ended with {_signal(-process.returncode)}")
    elif not is_collected or process.returncode not in (0, 1, 5):  # 1: a case failed, 5: no cases
        raise BackendError(f"test-backend: the suite does not run:\n{words}")


def _whole_lines(file: Any) -> Iterator[str]:
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(place)
            return
        yield line


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(text: str, most: int = 30) -> str:
    return "\n".join(text.strip().splitlines()[-most:])


class Table:
    """Prints a row for each concept once it is done, and on a terminal where the suite stands."""

    def __init__(self, write: Callable[[str], object], is_terminal: bool) -> None:
        self._write = write
        self._is_terminal = is_terminal
        self._rows: dict[str, collections.Counter[str]] = {}
        self._progress = ""
        self._has_head = False

    def begin(self, case: str) -> None:
        """Shows which case runs, which may be one that hangs."""
        if not self._has_head:  # a device that is not there ends in an error, and no table
            self._write(f"{'':14}{'passed':>8}{'skipped':>9}{'failed':>8}\n")
            self._has_head = True
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns - 1
            self._write("\r\x1b[K" + f"{self._progress:32}{case}"[:columns])

    def add(self, result: Result, done: int, total: int) -> None:
        """Takes a result; a concept is done when the next one begins."""
        if result.concept not in self._rows and self._rows:
            self._row(next(reversed(self._rows)))
        self._rows.setdefault(result.concept, collections.Counter())[result.outcome] += 1
        self._progress = f"{result.concept:14}{done} of {total}"
        if self._is_terminal:
            self._write(f"\r\x1b[K{self._progress}")

    def end(self) -> None:
        """Prints the last row."""
        if self._rows:
            self._row(next(reversed(self._rows)))

    def _row(self, concept: str) -> None:
        counts = self._rows[concept]
        skipped = counts["skipped"] + counts["expected"]
        clear = "\r\x1b[K" if self._is_terminal else ""
        self._write(f"{clear}{concept:14}{counts['passed']:8}{skipped:9}{counts['failed']:8}\n")


def command(args: argparse.Namespace) -> int:
    """What `unify test-backend` does. Returns its exit status."""
    if args.list:
        for case in cases(args.device, spec=args.spec, select=args.select):
            print(case)
        return 0
    choice = {"spec": args.spec, "select": args.select, "timeout_s": args.timeout}
    if args.json:
        report = run(args.device, **choice)
        print(json.dumps(report.as_json(), indent=2))
    else:
        table = Table(_print_now, sys.stdout.isatty())
        report = run(args.device, **choice, on_start=table.begin, on_result=table.add)
        table.end()
        print(as_text(report))
    if not report.results:
        raise InvalidArgument(f"test-backend: no case is meant by {args.select!r}. `--list` has them all.")
    if args.junit:
        Path(args.junit).write_bytes(as_junit(report))
    return report.status


def _print_now(text: str) -> None:
    print(text, end="", flush=True)
