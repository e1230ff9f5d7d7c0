"""What the tests of rules share: a kernel's findings for a target, by the vendors' real compilers."""

from __future__ import annotations

import inspect
from typing import Any

from unify._compile import specialization_of
from unify._config import settings
from unify.check.collect import variant_of
from unify.check.subject import Finding, Outcome
from unify.check.work import Work, done


def outcome_of(kernel: Any, target: str, types: dict[str, str], **constants: Any) -> Outcome:
    """Compiles and applies all rules, in this process."""
    variant = variant_of(kernel, specialization_of(kernel, types, constants), {})
    ttir = variant.ttir(target)
    assert isinstance(ttir, str), ttir
    with settings.override(no_cache=True):
        return done(Work(kernel.fn.__name__, ttir, target, {}, ""))


def findings_of(kernel: Any, target: str, types: dict[str, str], **constants: Any) -> dict[str, list[Finding]]:
    """The findings by rule."""
    found: dict[str, list[Finding]] = {}
    for finding in outcome_of(kernel, target, types, **constants).findings:
        found.setdefault(finding.rule, []).append(finding)
    return found


def line_of(kernel: Any, mark: str = "# here") -> int:
    """The line of the kernel's source that is marked."""
    lines, first = inspect.getsourcelines(kernel.fn)
    numbers = [first + number for number, line in enumerate(lines) if mark in line]
    assert len(numbers) == 1, numbers
    return numbers[0]
