"""`unify tune`: what it measures, prints and returns."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from unify._config import settings
from unify._errors import Error, InvalidArgument
from unify.bench.tune import run
from unify.ops import tuning

from ..models.conftest import write_model

PROGRAM = """
import sys
import numpy as np
import unify
from unify import ops

size = int(sys.argv[1])
if size < 0:
    unify.zeros((size,))
ops.matmul(np.ones((size, size), np.float32), np.ones((size, size), np.float32))
if size == 17:
    sys.exit("no seventeen")
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setattr(tuning, "_ROUND_S", 0.0)
    with settings.override(cache_dir=tmp_path / "cache"):
        yield


def arguments(**asked: object) -> argparse.Namespace:
    defaults = {"program": None, "arguments": [], "model": None, "device": "cpu", "tokens": [64], "forget": False}
    return argparse.Namespace(**{**defaults, "json": False, **asked})


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def test_a_programs_shapes_are_measured_and_kept(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(program=program, arguments=["40"], json=True)) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "product"
    assert row["tried"] > 3
    assert {"m", "n", "k", "launch"} == row["best"].keys()
    assert run(arguments(program=program, arguments=["40"])) == 0
    assert "Nothing was measured" in capsys.readouterr().out
    assert run(arguments(forget=True)) == 0
    assert capsys.readouterr().out == "Forgot the tiles that were measured on devices like cpu: product 1.\n"
    assert run(arguments(forget=True)) == 0
    assert capsys.readouterr().out == "Nothing was measured on devices like cpu.\n"
    assert run(arguments(program=program, arguments=["40"])) == 0
    captured = capsys.readouterr()
    assert "times as fast" in captured.out
    assert captured.err.startswith("1, cpu: product ")  # how many a program will ask for is not known


@pytest.mark.parametrize(
    ("argument", "told"), [("17", "ended with no seventeen"), ("-1", "ended with ShapeError: a negative")]
)
def test_a_program_that_fails_is_told(program: str, argument: str, told: str) -> None:
    with pytest.raises(Error, match=rf"tune: .*program\.py {told}") as failed:
        run(arguments(program=program, arguments=[argument]))
    assert type(failed.value) is Error  # the work failed, whatever the program asked for
    assert tuning.active is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "give a program, or a model"),
        ({"program": "a.py", "model": "b.gguf"}, "give a program, or a model"),
        ({"program": "there-is-none.py"}, "there is no program there-is-none.py"),
        ({"device": "gpu"}, "gpu"),
    ],
)
def test_a_question_that_makes_no_sense(asked: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        run(arguments(**asked))


def test_a_models_shapes_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "tiny.gguf")
    assert run(arguments(model=str(model), tokens=[24], json=True)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} >= {"product"}
    assert {row["key"][0] for row in rows if row["name"] == "product"} == {32}  # rows, to a power of two
    assert run(arguments(forget=True, json=True)) == 0
    forgotten = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["tiles"] for row in forgotten} == Counter(row["name"] for row in rows)
    assert run(arguments(model=str(model), tokens=[24])) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", cpu: ")[0] for line in lines] == [f"{n} of {len(rows)}" for n in range(1, len(rows) + 1)]
