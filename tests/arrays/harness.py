"""What the files of cases share: a simulated chip, a kernel, and how a file runs in a process of its own."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import stand_in
import triton.language as tl

import unify as un

un.simulate("cuda:90", count=2)
CASES: dict[str, Callable[[], None]] = {}
DEVICE = un.device("cuda:0")
ZEROS = [0.0] * 4


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__] = function
    return function


@un.jit
def double(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


def launch(x: Any, out: Any, **options: Any) -> None:
    double[(1,)](x, out, 4, BLOCK=16, **options)


def values(array: Any) -> list[float]:
    return [float(value) for value in array.numpy()]


def made(*libraries: Callable[[], stand_in.Library]) -> Iterator[stand_in.Library]:
    """One after the other: two of a name cannot be imported at once."""
    for make in libraries:
        yield make()


def main() -> None:
    """Runs all cases, or those that the command line names, and prints their failures."""
    failures = {}
    for name in sys.argv[1:] or CASES:
        began = time.perf_counter()
        try:
            CASES[name]()
            failures[name] = ""
        except BaseException:
            failures[name] = traceback.format_exc()
        for gate in stand_in.gates:
            gate.set()
        stand_in.gates.clear()
        took = time.perf_counter() - began
        print(f"{took:6.2f} s  {name}: {'FAILED' if failures[name] else 'passed'}", file=sys.stderr, flush=True)
    print(json.dumps(failures))
