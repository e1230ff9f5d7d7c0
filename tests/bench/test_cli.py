"""`unify bench`: what it prints, what it returns, what it says when the question makes no sense."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path

import pytest

from unify._errors import InvalidArgument, UnsupportedError
from unify.bench import peers as table
from unify.bench.cli import run

FIELDS = {
    "case": str,
    "ours": float,
    "peer": float,
    "unit": str,
    "ratio": float,
    "ratio_min": float,
    "ratio_max": float,
}


def arguments(*cases: str, **options: object) -> argparse.Namespace:
    return argparse.Namespace(**{"cases": list(cases), "threads": 1, **options})


def test_json_is_a_list_of_objects_with_the_promised_fields(
    case_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_cases(monkeypatch, "twice", "rate")
    assert run(arguments(str(case_file), json=True, repeats=3)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["case"] for row in rows] == ["twice", "rate"]
    for row in rows:
        assert {name: type(row[name]) for name in FIELDS} == FIELDS
        assert row["ratio_min"] <= row["ratio_q1"] <= row["ratio"] <= row["ratio_q3"] <= row["ratio_max"]
        assert (row["repeats"], row["threads"], row["peer_name"]) == (3, 1, "numpy")


def test_the_table_shows_the_ratio_its_spread_and_the_peer(
    case_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_cases(monkeypatch, "twice")
    assert run(arguments(str(case_file))) == 0
    shown = capsys.readouterr().out
    assert "2.00×" in shown
    assert "2.00-2.00" in shown
    assert "numpy" in shown


def test_a_case_that_fails_does_not_stop_the_others_and_is_told_by_the_status(
    case_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_cases(monkeypatch, "fails", "twice")
    assert run(arguments(str(case_file), json=True)) == 1
    captured = capsys.readouterr()
    assert [row["case"] for row in json.loads(captured.out)] == ["twice"]
    assert "fails, ours: ValueError: no such weights" in captured.err


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["gem"], {}, "Did you mean 'gemm'"),
        (["launch"], {"vs": "tourch"}, "Did you mean 'torch'"),
        (["launch"], {"threads": 1000}, "1000 threads asked"),
        (["launch"], {"plot": "figure.txt"}, "use one of .png, .svg, .pdf"),
        (["launch"], {"plot": "no/such/folder/figure.png"}, "it cannot be written: No such file or directory"),
        (["launch"], {"vs": "llama.cpp"}, "llama.cpp"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_before_anything_runs(
    words: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises((InvalidArgument, UnsupportedError), match=re.escape(message)):
        run(arguments(*words, **options))


def test_a_missing_peer_that_was_asked_for_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "llama.cpp")
    with pytest.raises(UnsupportedError, match="make bench"):
        run(arguments("generate-decode"))


def test_a_missing_model_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(table.PEERS, "llama.cpp", dataclasses.replace(table.PEERS["llama.cpp"], module="json"))
    assert run(arguments("generate-decode", model=str(tmp_path / "absent.gguf"))) == 1
    assert "absent.gguf" in capsys.readouterr().err


def test_list_names_each_case_its_unit_and_its_peers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "llama.cpp")
    assert run(arguments(list=True)) == 0
    shown = capsys.readouterr().out
    assert "generate-decode " in shown
    assert "tokens/s; against llama.cpp (not installed)" in shown


def keep_cases(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Runs only some of the cases of a file."""
    from unify.bench import cases, cli

    monkeypatch.setattr(cli, "find_cases", lambda words: [c for c in cases.find_cases(words) if c.name in names])


def hide(monkeypatch: pytest.MonkeyPatch, peer: str) -> None:
    """Makes a peer look as if it were not installed."""
    monkeypatch.setitem(table.PEERS, peer, dataclasses.replace(table.PEERS[peer], module="no_such_module_here"))


def test_roofline_is_a_word_of_its_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from unify.bench import Roofline, cli

    limits = Roofline(1, "made up", 100.0, None, 400.0, 10.0, 9.0, 0.5)
    monkeypatch.setattr(cli, "measure_limits", lambda threads, cpus: limits)
    assert run(arguments("roofline", json=True)) == 0
    assert json.loads(capsys.readouterr().out) == [{"case": "roofline", **dataclasses.asdict(limits)}]
