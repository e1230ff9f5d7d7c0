"""Loops over the axes of a nest, whole registers at a time where elements lie side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from . import buffers
from .buffers import Size
from .nests import Axis, Position
from .program import Program


@contextmanager
def outer(p: Program, axes: Sequence[Axis]) -> Iterator[Position]:
    """A loop for each axis; short ones at the end too, so that code stays small."""
    at: Position = {}
    if not axes:
        yield at
        return
    axis = axes[0]
    with p.loop(axis.extent) as counter, outer(p, axes[1:]) as inner:
        yield {axis: counter, **inner}


def along(
    p: Program, axis: Axis | None, lanes: int, unroll: int, write: Callable[[Size, int, int], None]
) -> None:  # fmt: skip
    """Calls write(index, lanes, count) for pieces of the axis: `count` registers of `lanes` elements, then the rest."""
    if axis is None:
        write(0, 1, 1)
        return
    extent = axis.extent
    if isinstance(extent, int):
        start = 0
        for width, count in ((lanes, unroll), (lanes, 1), *((lanes >> i, 1) for i in range(1, lanes.bit_length()))):
            step = width * count
            rounds = (extent - start) // step
            if rounds == 0:
                continue
            steps(p, start, rounds, step, lambda at, w=width, c=count: write(at, w, c))  # type: ignore[misc]
            start += rounds * step
        return
    whole = p.em.assign(f"and i64 {extent}, {-lanes}")
    with p.loop(whole, lanes) as counter:
        write(counter, lanes, 1)
    with p.loop(extent, 1, start=whole) as counter:
        write(counter, 1, 1)


def steps(p: Program, start: int, rounds: int, step: int, write: Callable[[Size], None]) -> None:
    if rounds == 1:
        write(start)
        return
    with p.loop(rounds * step, step) as counter:
        write(buffers.add(p, counter, start))


def split(extent: Size, block: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Ranges [start, stop) and how many to take at a time there."""
    assert isinstance(extent, int)
    whole = extent // block * block
    if whole:
        yield (0, whole), block
    if whole < extent:
        yield (whole, extent), 1 if block > 1 and extent - whole > 2 else extent - whole
