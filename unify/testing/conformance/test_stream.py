"""Streams: order, waiting, the current stream, host calls, threads."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import unify as un
from unify._errors import DeviceMismatchError, Error, InvalidArgument, TimeoutExpired
from unify.testing.conformance.fixtures import GATE_LIMIT_S, Gate

native_host_calls = pytest.mark.needs("host_calls", support="native")


def test_new_streams_differ(device: un.Device) -> None:
    first, second = un.Stream(device), un.Stream(device)
    assert first != second
    assert first.id != second.id
    assert first.device is device


def test_stream_function_makes_a_stream_of_the_device(device: un.Device) -> None:
    assert un.stream(device).device is device


def test_the_default_stream_is_number_0(device: un.Device) -> None:
    assert device.default_stream.id == 0
    assert device.default_stream == device.default_stream


def test_the_current_stream_is_the_default_one_at_first(device: un.Device) -> None:
    assert un.current_stream(device) == device.default_stream


def test_with_makes_a_stream_current(device: un.Device, stream: un.Stream) -> None:
    with stream as entered:
        assert entered == stream
        assert un.current_stream(device) == stream
    assert un.current_stream(device) == device.default_stream


def test_with_nests(device: un.Device, two_streams: tuple[un.Stream, un.Stream]) -> None:
    outer, inner = two_streams
    with outer:
        with inner, outer:
            assert un.current_stream(device) == outer
        with inner:
            assert un.current_stream(device) == inner
        assert un.current_stream(device) == outer
    assert un.current_stream(device) == device.default_stream


def test_with_restores_after_an_exception(device: un.Device, stream: un.Stream) -> None:
    with pytest.raises(KeyError), stream:
        raise KeyError
    assert un.current_stream(device) == device.default_stream


def test_the_current_stream_is_each_threads_own(device: un.Device, stream: un.Stream) -> None:
    seen: list[un.Stream] = []
    with stream:
        thread = threading.Thread(target=lambda: seen.append(un.current_stream(device)))
        thread.start()
        thread.join()
    assert seen == [device.default_stream]


def test_the_current_stream_is_each_devices_own(device: un.Device, other_device: un.Device, stream: un.Stream) -> None:
    with stream:
        assert un.current_stream(other_device) == other_device.default_stream


def test_a_stream_made_in_one_thread_works_in_another(device: un.Device, stream: un.Stream) -> None:
    results: list[Any] = []

    def use() -> None:
        tensor = un.full(100, 7, un.int32, device, stream=stream)
        stream.synchronize()
        results.append(tensor.numpy())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(results[0], np.full(100, 7))


def test_a_stream_outlives_the_thread_that_made_it(device: un.Device) -> None:
    made: list[un.Stream] = []
    thread = threading.Thread(target=lambda: made.append(un.Stream(device)))
    thread.start()
    thread.join()
    tensor = un.ones(10, un.float32, device, stream=made[0])
    made[0].synchronize()
    assert tensor.numpy().sum() == 10


def test_work_on_one_stream_runs_in_order(device: un.Device, stream: un.Stream) -> None:
    tensor = un.empty(1 << 16, un.uint8, device, stream=stream)
    for value in range(200):
        tensor.fill_(value, stream=stream)
    stream.synchronize()
    np.testing.assert_array_equal(tensor.numpy(), np.full(1 << 16, 199, np.uint8))


def test_a_copy_sees_the_fill_before_it_and_not_the_one_after(device: un.Device, stream: un.Stream) -> None:
    source = un.empty(1 << 16, un.uint8, device, stream=stream)
    results = [un.empty(1 << 16, un.uint8, device, stream=stream) for _ in range(20)]
    for value, result in enumerate(results):
        source.fill_(value, stream=stream)
        result.copy_(source, stream=stream)
    stream.synchronize()
    for value, result in enumerate(results):
        np.testing.assert_array_equal(result.numpy(), np.full(1 << 16, value, np.uint8))


def test_an_idle_stream_synchronizes_and_is_idle(stream: un.Stream) -> None:
    stream.synchronize()
    assert stream.is_idle
    stream.synchronize(timeout_s=1)


@native_host_calls
def test_a_stream_with_work_is_not_idle(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    gate.close(stream)
    assert not stream.is_idle
    gate.open()
    stream.synchronize()
    assert stream.is_idle


@native_host_calls
def test_streams_do_not_wait_for_each_other(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    held, free = two_streams
    gate.close(held)
    tensor = un.full(10, 3, un.int32, device, stream=free)
    free.synchronize(timeout_s=GATE_LIMIT_S / 2)
    assert not held.is_idle
    with free:
        np.testing.assert_array_equal(tensor.numpy(), np.full(10, 3))


@native_host_calls
def test_enqueueing_on_a_held_stream_returns_at_once(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    tensor = un.zeros(1 << 10, un.int32, device, stream=stream)
    stream.synchronize()
    gate.close(stream)
    gate.wait_until_reached()
    for value in range(100):
        tensor.fill_(value, stream=stream)
    assert not stream.is_idle
    gate.open()
    stream.synchronize()
    assert tensor.numpy()[0] == 99


@native_host_calls
def test_a_stream_waits_for_another(device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate) -> None:
    first, second = two_streams
    order: list[str] = []
    gate.close(first)
    first.host_call(lambda: order.append("first"))
    second.wait(first)
    second.host_call(lambda: order.append("second"))
    assert not second.is_idle
    gate.open()
    second.synchronize()
    assert order == ["first", "second"]


@native_host_calls
def test_waiting_covers_what_was_enqueued_before_and_not_after(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    first, second = two_streams
    second.wait(first)
    gate.close(first)
    second.synchronize(timeout_s=GATE_LIMIT_S / 2)
    assert not first.is_idle


@native_host_calls
def test_a_stream_waits_for_an_event(device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate) -> None:
    first, second = two_streams
    order: list[str] = []
    gate.close(first)
    first.host_call(lambda: order.append("before"))
    event = first.record()
    second.wait(event)
    second.host_call(lambda: order.append("after"))
    gate.open()
    second.synchronize()
    assert order == ["before", "after"]


def test_a_stream_that_waits_for_itself_goes_on(stream: un.Stream) -> None:
    stream.wait(stream)
    stream.synchronize(timeout_s=GATE_LIMIT_S)


@native_host_calls
def test_synchronize_gives_up_after_its_timeout(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    gate.close(stream)
    with pytest.raises(TimeoutExpired) as raised:
        stream.synchronize(timeout_s=0.02)
    assert raised.value.device == device.name
    gate.open()
    stream.synchronize()


@native_host_calls
def test_synchronize_lets_other_threads_run(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    gate.close(stream)
    waiting = threading.Thread(target=stream.synchronize)
    waiting.start()
    gate.wait_until_reached()  # needs the GIL, which the waiting thread must not hold
    gate.open()
    waiting.join(GATE_LIMIT_S)
    assert not waiting.is_alive()


@pytest.mark.needs("host_calls")
def test_host_calls_run_once_and_in_order(device: un.Device, stream: un.Stream) -> None:
    calls: list[int] = []
    for number in range(100):
        stream.host_call(lambda number=number: calls.append(number))  # type: ignore[misc]
    stream.synchronize()
    assert calls == list(range(100))


@pytest.mark.needs("host_calls")
def test_a_host_call_sees_the_work_before_it(device: un.Device, stream: un.Stream) -> None:
    if not device.is_host_visible:
        pytest.skip(f"{device.name}: its memory is not visible to the host")
    tensor = un.zeros(1 << 16, un.uint8, device, stream=stream)
    stream.synchronize()
    view = np.asarray(tensor)
    seen: list[int] = []
    for value in range(1, 50):
        tensor.fill_(value, stream=stream)
        stream.host_call(lambda: seen.append(int(view[-1])))
    stream.synchronize()
    assert seen == list(range(1, 50))


@pytest.mark.needs("host_calls")
def test_a_host_call_that_raises_does_not_stop_the_stream(
    device: un.Device, stream: un.Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(report.exc_type))

    def fail() -> None:
        raise KeyError("from a host call")

    calls: list[int] = []
    stream.host_call(fail)
    stream.host_call(lambda: calls.append(1))
    stream.synchronize()
    assert calls == [1]
    assert reported == [KeyError]


@pytest.mark.needs("host_calls")
def test_a_host_call_is_let_go_after_it_ran(device: un.Device, stream: un.Stream) -> None:
    import weakref

    class Callback:
        def __call__(self) -> None:
            pass

    callback = Callback()
    reference = weakref.ref(callback)
    stream.host_call(callback)
    del callback
    stream.synchronize()
    un.synchronize(device)
    gc.collect()
    assert reference() is None


@native_host_calls
def test_a_stream_dropped_with_work_still_runs_it(device: un.Device, gate: Gate) -> None:
    done = threading.Event()
    stream = un.Stream(device)
    gate.close(stream)
    stream.host_call(done.set)
    del stream
    gate.open()
    assert done.wait(GATE_LIMIT_S)


def test_many_streams_live_at_once(device: un.Device) -> None:
    streams = [un.Stream(device) for _ in range(64)]
    tensors = [un.full(100, number, un.int32, device, stream=stream) for number, stream in enumerate(streams)]
    device.synchronize()
    assert [int(tensor[0]) for tensor in tensors] == list(range(64))


def test_streams_can_be_made_and_dropped_often(device: un.Device) -> None:
    for _ in range(300):
        stream = un.Stream(device)
        un.zeros(16, un.uint8, device, stream=stream)
    device.synchronize()


@pytest.mark.needs("priorities")
def test_every_priority_in_the_range_is_accepted(device: un.Device) -> None:
    least, greatest = device.properties["priority_least"], device.properties["priority_greatest"]
    for priority in range(greatest, least + 1):
        assert un.Stream(device, priority=priority).priority == priority


def test_a_priority_beyond_the_range_is_an_error(device: un.Device) -> None:
    with pytest.raises(Error):
        un.Stream(device, priority=1000)


def test_a_stream_of_another_device_is_an_error(device: un.Device, other_device: un.Device, stream: un.Stream) -> None:
    with pytest.raises(DeviceMismatchError, match=device.name) as raised:
        un.zeros(3, un.float32, other_device, stream=stream)
    assert other_device.name in str(raised.value)


@pytest.mark.parametrize("value", ["stream", 1.5, object(), [1]])
def test_something_that_is_no_stream_is_an_error(device: un.Device, value: Any) -> None:
    with pytest.raises(InvalidArgument, match="stream"):
        un.zeros(3, un.float32, device, stream=value)


def test_a_wrapped_native_stream_is_in_order_with_its_owner(device: un.Device, stream: un.Stream) -> None:
    if not stream.native:
        pytest.skip(f"{device.name}: has no native streams")

    class Foreign:
        native = stream.native

    wrapped = un.Stream.from_native(Foreign(), device)
    tensor = un.zeros(1 << 16, un.uint8, device, stream=stream)
    tensor.fill_(5, stream=wrapped)
    stream.wait(wrapped)
    stream.synchronize()
    assert wrapped.native == stream.native
    assert tensor.numpy()[0] == 5


def test_a_foreign_stream_where_there_are_none_is_an_error(device: un.Device, stream: un.Stream) -> None:
    if stream.native:
        pytest.skip(f"{device.name}: has native streams")
    with pytest.raises(Error):
        un.Stream.from_native(4096, device)


def test_repr_names_stream_and_device(device: un.Device, stream: un.Stream) -> None:
    assert stream.name in repr(stream)
    assert device.name in repr(stream)
