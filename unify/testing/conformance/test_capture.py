"""Graphs that another library records on a stream of its own, which unify's work enters: capture_keep."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest

import unify as un
from unify._errors import GraphError
from unify.testing.arrays import assert_same
from unify.testing.conformance.recorder import Recorder

LIMIT_S = 60


@pytest.fixture
def recorded(device: un.Device, recorder: Recorder) -> un.Stream:
    """The recorder's stream, as one of unify's."""
    assert recorder.stream.value is not None
    return un.Stream.from_native(recorder.stream.value, device)


def allocated(device: un.Device) -> int:
    gc.collect()
    device.synchronize()
    return un.memory_statistics(device).allocated_bytes


def wait_until(is_so: Callable[[], bool]) -> None:
    latest = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < latest


def test_work_runs_at_each_launch_of_the_graph(device: un.Device, recorder: Recorder, recorded: un.Stream) -> None:
    source, target = un.zeros(1000, un.int32, device), un.zeros(1000, un.int32, device)
    device.synchronize()
    with recorder.recording() as graph:
        target.copy_(source, stream=recorded)
    for number in range(3):
        source.fill_(number)
        device.synchronize()
        graph.launch()
        recorder.synchronize()
        assert_same(target, np.full(1000, number, np.int32))


def test_memory_lives_as_long_as_the_graph(device: un.Device, recorder: Recorder, recorded: un.Stream) -> None:
    target = un.zeros(1 << 20, un.uint8, device)
    before = allocated(device)
    with recorder.recording() as graph:
        value = un.full(1 << 20, 7, un.uint8, device, stream=recorded)
        target.copy_(value, stream=recorded)
        del value
    assert allocated(device) > before
    others = [un.full(1 << 20, 9, un.uint8, device) for _ in range(4)]
    device.synchronize()
    graph.launch()
    recorder.synchronize()
    assert_same(target, np.full(1 << 20, 7, np.uint8))
    assert all((other.numpy() == 9).all() for other in others)
    del others
    graph.destroy()
    wait_until(lambda: allocated(device) == before)


@pytest.mark.needs("host_calls", support="native")
def test_a_host_call_lives_as_long_as_the_graph(device: un.Device, recorder: Recorder, recorded: un.Stream) -> None:
    calls = []

    def call() -> None:
        calls.append(1)

    alive = weakref.ref(call)
    with recorder.recording() as graph:
        recorded.host_call(call)
    del call
    for count in range(1, 4):
        assert alive() is not None
        graph.launch()
        recorder.synchronize()
        allocated(device)
        assert len(calls) == count
    graph.destroy()
    wait_until(lambda: allocated(device) >= 0 and alive() is None)


def test_nothing_waits_for_what_is_recorded(recorder: Recorder, recorded: un.Stream) -> None:
    with recorder.recording() as graph:
        for wait in (recorded.synchronize, lambda: recorded.is_idle):
            with pytest.raises(GraphError, match="another library records"):
                wait()
    graph.launch()
    recorder.synchronize()


def test_memory_from_before_the_recording_is_not_free_meanwhile(
    device: un.Device, recorder: Recorder, recorded: un.Stream
) -> None:
    tensor = un.zeros(1 << 20, un.uint8, device)
    device.synchronize()
    tensor.fill_(1, stream=recorded)
    address = tensor.address
    with recorder.recording():
        del tensor
        assert un.empty(1 << 20, un.uint8, device).address != address


def test_a_stream_is_drawn_in_by_a_wait(device: un.Device, recorder: Recorder, recorded: un.Stream) -> None:
    drawn, tensor = un.Stream(device), un.zeros(100, un.uint8, device)
    device.synchronize()
    with recorder.recording() as graph:
        drawn.wait(recorded)
        tensor.fill_(5, stream=drawn)
        recorded.wait(drawn)
    drawn.synchronize()
    assert_same(tensor, np.zeros(100, np.uint8))
    graph.launch()
    recorder.synchronize()
    assert_same(tensor, np.full(100, 5, np.uint8))
