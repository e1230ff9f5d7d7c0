"""The pytest plugin: `pytest --pyargs unify.testing.conformance --unify-device NAME`. Loads nothing of unify itself."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
from pathlib import Path
from typing import Any, TextIO

import pytest

pytest.register_assert_rewrite("unify.testing.conformance", "unify.testing.arrays")

_PR_SET_PDEATHSIG = 1  # prctl(2)
_REPORT = pytest.StashKey[TextIO]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what the conformance suite reads; `unify test-backend` uses the last three."""
    group = parser.getgroup("unify")
    group.addoption(
        "--unify-device",  # others have a --device of their own
        action="append",
        default=None,
        metavar="NAME",
        help="device that unify's conformance suite runs on, e.g. cpu or cuda:0; may be given again. Default: all.",
    )
    group.addoption("--unify-spec", metavar="MODULE:ATTRIBUTE", help="the unify.testing.Spec of the device's backend.")
    group.addoption("--unify-match", metavar="PATTERN", help="only the cases that the pattern means: copy::test_fills*")
    group.addoption("--unify-without", metavar="FILE", help="leave out the cases that the file lists, one a line.")
    group.addoption("--unify-report", metavar="FILE", help="write what happens to each case, as lines of JSON.")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the suite's marker, and opens the report."""
    config.addinivalue_line(
        "markers",
        "needs(capability, support=...): skips on devices without this capability; support='native' also where it is "
        "emulated.",
    )
    config.addinivalue_line("markers", "slow: takes minutes, or gigabytes.")
    if config.option.unify_report:
        _end_with_the_parent()
        config.stash[_REPORT] = Path(config.option.unify_report).open("a", encoding="utf-8")  # noqa: SIM115


def _end_with_the_parent() -> None:
    """`unify test-backend` may be killed, and a case that hangs would stay behind for ever."""
    with contextlib.suppress(AttributeError):  # Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def case_of(item: pytest.Item) -> str | None:
    """What people call a case of the suite, `copy::test_fills_of_every_dtype[int8]`; None for a test of others."""
    device = device_of(item)
    if device is None or item.path.parent.name != "conformance":
        return None
    name, bracket, parameters = item.name.partition("[")
    rest = parameters.removesuffix("]").removeprefix(device).removeprefix("-")
    return f"{item.path.stem.removeprefix('test_')}::{name}" + (f"[{rest}]" if bracket and rest else "")


def device_of(item: pytest.Item) -> str | None:
    """The name of the device that a case runs on."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("device") if callspec is not None else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Reports which cases there are."""
    _tell(session.config, event="collected", cases=[case_of(item) for item in session.items])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Reports that a case begins: if nothing says that it is done, it ended the process."""
    _tell(item.config, event="start", case=case_of(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Reports what became of a case; a failure to clean up counts as one."""
    report: pytest.TestReport = yield
    outcome = _outcome(report)
    if outcome is not None:
        _tell(item.config, event="end", case=case_of(item), outcome=outcome, why=_why(report), seconds=report.duration)
    if report.when == "teardown":
        _tell(item.config, event="done", case=case_of(item))
    return report


def _outcome(report: pytest.TestReport) -> str | None:
    if hasattr(report, "wasxfail"):
        return "expected" if report.skipped else "failed"
    if report.failed or report.skipped:
        return str(report.outcome)
    return "passed" if report.when == "call" else None


def _why(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return f"{Path(crash.path).name}:{crash.lineno}: {crash.message}"
    return str(report.longrepr or "")


def _tell(config: pytest.Config, **event: object) -> None:
    if (report := config.stash.get(_REPORT, None)) is not None:
        report.write(json.dumps(event) + "\n")
        report.flush()
