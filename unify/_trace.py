"""The trace: what was enqueued and what ran, as a file that https://ui.perfetto.dev opens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from . import _core
from ._errors import InvalidArgument

__all__ = ["span", "trace"]


@contextlib.contextmanager
def trace(path: str | os.PathLike[str], *, max_events: int = 1_000_000) -> Iterator[None]:
    """Collects a trace inside a with block (or a decorated function) and writes it to `path` as JSON.

    Waits for the devices at its end, also when the block raises, so that what led to an error can be seen.
    max_events: later ones are dropped, and counted in the file.
    Raises InvalidArgument if a trace is being collected already, OSError if `path` cannot be written.

    >>> with un.trace("trace.json"), un.span("setting up"):
    ...     x = un.ones(3)
    """
    target = Path(path)
    if not _core.trace_start(max_events):
        raise InvalidArgument(
            f"trace: one is being collected already; {target} would get a part of it. End that one first."
        )
    try:
        with target.open("a"):  # an unwritable path is said now, not after the work
            pass
    except OSError:
        _core.trace_stop()
        raise
    try:
        yield
    finally:
        _write_whole(target, _core.trace_stop())


@contextlib.contextmanager
def span(name: str) -> Iterator[None]:
    """Marks a part of the host program in the trace. Costs next to nothing when there is none."""
    if not _core.trace_is_on():
        yield
        return
    begin = _core.trace_clock_ns()
    try:
        yield
    finally:
        _core.trace_span(name, begin, _core.trace_clock_ns())


def _write_whole(target: Path, text: str) -> None:
    """Never leaves half a file under the name that was asked for."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.write_text(text)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
