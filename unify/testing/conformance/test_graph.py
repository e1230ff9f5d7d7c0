"""Graphs: recorded once, launched often; native or emulated alike."""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest

import unify as un
from unify._errors import Error, GraphError
from unify.testing.arrays import assert_same, random_array
from unify.testing.conformance.fixtures import Gate

pytestmark = pytest.mark.needs("graphs")


def test_recorded_work_does_not_run_until_it_is_launched(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(100, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensor.fill_(7)
    device.synchronize()
    assert_same(tensor, np.zeros(100, np.uint8))
    graph.launch(stream)
    stream.synchronize()
    assert_same(tensor, np.full(100, 7, np.uint8))


def test_a_graph_can_be_launched_often(device: un.Device, stream: un.Stream) -> None:
    source = un.zeros(1000, un.int32, device)
    target = un.zeros(1000, un.int32, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        target.copy_(source)
    for number in range(10):
        array = random_array((1000,), "int32", number)
        source.copy_(array, stream=stream)
        graph.launch(stream)
        stream.synchronize()
        assert_same(target, array)


def test_replay_is_launch(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(3, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensor.fill_(1)
    graph.replay(stream)
    stream.synchronize()
    assert_same(tensor, np.ones(3, np.uint8))


def test_launch_without_a_stream_goes_to_the_current_one(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(3, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(device=device) as graph:
        tensor.fill_(1)
    with stream:
        graph.launch()
        assert_same(tensor, np.ones(3, np.uint8))


def test_recorded_work_keeps_its_order(device: un.Device, stream: un.Stream) -> None:
    tensors = [un.zeros(1 << 12, un.uint8, device) for _ in range(5)]
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensors[0].fill_(3)
        for source, target in itertools.pairwise(tensors):
            target.copy_(source)
        tensors[0].fill_(0)
    graph.launch(stream)
    stream.synchronize()
    assert [int(tensor[-1]) for tensor in tensors] == [0, 3, 3, 3, 3]


def test_launches_are_in_order_with_other_work(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(1 << 12, un.uint8, device)
    result = un.zeros(1 << 12, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        result.copy_(tensor)
    for value in range(1, 20):
        tensor.fill_(value, stream=stream)
        graph.launch(stream)
        tensor.fill_(0, stream=stream)
        with stream:
            assert int(result[0]) == value


def test_the_capturing_stream_is_current_inside(device: un.Device, stream: un.Stream) -> None:
    with un.Graph.capture(stream):
        assert un.current_stream(device) == stream
        assert stream.is_capturing
    assert un.current_stream(device) == device.default_stream
    assert not stream.is_capturing


def test_its_size_counts_what_was_recorded(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(100, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        for value in range(5):
            tensor.fill_(value)
    assert len(graph) == 5
    assert len(graph.describe().splitlines()) == 5
    assert "5" in repr(graph)


def test_an_empty_graph_does_nothing(device: un.Device, stream: un.Stream) -> None:
    with un.Graph.capture(stream) as graph:
        pass
    graph.launch(stream)
    stream.synchronize()
    assert len(graph) == 0


def test_memory_made_while_recording_lives_as_long_as_the_graph(device: un.Device, stream: un.Stream) -> None:
    source = un.asarray(random_array((1 << 16,), "uint8", 1), device=device, copy=True)
    result = un.zeros(1 << 16, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        scratch = source.copy()
        result.copy_(scratch)
        del scratch
    thieves = [un.full(1 << 16, 9, un.uint8, device) for _ in range(10)]
    for number in range(3):
        array = random_array((1 << 16,), "uint8", 10 + number)
        source.copy_(array, stream=stream)
        graph.launch(stream)
        stream.synchronize()
        assert_same(result, array)
    for thief in thieves:
        assert_same(thief, np.full(1 << 16, 9, np.uint8))


def test_tensors_that_only_the_graph_uses_stay_alive(device: un.Device, stream: un.Stream) -> None:
    array = random_array((1 << 16,), "uint8", 2)
    source = un.asarray(array, device=device, copy=True)
    result = un.zeros(1 << 16, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        result.copy_(source)
    del source
    gc.collect()
    thieves = [un.full(1 << 16, 9, un.uint8, device) for _ in range(10)]
    device.synchronize()
    graph.launch(stream)
    stream.synchronize()
    assert_same(result, array)
    del thieves


def test_a_dropped_graph_gives_its_memory_back(device: un.Device, stream: un.Stream) -> None:
    gc.collect()
    device.synchronize()
    before = un.memory_statistics(device).allocated_bytes
    with un.Graph.capture(stream) as graph:
        scratch = un.zeros(1 << 20, un.uint8, device)
        del scratch
    graph.launch(stream)
    stream.synchronize()
    del graph
    gc.collect()
    device.synchronize()
    assert un.memory_statistics(device).allocated_bytes <= before


def test_synchronizing_a_recording_stream_is_an_error(device: un.Device, stream: un.Stream) -> None:
    with pytest.raises(GraphError), un.Graph.capture(stream):
        stream.synchronize()
    stream.synchronize()


def test_reading_a_tensor_while_recording_is_an_error(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(3, un.float32, device)
    device.synchronize()
    with pytest.raises(GraphError), un.Graph.capture(stream):
        tensor.numpy()
    assert_same(tensor, np.zeros(3, np.float32))


def test_an_exception_abandons_the_recording(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(3, un.uint8, device)
    device.synchronize()
    with pytest.raises(KeyError), un.Graph.capture(stream):
        tensor.fill_(1)
        raise KeyError
    assert not stream.is_capturing
    tensor.fill_(2, stream=stream)
    stream.synchronize()
    assert_same(tensor, np.full(3, 2, np.uint8))


def test_recording_twice_at_once_is_an_error(device: un.Device, stream: un.Stream) -> None:
    with un.Graph.capture(stream), pytest.raises(GraphError), un.Graph.capture(stream):
        pass
    assert not stream.is_capturing


def test_two_streams_record_at_once(device: un.Device, two_streams: tuple[un.Stream, un.Stream]) -> None:
    first, second = two_streams
    tensor, other = un.zeros(3, un.uint8, device), un.zeros(3, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(first) as one, un.Graph.capture(second) as two:
        tensor.fill_(1, stream=first)
        other.fill_(2, stream=second)
    one.launch(first)
    two.launch(second)
    device.synchronize()
    assert (int(tensor[0]), int(other[0])) == (1, 2)


def test_a_graph_of_two_streams_keeps_their_order(device: un.Device, two_streams: tuple[un.Stream, un.Stream]) -> None:
    first, second = two_streams
    source, middle, result = (un.zeros(1 << 12, un.uint8, device) for _ in range(3))
    device.synchronize()
    with un.Graph.capture(first) as graph:
        source.fill_(3)
        second.wait(first.record())
        middle.copy_(source, stream=second)
        assert second.is_capturing
        source.fill_(4)
        first.wait(second)
        result.copy_(middle)
    assert not second.is_capturing
    for _ in range(3):
        graph.launch(first)
        first.synchronize()
        assert [int(tensor[-1]) for tensor in (source, middle, result)] == [4, 3, 3]
        middle.fill_(0, stream=second)
        second.synchronize()


def test_a_recording_stream_may_wait_for_work_outside_of_the_recording(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream]
) -> None:
    first, second = two_streams
    source, result = un.zeros(1 << 12, un.uint8, device), un.zeros(1 << 12, un.uint8, device)
    device.synchronize()
    source.fill_(5, stream=second)
    outside = second.record()
    with un.Graph.capture(first) as graph:
        first.wait(outside)
        result.copy_(source)
    graph.launch(first)
    first.synchronize()
    assert_same(result, np.full(1 << 12, 5, np.uint8))


def test_memory_used_before_a_recording_may_be_let_go_while_it_lasts(device: un.Device, stream: un.Stream) -> None:
    early = un.zeros(1 << 20, un.uint8, device)
    device.synchronize()
    early.fill_(1, stream=stream)  # its stream has to pass this before the memory serves anybody else
    with un.Graph.capture(stream) as graph:
        del early
        late = un.full(1 << 20, 7, un.uint8, device, stream=device.default_stream)
    graph.launch(stream)
    device.synchronize()
    assert_same(late, np.full(1 << 20, 7, np.uint8))


def test_an_event_of_a_graph_marks_nothing_outside_of_it(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream]
) -> None:
    first, second = two_streams
    event = un.Event(device)
    with un.Graph.capture(first) as graph:
        first.record(event)
        with pytest.raises(GraphError):
            event.synchronize()
    for use in (lambda: second.wait(event), event.synchronize, lambda: event.is_done):
        with pytest.raises(GraphError, match="graph"):
            use()
    assert not second.is_capturing
    second.record(event)
    event.synchronize()
    assert event.is_done
    del graph


@pytest.mark.parametrize(
    ("dtype", "value"), [("int16", 0x1234), ("float32", 1.5), ("float64", 0.1), ("int32", 0x01010101), ("int64", -1)]
)
def test_a_wide_fill_can_be_recorded(device: un.Device, stream: un.Stream, dtype: str, value: float) -> None:
    tensor = un.zeros(100, dtype, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensor.fill_(value)
    graph.launch(stream)
    stream.synchronize()
    assert_same(tensor, np.full(100, value, dtype))


def test_memory_that_another_branch_still_uses_is_not_allocated_again(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream]
) -> None:
    first, second = two_streams
    result = un.zeros(1 << 12, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(first) as graph:
        scratch = un.full(1 << 12, 1, un.uint8, device)
        second.wait(first)
        result.copy_(scratch, stream=second)
        address = scratch.address
        del scratch
        later = un.full(1 << 12, 2, un.uint8, device)  # may run beside the copy
        assert later.address != address
        first.wait(second)
    graph.launch(first)
    first.synchronize()
    assert_same(result, np.full(1 << 12, 1, np.uint8))


def test_memory_of_one_graph_that_another_uses_stays(device: un.Device, stream: un.Stream) -> None:
    result = un.zeros(1 << 12, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as maker:
        made = un.full(1 << 12, 5, un.uint8, device)
    maker.launch(stream)
    stream.synchronize()
    with un.Graph.capture(stream) as user:
        result.copy_(made)
    del made, maker
    gc.collect()
    un.trim_memory(device)
    thieves = [un.full(1 << 12, 9, un.uint8, device) for _ in range(4)]
    user.launch(stream)
    stream.synchronize()
    assert_same(result, np.full(1 << 12, 5, np.uint8))
    del thieves


def test_a_graph_runs_on_another_stream_than_it_was_recorded_on(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream]
) -> None:
    first, second = two_streams
    tensor = un.zeros(3, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(first) as graph:
        tensor.fill_(4)
    graph.launch(second)
    second.synchronize()
    assert_same(tensor, np.full(3, 4, np.uint8))


def test_a_graph_of_another_device_cannot_be_launched(
    device: un.Device, other_device: un.Device, stream: un.Stream
) -> None:
    with un.Graph.capture(stream) as graph:
        pass
    with pytest.raises(Error):
        graph.launch(un.Stream(other_device))


def test_a_graph_recorded_in_one_thread_runs_in_another(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(3, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensor.fill_(5)

    def run() -> None:
        graph.launch(stream)
        stream.synchronize()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert_same(tensor, np.full(3, 5, np.uint8))


@pytest.mark.needs("host_calls", support="native")
def test_launching_returns_before_the_work_is_done(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    tensor = un.zeros(3, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensor.fill_(6)
    gate.close(stream)
    graph.launch(stream)
    assert not stream.is_idle
    gate.open()
    stream.synchronize()
    assert_same(tensor, np.full(3, 6, np.uint8))


@pytest.mark.needs("host_calls", support="native")
def test_launches_of_a_graph_come_one_after_the_other(two_streams: tuple[un.Stream, un.Stream], gate: Gate) -> None:
    held, other = two_streams
    order: list[str] = []
    with un.Graph.capture(held) as graph:
        held.host_call(lambda: order.append("graph"))
    gate.close(held)
    held.host_call(lambda: order.append("first"))
    graph.launch(held)
    graph.launch(other)
    other.host_call(lambda: order.append("second"))
    assert not other.is_idle
    assert order == []
    gate.open()
    for stream in two_streams:
        stream.synchronize()
    assert order == ["first", "graph", "graph", "second"]


@pytest.mark.needs("host_calls", support="native")
def test_a_graph_dropped_while_it_runs_finishes(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    tensor = un.zeros(1 << 12, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        scratch = un.full(1 << 12, 8, un.uint8, device)
        tensor.copy_(scratch)
        del scratch
    gate.close(stream)
    graph.launch(stream)
    del graph
    gc.collect()
    thief = un.full(1 << 12, 9, un.uint8, device)
    gate.open()
    stream.synchronize()
    assert_same(tensor, np.full(1 << 12, 8, np.uint8))
    assert_same(thief, np.full(1 << 12, 9, np.uint8))


def test_a_graph_that_is_recorded_again_does_the_new_work(device: un.Device, stream: un.Stream) -> None:
    tensors = [un.zeros(100, un.int32, device) for _ in range(2)]
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensors[0].fill_(7)
    graph.launch(stream)
    for number in range(1, 4):
        with graph.update(stream) as again:  # of the same shape: only arguments differ
            tensors[1].fill_(number)
        assert again is graph
        graph.launch(stream)
        stream.synchronize()
        assert_same(tensors[1], np.full(100, number, np.int32))
    assert_same(tensors[0], np.full(100, 7, np.int32))


def test_a_graph_that_is_recorded_again_may_differ_in_everything(device: un.Device, stream: un.Stream) -> None:
    a, b = un.zeros(100, un.int32, device), un.zeros(100, un.int32, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        a.fill_(1)
    with graph.update():
        a.fill_(2)
        b.copy_(a)
        a.fill_(3)
    assert len(graph) == 3
    graph.launch(stream)
    stream.synchronize()
    assert_same(a, np.full(100, 3, np.int32))
    assert_same(b, np.full(100, 2, np.int32))


def test_a_failed_update_leaves_the_graph_as_it_was(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(100, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        tensor.fill_(7)
    with pytest.raises(ZeroDivisionError), graph.update(stream):
        tensor.fill_(1 // 0)
    with graph.update(stream):
        with pytest.raises(GraphError), graph.update():
            pass
        tensor.fill_(8)
    graph.launch(stream)
    stream.synchronize()
    assert_same(tensor, np.full(100, 8, np.uint8))


def test_memory_of_an_updated_graph_goes_back(device: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(1 << 20, un.uint8, device)
    with un.Graph.capture(stream) as graph:
        tensor.copy_(un.ones(1 << 20, un.uint8, device))

    def used() -> int:
        stream.synchronize()
        gc.collect()
        return un.memory_statistics(device).allocated_bytes

    before = used()
    for _ in range(5):
        with graph.update(stream):
            tensor.copy_(un.ones(1 << 20, un.uint8, device))
        graph.launch(stream)
    assert used() <= before + (1 << 20)


@pytest.mark.needs("host_calls", support="native")
def test_an_update_does_not_change_a_launch_under_way(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    source, target = (un.full(100, number, un.uint8, device) for number in (1, 0))
    other, kept = un.full(100, 2, un.uint8, device), un.zeros(100, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(stream) as graph:
        target.copy_(source)
    gate.close(stream)
    graph.launch(stream)
    with graph.update():
        target.copy_(other)
    kept.copy_(target, stream=stream)
    del source, other
    graph.launch(stream)
    gate.open()
    stream.synchronize()
    assert_same(kept, np.full(100, 1, np.uint8))
    assert_same(target, np.full(100, 2, np.uint8))


@pytest.mark.needs("host_calls", support="native")
def test_launches_after_an_update_come_behind_those_before(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    one, other = two_streams
    tensor = un.zeros(100, un.uint8, device)
    device.synchronize()
    with un.Graph.capture(one) as graph:
        tensor.fill_(1)
    gate.close(one)
    graph.launch(one)
    with graph.update():
        tensor.fill_(2)
        tensor.fill_(3)
    graph.launch(other)
    gate.open()
    device.synchronize()
    assert_same(tensor, np.full(100, 3, np.uint8))


def test_a_graph_is_recorded_again_while_another_thread_launches_it(device: un.Device, stream: un.Stream) -> None:
    tensors = [un.zeros(10, un.uint8, device) for _ in range(4)]
    device.synchronize()
    with un.Graph.capture(device=device) as graph:
        tensors[0].fill_(1)
    is_over = threading.Event()
    launched: list[int] = []

    def launch() -> None:
        while not is_over.is_set():
            graph.launch(stream)
            launched.append(len(graph))

    thread = threading.Thread(target=launch)
    thread.start()
    for number in range(200):
        with graph.update():
            for tensor in tensors[: number % 4 + 1]:
                tensor.fill_(2)
    is_over.set()
    thread.join()
    stream.synchronize()
    assert launched
    assert {*launched} <= {1, 2, 3, 4}
