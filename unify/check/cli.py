"""`unify check`: finds the kernels, has them compiled and looked at, reports."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from unify._config import settings
from unify._errors import CompileError, InvalidArgument, TargetError
from unify._report import parse_pairs, parse_value
from unify.compiler import Target

from . import collect, record, report, rules, work
from .subject import Kernel, Outcome, Row, Variant, with_grid

_Task = tuple[int, int, str]  # a kernel's and a variant's number, and the target


def run(args: Any) -> int:
    """Runs `unify check` and returns its exit status: 0, or 1 if a kernel does not compile or would not work."""
    targets = [str(Target.parse(target)) for text in args.targets or ["cpu"] for target in text.split(",") if target]
    targets = list(dict.fromkeys(targets))
    if not targets:
        raise InvalidArgument("check: --targets names no target: cpu, cuda:90, ascend:910B3, …")
    if args.shipped and (args.files or args.program):
        raise InvalidArgument("check: --shipped checks unify's own kernels, and no others. Give one of them.")
    try:
        kernels, left_out = _kernels(args, targets)
    except InvalidArgument as error:  # what `unify compile` says as well, in its name
        raise InvalidArgument(re.sub("^compile: ", "check: ", str(error))) from error.__cause__
    if not kernels:
        raise InvalidArgument(_nothing(args, left_out))
    rows = check(kernels, targets)
    if args.json:
        print(report.as_json(rows))
        for name, reason in left_out.items():
            print(f"not checked: {name}: {reason}", file=sys.stderr)
    else:
        report.show(rows, left_out)
    return 1 if any(map(report.is_bad, rows)) else 0


def check(kernels: list[Kernel], targets: list[str]) -> list[Row]:
    """Compiles each variant of each kernel for each target, or takes it from the cache. Raises TargetError."""
    outcomes: dict[_Task, Outcome] = {}
    keys: dict[str, list[_Task]] = {}
    missing = []
    for task, variant in _tasks(kernels, targets):
        try:
            key = work.entry_key(variant.key(task[2]), task[2], _options(variant, task[2]))
        except CompileError as error:  # of what no kernel may call
            outcomes[task] = Outcome("failed", error.reason, error.file, error.line)
            continue
        except TargetError:
            raise
        except Exception as error:  # of Triton, about one kernel
            outcomes[task] = Outcome("failed", f"Triton's own failure: {type(error).__name__}: {error}")
            continue
        found = None if settings.no_cache else work.known(key)
        if found is not None:
            outcomes[task] = found
        elif key not in keys:
            missing.append((task, variant, key))
        keys.setdefault(key, []).append(task)

    def to_do() -> Iterator[work.Work]:
        for (number, _, target), variant, key in missing:
            ttir = variant.ttir(target)
            if isinstance(ttir, Outcome):
                outcomes.update(dict.fromkeys(keys[key], ttir))
            else:
                yield work.Work(kernels[number].name, ttir, target, _options(variant, target), key)

    if missing:
        with _Progress(len(missing)) as progress:
            for each, outcome in work.in_processes(to_do(), _cores()):
                progress.advance(f"{each.name} for {each.target}")
                for task in keys[each.key]:
                    outcomes[task] = outcome
    return [_row(kernel, number, target, outcomes) for number, kernel, target in _lines(kernels, targets)]


def _options(variant: Variant, target: str) -> dict[str, Any]:
    """What a target looks at: configurations that differ in a GPU's options only are one on others."""
    return {} if target.partition(":")[0] in ("cpu", "ascend") else variant.options


def _tasks(kernels: list[Kernel], targets: list[str]) -> Iterator[tuple[_Task, Variant]]:
    for number, kernel, target in _lines(kernels, targets):
        for which, variant in enumerate(kernel.variants):
            yield (number, which, target), variant


def _lines(kernels: list[Kernel], targets: list[str]) -> Iterator[tuple[int, Kernel, str]]:
    for number, kernel in enumerate(kernels):
        for target in targets:
            if kernel.targets is None or target in kernel.targets:
                yield number, kernel, target


def _row(kernel: Kernel, number: int, target: str, outcomes: dict[_Task, Outcome]) -> Row:
    found = []
    for which, variant in enumerate(kernel.variants):
        outcome = outcomes[number, which, target]
        is_persistent = bool(outcome.memory.get("persistent"))
        for grid in variant.grids if outcome.status != "failed" else ():
            if of_it := rules.of_grid(target, grid, is_persistent, kernel.file, kernel.line):
                outcome = with_grid(outcome, of_it)
                break
        found.append((variant, outcome))
    return report.row_of(kernel, target, found)


def _kernels(args: Any, targets: list[str]) -> tuple[list[Kernel], dict[str, str]]:
    if args.program:
        return record.of_program([*args.program, *args.files], targets)
    if args.shipped:
        return collect.shipped(targets), {}
    types = parse_pairs(args.type)
    constants = {name: parse_value(text) for name, text in parse_pairs(args.constant).items()}
    return collect.of_files(args.files, types, constants)


def _nothing(args: Any, left_out: dict[str, str]) -> str:
    said = "".join(f"\n  {name}: {reason}" for name, reason in left_out.items())
    if args.program:
        return f"check: {args.program[0]} launched no kernel on the CPU that can be checked.{said}"
    if not args.files:
        return "check: give files with kernels, FILE.py or FILE.py:kernel, or --run PROGRAM.py, or --shipped."
    if not left_out:
        return f"check: {', '.join(args.files)} has no kernel: a function under unify.jit or triton.jit."
    return (
        f"check: no kernel of {', '.join(args.files)} has a type for each parameter.{said}\n  Annotate them, "
        'x: "*fp16", n: "i32", give --type x=*fp16 --constant BLOCK=128, or --run a program that launches them.'
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class _Progress:
    """A line on a terminal that says how far it is."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), console=console, transient=True,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, text: str) -> None:
        """One more is done."""
        self._bar.update(self._task, advance=1, description=text)
