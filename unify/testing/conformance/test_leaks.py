"""Leaks: what is made and dropped again and again leaves nothing behind, on the device or on the host."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import unify as un

ROUNDS = 6
SLACK_BYTES = 48 << 10  # an allocator's own; a leak of 32 bytes a cycle is more in a round of 2000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def assert_stays(device: un.Device, cycle: Callable[[], object], count: int = 2000) -> None:
    """In a leak, every round takes more; without one, a round comes that takes nothing."""

    def round_() -> tuple[int, int]:
        for _ in range(count):
            cycle()
        gc.collect()
        device.synchronize()
        return resident_bytes(), un.memory_statistics(device).allocated_bytes

    before = round_()
    grown = []
    for _ in range(ROUNDS):
        after = round_()
        assert after[1] == before[1], "memory of the device was not given back"
        grown.append(after[0] - before[0])
        if grown[-1] <= SLACK_BYTES:
            return
        before = after
    raise AssertionError(f"{count} cycles take {grown} bytes of the host's memory, round after round")


def test_tensors(device: un.Device) -> None:
    assert_stays(device, lambda: un.empty(1000, un.uint8, device))


def test_tensors_with_work(device: un.Device) -> None:
    assert_stays(device, lambda: un.zeros(1000, un.uint8, device))


def test_views(device: un.Device) -> None:
    tensor = un.zeros((10, 10), un.uint8, device)
    assert_stays(device, lambda: tensor[2:5].T)


def test_copies_within_the_device(device: un.Device) -> None:
    tensor = un.zeros(1000, un.uint8, device)
    assert_stays(device, lambda: tensor.copy())


def test_copies_from_and_to_the_host(device: un.Device) -> None:
    array = np.zeros(1000, np.uint8)
    assert_stays(device, lambda: un.asarray(array, device=device, copy=True).numpy(), count=1000)


def test_pinned_memory(device: un.Device) -> None:
    assert_stays(device, lambda: un.empty_pinned(1000, un.uint8, device=device))


def test_streams(device: un.Device) -> None:
    assert_stays(device, lambda: un.Stream(device), count=500)


def test_streams_with_work(device: un.Device) -> None:
    def cycle() -> None:
        stream = un.Stream(device)
        un.zeros(100, un.uint8, device, stream=stream)
        stream.synchronize()

    assert_stays(device, cycle, count=300)


@pytest.mark.parametrize("timing", [False, True])
def test_events(device: un.Device, timing: bool) -> None:
    assert_stays(device, lambda: un.Event(device, timing=timing))


def test_events_of_work(device: un.Device, stream: un.Stream) -> None:
    def cycle() -> None:
        stream.record().synchronize()

    assert_stays(device, cycle, count=1000)


def test_waits_between_streams(device: un.Device, two_streams: tuple[un.Stream, un.Stream]) -> None:
    first, second = two_streams

    def cycle() -> None:
        second.wait(first)
        second.synchronize()

    assert_stays(device, cycle, count=1000)


@pytest.mark.needs("host_calls")
def test_host_calls(device: un.Device, stream: un.Stream) -> None:
    def cycle() -> None:
        stream.host_call(lambda: None)
        stream.synchronize()

    assert_stays(device, cycle, count=500)


@pytest.mark.needs("graphs")
def test_graphs(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(100, un.uint8, device)
    device.synchronize()

    def cycle() -> None:
        with un.Graph.capture(stream) as graph:
            tensor.fill_(1)
            un.zeros(100, un.uint8, device)
        graph.launch(stream)
        stream.synchronize()

    assert_stays(device, cycle, count=300)


def test_errors(device: un.Device) -> None:
    def cycle() -> None:
        with pytest.raises(un.errors.Error):
            un.empty((-1,), un.float32, device)

    assert_stays(device, cycle, count=500)
