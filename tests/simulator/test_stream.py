"""Streams and events: what runs after what, and what a call answers meanwhile."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator

import pytest

from .driver import HOST_FUNCTION, Driver


class Gate:
    """A host function that holds its stream until it is opened, and notes of the order in which work ran."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.order: list[str] = []
        self.kept: list[object] = []
        self.opened = threading.Event()

    def call(self, stream: int, work: Callable[[], object]) -> None:
        function = HOST_FUNCTION(lambda _: work())
        self.kept.append(function)
        self.driver.cuLaunchHostFunc(stream, function, None)

    def hold(self, stream: int) -> None:
        self.call(stream, self.opened.wait)

    def note(self, stream: int, text: str) -> None:
        self.call(stream, lambda: self.order.append(text))


@pytest.fixture
def gate(driver: Driver) -> Iterator[Gate]:
    made = Gate(driver)
    yield made
    made.opened.set()
    driver.result("cuCtxSynchronize")


def test_a_stream_runs_in_order_and_beside_others(driver: Driver, gate: Gate) -> None:
    held, free = driver.stream(), driver.stream()
    gate.hold(held)
    gate.note(held, "first")
    gate.note(held, "second")
    gate.note(free, "beside")
    driver.cuStreamSynchronize(free)
    assert gate.order == ["beside"]
    assert driver.result("cuStreamQuery", held) == "CUDA_ERROR_NOT_READY"
    assert driver.result("cuStreamQuery", free) == "CUDA_SUCCESS"
    gate.opened.set()
    driver.cuStreamSynchronize(held)
    assert gate.order == ["beside", "first", "second"]


def test_an_event_orders_streams_of_two_devices(driver: Driver, gate: Gate) -> None:
    first, event = driver.stream(), driver.event()
    gate.hold(first)
    gate.note(first, "before")
    driver.cuEventRecord(event, first)
    driver.open(1)
    second = driver.stream()
    driver.cuStreamWaitEvent(second, event, 0)
    gate.note(second, "after")
    assert driver.result("cuEventQuery", event) == "CUDA_ERROR_NOT_READY"
    gate.opened.set()
    driver.cuStreamSynchronize(second)
    assert gate.order == ["before", "after"]
    driver.cuEventSynchronize(event)


def test_waiting_means_the_record_before_it(driver: Driver, gate: Gate) -> None:
    free, held, waiting, event = driver.stream(), driver.stream(), driver.stream(), driver.event()
    driver.cuEventRecord(event, free)
    driver.cuStreamWaitEvent(waiting, event, 0)
    gate.hold(held)
    driver.cuEventRecord(event, held)
    driver.cuStreamSynchronize(waiting)
    assert driver.result("cuEventQuery", event) == "CUDA_ERROR_NOT_READY"


def test_an_event_that_was_never_recorded_is_complete(driver: Driver) -> None:
    event = driver.event()
    driver.cuEventQuery(event)
    driver.cuEventSynchronize(event)
    driver.cuStreamWaitEvent(driver.stream(), event, 0)


@pytest.mark.parametrize("is_blocking", [True, False])
def test_the_legacy_stream_waits_for_blocking_streams_alone(driver: Driver, gate: Gate, is_blocking: bool) -> None:
    held = driver.stream(flags=0 if is_blocking else 1)
    gate.hold(held)
    gate.note(held, "stream")
    gate.note(0, "legacy")
    after = driver.stream(flags=0)
    gate.note(after, "after")
    if is_blocking:
        assert driver.result("cuStreamQuery", 0) == driver.result("cuStreamQuery", after) == "CUDA_ERROR_NOT_READY"
    else:
        driver.cuStreamSynchronize(after)
        assert gate.order == ["legacy", "after"]
    gate.opened.set()
    driver.cuCtxSynchronize()
    assert gate.order == (["stream", "legacy", "after"] if is_blocking else ["legacy", "after", "stream"])


def test_the_streams_of_two_threads_are_two(driver: Driver, gate: Gate) -> None:
    context = driver.made("cuCtxGetCurrent")
    gate.hold(2)

    def other() -> None:
        driver.cuCtxSetCurrent(context)
        gate.note(2, "other thread")
        driver.cuStreamSynchronize(2)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert gate.order == ["other thread"]


def test_times_are_taken_on_the_stream(driver: Driver, gate: Gate) -> None:
    stream, start, end = driver.stream(), driver.event(flags=0), driver.event(flags=0)
    milliseconds = ctypes.c_float()
    asked = ("cuEventElapsedTime", ctypes.byref(milliseconds), start, end)
    assert driver.result(*asked) == "CUDA_ERROR_INVALID_HANDLE"  # never recorded
    driver.cuEventRecord(start, stream)
    gate.call(stream, lambda: threading.Event().wait(0.05))
    gate.hold(stream)
    driver.cuEventRecord(end, stream)
    assert driver.result(*asked) == "CUDA_ERROR_NOT_READY"
    gate.opened.set()
    driver.cuEventSynchronize(end)
    driver.cuEventElapsedTime(*asked[1:])
    assert 50 <= milliseconds.value < 30000
    assert driver.result("cuEventElapsedTime", ctypes.byref(milliseconds), start, driver.event(flags=2)) == (
        "CUDA_ERROR_INVALID_HANDLE"
    )


def test_a_host_function_may_not_call_the_driver(driver: Driver, gate: Gate) -> None:
    stream = driver.stream()
    answers: list[str] = []
    gate.call(stream, lambda: answers.append(str(driver.library.cuCtxSynchronize())))
    driver.cuStreamSynchronize(stream)
    assert answers == ["800"]


def test_a_destroyed_stream_finishes_its_work(driver: Driver, gate: Gate) -> None:
    stream, event = driver.stream(), driver.event()
    gate.hold(stream)
    gate.note(stream, "last")
    driver.cuEventRecord(event, stream)
    driver.cuStreamDestroy(stream)
    assert driver.result("cuStreamQuery", stream) == "CUDA_ERROR_INVALID_HANDLE"
    gate.opened.set()
    driver.cuEventSynchronize(event)
    assert gate.order == ["last"]


@pytest.mark.parametrize("call", ["cuStreamSynchronize", "cuStreamQuery", "cuStreamDestroy"])
def test_unknown_streams_are_invalid_handles(driver: Driver, call: str) -> None:
    for handle in (3, 12345, 1 << 40):
        assert driver.result(call, handle) == "CUDA_ERROR_INVALID_HANDLE"


@pytest.mark.parametrize("call", ["cuEventSynchronize", "cuEventQuery", "cuEventDestroy"])
def test_unknown_events_are_invalid_handles(driver: Driver, call: str) -> None:
    event = driver.event()
    driver.cuEventDestroy(event)
    for handle in (0, 12345, event):
        assert driver.result(call, handle) == "CUDA_ERROR_INVALID_HANDLE"


def test_a_record_needs_a_stream_of_the_events_context(driver: Driver) -> None:
    event = driver.event()
    driver.open(1)
    assert driver.result("cuEventRecord", event, driver.stream()) == "CUDA_ERROR_INVALID_HANDLE"
    driver.cuEventQuery(event)


def test_sixteen_threads_share_one_device(driver: Driver) -> None:
    context = driver.made("cuCtxGetCurrent")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            driver.cuCtxSetCurrent(context)
            stream, event = driver.stream(), driver.event()
            for turn in range(20):
                data = bytes([number + turn]) * 1000
                address = driver.made("cuMemAlloc", 1000)
                driver.cuMemsetD8Async(address, number + turn, 1000, stream)
                driver.cuEventRecord(event, stream)
                driver.cuStreamWaitEvent(stream, event, 0)
                assert driver.download(address, 1000, stream) == data
                driver.cuMemFree(address)
            driver.cuEventDestroy(event)
            driver.cuStreamDestroy(stream)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (driver.live("bytes"), driver.live("streams"), driver.live("events")) == (0, 0, 0)
