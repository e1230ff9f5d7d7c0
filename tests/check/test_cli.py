"""`unify check`: what it takes, what it prints, and how it ends."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import triton.language as tl

import unify as un
from unify import cli
from unify._config import environment, settings
from unify.check import work
from unify.check.cli import check
from unify.check.subject import Kernel, Outcome, Variant
from unify.compiler import cache, toolchain

from ..installed import NEEDS_ASCEND


@un.jit
def ones(x):
    tl.store(x + tl.arange(0, 64), 1.0)


KERNELS = """
import triton.language as tl
import unify as un

@un.jit
def good(x: "*fp32:16", n: "i32", BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, 1.0, mask=i < n)

@un.jit
def bad(x: "*fp32"):
    tl.store(x, tl.load(x + "one"))

@un.jit
def untyped(x, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, BLOCK), 0)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kernels_to_check.py"
    path.write_text(KERNELS)
    return path


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path) -> Any:
    with settings.override(cache_dir=tmp_path / "cache", no_cache=False, dump=()):
        yield


def run(capsys: pytest.CaptureFixture[str], *argv: Any) -> tuple[int, str, str]:
    status = cli.main(["check", *map(str, argv)])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_a_good_kernel_passes(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    status, out, _ = run(capsys, f"{file}:good", "--targets", "cpu,cuda:90", "--json")
    rows = json.loads(out)
    assert status == 0
    assert [(row["kernel"], row["target"], row["status"]) for row in rows] == [
        ("good", "cpu", "ok"), ("good", "cuda:90", "ok"),
    ]  # fmt: skip
    assert rows[1]["memory"]["registers"] > 0


def test_a_bad_one_closes_the_gate_and_says_where(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    status, out, _ = run(capsys, file, "--targets", "cpu", "--json")
    rows = {row["kernel"]: row for row in json.loads(out)}
    assert status == 1
    assert rows["good"]["status"] == "ok"
    assert rows["bad"]["status"] == "failed"
    assert rows["bad"]["line"] == KERNELS[: KERNELS.index('x + "one"')].count("\n") + 1
    assert rows["bad"]["file"] == str(file)
    assert rows["bad"]["reason"]


def test_what_was_checked_is_not_compiled_again(
    capsys: pytest.CaptureFixture[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(capsys, f"{file}:good", "--targets", "cpu,cuda:90", "--json")
    monkeypatch.setattr(work, "in_processes", None)
    assert run(capsys, f"{file}:good", "--targets", "cpu,cuda:90", "--json") == first


def test_variants_that_are_refused_alike_each_have_their_outcome() -> None:
    refused = Outcome("failed", "no", "k.py", 3)
    variants = tuple(
        Variant({"N": str(n)}, {}, lambda target: {"ttir": "same"}, lambda target: refused) for n in (1, 2)
    )
    (row,) = check([Kernel("k", "k.py", 1, variants)], ["cpu"])
    assert (row.status, row.reason, row.tried, row.passed) == ("failed", "no", 2, 0)


def test_configurations_that_differ_for_gpus_only_are_compiled_once_for_others(tmp_path: Path) -> None:
    text = un.compile(ones, types={"x": "*fp32"}, stages=("ttir",)).stages["ttir"]
    variants = tuple(
        Variant({}, {"num_warps": warps}, lambda target: {"ttir": text}, lambda target: text) for warps in (1, 2)
    )
    rows = check([Kernel("ones", "k.py", 1, variants, needs_all=False)], ["cpu", "cuda:90"])
    assert [(row.status, row.tried, row.passed) for row in rows] == [("ok", 2, 2)] * 2
    kept = [cache.load_entry(path.stem) for path in (tmp_path / "cache" / "kernels").iterdir()]
    outcomes = [entry[0] for entry in kept if entry is not None and "findings" in entry[0]]
    assert sorted(outcome["memory"].get("threads", 1) for outcome in outcomes) == [1, 32, 64]


def test_what_triton_does_not_expect_fails_one_kernel(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "strange.py"
    path.write_text(
        KERNELS.partition("@un.jit\ndef bad")[0]
        + "@un.jit\ndef swaps(x: '*i32'):\n    i = tl.arange(0, 64)\n    tl.static_print('seen')\n"
        "    tl.atomic_cas(x + i, 0, i)\n"
        "@un.jit\ndef described(x: 'tensordesc<fp16[16, 16],foo>'):\n    x.load([0, 0])\n"
    )
    status, out, err = run(capsys, path, "--json")
    rows = {row["kernel"]: row for row in json.loads(out)}
    assert status == 1
    assert rows["good"]["status"] == "ok"
    assert rows["swaps"]["reason"] == "'tt.atomic_cas' op failed to verify that ptr type matches cmp type"
    assert rows["swaps"]["line"] == path.read_text().partition("    tl.atomic_cas")[0].count("\n") + 1
    assert rows["described"]["reason"] == "Triton's own failure: NameError: name 'foo' is not defined"
    assert "seen" in err


def test_a_kernel_that_cannot_even_be_named_fails_alone() -> None:
    def key(target: str) -> dict[str, object]:
        raise KeyError("odd")

    odd = Kernel("odd", "k.py", 1, (Variant({}, {}, key, lambda target: ""),))
    (row,) = check([odd], ["cpu"])
    assert (row.status, row.reason, row.line) == ("failed", "Triton's own failure: KeyError: 'odd'", 1)


def test_types_and_constants_may_be_given(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    status, out, _ = run(capsys, f"{file}:untyped", "--type", "x=*i32", "--constant", "BLOCK=32", "--json")
    assert status == 0
    assert json.loads(out)[0]["constants"] == {"BLOCK": "32"}


def test_the_table_names_what_was_not_checked(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    _, out, _ = run(capsys, file, "--targets", "cpu")
    assert "kernels_to_check.py:untyped: kernel untyped: parameter 'x' has no type" in out
    assert "1 of 2 pass. 1 not checked." in out


def test_json_names_what_was_not_checked_apart(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    _, out, err = run(capsys, file, "--targets", "cpu", "--json")
    assert [row["kernel"] for row in json.loads(out)] == ["good", "bad"]
    assert "not checked: " in err
    assert "kernels_to_check.py:untyped" in err


def test_files_of_one_name_are_told_apart(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other[1]" / file.name
    other.parent.mkdir()
    other.write_text(KERNELS)
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, file.name, other)
    line = KERNELS[: KERNELS.index('x + "one"')].count("\n") + 1
    assert f"\n  kernels_to_check.py:{line}  bad: cpu\n" in out
    assert f"\n  other[1]/kernels_to_check.py:{line}  bad: cpu\n" in out


def test_a_target_without_its_compilers_fails_alone(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    with settings.override(toolchain_dir=tmp_path / "empty"):
        status, out, _ = run(capsys, f"{file}:good", "--targets", "ascend:910B3,cpu", "--json")
        chip, cpu = json.loads(out)
        assert (status, chip["status"], cpu["status"]) == (1, "failed", "ok")
        assert "unify toolchain install ascend" in chip["reason"]
        status, out, err = run(capsys, f"{file}:good", "--targets", "ascend:910B3")
    assert (status, out) == (1, "")
    assert "unify toolchain install ascend" in err


def test_a_script_does_not_read_the_commands_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "with_arguments.py"
    path.write_text(f"import argparse\nargparse.ArgumentParser().parse_args()\n{KERNELS}")
    assert run(capsys, f"{path}:good", "--targets", "cpu")[0] == 0


def test_files_and_a_program_are_two_questions(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run(capsys, file, "--run", "program.py")
    assert ended.value.code == 2
    assert "give either --run program.py or" in capsys.readouterr().err


@NEEDS_ASCEND
def test_launches_of_a_program_with_too_large_a_grid(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch, triton, triton.language as tl\n"
        "@triton.jit\n"
        "def all_alike(x):\n"  # and so no loop over the programs is made of it
        "    tl.store(x, 1.0)\n"
        "all_alike[(int(sys.argv[1]),)](torch.zeros(1))\n"
    )
    status, out, _ = run(capsys, "--run", program, "70000", "--targets", "ascend:910B3", "--json")
    (row,) = json.loads(out)
    assert (status, row["status"]) == (1, "failed")
    assert [finding["rule"] for finding in row["findings"]] == ["grid"]
    status, out, _ = run(capsys, "--targets", "ascend:910B3", "--json", "--run", program, "--", "60000")
    assert (status, json.loads(out)[0]["findings"]) == (0, [])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "give files with kernels, FILE.py or FILE.py:kernel, or --run PROGRAM.py, or --shipped"),
        (("none.py",), "check: none.py does not exist"),
        (("{file}", "--targets", ","), "--targets names no target"),
        (("{file}", "--targets", ""), "--targets names no target"),
        (("{file}", "--shipped"), "--shipped checks unify's own kernels"),
        (("{file}:good", "--constant", "BLOCKS=1"), "--constant BLOCKS: no kernel of"),
        (("{file}:nothing",), "has no kernel 'nothing'"),
        (("{file}:untyped",), "parameter 'x' has no type"),
        (("{file}:good", "--targets", "cpuu"), "no target 'cpuu'. Did you mean 'cpu'"),
        (("{file}:good", "--targets", "ascend:910B9"), "no target 'ascend:910B9'"),
    ],
)
def test_a_question_that_makes_no_sense_says_so(
    capsys: pytest.CaptureFixture[str], file: Path, argv: tuple[str, ...], message: str
) -> None:
    status, out, err = run(capsys, *(word.format(file=file) for word in argv))
    assert (status, out) == (2, "")
    assert message in err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["check", "--help"])
    out = capsys.readouterr().out
    for word in ("examples:", "--targets", "lowered", "Exit status", "--run"):
        assert word in out


@pytest.fixture
def endless(file: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A check that has begun to run compilers that never end, and the folder with a file for each: its process's id."""
    with settings.override(toolchain_dir=tmp_path / "toolchains"):
        (folder,) = (chosen.folder for chosen in toolchain.toolchains() if chosen.name == "ascend")
    folder.mkdir(parents=True)
    (folder / toolchain._RECORD).write_text("{}")
    started = tmp_path / "started"
    started.mkdir()
    adapter = folder / "triton-adapter-opt"
    adapter.write_text(f"#!/bin/sh\ntouch {started}/$$\nexec sleep 600\n")
    adapter.chmod(0o755)
    variables = {**environment(), "UNIFY_TOOLCHAIN_DIR": str(tmp_path / "toolchains"), "UNIFY_NO_CACHE": "1"}
    targets = "ascend:910B3,ascend:910C,ascend:950"
    command = [sys.executable, "-m", "unify", "check", f"{file}:good", "--targets", targets]
    with subprocess.Popen(command, env=variables, start_new_session=True, stdout=subprocess.PIPE) as check:
        try:
            _wait(lambda: any(started.iterdir()))
            yield check, started
        finally:
            check.kill()
    for compiler in started.iterdir():
        _wait(functools.partial(_is_over, compiler.name))


@pytest.mark.parametrize(
    ("kill", "number", "status"),
    [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGINT, 130), (os.killpg, signal.SIGTERM, -signal.SIGTERM)],
    ids=["Ctrl-C", "interrupt", "timeout"],
)
def test_a_signal_ends_the_command_and_the_compilers_that_it_runs(
    endless: tuple[subprocess.Popen[bytes], Path], kill: Callable[[int, int], None], number: int, status: int
) -> None:
    check, _ = endless
    kill(check.pid, number)
    assert check.wait(30) == status


def test_a_process_that_its_pool_ends_takes_its_compilers_with_it(
    endless: tuple[subprocess.Popen[bytes], Path],
) -> None:
    _, started = endless
    compiler = next(started.iterdir()).name
    os.kill(_parent(compiler), signal.SIGTERM)
    _wait(functools.partial(_is_over, compiler))


def _parent(process: str) -> int:
    return int(Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[1])


def _is_over(process: str) -> bool:
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _wait(is_so: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
