"""What `import` costs over a bare interpreter: whole processes, so that nothing a library does at its end is hidden."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from ..case import MILLISECONDS, Case, Setup, Side


def cases() -> list[Case]:
    """One case, against the libraries that people have loaded already."""
    return [
        Case(
            name="import",
            subject="import",
            about="a process that imports the package, less one that imports nothing",
            unit=MILLISECONDS,
            ours=_importing("unify"),
            peers={"numpy": _importing("numpy"), "torch": _importing("torch"), "triton": _importing("triton")},
            calls=2,
        )
    ]


def _importing(module: str) -> Callable[[Setup], Side]:
    def build(_: Setup) -> Side:
        _seconds(f"import {module}")  # writes the byte code and reads the files into memory
        return Side(cost=lambda calls: sum(_over_bare(module) for _ in range(calls)) / calls)

    return build


def _over_bare(module: str) -> float:
    # A cost must be above 0 for a ratio to exist; a tenth of a millisecond is below what processes can resolve.
    return max(1e-4, _seconds(f"import {module}") - _seconds("pass"))


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # noqa: S603  our own words
    return time.perf_counter() - start
