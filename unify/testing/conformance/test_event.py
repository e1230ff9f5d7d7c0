"""Events: marks in a stream, waiting for them, timing between them."""

from __future__ import annotations

import threading
import time

import pytest

import unify as un
from unify._errors import Error, GraphError, InvalidArgument, TimeoutExpired
from unify._stream import event as new_event
from unify.testing.conformance.fixtures import GATE_LIMIT_S, Gate

native_host_calls = pytest.mark.needs("host_calls", support="native")


def test_a_new_event_is_done(device: un.Device) -> None:
    event = un.Event(device)
    assert event.is_done
    event.synchronize()


def test_event_function_makes_an_event_of_the_device(device: un.Device) -> None:
    assert new_event(device, timing=True).device is device
    assert new_event(device, timing=True).has_timing


def test_an_event_recorded_on_an_idle_stream_passes(stream: un.Stream, device: un.Device) -> None:
    event = un.Event(device)
    event.record(stream)
    event.synchronize()
    assert event.is_done


def test_record_of_a_stream_returns_the_event(stream: un.Stream, device: un.Device) -> None:
    event = un.Event(device)
    assert stream.record(event) is event
    assert stream.record().device is device


def test_record_without_a_stream_marks_the_current_one(device: un.Device, stream: un.Stream) -> None:
    event = un.Event(device)
    with stream:
        event.record()
    event.synchronize()
    assert event.is_done


@native_host_calls
def test_an_event_is_not_done_before_the_work_it_marks(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    gate.close(stream)
    event = stream.record()
    assert not event.is_done
    gate.open()
    event.synchronize()
    assert event.is_done


@native_host_calls
def test_an_event_does_not_mark_what_comes_after_it(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    event = stream.record()
    gate.close(stream)
    event.synchronize(timeout_s=GATE_LIMIT_S / 2)
    assert event.is_done
    assert not stream.is_idle


@native_host_calls
def test_a_second_record_moves_the_mark(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    event = stream.record()
    event.synchronize()
    gate.close(stream)
    stream.record(event)
    assert not event.is_done
    gate.open()
    event.synchronize()


@native_host_calls
def test_what_waits_for_an_event_keeps_the_mark_it_saw(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    held, waiting = two_streams
    event = held.record()
    waiting.wait(event)
    gate.close(held)
    held.record(event)  # must not hold `waiting` back: it waits for the first mark
    waiting.synchronize(timeout_s=GATE_LIMIT_S / 2)


@native_host_calls
def test_a_record_on_another_stream_does_not_let_earlier_waiters_pass(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    held, waiting = two_streams
    idle, order = un.Stream(device), []
    gate.close(held)
    held.host_call(lambda: order.append("held"))
    event = held.record()
    waiting.wait(event)
    waiting.host_call(lambda: order.append("waiting"))
    for _ in range(20):
        idle.record(event)  # passes at once
        event.synchronize()
        idle.host_call(lambda: None)
        idle.synchronize()
    assert order == []
    gate.open()
    waiting.synchronize()
    assert order == ["held", "waiting"]


@native_host_calls
def test_a_dropped_event_still_holds_back_who_waits_for_it(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    first, second = two_streams
    order: list[str] = []
    gate.close(first)
    first.host_call(lambda: order.append("first"))
    event = first.record()
    second.wait(event)
    del event
    second.host_call(lambda: order.append("second"))
    gate.open()
    second.synchronize()
    assert order == ["first", "second"]


def test_an_event_never_recorded_holds_nobody_back(device: un.Device, stream: un.Stream) -> None:
    stream.wait(un.Event(device))
    stream.synchronize(timeout_s=GATE_LIMIT_S)


@native_host_calls
def test_synchronize_gives_up_after_its_timeout(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    gate.close(stream)
    event = stream.record()
    with pytest.raises(TimeoutExpired):
        event.synchronize(timeout_s=0.02)
    gate.open()
    event.synchronize()


@native_host_calls
def test_synchronize_lets_other_threads_run(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    gate.close(stream)
    event = stream.record()
    waiting = threading.Thread(target=event.synchronize)
    waiting.start()
    gate.wait_until_reached()
    gate.open()
    waiting.join(GATE_LIMIT_S)
    assert not waiting.is_alive()


def test_elapsed_is_not_negative_in_order(device: un.Device, stream: un.Stream) -> None:
    start, stop = un.Event(device, timing=True), un.Event(device, timing=True)
    stream.record(start)
    un.zeros(1 << 20, un.uint8, device, stream=stream)
    stream.record(stop)
    stop.synchronize()
    assert 0 <= start.elapsed_ms(stop) < 60_000


def test_elapsed_is_negative_the_other_way_round(device: un.Device, stream: un.Stream) -> None:
    start, stop = un.Event(device, timing=True), un.Event(device, timing=True)
    stream.record(start)
    un.zeros(1 << 20, un.uint8, device, stream=stream)
    stream.record(stop)
    stop.synchronize()
    assert stop.elapsed_ms(start) == -start.elapsed_ms(stop)


@native_host_calls
def test_elapsed_measures_the_work_between(device: un.Device, stream: un.Stream) -> None:
    def work() -> None:
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass

    start, stop = un.Event(device, timing=True), un.Event(device, timing=True)
    begin = time.perf_counter()
    stream.record(start)
    stream.host_call(work)
    stream.record(stop)
    stop.synchronize()
    wall_ms = (time.perf_counter() - begin) * 1000
    assert 19 <= start.elapsed_ms(stop) <= wall_ms * 1.05


def test_elapsed_without_timing_is_an_error(device: un.Device, stream: un.Stream) -> None:
    start, stop = un.Event(device), un.Event(device, timing=True)
    stream.record(start)
    stream.record(stop)
    stream.synchronize()
    with pytest.raises(InvalidArgument, match="timing"):
        start.elapsed_ms(stop)


def test_elapsed_of_an_event_never_recorded_is_an_error(device: un.Device, stream: un.Stream) -> None:
    start, stop = un.Event(device, timing=True), un.Event(device, timing=True)
    stream.record(stop)
    stream.synchronize()
    with pytest.raises(InvalidArgument):
        start.elapsed_ms(stop)


def test_an_event_of_a_graph_has_no_time_not_even_its_earlier_one(device: un.Device, stream: un.Stream) -> None:
    start, stop = un.Event(device, timing=True), un.Event(device, timing=True)
    for event in (start, stop):
        stream.record(event)
    stop.synchronize()
    tensor = un.zeros(16, un.uint8, device, stream=stream)
    with un.Graph.capture(stream):
        tensor.fill_(1)
        stop.record(stream)
    for earlier, later in ((start, stop), (stop, start)):
        with pytest.raises(GraphError, match="graph"):
            earlier.elapsed_ms(later)


def test_events_can_be_made_and_dropped_often(device: un.Device, stream: un.Stream) -> None:
    for _ in range(1000):
        stream.record()
    stream.synchronize()


def test_many_events_live_at_once(device: un.Device, stream: un.Stream) -> None:
    events = [stream.record() for _ in range(500)]
    stream.synchronize()
    assert all(event.is_done for event in events)


def test_an_event_recorded_in_one_thread_can_be_awaited_in_another(device: un.Device, stream: un.Stream) -> None:
    event = un.Event(device)
    thread = threading.Thread(target=lambda: event.record(stream))
    thread.start()
    thread.join()
    event.synchronize(timeout_s=GATE_LIMIT_S)
    assert event.is_done


def test_a_stream_of_another_device_cannot_be_marked(device: un.Device, other_device: un.Device) -> None:
    with pytest.raises(Error):
        un.Event(device).record(un.Stream(other_device))


def test_a_stream_waits_for_another_devices_event(device: un.Device, other_device: un.Device) -> None:
    first, second = un.Stream(device), un.Stream(other_device)
    un.zeros(1 << 16, un.uint8, device, stream=first)
    event = first.record()
    second.wait(event)
    un.zeros(1 << 16, un.uint8, other_device, stream=second)
    second.synchronize(timeout_s=GATE_LIMIT_S)
    assert event.is_done


def test_repr_names_the_device(device: un.Device) -> None:
    assert device.name in repr(un.Event(device, timing=True))
