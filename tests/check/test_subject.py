"""Outcomes as they are kept, and what a grid does to one."""

from __future__ import annotations

import json

from unify.check.subject import ERROR, PERFORMANCE, Finding, Outcome, with_grid

SLOW = Finding("gather", PERFORMANCE, "one by one.", "k.py", 7, "the guide", "memref.load")
MANY = Finding("grid", ERROR, "too many.", "k.py", 3, "the guide")


def test_an_outcome_is_the_same_after_json() -> None:
    outcome = Outcome("lowered", memory={"ub_bytes": 10, "mode": "aiv"}, findings=(SLOW,))
    assert Outcome.of(json.loads(json.dumps(outcome.as_dict()))) == outcome


def test_a_grid_that_is_too_large_fails_a_launch_and_no_other() -> None:
    outcome = Outcome("lowered", findings=(SLOW,))
    failed = with_grid(outcome, (MANY,))
    assert (failed.status, failed.reason, failed.line) == ("failed", "too many.", 3)
    assert failed.findings == (MANY, SLOW)
    assert with_grid(outcome, ()) == outcome
    refused = Outcome("failed", "syntax", "k.py", 9)
    assert with_grid(refused, (MANY,)).reason == "syntax"
