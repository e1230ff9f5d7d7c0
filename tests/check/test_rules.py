"""The table of rules: whole sentences, sources, and what a grid meets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unify.check import rules
from unify.check.subject import ERROR, PERFORMANCE, PORTABILITY


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.id)
def test_each_rule_says_what_to_change_and_who_says_so(rule: rules.Rule) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.id)
    assert rule.severity in (ERROR, PERFORMANCE, PORTABILITY)
    assert rule.what.endswith(".")
    assert rule.change.endswith(".")
    assert len(rule.source) > 10


def test_no_rule_is_there_twice() -> None:
    names = [rule.id for rule in rules.RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("target", "grid", "is_persistent", "is_found"),
    [
        ("ascend:910B3", (65535, 1, 1), False, False),
        ("ascend:910B3", (65536, 1, 1), False, True),
        ("ascend:910B3", (256, 256, 1), False, True),
        ("ascend:910B3", (1 << 20, 1, 1), True, False),
        ("ascend:910B3", (1 << 16, 1 << 15, 1), True, True),
        ("cuda:90", (1 << 20, 1, 1), False, False),
        ("cuda:90", (1, 65536, 1), False, True),
        ("cuda:90", (2**31 - 1, 1, 1), False, False),
        ("cuda:90", (2**31, 1, 1), False, True),
        ("cpu", (1 << 20, 1 << 20, 1), False, False),
    ],
)
def test_grids(target: str, grid: tuple[int, int, int], is_persistent: bool, is_found: bool) -> None:
    found = rules.of_grid(target, grid, is_persistent, "k.py", 3)
    assert [(f.rule, f.severity, f.file, f.line) for f in found] == [("grid", ERROR, "k.py", 3)] * is_found


def test_the_manual_has_the_table(root: Path) -> None:
    assert rules.as_markdown() in (root / "docs" / "ascend.md").read_text()
