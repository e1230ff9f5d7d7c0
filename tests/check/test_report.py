"""What is printed: rows, what speaks for many variants, and each thing said once."""

from __future__ import annotations

import json

import pytest

from unify.check import report
from unify.check.subject import ERROR, PERFORMANCE, Finding, Kernel, Outcome, Refused, Row, Variant

SLOW = Finding("gather", PERFORMANCE, "one by one.", "/a/k.py", 7, "the guide", "memref.load")
WRONG = Finding("spin-lock", ERROR, "nobody comes.", "/a/k.py", 9, "the guide")


def variant(block: int) -> Variant:
    return Variant({"BLOCK": str(block)}, {}, lambda target: {}, lambda target: "")


def row(*outcomes: Outcome, needs_all: bool = True, target: str = "ascend:910B3") -> Row:
    variants = tuple(variant(64 << number) for number in range(len(outcomes)))
    kernel = Kernel("add", "/a/k.py", 3, variants, needs_all)
    return report.row_of(kernel, target, list(zip(variants, outcomes, strict=True)))


FITS = Outcome("lowered", memory={"ub_bytes": 1024, "ub_limit": 196608, "mode": "aiv", "double_buffered": True})
LARGER = Outcome("lowered", memory={"ub_bytes": 4096, "ub_limit": 196608}, findings=(SLOW,))
FAILS = Outcome("failed", "too large", "/a/k.py", 5)


def test_where_all_variants_count_the_first_that_fails_speaks() -> None:
    found = row(FITS, FAILS, LARGER)
    assert (found.status, found.reason, found.line, found.constants) == ("failed", "too large", 5, {"BLOCK": "128"})
    assert (found.tried, found.passed) == (3, 2)
    assert found.findings == (SLOW,)


def test_else_the_one_that_takes_most() -> None:
    found = row(FITS, LARGER)
    assert (found.status, found.memory["ub_bytes"], found.line) == ("lowered", 4096, 3)


def test_of_a_tuner_one_is_enough() -> None:
    found = row(FAILS, FITS, LARGER, needs_all=False)
    assert (found.status, found.constants, found.passed) == ("lowered", {"BLOCK": "128"}, 2)
    assert found.findings == ()
    assert found.refused == (Refused({"BLOCK": "64"}, "too large", "/a/k.py", 5),)
    assert row(FAILS, FAILS, needs_all=False).refused == row(FAILS, FITS).refused == ()
    assert row(FAILS, FAILS, needs_all=False).status == "failed"


def test_a_gate_closes_for_what_fails_and_for_errors() -> None:
    assert report.is_bad(row(FAILS))
    assert report.is_bad(row(Outcome("lowered", findings=(WRONG,))))
    assert not report.is_bad(row(LARGER))


def test_json_has_what_programs_need() -> None:
    (found,) = json.loads(report.as_json([row(LARGER)]))
    assert {"kernel", "target", "status", "reason", "file", "line", "findings", "memory"} <= found.keys()
    assert found["findings"][0] == {
        "rule": "gather", "severity": "performance", "text": "one by one.", "file": "/a/k.py", "line": 7,
        "source": "the guide", "evidence": "memref.load",
    }  # fmt: skip


def test_the_table_and_each_thing_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(LARGER), row(LARGER, target="ascend:950"), row(FITS, FAILS, target="ascend:910C"), row(Outcome("ok"))]
    report.show(rows, {"helper": "has no [types]"})
    out = capsys.readouterr().out
    title, first, _, third, last = out.splitlines()[:5]
    assert title.split()[:6] == ["kernel", "target", "status", "UB", "KiB", "findings"]
    assert first.split() == ["add", "ascend:910B3", "lowered", "4.0", "/", "192", "1"]
    assert third.split()[:5] == ["add", "(1", "of", "2)", "ascend:910C"]
    assert last.split()[:3] == ["add", "ascend:910B3", "ok"]
    assert out.count("one by one.") == 1
    assert "k.py:7  add: ascend:910B3, ascend:950" in out
    assert "failed (error): too large (with BLOCK=128)" in out
    assert "not checked: helper: has no [types]" in out
    assert "3 of 4 pass. 1 not checked. lowered: all but the vendor's assembler" in out


def test_what_a_tuner_will_not_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    report.show([row(FAILS, FITS, needs_all=False)], {})
    out = capsys.readouterr().out
    assert "refused (one configuration of a tuner): too large (with BLOCK=64)\n  /a/k.py:5  add: ascend:910B3" in out
    assert "1 of 1 pass." in out


def test_a_reason_that_is_a_finding_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome("failed", WRONG.text, "/a/k.py", 9, FITS.memory, (WRONG,))
    report.show([row(outcome)], {})
    out = capsys.readouterr().out
    assert out.count("nobody comes.") == 1
    assert "1.0 / 192" in out


def test_lines_of_one_kernel_stand_together(capsys: pytest.CaptureFixture[str]) -> None:
    again = Finding("gather", PERFORMANCE, "one by one.", "/a/k.py", 12, "the guide")
    report.show([row(Outcome("lowered", findings=(SLOW, again)))], {})
    assert "k.py:7, 12  add: ascend:910B3" in capsys.readouterr().out
