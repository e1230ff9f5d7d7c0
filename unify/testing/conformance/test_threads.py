"""Threads: everything may be used from any thread, and the GIL is never waited for under a lock."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

import unify as un
from unify.testing.arrays import random_array

THREADS = 6


def run_in_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Runs work(0) … work(count - 1) at once and raises what one of them raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(count)

    def body(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=body, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    if raised:
        raise raised[0]


def test_a_stream_for_each_thread(device: un.Device) -> None:
    def work(number: int) -> None:
        array = random_array((5000,), "int32", number)
        with un.Stream(device) as stream:
            for _ in range(30):
                tensor = un.asarray(array, device=device, copy=True)
                result = tensor.copy()
                stream.synchronize()
                np.testing.assert_array_equal(result.numpy(), array)

    run_in_threads(work)


def test_one_stream_for_all_threads(device: un.Device, stream: un.Stream) -> None:
    tensors = [un.zeros(1000, un.int32, device, stream=stream) for _ in range(THREADS)]

    def work(number: int) -> None:
        for value in range(200):
            tensors[number].fill_(value, stream=stream)

    run_in_threads(work)
    stream.synchronize()
    for tensor in tensors:
        np.testing.assert_array_equal(tensor.numpy(), np.full(1000, 199))


def test_threads_synchronize_one_stream_at_once(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(1 << 20, un.uint8, device, stream=stream)

    def work(number: int) -> None:
        for _ in range(50):
            tensor.fill_(number, stream=stream)
            stream.synchronize()

    run_in_threads(work)


def test_threads_wait_for_each_others_events(device: un.Device) -> None:
    streams = [un.Stream(device) for _ in range(THREADS)]
    events = [un.Event(device) for _ in range(THREADS)]

    def work(number: int) -> None:
        for _ in range(100):
            streams[number].wait(events[(number + 1) % THREADS])
            events[number].record(streams[number])

    run_in_threads(work)
    device.synchronize()


@pytest.mark.needs("host_calls")
def test_host_calls_from_many_threads_all_run(device: un.Device, stream: un.Stream) -> None:
    calls: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            stream.host_call(lambda: calls.append(number))

    run_in_threads(work)
    stream.synchronize()
    assert sorted(calls) == sorted(number for number in range(THREADS) for _ in range(50))


@pytest.mark.needs("host_calls")
def test_host_calls_and_launches_on_one_stream_do_not_deadlock(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(1000, un.uint8, device, stream=stream)
    counted: list[int] = []

    def work(number: int) -> None:
        for value in range(100):
            if number % 2:
                stream.host_call(lambda: counted.append(1))
            else:
                tensor.fill_(value, stream=stream)

    run_in_threads(work)
    stream.synchronize()
    assert len(counted) == 100 * (THREADS // 2)


@pytest.mark.needs("graphs")
def test_threads_record_graphs_of_their_own(device: un.Device) -> None:
    def work(number: int) -> None:
        stream = un.Stream(device)
        tensor = un.zeros(100, un.uint8, device, stream=stream)
        stream.synchronize()
        for value in range(1, 10):
            with un.Graph.capture(stream) as graph:
                tensor.fill_(number * 10 + value)
            graph.launch(stream)
            stream.synchronize()
            with stream:
                assert int(tensor[0]) == number * 10 + value

    run_in_threads(work)


def test_tensors_travel_between_threads(device: un.Device) -> None:
    slots: list[un.Tensor | None] = [None] * THREADS
    lock = threading.Lock()

    def work(number: int) -> None:
        generator = np.random.default_rng(number)
        for step in range(100):
            made = un.full(int(generator.integers(1, 2000)), step, un.int32, device)
            with lock:
                index = int(generator.integers(0, THREADS))
                taken, slots[index] = slots[index], made
            if taken is not None:
                values = taken.numpy()
                assert (values == values[0]).all()

    run_in_threads(work)


def test_devices_are_opened_by_many_threads(device: un.Device) -> None:
    found: list[list[un.Device]] = [[] for _ in range(THREADS)]
    run_in_threads(lambda number: found[number].extend(un.devices()))
    assert all(entry == found[0] for entry in found)


def test_streams_are_made_and_dropped_by_many_threads(device: un.Device) -> None:
    def work(number: int) -> None:
        for _ in range(50):
            stream = un.Stream(device)
            un.zeros(100, un.uint8, device, stream=stream)
            stream.record()

    run_in_threads(work)
    device.synchronize()


@pytest.mark.needs("graphs")
def test_threads_launch_one_graph_on_streams_of_their_own(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(1000, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensor.fill_(7)
        tensor.fill_(8)

    def work(number: int) -> None:
        own = un.Stream(device)
        for _ in range(50):
            graph.launch(own)
        own.synchronize()

    run_in_threads(work)
    device.synchronize()
    assert set(tensor.numpy().tolist()) <= {7, 8}


def test_threads_copy_arrays_of_other_libraries_to_one_stream(device: un.Device, stream: un.Stream) -> None:
    tensors = [un.zeros(1000, un.int32, device, stream=stream) for _ in range(THREADS)]
    stream.synchronize()

    def work(number: int) -> None:
        for value in range(50):
            tensors[number].copy_(np.full(1000, value, np.int32), stream=stream)

    run_in_threads(work)
    stream.synchronize()
    for tensor in tensors:
        np.testing.assert_array_equal(tensor.numpy(), np.full(1000, 49))


@pytest.mark.needs("host_calls")
def test_a_tensor_is_dropped_while_a_host_call_of_its_stream_runs(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(1000, un.uint8, device)
    tensor.fill_(1, stream=stream)
    reached, opened = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert opened.wait(20)

    caller = threading.Thread(target=stream.host_call, args=(hold,))
    caller.start()
    assert reached.wait(20)
    del tensor
    opened.set()
    caller.join(20)
    assert not caller.is_alive()
    stream.synchronize()


def test_sixteen_threads_do_everything_on_one_device(device: un.Device) -> None:
    shared = un.zeros(1000, un.int32, device)
    device.synchronize()

    def work(number: int) -> None:
        array = random_array((1000,), "int32", number)
        for step in range(15):
            with un.Stream(device) as stream:
                tensor = un.asarray(array, device=device, copy=True)
                event = stream.record()
                stream.wait(event)
                result = tensor.copy()
                shared.fill_(step)
                stream.host_call(lambda: None)
                assert event.is_done in (True, False)
                del tensor
                np.testing.assert_array_equal(result.numpy(), array)
            if step % 5 == 0:
                un.trim_memory(device)
                un.memory_statistics(device)

    run_in_threads(work, 16)
    assert len(set(shared.tolist())) >= 1
