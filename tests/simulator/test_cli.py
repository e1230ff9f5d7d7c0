"""`unify simulate ascend`: a program runs as it would without it, and what it did is told at the end."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unify import cli

from . import torch_npu

ROOT = Path(__file__).parents[2]
ADD = """
import sys, torch
x = torch.ones(1000).npu()
print((x + x + 2).cpu().sum().item(), torch.npu.get_device_name(), torch.npu.device_count(), sys.stdin.read())
"""

Simulate = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def toolchains() -> Path:
    return torch_npu.toolchains()


@pytest.fixture
def simulate(toolchains: Path, tmp_path: Path) -> Simulate:
    """Runs the command in a folder with a program, program.py."""

    def run(*arguments: str, program: str = ADD, **options: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / "program.py").write_text(program)
        variables = {**os.environ, "UNIFY_TOOLCHAIN_DIR": str(toolchains), "PYTHONPATH": str(ROOT)}
        settings = {"capture_output": True, "text": True, "cwd": tmp_path, "timeout": 300, "env": variables, **options}
        command = [sys.executable, "-m", "unify", "simulate", "ascend", *arguments]
        return subprocess.run(command, check=False, **settings)  # type: ignore[call-overload]

    return run


def test_a_program_of_torch_npu_runs_and_is_reported(simulate: Simulate, tmp_path: Path) -> None:
    options = "--soc 910c --devices 2 --memory 2G --report report.json --trace trace.json"
    finished = simulate(*options.split(), "--", "python", "program.py", input="typed")
    assert (finished.returncode, finished.stdout.splitlines()[-1]) == (0, "4000.0 Ascend910_9392 2 typed")
    assert "aclnnAdd" in finished.stderr
    assert "host to device" in finished.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["status"], report["chip"], len(report["processes"])) == (0, "910C", 1)
    assert {name: work["count"] for name, work in report["operators"].items()} == {"aclnnAdd": 1, "aclnnAdds": 1}
    assert report["copies"]["host to device"]["bytes"] == report["copies"]["device to host"]["bytes"] == 4000
    assert sum(report["synchronisations"].values()) > 0
    assert [device["memory_bytes"] for device in report["devices"]] == [2 << 30] * 2
    assert 4000 <= report["devices"][0]["peak_bytes"] < 2 << 30
    assert report["devices"][1]["peak_bytes"] == 0
    assert report["estimate"]["memory_seconds"] == report["estimate"]["bytes"] / 1.6e12
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "X"} >= {"aclnnAdd", "aclnnAdds", "host to device"}
    tracks = {(event["pid"], event["tid"]) for event in events if event["ph"] == "X"}
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert tracks <= named


def test_a_planned_fault_is_torch_npu_s_own_error(simulate: Simulate) -> None:
    program = """
import os, sys, torch
x = torch.ones(10).npu()
for n in range(3):
    try:
        x = x + x
        torch.npu.synchronize()
        print(n, "ok")
    except RuntimeError as error:
        print(n, "507015" in str(error))
        break
sys.stdout.flush()
os._exit(5)
"""
    finished = simulate("--fault", "0:aclnnAdd:2:aicore", "--", "python", "program.py", program=program)
    assert finished.returncode == 5
    assert finished.stdout.splitlines()[-3:] == ["0 ok", "1 ok", "2 True"]
    assert "or ended by os._exit: 1 process" in finished.stderr


def test_json_is_one_object_at_the_end_of_standard_error(simulate: Simulate) -> None:
    finished = simulate("--json", "--", "python", "-c", "print('it')")
    assert finished.stdout == "it\n"
    assert json.loads(finished.stderr)["processes"] == []


@pytest.mark.parametrize("how", ["raise SystemExit(7)", "import os; os._exit(7)", "import sys; sys.exit(7)"])
def test_the_exit_status_is_the_program_s(simulate: Simulate, how: str) -> None:
    finished = simulate("--", "python", "-c", how)
    assert finished.returncode == 7
    assert "Nothing was done on a device" in finished.stderr


def test_a_program_that_a_signal_ends_ends_us_by_it(simulate: Simulate) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert simulate("--", "python", "-c", program).returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_the_program(toolchains: Path, number: signal.Signals) -> None:
    program = (
        "import signal, sys\n"
        "def told(number, frame):\n    print(number, flush=True)\n    sys.exit(3)\n"
        f"signal.signal({int(number)}, told)\n"
        "print('ready', flush=True)\nwhile True:\n    signal.pause()\n"
    )
    variables = {**os.environ, "UNIFY_TOOLCHAIN_DIR": str(toolchains), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "unify", "simulate", "ascend", "--", "python", "-c", program]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as ours:
        assert ours.stdout is not None
        assert ours.stdout.readline() == "ready\n"
        ours.send_signal(number)
        assert ours.stdout.read() == f"{int(number)}\n"
    assert ours.returncode == 3


def test_an_interrupt_from_the_terminal_comes_once_and_ends_us_as_the_program(toolchains: Path) -> None:
    program = "import time\nprint('ready', flush=True)\ntime.sleep(100)"
    variables = {**os.environ, "UNIFY_TOOLCHAIN_DIR": str(toolchains), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "unify", "simulate", "ascend", "--", "python", "-c", program]
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, command, variables)
    told = b""
    try:
        while b"ready" not in told:
            told += os.read(terminal, 1024)
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):  # how a terminal ends
            while more := os.read(terminal, 1024):
                told += more
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGINT
    assert told.count(b"KeyboardInterrupt") == 1
    assert b"Nothing was done on a device" in told


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "give a program behind --"),
        (["--soc", "910B9", "--", "python", "-V"], "'910B9' is no chip that is known: 910B1"),
        (["--devices", "17", "--", "python", "-V"], "17 devices: 1 to 16"),
        (["--memory", "64", "--", "python", "-V"], "memory '64': say 64G"),
        (["--", "no-such-program"], "no-such-program is not there"),
        (["--trace", "/nowhere/t.json", "--", "python", "-V"], "/nowhere/t.json cannot be written"),
        (["--fault", "aicore", "--", "python", "-V"], "say DEVICE:CALL:AFTER:WHAT"),
        (["--fault", "1:aclnnAdd:0:aicore", "--", "python", "-V"], "there is no device 1, but 1 from 0"),
        (["--fault", "0:aclnnAdd:0:aicor", "--", "python", "-V"], "'aicor' is neither an aclError"),
        (["--fault", "0:aclnnAdd:x:aicore", "--", "python", "-V"], "'x' is not a number"),
        (["--fault", "0:aclrtMemcpyAsinc:0:ecc", "--", "python", "-V"], "did you mean 'aclrtMemcpyAsync'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    toolchains: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    part: str,
) -> None:
    monkeypatch.setenv("UNIFY_TOOLCHAIN_DIR", str(toolchains))
    assert cli.main(["simulate", "ascend", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("unify: simulate ascend: ")
    assert part in captured.err


def test_a_program_that_is_no_program_is_told_how_to_run(
    toolchains: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("UNIFY_TOOLCHAIN_DIR", str(toolchains))
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("")
    assert cli.main(["simulate", "ascend", "--", "train.py"]) == 2
    assert "Say `python train.py`" in capsys.readouterr().err


def test_what_is_not_installed_says_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIFY_TOOLCHAIN_DIR", str(tmp_path))
    assert cli.main(["simulate", "ascend", "--", "python", "-V"]) == 1
    assert "`unify simulate ascend --install` does that" in capsys.readouterr().err
