"""Runs Triton's own tests of its language, unmodified, on the CPU target, and counts what passes in each file.

`.ci/triton_conformance.py CHECKOUT [test_core.py …]`. Each file has processes of its own; the case that ended one is
counted as a crash, and a new one goes on behind it. The processes load this file as a pytest plugin, which records each
case as it starts and ends. A tutorial is one case: it runs to its end, without its benchmarks. `--floor` counts what
passes where nothing is run at all: those cases are no evidence.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = "https://github.com/triton-lang/triton"
OUTCOMES = ("passed", "failed", "gpu", "skipped", "crashed")  # gpu: failed, since it asks for what only a GPU has
GPU = re.compile(r"Unknown key: '(ttgir|ptx|cubin|amdgcn)'|not compiled with CUDA|requires a CUDA|make_ttgir|\.is_cuda")
TUTORIALS = [f"0{n}-*.py" for n in range(1, 9)]  # the later ones are of single GPUs' instructions
TUTORIAL = """
import runpy, sys, triton.testing
triton.testing.Mark.run = lambda *_, **__: None
names = runpy.run_path(sys.argv[1], run_name="__main__")
if "test_op" in names:
    names["test_op"](1, 2, 1024, 64, True, False, "bwd", "triton-fp16")
"""
PER_PROCESS = 1500  # cases; a process keeps the kernels it loaded
STUCK_S = 600


# ---------------------------------------------------------------- the plugin, inside the tests' process


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--record", type=Path, help="where to write each case's outcome, a JSON object a line")
    parser.addoption("--every", type=int, default=1, help="run each n-th case only")
    parser.addoption("--run-nothing", action="store_true", help="launch no kernel")


def pytest_configure(config: Any) -> None:
    if config.getoption("--run-nothing"):
        _run_nothing()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    items[:] = items[:: config.getoption("--every")]
    total, done = len(items), {event["case"] for event in _events(config.getoption("--record")) if "case" in event}
    rest = [item for item in items if item.nodeid not in done]
    items[:] = rest[:PER_PROCESS]
    _record(config, total=total, left=len(rest) - len(items))


def pytest_sessionfinish(session: Any) -> None:
    _record(session.config, finished=True)


def pytest_runtest_protocol(item: Any, nextitem: Any) -> None:
    _record(item.config, case=item.nodeid, outcome="crashed")  # stands unless a report follows
    item.user_properties.append(("config", item.config))


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        config = dict(report.user_properties)["config"]
        _record(config, case=report.nodeid, outcome=report.outcome, why=_reason(report))


def _record(config: Any, **event: Any) -> None:
    with config.getoption("--record").open("a") as file:
        print(json.dumps(event), file=file)


def _reason(report: Any) -> str:
    if report.outcome == "skipped":
        return str(report.longrepr[2])
    if report.outcome == "passed":
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = [line.strip() for line in (crash.message if crash else str(report.longrepr)).splitlines() if line.strip()]
    is_located = len(lines) > 1 and "CompilationError" in lines[0]  # the source's lines come first
    return f"{lines[0].split(':')[0]}: {lines[-1]}" if is_located else " ".join(lines[:3])


def _run_nothing() -> None:
    from unify.triton import compiler, driver

    compiler._kernel = lambda *_, **__: b""
    driver._Utilities.load_binary = lambda *_: (None, None, 0, 0, 1 << 30)
    driver._Launcher.__call__ = lambda *_: None


# ---------------------------------------------------------------- running


@dataclass
class Result:
    """What became of each case of a file."""

    file: str
    cases: dict[str, tuple[str, str]] = field(default_factory=dict)  # name → outcome, reason
    problem: str = ""  # where no case could be run
    floor: int | None = None  # how many pass where nothing is run

    @property
    def counts(self) -> Counter[str]:
        return Counter(outcome for outcome, _ in self.cases.values())


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open() as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))


def run_file(tests: Path, file: str, arguments: Sequence[str]) -> Result:
    """Runs all cases of a file, in as many processes as it takes."""
    with tempfile.TemporaryDirectory() as folder:
        record, output = Path(folder, "record"), Path(folder, "output")
        result, known = Result(file), -1
        while not _is_complete(record) and len(result.cases) > known:
            known = len(result.cases)
            _run_process(tests, file, record, arguments, output)
            result = _read(file, record)
        if not result.cases:
            result.problem = "\n".join(output.read_text(errors="replace").splitlines()[-12:])
        return result


def _is_complete(record: Path) -> bool:
    """Whether the last process came to its end and left nothing to another."""
    events = list(_events(record))
    left = [event["left"] for event in events if "left" in event]
    return bool(events) and "finished" in events[-1] and (not left or left[-1] == 0)


def _run_process(tests: Path, file: str, record: Path, arguments: Sequence[str], output: Path) -> None:
    # Triton has its conftest.py in python/ since 3.8, where a triton lies that is not built: it may not be imported.
    root = next((folder for folder in (tests.parents[2], tests.parents[1]) if (folder / "conftest.py").exists()), tests)
    command = [sys.executable, "-m", "pytest", "--device=cpu", f"--rootdir={root}", f"--confcutdir={root}", "-q"]
    command += ["--import-mode=importlib", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-p", "triton_conformance", f"--record={record}"]
    command += [*arguments, file]
    with (
        output.open("w") as log,
        subprocess.Popen(command, cwd=tests, env=_environment(), stdout=log, stderr=log) as run,
    ):
        size, since = -1, time.monotonic()
        while run.poll() is None:
            time.sleep(0.5)
            if record.exists() and record.stat().st_size != size:
                size, since = record.stat().st_size, time.monotonic()
                _show_progress(file, record)
            elif time.monotonic() - since > STUCK_S:
                run.kill()


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",  # nothing is written into the checkout
        "TRITON_DEFAULT_BACKEND": "cpu",
        "MALLOC_PERTURB_": "165",  # freed memory is poisoned: results left there pass no test
    }


def run_tutorial(path: Path) -> Result:
    """Runs a tutorial; those that compare without an assertion print a cross where results differ."""
    command = [sys.executable, "-c", TUTORIAL, str(path)]
    run = subprocess.run(command, env=_environment(), capture_output=True, text=True, errors="replace", check=False)
    why = "results differ" if "❌" in run.stdout else " ".join(run.stderr.split("\n")[-4:]).strip()
    outcome = "crashed" if run.returncode < 0 else "failed" if run.returncode or "❌" in run.stdout else "passed"
    is_gpus = outcome == "failed" and GPU.search(why)
    return Result(path.name, {"": ("gpu" if is_gpus else outcome, why if outcome != "passed" else "")})


def _show_progress(file: str, record: Path) -> None:
    if sys.stderr.isatty():
        total = max((event["total"] for event in _events(record) if "total" in event), default=0)
        print(f"\r{_line(_read(file, record))}  of {total}", end="", file=sys.stderr, flush=True)


def _read(file: str, record: Path) -> Result:
    result = Result(file)
    for event in _events(record):
        if "case" in event:
            outcome, why = event["outcome"], event.get("why", "")
            is_gpus = outcome == "failed" and GPU.search(why)
            result.cases[event["case"].partition("::")[2]] = ("gpu" if is_gpus else outcome, why)
    return result


# ---------------------------------------------------------------- showing


def _line(result: Result) -> str:
    counts = [*(result.counts[outcome] for outcome in OUTCOMES), *([] if result.floor is None else [result.floor])]
    return f"{result.file:32}" + "".join(f"{count:9}" for count in counts)


def show_failures(result: Result) -> None:
    """Prints what did not pass, by test and reason, the most frequent first."""
    shown = ("failed", "gpu", "crashed")
    groups = Counter((o, name.partition("[")[0], why) for name, (o, why) in result.cases.items() if o in shown)
    for (outcome, test, why), count in groups.most_common():
        print(f"  {count:5} {outcome} {result.file}::{test}  {why[:300]}")
    if result.problem:
        print(f"  {result.file}: no case was run\n{result.problem}")


def checkout(path: Path) -> Path:
    """Where tests and tutorials lie; fetches the installed Triton's sources to `path` if there is nothing."""
    import triton

    if not path.exists():
        command = ["git", "clone", "--depth=1", f"--branch=v{triton.__version__}", REPOSITORY, str(path)]
        print("+", *command, file=sys.stderr)
        if subprocess.run(command).returncode:
            sys.exit(f"Fetching Triton {triton.__version__} failed. Name a checkout of its tag: TRITON=PATH.")
    return path / "python"


def main() -> None:
    """Runs, and prints the table and what failed."""
    parser = argparse.ArgumentParser(description="Triton's own tests of its language on the CPU target.")
    parser.add_argument("checkout", type=Path, help="Triton's repository; fetched there if nothing is")
    parser.add_argument("files", nargs="*", help="of python/test/unit/language or python/tutorials; without, all")
    parser.add_argument("--floor", action="store_true", help="also count what passes where no kernel is launched")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="run each N-th case only")
    parser.add_argument("-k", metavar="EXPRESSION", default="", help="run the cases that match, as in pytest")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write each case's outcome there")
    options = parser.parse_args()
    python = checkout(options.checkout.resolve())
    tests, tutorials = python / "test" / "unit" / "language", python / "tutorials"
    files = options.files or sorted(
        [p.name for p in tests.glob("test_*.py")] + [p.name for t in TUTORIALS for p in tutorials.glob(t)]
    )
    if missing := [file for file in files if not any((folder / file).exists() for folder in (tests, tutorials))]:
        parser.error(f"{', '.join(missing)}: neither in {tests} nor in {tutorials}")
    arguments = [f"--every={options.every}", f"-k={options.k}"]
    print(f"{'':32}" + "".join(f"{name:>9}" for name in [*OUTCOMES, *(["floor"] if options.floor else [])]))
    results = []
    for file in files:
        is_test = (tests / file).exists()
        result = run_file(tests, file, arguments) if is_test else run_tutorial(tutorials / file)
        if options.floor and is_test:
            result.floor = run_file(tests, file, [*arguments, "--run-nothing"]).counts["passed"]
        results.append(result)
        print(("\r" if sys.stderr.isatty() else "") + _line(result), flush=True)
        if options.json:
            options.json.write_text(json.dumps({result.file: result.cases for result in results}, indent=1))
    for result in results:
        show_failures(result)
    sys.exit(any(result.counts["crashed"] or result.problem for result in results))


if __name__ == "__main__":
    main()
