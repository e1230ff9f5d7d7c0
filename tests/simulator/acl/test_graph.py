"""Captures and graphs: what is recorded, what forbids it, and what runs again."""

from __future__ import annotations

import ctypes
import struct
import threading

import pytest

from .driver import D2D, H2D, SYNC, Acl, image, words

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
NONE, ACTIVE, INVALIDATED = range(3)
ADD = "((float*)args[3])[i] += *(float*)&args[4];"


@pytest.fixture
def add(acl: Acl) -> int:
    return acl.function(image("add", ADD, ("*fp32", "fp32")), "add")


def amount(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")


def info(acl: Acl, stream: int) -> tuple[int, int]:
    status, graph = ctypes.c_int(), ctypes.c_uint64()
    acl.aclmdlRICaptureGetInfo(stream, ctypes.byref(status), ctypes.byref(graph))
    return status.value, graph.value


def refused(acl: Acl, stream: int) -> str:
    graph = ctypes.c_uint64(7)
    name = acl.result("aclmdlRICaptureEnd", stream, ctypes.byref(graph))
    assert graph.value == 0
    return name


def test_what_is_captured_runs_at_each_launch(acl: Acl, add: int) -> None:
    stream, data = acl.stream(), acl.upload(bytes(16))
    source = acl.upload(struct.pack("<4f", 1, 2, 3, 4))
    assert info(acl, stream)[0] == NONE
    acl.aclmdlRICaptureBegin(stream, GLOBAL)
    status, early = info(acl, stream)
    assert (status, acl.result("aclmdlRIExecuteAsync", early, acl.stream())) == (ACTIVE, "RT_MODEL_CAPTURED")
    assert acl.copy_later(data, source, 16, D2D, stream) == "SUCCESS"
    acl.launch(add, words(data, amount(0.5)), 4, stream)
    acl.launch(add, words(source, amount(1)), 4, stream)
    graph = acl.told("aclmdlRICaptureEnd", stream)
    assert graph == early
    assert acl.download(data, 16) == bytes(16)
    for _ in range(2):
        acl.aclmdlRIExecuteAsync(graph, stream)
    acl.aclrtSynchronizeStream(stream)
    assert struct.unpack("<4f", acl.download(data, 16)) == (2.5, 3.5, 4.5, 5.5)
    acl.aclmdlRIExecute(graph, -1)
    assert struct.unpack("<4f", acl.download(data, 16)) == (3.5, 4.5, 5.5, 6.5)
    acl.aclmdlRIDestroy(graph)
    assert acl.result("aclmdlRIExecuteAsync", graph, stream) == "RT_PARAM_INVALID"
    assert acl.live("graph_execs") == 0


def test_events_fork_and_join_a_capture(acl: Acl, add: int) -> None:
    main, side, fork, join, data = acl.stream(), acl.stream(), acl.event(), acl.event(), acl.upload(bytes(8))
    acl.aclmdlRICaptureBegin(main, GLOBAL)
    acl.aclrtRecordEvent(fork, main)
    acl.aclrtStreamWaitEvent(side, fork)
    acl.launch(add, words(data + 4, amount(2)), 1, side)
    acl.launch(add, words(data, amount(1)), 1, main)
    acl.aclrtRecordEvent(join, side)
    acl.aclrtStreamWaitEvent(main, join)
    graph = acl.told("aclmdlRICaptureEnd", main)
    acl.aclrtSynchronizeStream(side)  # it has left the capture
    acl.aclmdlRIExecuteAsync(graph, main)
    acl.aclrtSynchronizeStream(main)
    assert struct.unpack("<2f", acl.download(data, 8)) == (1, 2)


def test_a_fork_that_is_not_joined_is_refused(acl: Acl, add: int) -> None:
    main, side, fork, data = acl.stream(), acl.stream(), acl.event(), acl.upload(bytes(8))
    acl.aclmdlRICaptureBegin(main, GLOBAL)
    acl.aclrtRecordEvent(fork, main)
    acl.aclrtStreamWaitEvent(side, fork)
    acl.launch(add, words(data, amount(2)), 1, side)
    assert refused(acl, main) == "RT_STREAM_UNJOINED"
    assert acl.live("graph_execs") == 0


QUESTIONS = ["aclrtSynchronizeStream", "aclrtStreamQuery", "aclrtSynchronizeDevice"]
QUESTIONS += ["aclrtSynchronizeEvent", "aclrtQueryEventStatus"]


@pytest.mark.parametrize("call", QUESTIONS)
def test_what_is_captured_is_neither_waited_for_nor_asked_or_the_capture_fails(acl: Acl, call: str) -> None:
    stream, event = acl.stream(), acl.event()
    acl.aclmdlRICaptureBegin(stream, RELAXED)
    acl.aclrtRecordEvent(event, stream)
    handle = [] if "Device" in call else [event] if "Event" in call else [stream]
    out = [ctypes.byref(ctypes.c_int())] if "Query" in call else []
    assert acl.result(call, *handle, *out) == ("RT_EVENT_CAPTURED" if "Event" in call else "RT_STREAM_CAPTURED")
    assert info(acl, stream)[0] == INVALIDATED
    assert refused(acl, stream) == "RT_STREAM_CAPTURE_INVALIDATED"


def test_a_captured_stream_is_not_destroyed(acl: Acl) -> None:
    stream = acl.stream()
    acl.aclmdlRICaptureBegin(stream, RELAXED)
    assert acl.result("aclrtDestroyStream", stream) == "RT_STREAM_CAPTURED"
    assert info(acl, stream)[0] == ACTIVE
    acl.told("aclmdlRICaptureEnd", stream)


def test_a_graph_that_runs_on_is_not_destroyed_after_ten_seconds(acl: Acl) -> None:
    stream, data = acl.stream(), acl.upload(bytes(16))
    acl.aclmdlRICaptureBegin(stream, RELAXED)
    assert acl.fill_later(data, 1, 16, stream) == "SUCCESS"
    graph = acl.told("aclmdlRICaptureEnd", stream)
    acl.fail("aclmdlRIExecuteAsync:0:hang")
    acl.aclmdlRIExecuteAsync(graph, stream)
    assert acl.result("aclmdlRIDestroy", graph) == "RT_MODEL_RUNNING"
    acl.library.unify_simulator_release(0)
    acl.aclrtSynchronizeStream(stream)
    acl.aclmdlRIDestroy(graph)


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
@pytest.mark.parametrize("is_other_thread", [False, True])
def test_the_mode_says_whose_unsafe_calls_are_refused(acl: Acl, mode: int, is_other_thread: bool) -> None:
    stream, data, host = acl.stream(), acl.malloc(16), ctypes.create_string_buffer(16)
    answers: list[str] = []
    size = ctypes.c_size_t(16)

    def copy() -> None:
        acl.aclrtSetDevice(0)
        answers.append(acl.result("aclrtMemcpy", data, size, host, size, H2D))
        answers.append(acl.result("aclrtMalloc", ctypes.byref(ctypes.c_uint64()), size, 0))

    acl.aclmdlRICaptureBegin(stream, mode)
    if is_other_thread:
        thread = threading.Thread(target=copy)
        thread.start()
        thread.join()
    else:
        copy()
    is_refused = mode == GLOBAL or (mode == THREAD_LOCAL and not is_other_thread)
    assert answers == ["RT_CAPTURE_MODE_NOT_SUPPORT" if is_refused else "SUCCESS", "SUCCESS"]
    acl.told("aclmdlRICaptureEnd", stream)


def test_a_thread_can_lift_the_ban_for_itself(acl: Acl) -> None:
    stream, data, size = acl.stream(), acl.malloc(16), ctypes.c_size_t(16)
    acl.aclmdlRICaptureBegin(stream, GLOBAL)
    mode = ctypes.c_uint(RELAXED)
    acl.aclmdlRICaptureThreadExchangeMode(ctypes.byref(mode))
    assert mode.value == GLOBAL
    acl.aclrtMemcpy(data, size, bytes(16), size, H2D)
    acl.aclmdlRICaptureThreadExchangeMode(ctypes.byref(mode))
    assert acl.result("aclrtMemset", data, size, 1, size) == "RT_CAPTURE_MODE_NOT_SUPPORT"
    acl.told("aclmdlRICaptureEnd", stream)


def test_memory_that_can_be_moved_away_is_not_copied_in_a_capture(acl: Acl) -> None:
    stream, data, host = acl.stream(), acl.malloc(16), ctypes.create_string_buffer(16)
    pinned = acl.pinned(16)
    acl.aclmdlRICaptureBegin(stream, GLOBAL)
    assert acl.copy_later(data, ctypes.addressof(host), 16, H2D, stream) == "RT_CAPTURE_MODE_BLOCK_ASYNC"
    assert acl.copy_later(data, pinned, 16, H2D, stream) == "SUCCESS"
    acl.told("aclmdlRICaptureEnd", stream)


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
def test_a_capture_ends_on_its_thread(acl: Acl, mode: int) -> None:
    stream, answers = acl.stream(), []

    def end_there() -> None:
        acl.aclrtSetDevice(0)
        answers.append(acl.result("aclmdlRICaptureEnd", stream, ctypes.byref(ctypes.c_uint64())))

    acl.aclmdlRICaptureBegin(stream, mode)
    thread = threading.Thread(target=end_there)
    thread.start()
    thread.join()
    assert answers == ["SUCCESS" if mode == RELAXED else "RT_STREAM_CAPTURE_WRONG_THREAD"]
    assert info(acl, stream)[0] == NONE


def test_a_capture_is_begun_once_and_not_on_the_default_stream(acl: Acl) -> None:
    assert acl.result("aclmdlRICaptureBegin", None, GLOBAL) == "RT_PARAM_INVALID"
    default = acl.made("aclrtCtxGetCurrentDefaultStream")
    assert acl.result("aclmdlRICaptureBegin", default, GLOBAL) == "RT_STREAM_CAPTURE_IMPLICIT"
    stream = acl.stream()
    assert acl.result("aclmdlRICaptureBegin", stream, 3) == "RT_PARAM_INVALID"
    assert refused(acl, stream) == "RT_STREAM_NOT_CAPTURED"
    acl.aclmdlRICaptureBegin(stream, GLOBAL)
    assert acl.result("aclmdlRICaptureBegin", stream, GLOBAL) == "RT_STREAM_CAPTURED"
    acl.told("aclmdlRICaptureEnd", stream)


def test_a_joined_stream_cannot_end_the_capture(acl: Acl) -> None:
    main, side, fork = acl.stream(), acl.stream(), acl.event()
    acl.aclmdlRICaptureBegin(main, GLOBAL)
    acl.aclrtRecordEvent(fork, main)
    acl.aclrtStreamWaitEvent(side, fork)
    assert refused(acl, side) == "RT_STREAM_CAPTURE_UNMATCHED"
    acl.told("aclmdlRICaptureEnd", main)


def test_a_capture_waits_for_nothing_outside_of_it(acl: Acl) -> None:
    stream, outside, fresh = acl.stream(), acl.event(), acl.event()
    acl.aclrtRecordEvent(outside, acl.stream())
    acl.aclmdlRICaptureBegin(stream, GLOBAL)
    acl.aclrtStreamWaitEvent(stream, fresh)
    assert acl.result("aclrtStreamWaitEvent", stream, outside) == "RT_CAPTURE_DEPENDENCY"
    old = acl.made("aclrtCreateEventWithFlag", SYNC)
    assert acl.result("aclrtRecordEvent", old, stream) == "RT_FEATURE_NOT_SUPPORT"
    acl.told("aclmdlRICaptureEnd", stream)


def test_two_captures_do_not_merge(acl: Acl) -> None:
    first, second, event = acl.stream(), acl.stream(), acl.event()
    acl.aclmdlRICaptureBegin(first, RELAXED)
    acl.aclmdlRICaptureBegin(second, RELAXED)
    acl.aclrtRecordEvent(event, first)
    assert acl.result("aclrtStreamWaitEvent", second, event) == "STREAM_CAPTURE_CONFLICT"
    assert info(acl, first)[0] == info(acl, second)[0] == INVALIDATED
    assert refused(acl, first) == refused(acl, second) == "RT_STREAM_CAPTURE_INVALIDATED"


def test_the_default_stream_does_not_join_a_capture(acl: Acl) -> None:
    stream, event = acl.stream(), acl.event()
    acl.aclmdlRICaptureBegin(stream, RELAXED)
    acl.aclrtRecordEvent(event, stream)
    assert acl.result("aclrtStreamWaitEvent", None, event) == "RT_STREAM_CAPTURE_IMPLICIT"
    assert refused(acl, stream) == "RT_STREAM_CAPTURE_INVALIDATED"


def test_an_error_in_a_graph_shows_on_the_stream_that_runs_it(acl: Acl) -> None:
    stream, other, data = acl.stream(), acl.stream(), acl.malloc(16)
    acl.aclmdlRICaptureBegin(stream, GLOBAL)
    assert acl.fill_later(data, 0, 16, stream) == "SUCCESS"
    graph = acl.told("aclmdlRICaptureEnd", stream)
    acl.aclrtFree(data)
    acl.aclmdlRIExecuteAsync(graph, other)
    assert acl.result("aclrtSynchronizeStream", other) == "RT_SYS_DMA"
    acl.aclrtSynchronizeStream(stream)
    acl.aclmdlRIDestroy(graph)


def test_a_graph_can_be_looked_at(acl: Acl, add: int, capfd: pytest.CaptureFixture[str]) -> None:
    stream, data = acl.stream(), acl.malloc(16)
    acl.aclmdlRICaptureBegin(stream, GLOBAL)
    acl.launch(add, words(data, amount(1)), 1, stream)
    acl.fill_later(data, 0, 16, stream)
    graph = acl.told("aclmdlRICaptureEnd", stream)
    acl.aclmdlRIDebugPrint(graph)
    assert "task 0: kernel add" in (text := capfd.readouterr().err)
    assert "task 1: fill" in text
    assert acl.told("aclmdlRIGetId", graph) >= 0
