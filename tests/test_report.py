"""`unify compile`: which kernels it takes, what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import unify as un
from unify import cli
from unify._report import load_kernels
from unify.compiler import Binary, Options, Parameter, Target
from unify.compiler.target import register_target

KERNELS = """
import triton
import triton.language as tl
import unify as un

@un.jit
def helper(x):
    return x + 1

@un.jit
def add(x: "*fp32", y: "*fp32:16", n: "i32", BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, helper(tl.load(x + i, mask=i < n)), mask=i < n)

@triton.autotune([triton.Config({"SIZE": 8})], key=[])
@triton.jit
def fill(x, SIZE: tl.constexpr):
    tl.store(x + tl.arange(0, SIZE), 1)

@un.jit
def broken(x: "*fp32"):
    tl.store(x, tl.load(x + "one"))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kernels_of_mine.py"
    path.write_text(KERNELS)
    return path


@pytest.fixture(autouse=True)
def chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that counts, as those of GPUs do."""

    def compile_for_chip(ttir: str, target: Target, options: Options) -> Binary:
        return Binary(
            "add", b"image", str(target), (Parameter("x", "*fp32", 0),), 8, shared_bytes=2048, threads=128,
            metadata={"registers": 40, "spill_bytes": 16},
        )  # fmt: skip

    register_target("chip", compile_for_chip)


def run(capsys: pytest.CaptureFixture[str], *argv: Any) -> tuple[int, str, str]:
    status = cli.main(["compile", *map(str, argv)])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_a_kernel_is_shown_with_what_it_costs(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    status, out, err = run(capsys, f"{file}:add", "--target", "cpu", "--target", "chip:1")
    assert (status, err) == (0, "")
    title, cpu, chip, caption = out.strip().splitlines()
    assert title.split()[:3] == ["kernel", "target", "registers"]
    assert cpu.split()[:5] == ["add", "cpu", "–", "–", "–"]
    assert chip.split()[:6] == ["add", "chip:1", "40", "2,048", "16", "5"]
    assert caption.strip() == "2 compiled"


def test_what_is_lowered_only_is_no_binary(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    def lower(ttir: str, target: Target, options: Options) -> Binary:
        return Binary(
            "add", b"header and text", str(target), (), 8, shared_bytes=0, threads=1, metadata={"status": "lowered"},
            stages={"hivm": "module {}"},
        )  # fmt: skip

    register_target("chip", lower)
    out = tmp_path / "out"
    status, shown, err = run(capsys, f"{file}:add", "--target", "chip:1", "-o", out, "--report")
    title, row, footer = shown.strip().splitlines()
    assert "binary B" not in title
    assert row.split()[-1] == "lowered"
    assert footer == "1 compiled; lowered: all but the vendor's assembler, which only CANN has"
    assert (status, list(out.iterdir())) == (0, [])
    assert "lowered, no binary to write" in err
    run(capsys, f"{file}:add", "--target", "chip:1", "-o", out, "--emit", "hivm")
    assert [path.name for path in out.iterdir()] == ["add.chip-1.hivm"]


def test_without_a_name_every_annotated_kernel_is_taken(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    status, out, _ = run(capsys, file, "--json")
    rows = json.loads(out)
    assert [row["kernel"] for row in rows] == ["add", "broken"]
    assert status == 1
    assert rows[0]["error"] is None
    assert rows[0]["binary_bytes"] > 0
    assert rows[1]["line"] == KERNELS[: KERNELS.index('x + "one"')].count("\n") + 1
    assert rows[1]["file"] == str(file)


def test_a_kernel_that_does_not_compile_says_where(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    status, out, err = run(capsys, f"{file}:broken")
    line = KERNELS[: KERNELS.index('x + "one"')].count("\n") + 1
    assert status == 1
    assert f"failed kernels_of_mine.py:{line}" in out
    assert "1 of 1 failed" in out
    assert err.startswith(f"broken, cpu: {file}:{line}: kernel broken")


def test_types_and_constants_may_be_given(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    arguments = ("--type", "x=*i32", "--constant", "SIZE=32", "--emit", "ttir")
    status, out, _ = run(capsys, f"{file}:fill", *arguments)
    assert status == 0
    assert "tensor<32x" in out
    assert "kernel " not in out.splitlines()[0]


def test_binaries_and_texts_are_written(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    status, out, _ = run(capsys, f"{file}:add", "-o", folder, "--emit", "ttir,asm")
    assert status == 0
    assert sorted(path.name for path in folder.iterdir()) == ["add.cpu.asm", "add.cpu.o", "add.cpu.ttir"]
    assert out.split() == [str(folder / name) for name in ("add.cpu.o", "add.cpu.ttir", "add.cpu.asm")]
    image = (folder / "add.cpu.o").read_bytes()
    function = un.Module(image, "cpu").function("add", "*fp32, *fp32, i32")
    x, y = un.zeros(64), un.zeros(64)
    function[1](x, y, 64)
    assert y.numpy().tolist() == [1.0] * 64
    _, out, _ = run(capsys, f"{file}:add", "-o", folder, "--report", "--target", "chip")
    assert str(folder / "add.chip.bin") in out
    assert "1 compiled" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "give a file with kernels, FILE.py or FILE.py:kernel, or --shipped"),
        (("none.py",), "none.py does not exist"),
        (("{file}:nothing",), "has no kernel 'nothing'. It has helper, add, fill, broken"),
        (("{file}:add", "--target", "cpuu"), "no target 'cpuu'. Did you mean 'cpu'"),
        (("{file}:add", "--type", "x"), "'x' is not NAME=VALUE"),
        (("{file}", "--shipped"), "--shipped compiles unify's own kernels"),
    ],
)
def test_a_question_that_makes_no_sense_says_so(
    capsys: pytest.CaptureFixture[str], file: Path, argv: tuple[str, ...], message: str
) -> None:
    status, _, err = run(capsys, *(word.format(file=file) for word in argv))
    assert status == 2
    assert message in err


def test_a_file_that_cannot_be_run_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "sick.py").write_text("import no_such_thing_at_all\n")
    status, _, err = run(capsys, tmp_path / "sick.py")
    assert status == 2
    assert "sick.py cannot be imported: ModuleNotFoundError: No module named 'no_such_thing_at_all'" in err
    (tmp_path / "bare.py").write_text("x = 1\n")
    assert "bare.py has no kernel: a function" in run(capsys, tmp_path / "bare.py")[2]


def test_what_a_kernel_lacks_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "tuned.py"
    path.write_text(
        "import triton, triton.language as tl\n"
        "@triton.autotune([triton.Config({'SIZE': 8})], key=[])\n"
        "@triton.jit\n"
        "def fill(x: '*fp32', n, SIZE: tl.constexpr): pass\n"
    )
    assert "\n  fill lacks n, SIZE (a constexpr)\n" in run(capsys, path)[2]


def test_only_a_files_own_kernels_are_taken(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "user_of_kernels.py"
    other.write_text(
        "from kernels_of_mine import add\nimport unify as un\nfrom unify.ops.norm import rms_norm_kernel\n"
    )
    assert load_kernels(other) == {}
    assert list(load_kernels(file)) == ["helper", "add", "fill", "broken"]


def test_shipped_kernels_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--shipped", "--report", "--json", "--target", "chip")
    rows = json.loads(out)
    assert status == 0
    assert {"rms_norm_kernel", "attention_kernel"} <= {row["kernel"] for row in rows}
    assert all(row["registers"] == 40 for row in rows)


def test_a_file_that_ends_the_process_is_no_success(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "script_of_mine.py"
    path.write_text(KERNELS + "import sys\nsys.exit(0)\n")
    for command in ("compile", "check"):
        assert cli.main([command, str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert f"{command}: {path} ended with status 0 while it was imported. Put what ends it under if" in err


def test_what_a_file_prints_is_no_part_of_the_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "talks.py"
    path.write_text(f"print('hello')\n{KERNELS}")
    status, out, err = run(capsys, f"{path}:add", "--json")
    assert (status, err) == (0, "hello\n")
    assert [row["kernel"] for row in json.loads(out)] == ["add"]


HELPED = """
import triton.language as tl
import unify as un
from .helpers import inc

@un.jit
def add(x: "*fp32"):
    tl.store(x, inc(tl.load(x)))
"""


def test_a_file_of_a_package_finds_its_neighbours(tmp_path: Path) -> None:
    inner = tmp_path / "package_of_mine" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").touch()
    (inner / "__init__.py").touch()
    (inner / "helpers.py").write_text("import unify as un\n\n@un.jit\ndef inc(x):\n    return x + 1\n")
    (inner / "kernels.py").write_text(HELPED)
    path = list(sys.path)
    kernels = load_kernels(inner / "kernels.py")
    assert list(kernels) == ["add"]
    assert "arith.addf" in un.compile(kernels["add"], stages=("ttir",)).stages["ttir"]
    assert sys.path == path


def test_a_file_runs_alone_where_its_package_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "needs_a_chip"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise OSError('no chip')\n")
    (folder / "kernels.py").write_text(KERNELS)
    assert "add" in load_kernels(folder / "kernels.py")
    (folder / "kernels.py").write_text(HELPED)
    with pytest.raises(un.errors.InvalidArgument, match="attempted relative import"):
        load_kernels(folder / "kernels.py")


def test_a_package_of_the_same_name_as_another_is_not_taken_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "json"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "decoder.py").write_text(KERNELS)
    assert "add" in load_kernels(folder / "decoder.py")


def test_a_file_takes_nobodys_name(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(KERNELS)
    assert "add" in load_kernels(tmp_path / "json.py")
    assert sys.modules["json"] is json
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "kernels.py").write_text(KERNELS)
    first, second = (load_kernels(tmp_path / folder / "kernels.py")["add"] for folder in ("a", "b"))
    assert vars(sys.modules[first.fn.__module__])["add"] is not vars(sys.modules[second.fn.__module__])["add"]
