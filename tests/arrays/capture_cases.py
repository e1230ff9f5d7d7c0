"""What test_streams.py runs in a process of its own too: streams that another library captures into a graph of its own.

Wherever something must not be let go of, the case looks before the graph could run without it.
"""

from __future__ import annotations

import ctypes
import gc
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import stand_in
from harness import DEVICE, ZEROS, case, double, launch, made, main, values

import unify as un
from unify import ops

MIB = 1 << 20


def wrapped() -> tuple[stand_in.ForeignStream, un.Stream]:
    foreign = stand_in.ForeignStream()
    return foreign, un.Stream.from_native(foreign, DEVICE)


def settle() -> None:
    """Everything that nobody holds any more has ended."""
    gc.collect()
    DEVICE.synchronize()
    un.memory_statistics(DEVICE)


def wait_until(is_done: Callable[[], bool]) -> None:
    latest = time.monotonic() + 60
    while not is_done():
        settle()
        assert time.monotonic() < latest


def allocated() -> int:
    settle()
    return un.memory_statistics(DEVICE).allocated_bytes


@case
def a_graph_that_a_library_records_takes_our_work_in() -> None:
    for library in made(stand_in.torch, stand_in.torch_by_table, stand_in.cupy):
        x, out, ours = library.array([1.0] * 4), library.array(ZEROS), un.zeros(4, device=DEVICE)
        weight = library.array([2.0] * 4)
        launch(x, out)
        normal = ops.rms_norm(library.array([[3.0] * 4]), weight)
        DEVICE.synchronize()
        rows = library.array([[3.0] * 4])
        with library.stream.captured() as graph:
            launch(x, out)
            launch(out, ours)
            temporary = un.asarray(x).copy()
            result = ops.rms_norm(rows, weight)
        del temporary
        library.stream.fill(x, 5)
        graph.launch()
        library.stream.synchronize()
        assert values(out) == [10] * 4, values(out)
        assert ours.tolist() == [20] * 4
        assert result.numpy().tolist() == normal.numpy().tolist()
        launch(x, ours)  # as ever
        assert values(x) == [5] * 4


if __name__ == "__main__":
    main()
