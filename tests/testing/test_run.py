"""`unify test-backend`: what it reports of a backend that passes, fails, crashes, hangs, or cannot be tested."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable
from pathlib import Path

import pytest

import unify as un
from unify import cli
from unify.testing import run
from unify.testing.backends import compile_backend

TOY = Path(__file__).parents[1] / "plugin" / "toy.c"
SIZES = "copy::test_copies_of_every_size*"

# The toy, but a copy of some sizes goes wrong.
BROKEN = """
#define _POSIX_C_SOURCE 200809L
#define unify_backend_get toy_backend_get
#include "{toy}"
#undef unify_backend_get
#include <signal.h>
#include <unistd.h>
static unify_status broken_copy(unify_stream stream, const unify_copy_args* args) {{
  if (args->bytes == 65) raise(SIGSEGV);
  if (args->bytes == 4095) pause();
  if (args->bytes == 4097) return UNIFY_OK;
  return copy(stream, args);
}}
UNIFY_EXPORT const unify_backend* unify_backend_get(unify_backend_get_args* args) {{
  static unify_backend table;
  table = *toy_backend_get(args);
  table.copy = broken_copy;
  return &table;
}}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFY_BACKEND_PATH", str(compile_backend(TOY, tmp_path / "toy.so")))


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.c").write_text(BROKEN.format(toy=TOY))
    library = compile_backend(tmp_path / "broken.c", tmp_path / "broken.so", ['TOY_NAME="broken"'])
    monkeypatch.setenv("UNIFY_BACKEND_PATH", str(library))


def test_a_part_of_the_suite_passes_and_says_so(toy: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    junit = tmp_path / "report.xml"
    assert cli.main(["test-backend", "toy:1", "-k", SIZES, "--junit", str(junit)]) == 0
    shown = capsys.readouterr().out
    assert "copy                10        0       0" in shown
    assert "toy:1: 10 passed, 0 failed in " in shown
    suite = xml.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("10", "0")
    assert suite[0].get("name") == "test_copies_of_every_size[1]"


def test_skips_are_counted_by_reason(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["test-backend", "toy", "-k", "event and elapsed"]) == 0
    assert "host_calls is emulated" in capsys.readouterr().out


def test_json_is_one_object(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["test-backend", "toy", "--json", "-k", "stream::test_every_priority*"]) == 1  # nothing passed
    shown = json.loads(capsys.readouterr().out)
    assert shown["device"] == "toy:0"
    assert shown["name"] == "Toy 0 (simulated)"
    assert shown["counts"] == {"passed": 0, "skipped": 1, "expected": 0, "failed": 0}
    assert shown["skipped"][0]["case"] == "stream::test_every_priority_in_the_range_is_accepted"


def test_crashes_hangs_and_failures_are_told_apart_and_the_rest_runs(broken: None) -> None:
    begun: list[str] = []
    seen: list[tuple[int, int]] = []
    report = run.run(
        "broken", select=SIZES, timeout_s=20.0, on_start=begun.append,
        on_result=lambda result, done, total: seen.append((done, total)),
    )  # fmt: skip
    assert sorted(begun) == sorted(result.case for result in report.results)
    failed = {result.case.partition("[")[2]: result.why for result in report.of("failed")}
    assert failed.keys() == {"65]", "4095]", "4097]"}
    assert "SIGSEGV" in failed["65]"]
    assert "said nothing for 20 s: it hangs" in failed["4095]"]
    assert "test_copy.py" in failed["4097]"] or "arrays.py" in failed["4097]"]
    assert len(report.of("passed")) == 7
    assert report.status == 1
    assert seen[-1] == (10, 10)
    assert "Mismatched elements: " in run.as_text(report)  # by NumPy, in a line behind the first
    assert run.as_text(report).count("unify test-backend broken:0 -k 'copy::test_copies_of_every_size[65]'") == 1


def test_a_terminal_shows_the_case_that_runs() -> None:
    shown: list[str] = []
    table = run.Table(shown.append, is_terminal=True)
    table.begin("copy::test_first")
    assert shown[-1].endswith("copy::test_first")
    table.add(run.Result("copy::test_first", "passed"), 1, 20)
    table.begin("copy::test_second")
    assert "1 of 20" in shown[-1]
    assert shown[-1].endswith("copy::test_second")
    quiet: list[str] = []
    run.Table(quiet.append, is_terminal=False).begin("copy::test_first")
    assert len(quiet) == 1  # the head of the table


def test_a_device_that_is_not_there_begins_no_table(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["test-backend", "toy:7"])
    assert capsys.readouterr().out == ""


def child_of(pid: int) -> int:
    """The process that runs the cases of a command, once it is in one."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        for argument in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
            report = Path(argument.removeprefix("--unify-report="))
            if argument.startswith("--unify-report=") and report.exists() and '"start"' in report.read_text():
                return int(child)
    return 0


def test_the_cases_end_with_a_command_that_is_killed(broken: None) -> None:
    hanging = "copy::test_copies_of_every_size[4095]"
    command = [sys.executable, "-m", "unify", "test-backend", "broken", "-k", hanging]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 120
        while not (child := child_of(process.pid)):
            assert time.monotonic() < limit
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.fixture
def dies_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the processes of a run end of a signal where pytest calls a hook."""

    def make(hook: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import os, signal, sys\n"
            "if any(argument.startswith('--unify-report') for argument in sys.orig_argv):\n"
            "    from unify.testing import plugin\n"
            f"    def {hook}:\n        os.kill(os.getpid(), signal.SIGSEGV)\n"
            f"    plugin.{hook.partition('(')[0]} = {hook.partition('(')[0]}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


def test_a_crash_in_a_clean_up_is_the_cases_and_the_rest_runs(toy: None, dies_late: Callable[[str], None]) -> None:
    dies_late("pytest_runtest_teardown(item):\n      if '[65]' in item.name or '-65]' in item.name")
    seen: list[str] = []
    report = run.run("toy", select=SIZES, on_result=lambda result, done, total: seen.append(result.case))
    assert [(result.case.partition("[")[2], result.why) for result in report.of("failed")] == [
        ("65]", "the process of the case ended with SIGSEGV")
    ]
    assert len(report.of("passed")) == 9
    assert len(seen) == len(set(seen)) == 10
    assert "-k 'copy::test_copies_of_every_size[65]'" in run.as_text(report)


def test_a_crash_after_the_last_case_names_no_case(toy: None, dies_late: Callable[[str], None]) -> None:
    dies_late("pytest_sessionfinish(session)")
    report = run.run("toy", select=SIZES)
    assert len(report.of("passed")) == 10
    assert [result.case for result in report.of("failed")] == ["exit::the_process"]
    assert run.as_text(report).count("one of them again:  unify test-backend toy:0\n") == 1


def test_a_spec_skips_and_expects(toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exceptions.py").write_text(
        "from unify.testing import Spec\n"
        "spec = Spec(unsupported={'copy::test_copies_of_every_size[1]': 'too small'},\n"
        "            expected_failures={'copy::test_copies_of_every_size[2]': 'even'})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = run.run("toy", spec="exceptions:spec", select=SIZES)
    assert [result.why for result in report.of("skipped")] == ["too small"]
    assert [result.why.splitlines()[0] for result in report.of("failed")] == ["[XPASS(strict)] even"]


def test_a_line_of_a_spec_that_means_nothing_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from unify.testing import Spec, spec

    monkeypatch.setattr(spec, "find", lambda kind, named: Spec(unsupported={"copy::test_gone": "old", "copy::*": "no"}))
    report = run.Report({"device": "toy:0"}, None, [run.Result("copy::test_fills[int8]", "passed")])
    assert [result.case for result in run._stale(report, None, None)] == ["spec::copy::test_gone"]
    assert run._stale(report, None, "copy::*") == []


def test_the_list_has_every_case_once(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["test-backend", "toy", "--list"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert len(names) == len(set(names)) > 600
    assert "copy::test_copies_of_every_size[4097]" in names


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (["nothing"], 2, "no device 'nothing'"),
        (["toy:7"], 2, "no device 'toy:7'"),
        (["toy", "-k", "copy::test_no_such*"], 2, "no case is meant by"),
        (["toy", "--spec", "no_such_module:spec"], 1, "no_such_module"),
    ],
)
def test_what_cannot_be_tested_says_why(
    toy: None, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, why: str
) -> None:
    assert cli.main(["test-backend", *arguments]) == status
    assert why in capsys.readouterr().err


def test_without_pytest_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(un.errors.UnsupportedError, match=r"pip install 'unify-runtime\[test\]'"):
        run.run("cpu")


def test_a_device_that_ends_its_process_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = BROKEN.format(toy=TOY).replace("table.copy = broken_copy;", "table.device_open = broken_open;")
    source = source.replace(
        "UNIFY_EXPORT",
        "static unify_status broken_open(const unify_device_open_args* args, unify_device* out) {"
        " (void)broken_copy, (void)args, (void)out; abort(); }\nUNIFY_EXPORT",
        1,
    )
    (tmp_path / "dead.c").write_text(source)
    library = compile_backend(tmp_path / "dead.c", tmp_path / "dead.so", ['TOY_NAME="dead"'])
    monkeypatch.setenv("UNIFY_BACKEND_PATH", str(library))
    with pytest.raises(un.errors.BackendError, match="opening dead ended its process with SIGABRT"):
        run.run("dead")
