"""What the memory functions return in Python."""

from __future__ import annotations

import dataclasses

import pytest

import unify as un

from .conftest import Run


def test_statistics_are_a_record_that_cannot_be_changed() -> None:
    statistics = un.memory_statistics("cpu")
    assert all(isinstance(value, int) and value >= 0 for value in dataclasses.asdict(statistics).values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.allocated_bytes = 0  # type: ignore[misc]


def test_the_default_device_is_meant_when_none_is_named() -> None:
    tensor = un.empty(12345, un.uint8, "cpu")
    assert un.memory_statistics().allocated_bytes >= tensor.nbytes
    assert tensor.address in {block.address for segment in un.memory_snapshot() for block in segment.blocks}


def test_a_snapshot_lists_segments_by_address() -> None:
    held = [un.empty(size, un.uint8, "cpu") for size in (10, 1 << 22)]
    segments = un.memory_snapshot("cpu")
    assert [s.address for s in segments] == sorted(s.address for s in segments)
    for segment in segments:
        ends = [block.address + block.bytes for block in segment.blocks]
        assert [block.address for block in segment.blocks][1:] == ends[:-1]
    del held


@pytest.mark.parametrize("limit", [-1, 1 << 64, "1g", 1.5, None, True])
def test_a_limit_that_is_no_number_of_bytes_is_an_error(limit: object) -> None:
    with pytest.raises(un.InvalidArgument, match=f"set_memory_limit: a number of bytes.*{limit}"):
        un.set_memory_limit(limit, "cpu")  # type: ignore[arg-type]


def test_memory_of_streams_that_ended_serves_the_next_beside_a_piece_that_is_in_use() -> None:
    held = un.zeros(1000, un.uint8, "cpu")  # leaves a piece of its segment free
    reserved = set()
    for _ in range(5):
        stream = un.Stream("cpu")
        un.zeros(100, un.uint8, "cpu", stream=stream)
        stream.synchronize()
        del stream
        reserved.add(un.memory_statistics("cpu").reserved_bytes)
    assert len(reserved) == 1
    del held


def test_running_out_says_why_the_backend_gave_nothing() -> None:
    with pytest.raises(un.OutOfMemory, match=f"; its backend says: the host has no {1 << 55} bytes in one piece\\. "):
        un.empty(1 << 55, un.uint8, "cpu")
    un.set_memory_limit(un.memory_statistics("cpu").reserved_bytes + 1000, "cpu")
    try:
        with pytest.raises(un.OutOfMemory, match="set_memory_limit allows") as raised:
            un.empty(1 << 25, un.uint8, "cpu")
    finally:
        un.set_memory_limit(0, "cpu")
    assert "backend says" not in str(raised.value)


STREAM_ENDS = """
import gc, threading
import numpy as np
import unify as un

un.simulate("cuda:90")
device = un.device("cuda:0")

def of_a_stream_that_ended(bytes):
    stream = un.Stream(device)
    x = un.empty(bytes, un.uint8, device, stream=stream)
    stream.synchronize()
    del stream
    un.memory_statistics(device)  # ends what nobody holds any more
    return x

gate = threading.Event()
other = un.Stream(device)
"""


def test_memory_of_a_stream_that_ended_waits_for_work_of_the_default_stream(python: Run) -> None:
    code = """
x = of_a_stream_that_ended(4 << 20)  # a segment of its own: any dry stream's may be taken
device.current_stream.host_call(lambda: gate.wait(60) and None)
x.fill_(1)
del x
y = un.full(4 << 20, 2, un.uint8, device, stream=other)
other.synchronize()
gate.set()
device.synchronize()
assert (y.numpy() == 2).all()
"""
    finished = python("-c", STREAM_ENDS + code)
    assert finished.returncode == 0, finished.stderr
