"""Streams and events: what runs after what, what a call answers meanwhile, and functions of the host in between."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator

import pytest

from .driver import HOST_FUNCTION, SYNC, TIME_LINE, Acl, told_to_who_waits

COMPLETE, NOT_READY = 0, 1  # of a stream


class Gate:
    """A host function that holds its stream until it is opened, and notes of the order in which work ran."""

    def __init__(self, acl: Acl) -> None:
        self.acl = acl
        self.order: list[str] = []
        self.kept: list[object] = []
        self.opened = threading.Event()

    def call(self, stream: int, work: Callable[[], object]) -> None:
        function = HOST_FUNCTION(lambda _: work())
        self.kept.append(function)
        self.acl.aclrtLaunchHostFunc(stream, function, None)

    def hold(self, stream: int) -> None:
        self.call(stream, self.opened.wait)

    def note(self, stream: int, text: str) -> None:
        self.call(stream, lambda: self.order.append(text))


@pytest.fixture
def gate(acl: Acl) -> Iterator[Gate]:
    made = Gate(acl)
    yield made
    made.opened.set()
    acl.aclrtSynchronizeDevice()


def status(acl: Acl, stream: int) -> int:
    return acl.told("aclrtStreamQuery", stream) & 0xFFFFFFFF


def is_recorded(acl: Acl, event: int) -> bool:
    return acl.told("aclrtQueryEventStatus", event) & 0xFFFFFFFF == 1


def test_streams_run_beside_each_other_and_each_in_order(acl: Acl, gate: Gate) -> None:
    held, free = acl.stream(), acl.stream()
    gate.hold(held)
    gate.note(held, "held")
    gate.note(free, "first")
    gate.note(free, "second")
    acl.aclrtSynchronizeStream(free)
    assert (gate.order, status(acl, held), status(acl, free)) == (["first", "second"], NOT_READY, COMPLETE)
    gate.opened.set()
    acl.aclrtSynchronizeStream(held)
    assert gate.order == ["first", "second", "held"]


def test_null_is_the_default_stream_of_the_context(acl: Acl, gate: Gate) -> None:
    default = acl.made("aclrtCtxGetCurrentDefaultStream")
    gate.hold(default)
    assert status(acl, 0) == NOT_READY
    other = acl.stream()
    acl.aclrtSynchronizeStream(other)  # it waits for none
    gate.opened.set()
    acl.aclrtSynchronizeStream(None)
    assert acl.result("aclrtDestroyStream", default) == "RT_PARAM_INVALID"


def test_a_stream_knows_what_it_was_made_with(acl: Acl) -> None:
    stream = acl.made("aclrtCreateStreamWithConfig", 5, 3)
    priority, flags, number = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_int()
    acl.aclrtStreamGetPriority(stream, ctypes.byref(priority))
    acl.aclrtStreamGetFlags(stream, ctypes.byref(flags))
    acl.aclrtStreamGetId(stream, ctypes.byref(number))
    assert (priority.value, flags.value) == (5, 3)
    other = ctypes.c_int()
    acl.aclrtStreamGetId(acl.stream(), ctypes.byref(other))
    assert number.value != other.value


def test_a_wait_on_the_host_has_its_time(acl: Acl, gate: Gate) -> None:
    stream, event = acl.stream(), acl.event()
    gate.hold(stream)
    acl.aclrtRecordEvent(event, stream)
    assert acl.result("aclrtSynchronizeStreamWithTimeout", stream, 20) == "RT_STREAM_SYNC_TIMEOUT"
    assert acl.result("aclrtSynchronizeDeviceWithTimeout", 20) == "RT_STREAM_SYNC_TIMEOUT"
    assert acl.result("aclrtSynchronizeEventWithTimeout", event, 20) == "RT_EVENT_SYNC_TIMEOUT"
    for timeout in (0, -2):
        assert acl.result("aclrtSynchronizeStreamWithTimeout", stream, timeout) == "RT_PARAM_INVALID"
    gate.opened.set()
    acl.aclrtSynchronizeStreamWithTimeout(stream, -1)


def test_a_destroyed_stream_finishes_its_work_first(acl: Acl, gate: Gate) -> None:
    stream = acl.stream()
    gate.note(stream, "last")
    acl.aclrtDestroyStream(stream)
    assert gate.order == ["last"]
    assert acl.result("aclrtStreamQuery", stream, ctypes.byref(ctypes.c_int())) == "RT_INVALID_HANDLE"


def test_a_stream_destroyed_by_force_drops_its_work(acl: Acl) -> None:
    stream, data = acl.stream(), acl.upload(bytes(16))
    acl.fail("aclrtMemsetAsync:0:hang")
    for value in (1, 2):
        assert acl.fill_later(data, value, 16, stream) == "SUCCESS"
    acl.aclrtDestroyStreamForce(stream)
    acl.aclrtSynchronizeDevice()
    assert acl.download(data, 16) == bytes(16)


def test_an_abort_drops_the_work_of_a_stream_and_lets_it_go_on(acl: Acl) -> None:
    stream, data = acl.stream(), acl.upload(bytes(16))

    def hang() -> None:
        acl.fail("aclrtMemsetAsync:0:hang")
        assert acl.fill_later(data, 1, 16, stream) == acl.fill_later(data, 2, 16, stream) == "SUCCESS"

    assert told_to_who_waits(acl, stream, hang, lambda: acl.aclrtStreamAbort(stream)) == "RT_STREAM_ABORT"
    assert acl.fill_later(data, 3, 8, stream) == "SUCCESS"
    acl.aclrtSynchronizeStream(stream)
    assert acl.download(data, 16) == bytes([3]) * 8 + bytes(8)


def test_values_in_device_memory_hold_streams_back(acl: Acl, gate: Gate) -> None:
    waiting, data = acl.stream(), acl.upload(bytes(8))
    acl.aclrtValueWait(data, ctypes.c_uint64(5), 0, waiting)
    gate.note(waiting, "reached")
    writing = acl.stream()
    acl.aclrtValueWrite(data, ctypes.c_uint64(4), 0, writing)
    acl.aclrtSynchronizeStream(writing)
    assert (status(acl, waiting), gate.order) == (NOT_READY, [])
    acl.aclrtValueWrite(data, ctypes.c_uint64(7), 0, writing)
    acl.aclrtSynchronizeStream(waiting)
    assert gate.order == ["reached"]
    assert acl.result("aclrtValueWrite", data + 4, ctypes.c_uint64(1), 0, writing) == "RT_PARAM_INVALID"


@pytest.mark.parametrize("call", ["aclrtSynchronizeStream", "aclrtDestroyStream", "aclrtStreamAbort"])
def test_unknown_streams_are_invalid_handles(acl: Acl, call: str) -> None:
    for handle in (3, 12345, 1 << 40):
        assert acl.result(call, handle) == "RT_INVALID_HANDLE"


# ---- events ----


def test_an_event_orders_two_streams(acl: Acl, gate: Gate) -> None:
    first, second, event = acl.stream(), acl.stream(), acl.event()
    gate.hold(first)
    gate.note(first, "first")
    acl.aclrtRecordEvent(event, first)
    acl.aclrtStreamWaitEvent(second, event)
    gate.note(second, "second")
    assert (is_recorded(acl, event), status(acl, second)) == (False, NOT_READY)
    gate.opened.set()
    acl.aclrtSynchronizeStream(second)
    assert gate.order == ["first", "second"]


def test_a_new_event_waits_for_the_record_before_and_for_none_without(acl: Acl, gate: Gate) -> None:
    free, held, waiting, event = acl.stream(), acl.stream(), acl.stream(), acl.event()
    assert is_recorded(acl, event)
    acl.aclrtStreamWaitEvent(waiting, event)
    acl.aclrtSynchronizeStream(waiting)
    acl.aclrtRecordEvent(event, free)
    acl.aclrtStreamWaitEvent(waiting, event)
    gate.hold(held)
    acl.aclrtRecordEvent(event, held)
    acl.aclrtSynchronizeStream(waiting)
    assert not is_recorded(acl, event)
    assert acl.result("aclrtResetEvent", event, waiting) == "RT_FEATURE_NOT_SUPPORT"


@pytest.mark.parametrize("arguments", [("aclrtCreateEvent",), ("aclrtCreateEventWithFlag", SYNC)])
def test_an_old_event_waits_for_the_record_to_come(acl: Acl, gate: Gate, arguments: tuple[str, int]) -> None:
    recording, waiting, event = acl.stream(), acl.stream(), acl.made(*arguments)
    assert not is_recorded(acl, event)
    acl.aclrtSynchronizeEvent(event)
    acl.aclrtStreamWaitEvent(waiting, event)
    gate.note(waiting, "second")
    assert acl.told("aclrtQueryEventWaitStatus", event) & 0xFFFFFFFF == 1
    gate.note(recording, "first")
    acl.aclrtRecordEvent(event, recording)
    acl.aclrtSynchronizeStream(waiting)
    assert gate.order == ["first", "second"]
    acl.aclrtResetEvent(event, waiting)
    assert not is_recorded(acl, event)
    acl.aclrtStreamWaitEvent(waiting, event)
    gate.note(waiting, "third")
    assert status(acl, waiting) == NOT_READY
    acl.aclrtRecordEvent(event, recording)
    acl.aclrtSynchronizeStream(waiting)


def test_a_wait_for_an_event_has_its_time(acl: Acl) -> None:
    waiting, event = acl.stream(), acl.made("aclrtCreateEvent")
    acl.aclrtStreamWaitEventWithTimeout(waiting, event, 1)
    assert acl.result("aclrtSynchronizeStream", waiting) == "RT_TASK_TIMEOUT"


def test_an_event_without_its_flag_is_no_event_to_wait_for(acl: Acl) -> None:
    event = acl.event(TIME_LINE)
    assert acl.result("aclrtStreamWaitEvent", None, event) == "RT_FEATURE_NOT_SUPPORT"
    assert acl.result("aclrtCreateEventExWithFlag", ctypes.byref(ctypes.c_uint64()), 0) == "RT_PARAM_INVALID"


def test_times_are_taken_on_the_stream(acl: Acl, gate: Gate) -> None:
    stream, start, end = acl.stream(), acl.event(SYNC | TIME_LINE), acl.event(SYNC | TIME_LINE)
    milliseconds = ctypes.c_float()
    asked = ("aclrtEventElapsedTime", ctypes.byref(milliseconds), start, end)
    assert acl.result(*asked) == "RT_INTERNAL_ERROR"  # never recorded
    acl.aclrtRecordEvent(start, stream)
    gate.call(stream, lambda: threading.Event().wait(0.05))
    gate.hold(stream)
    acl.aclrtRecordEvent(end, stream)
    assert acl.result(*asked) == "RT_EVENT_TIMESTAMP_INVALID"
    gate.opened.set()
    acl.aclrtSynchronizeEvent(end)
    acl.aclrtEventElapsedTime(*asked[1:])
    assert 50 <= milliseconds.value < 30000
    begin, later = acl.told("aclrtEventGetTimestamp", start), acl.told("aclrtEventGetTimestamp", end)
    assert later - begin == pytest.approx(1000 * milliseconds.value, abs=2)
    untimed = acl.event(SYNC)
    acl.aclrtRecordEvent(untimed, stream)
    acl.aclrtSynchronizeStream(stream)
    assert acl.result(*asked[:2], start, untimed) == "RT_EVENT_TIMESTAMP_INVALID"


@pytest.mark.parametrize("call", ["aclrtSynchronizeEvent", "aclrtDestroyEvent"])
def test_unknown_events_are_invalid_handles(acl: Acl, call: str) -> None:
    event = acl.event()
    acl.aclrtDestroyEvent(event)
    for handle in (12345, event):
        assert acl.result(call, handle) == "RT_INVALID_HANDLE"
    assert acl.result(call, None) == "INVALID_PARAM"


def test_a_record_is_in_a_stream_of_the_events_device(acl: Acl) -> None:
    event = acl.event()
    acl.aclrtSetDevice(1)
    assert acl.result("aclrtRecordEvent", event, acl.stream()) == "RT_STREAM_CONTEXT"


# ---- functions of the host ----


def test_a_host_function_may_not_call_acl(acl: Acl, gate: Gate) -> None:
    stream, answers = acl.stream(), []

    def work() -> None:
        acl.aclrtSetDevice(0)
        answers.append(acl.result("aclrtSynchronizeStream", None))

    gate.call(stream, work)
    acl.aclrtSynchronizeStream(stream)
    assert answers == ["RT_NO_PERMISSION"]


class Server:
    """A thread of the program's that serves reports until it is told to end."""

    def __init__(self, acl: Acl) -> None:
        self.acl = acl
        self.answers: list[str] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        assert self.thread.ident is not None
        self.id = ctypes.c_uint64(self.thread.ident)

    def _serve(self) -> None:
        while not self.ended.is_set():
            self.answers.append(self.acl.result("aclrtProcessReport", 20))

    def end(self) -> None:
        self.ended.set()
        self.thread.join()


@pytest.mark.parametrize("blocks", [True, False])
def test_a_callback_runs_on_the_thread_that_is_subscribed(acl: Acl, gate: Gate, blocks: bool) -> None:
    stream, server = acl.stream(), Server(acl)
    acl.aclrtSubscribeReport(server.id, stream)
    assert acl.result("aclrtSubscribeReport", server.id, stream) == "RT_STREAM_SUBSCRIBE"
    ran: list[int | None] = []
    may_run = threading.Event()

    def work(_: object) -> None:
        may_run.wait()
        ran.append(threading.get_ident())

    function = HOST_FUNCTION(work)
    acl.aclrtLaunchCallback(function, None, int(blocks), stream)
    if blocks:
        assert status(acl, stream) == NOT_READY
    else:
        acl.aclrtSynchronizeStream(stream)
    may_run.set()
    acl.aclrtSynchronizeStream(stream)
    while not ran:
        pass
    assert ran == [server.thread.ident]
    acl.aclrtUnSubscribeReport(server.id, stream)
    assert acl.result("aclrtUnSubscribeReport", server.id, stream) == "RT_THREAD_SUBSCRIBE"
    server.end()
    assert acl.result("aclrtProcessReport", 1) == "RT_THREAD_SUBSCRIBE"  # as the server, if it asked once more
    assert {"SUCCESS"} <= set(server.answers) <= {"SUCCESS", "RT_THREAD_SUBSCRIBE", "RT_REPORT_TIMEOUT"}


def test_a_callback_needs_a_thread(acl: Acl) -> None:
    function = HOST_FUNCTION(lambda _: None)
    assert acl.result("aclrtLaunchCallback", function, None, 1, acl.stream()) == "RT_STREAM_NO_CB_REG"


def test_sixteen_threads_share_one_device(acl: Acl) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            acl.aclrtSetDevice(0)
            stream, event = acl.stream(), acl.event()
            for turn in range(20):
                data = bytes([number + turn]) * 1000
                address = acl.malloc(1000)
                assert acl.fill_later(address, number + turn, 1000, stream) == "SUCCESS"
                acl.aclrtRecordEvent(event, stream)
                acl.aclrtStreamWaitEvent(stream, event)
                acl.aclrtSynchronizeStream(stream)
                assert acl.download(address, 1000) == data
                acl.aclrtFree(address)
            acl.aclrtDestroyEvent(event)
            acl.aclrtDestroyStream(stream)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (acl.live("bytes"), acl.live("streams"), acl.live("events")) == (0, 0, 0)
    assert acl.live("retained") == 17


def test_attributes_of_a_stream_are_kept(acl: Acl) -> None:
    stream, value = acl.stream(), ctypes.c_uint64(7)
    acl.aclrtSetStreamAttribute(stream, 3, ctypes.byref(value))
    assert acl.result("aclrtSetStreamAttribute", stream, 4, ctypes.byref(value)) == "RT_PARAM_INVALID"
    assert acl.result("aclrtSetStreamAttribute", stream, 9, ctypes.byref(value)) == "RT_PARAM_INVALID"
    assert acl.told("aclrtGetStreamAttribute", stream, 3) == 7
    value.value = 1
    acl.aclrtSetStreamAttribute(stream, 2, ctypes.byref(value))
    assert acl.told("aclrtGetStreamOverflowSwitch", stream) == 1
    assert acl.told("aclrtGetStreamAttribute", stream, 1) == 0
    acl.aclrtSetStreamAttribute(stream, 1, ctypes.byref(value))
    assert acl.told("aclrtGetStreamAttribute", stream, 1) == 1
    value.value = 0
    assert acl.result("aclrtSetStreamFailureMode", stream, value) == "RT_FEATURE_NOT_SUPPORT"
