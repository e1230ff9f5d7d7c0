"""`unify tune`: what it measures, prints and returns."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unify import cli, models
from unify._config import settings
from unify._errors import Error, InvalidArgument
from unify.bench.tune import run
from unify.ops import tuning

from ..models.conftest import write_model
from ..models.tiny_models import write_tiny

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
    defaults = {"program": None, "arguments": [], "model": None, "device": "cpu", "tokens": None, "forget": False}
    defaults |= {"weights": None, "activations": None, "sequences": None, "max_context": None, "json": False}
    small = {"tokens": [64], "sequences": [1], "max_context": 64} if asked.get("model") else {}
    return argparse.Namespace(**{**defaults, **small, **asked})


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
        ({"program": "a.py", "weights": "int8", "activations": "fp8"}, "--weights, --activations: only of a model"),
        ({"program": "a.py", "sequences": [3], "max_context": 99}, "--sequences, --max-context: only of a model"),
        ({"forget": True, "program": "a.py"}, "--forget forgets all"),
        ({"forget": True, "weights": "int8"}, "--forget forgets all"),
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


@pytest.fixture
def asked_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is noted as measured, and nothing is compiled for it."""
    monkeypatch.setattr(
        tuning.Tuning, "_measure", lambda self, call, place, device, tiles: dict.fromkeys(tiles[:1], 1.0)
    )


def found(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, set[tuple[int | str | bool, ...]]]:
    """The keys by what they are of, that `unify tune` with these words asks for."""
    assert cli.main(["tune", *words, "--device", "cpu", "--json"]) == 0
    keys: dict[str, set[tuple[int | str | bool, ...]]] = {}
    for row in json.loads(capsys.readouterr().out):
        keys.setdefault(row["name"], set()).add(tuple(row["key"]))
    return keys


@pytest.mark.usefixtures("asked_only")
def test_a_model_writes_one_text_and_several_with_caches_as_large_as_users_have_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny(tmp_path / "tiny", "Llama")  # of two key-value heads
    keys = found(
        capsys, "--model", str(model), "--tokens", "24", "--sequences", "1", "4", "--max-context", "500"
    )  # fmt: skip
    assert {key[0] for key in keys["few rows"]} == {1, 4}  # rows of a decoding step
    assert {key[0] for key in keys["product"]} == {32, 128}  # tokens of a prompt, and of four
    # Programs of a decoding step, and blocks of 64 tokens: of `unify generate` with 24 and 64 tokens, and of 500.
    assert {(key[0], key[2]) for key in keys["paged attention"]} == {(2, 2), (8, 2), (2, 8), (8, 8)}


@pytest.mark.usefixtures("asked_only")
@pytest.mark.parametrize(
    ("options", "name", "kinds"),
    [
        (("--weights", "int4"), "product of codes", {("int4", "int16")}),
        (("--weights", "int8", "--activations", "int8"), "product of codes", {("int8", "int8")}),
        (("--weights", "fp8", "--activations", "fp8"), "fp8 few rows", {("fp8", "fp8")}),
    ],
)
def test_a_model_is_measured_in_the_formats_that_it_is_asked_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], name: str,
    kinds: set[tuple[str, int | str]],
) -> None:  # fmt: skip
    model = write_tiny(tmp_path / "tiny", "Llama")
    keys = found(capsys, "--model", str(model), "--tokens", "8", "--sequences", "1", "--max-context", "64", *options)
    assert {key[-2:] for key in keys[name]} == kinds
    assert "few rows" not in keys  # of what is not quantised


@pytest.mark.usefixtures("asked_only")
def test_a_large_cache_is_measured_half_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attention's parts are for long texts, which a prompt's step behind 24 tokens knows nothing of."""
    seen: list[tuple[int, list[int]]] = []
    chosen: list[set[int]] = []
    decode = models.Decoder.decode

    def noted(self: models.Decoder, ids: Any, positions: Any, lengths: Any, cache: Any, slots: Any = None) -> Any:
        if not self.device.current_stream.is_capturing:
            seen.append((cache.capacity, lengths.tolist()))
            chosen.append(set(ids.tolist()))
        return decode(self, ids, positions, lengths, cache, slots)

    monkeypatch.setattr(models.Decoder, "decode", noted)
    model = write_tiny(tmp_path / "tiny", "DeepseekV3")
    asked = arguments(model=str(model), tokens=[24], sequences=[3], max_context=401, json=True)
    assert run(asked) == 0
    assert seen == 2 * [(401, [201] * 3), (24 + 64, [25] * 3)]  # once to count what there is to measure
    assert len(chosen[0]) > 1  # tokens of one kind would meet in the same experts


@pytest.mark.usefixtures("asked_only")
def test_a_prompt_longer_than_the_context_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny(tmp_path / "tiny", "Llama", max_position_embeddings=64)
    keys = found(capsys, "--model", str(model), "--tokens", "1000", "--sequences", "2")
    assert {key[0] for key in keys["product"]} == {128}  # twice 62 tokens


def test_options_that_a_model_cannot_have_are_told(tmp_path: Path) -> None:
    file, directory = write_model(tmp_path / "tiny.gguf"), write_tiny(tmp_path / "tiny", "Llama")
    with pytest.raises(Error, match="weights='int8' quantises the matrices of a directory"):
        run(arguments(model=str(file), weights="int8"))
    with pytest.raises(Error, match="fp8"):
        run(arguments(model=str(directory), weights="int8", activations="fp8"))
