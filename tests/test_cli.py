"""The command line: what it understands, what it refuses, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

import unify
from unify import cli

from .conftest import Run

COMMANDS = ("info", "chat", "generate", "compile", "simulate", "bench", "test-backend", "new-backend")


def stop(status: int, *argv: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == status


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the commands that need a model are called with, in place of running them."""
    calls: list[Any] = []

    def take(args: Any) -> int:
        calls.append(args)
        return 0

    testing = ("unify.testing.run.command", "unify.testing.skeleton.command")
    others = ("unify.models.cli.chat", "unify.models.cli.generate", "unify.bench.cli.run", "unify._report.run")
    for path in (*testing, *others, "unify.simulator.cli.run"):
        monkeypatch.setattr(path, take)
    return calls


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_teaches_by_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    stop(0, *command, "--help")
    shown = capsys.readouterr().out
    assert len([line for line in shown.splitlines() if line.startswith("  unify ") or "| unify " in line]) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_the_help_are_understood(
    command: str, received: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    stop(0, command, "--help")
    examples = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith(f"  unify {command}")]
    for line in examples:
        words = shlex.split(line.split("   ")[0])
        assert cli.main(words[1:]) == 0, line


def test_help_needs_no_part_that_may_be_broken(python: Run) -> None:
    program = (
        "import sys; sys.argv = ['unify', '--help']; import unify.cli\ntry: unify.cli.main()\nexcept SystemExit: pass\n"
    )
    heavy = "print(sorted({'numpy', 'triton', 'llvmlite', 'torch', 'unify._core', 'gguf', 'rich'} & set(sys.modules)))"
    assert python("-c", program + heavy).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("inform",),
        ("generate",),
        ("generate", "--prompt"),
        ("generate", "--prompt", "x", "--max-tokens", "0"),
        ("generate", "--prompt", "x", "--temperature", "-1"),
        ("generate", "--prompt", "x", "--temperature", "inf"),
        ("generate", "--prompt", "x", "--greedy", "--temperature", "1"),
        ("generate", "--prompt", "x", "--top-p", "1.5"),
        ("chat", "--threads", "two"),
        ("bench", "--repeats", "none"),
        ("info", "--colour"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    stop(2, *argv)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("unify: ")
    assert "--help" in captured.err


def test_generate_takes_every_option_of_its_contract(received: list[Any]) -> None:
    options = "--prompt TEXT --max-tokens 7 --device cpu --threads 2 --temperature 0.5 --seed 9 --json"
    assert cli.main(["generate", "--model", "m.gguf", *options.split()]) == 0
    args = vars(received[0])
    expected = {
        "model": "m.gguf", "prompt": "TEXT", "max_tokens": 7, "device": "cpu", "threads": 2, "temperature": 0.5,
        "seed": 9, "json": True, "greedy": False,
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected


def test_an_option_that_was_not_given_leaves_the_choice_to_the_settings(received: list[Any]) -> None:
    cli.main(["generate", "--prompt", "x"])
    cli.main(["bench"])
    assert [(args.device, args.threads) for args in received] == [(None, None)] * 2


def test_an_error_of_unify_is_its_message_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: Any) -> int:
        raise unify.ModelFileError("x.gguf: 12 bytes; a GGUF file has at least 24.")

    monkeypatch.setattr("unify.models.cli.generate", fail)
    assert cli.main(["generate", "--prompt", "x"]) == 1
    assert capsys.readouterr().err == "unify: x.gguf: 12 bytes; a GGUF file has at least 24.\n"


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unify.models.cli.chat", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["chat"])


def test_an_interrupt_ends_with_130_and_nothing_on_the_screen() -> None:
    program = (
        "import sys, signal, threading, unify.models.cli as models, unify.cli as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "models.chat = lambda args: (print('ready', flush=True), threading.Event().wait())\n"
        "sys.exit(cli.main(['chat']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


def test_a_reader_that_goes_away_is_no_error(python: Run) -> None:
    shell = f"{sys.executable} -m unify info --json | head -1; echo ${{PIPESTATUS[0]}}"
    finished = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert finished.stdout == "{\n0\n"
    assert finished.stderr == ""


def test_a_full_disk_is_one_line_and_status_1() -> None:
    shell = f"{sys.executable} -m unify info --settings > /dev/full"
    finished = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (1, "unify: standard output: No space left on device.\n")


def test_a_figure_that_cannot_be_written_is_refused_before_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "launch", "--plot", "/proc/x.svg"]) == 2
    assert "--plot /proc/x.svg: it cannot be written" in capsys.readouterr().err


def test_info_as_json_lists_the_cpu_and_what_it_can_do(python: Run) -> None:
    finished = python("-m", "unify", "info", "--json")
    found = json.loads(finished.stdout)
    cpu = next(device for device in found["devices"] if device["name"] == "cpu")
    assert cpu["memory_total_bytes"] >= cpu["memory_free_bytes"] > 0
    assert set(cpu["capabilities"].values()) <= {"native", "emulated", "absent"}
    assert [backend["why"] for backend in found["backends"] if backend["name"] == "cpu"] == [""]


def test_info_says_why_a_backend_is_absent(python: Run, tmp_path: Any) -> None:
    import os

    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    finished = python("-m", "unify", "info", env={**os.environ, "UNIFY_BACKEND_PATH": str(broken)})
    line = next(line for line in finished.stdout.splitlines() if "broken.so" in line)
    assert "absent: " in line
    assert finished.returncode == 0


def test_info_prints_each_setting_with_its_value(python: Run) -> None:
    import os

    shown = python("-m", "unify", "info", "--settings", env={**os.environ, "UNIFY_CPU_THREADS": "3"}).stdout
    assert len(shown.splitlines()) == len(unify._config.TABLE)
    assert any(line.split()[:2] == ["UNIFY_CPU_THREADS", "3"] for line in shown.splitlines())
    meanings = [setting.meaning for setting in unify._config.TABLE.values()]
    assert len({line.index(meaning) for line, meaning in zip(shown.splitlines(), meanings, strict=True)}) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["check"], ["compile"], ["check", "--targets", "nope", "k.py"], ["compile", "--shipped", "--target", "nope"],
        ["check", "nosuch.py"], ["toolchain", "install"], ["toolchain", "install", "ascned"], ["new-backend", "No"],
        ["tune"], ["tune", "nosuch.py"], ["tune", "--forget", "--device", "cpuu"],
        ["bench", "nosuch"], ["bench", "launch", "--vs", "nosuch"], ["ops", "nosuch"], ["ops", "--batch", "3"],
        ["ops", "--roofline", "--target", "nope"], ["test-backend", "nope"],
        ["generate", "--prompt", "x", "--device", "no"], ["generate", "--prompt", "x", "--model", "no"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_the_command_line_asks_for_and_cannot_be_is_status_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err[:7], err.count("Traceback")) == ("", "unify: ", 0)


@pytest.mark.parametrize("command", ["generate --prompt x --device", "tune --forget --device", "test-backend"])
def test_what_was_tried_and_failed_is_status_1(python: Run, tmp_path: Any, command: str) -> None:
    import os

    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    environment = {**os.environ, "UNIFY_SIMULATE": "", "UNIFY_CUDA_LIBRARY": str(broken)}
    finished = python("-m", "unify", *command.split(), "cuda:0", env=environment)
    assert (finished.returncode, finished.stdout, finished.stderr[:7]) == (1, "", "unify: ")
    assert "cannot be used" in finished.stderr


def test_an_unknown_device_suggests_the_known(python: Run) -> None:
    finished = python("-m", "unify", "generate", "--prompt", "x", "--device", "cpuu")
    assert finished.returncode == 2
    assert finished.stderr.startswith("unify: ")
    assert "'cpu'" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    stop(0, "--version")
    assert capsys.readouterr().out == f"unify {unify.__version__}\n"
