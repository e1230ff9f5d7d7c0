"""Peers: copies and waits between two devices of one backend."""

from __future__ import annotations

import numpy as np
import pytest

import unify as un
from unify.testing.arrays import assert_same, random_array
from unify.testing.conformance.fixtures import GATE_LIMIT_S, Gate


@pytest.fixture
def peer(device: un.Device) -> un.Device:
    """A second device of the same backend."""
    others = [other for other in un.devices() if other.kind == device.kind and other is not device]
    if not others:
        pytest.skip(f"{device.name}: its backend has one device")
    return others[0]


@pytest.mark.parametrize("size", [1, 3, 4097, (1 << 20) + 1])
def test_copies_of_every_size_there_and_back(device: un.Device, peer: un.Device, size: int) -> None:
    array = random_array((size,), "uint8", size)
    there = un.asarray(array, device=device, copy=True).to(peer)
    assert there.device is peer
    assert_same(there.to(device), array)


@pytest.mark.parametrize("offset", [1, 2, 3, 64, 129])
def test_copies_that_begin_anywhere(device: un.Device, peer: un.Device, offset: int) -> None:
    array = random_array((1000,), "uint8", offset)
    here, there = un.asarray(array, device=device, copy=True), un.zeros(1000, un.uint8, peer)
    there[offset:-1].copy_(here[offset - 1 : -2])
    expected = np.zeros(1000, np.uint8)
    expected[offset:-1] = array[offset - 1 : -2]
    assert_same(there, expected)


def test_copies_of_rows(device: un.Device, peer: un.Device) -> None:
    array = random_array((40, 60), "int16", 1)
    here, there = un.asarray(array, device=device, copy=True), un.zeros((50, 70), un.int16, peer)
    there[5:45, 3:43].copy_(here[:, 10:50])
    expected = np.zeros((50, 70), np.int16)
    expected[5:45, 3:43] = array[:, 10:50]
    assert_same(there, expected)


def test_a_copy_follows_the_work_of_both_devices(device: un.Device, peer: un.Device) -> None:
    here, there = un.zeros(1 << 20, un.uint8, device), un.zeros(1 << 20, un.uint8, peer)
    for value in range(1, 20):
        here.fill_(value)
        there.fill_(0)
        there.copy_(here)
        assert int(there[-1]) == value


@pytest.mark.needs("host_calls", support="native")
def test_a_stream_waits_for_an_event_of_the_peer(device: un.Device, peer: un.Device, gate: Gate) -> None:
    first, second = un.Stream(device), un.Stream(peer)
    order: list[str] = []
    gate.close(first)
    first.host_call(lambda: order.append("first"))
    second.wait(first.record())
    second.host_call(lambda: order.append("second"))
    assert order == []
    gate.open()
    second.synchronize(timeout_s=GATE_LIMIT_S)
    assert order == ["first", "second"]


def test_a_dropped_source_outlives_its_copy(device: un.Device, peer: un.Device) -> None:
    array = random_array((1 << 20,), "uint8", 2)
    there = un.asarray(array, device=device, copy=True).to(peer)
    thieves = [un.full(1 << 20, 9, un.uint8, device) for _ in range(8)]
    assert_same(there, array)
    del thieves


def test_devices_allocate_apart(device: un.Device, peer: un.Device) -> None:
    before = un.memory_statistics(peer).allocated_bytes
    kept = un.empty(1 << 20, un.uint8, device)
    assert un.memory_statistics(peer).allocated_bytes == before
    del kept


def test_every_device_has_streams_of_its_own(device: un.Device, peer: un.Device) -> None:
    assert device.default_stream != peer.default_stream
    with un.Stream(device) as stream:
        assert un.current_stream(device) == stream
        assert un.current_stream(peer) == peer.default_stream
