"""Captures and graphs: what is recorded, what forbids it, and what runs again."""

from __future__ import annotations

import ctypes
import struct
import threading
import time

import pytest

from .driver import HOST_FUNCTION, CudaError, Driver, image, words

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
ADD = "((float*)args[0])[i] += *(float*)&args[1];"


@pytest.fixture
def add(driver: Driver) -> int:
    return driver.function(image("add", ADD, ("*fp32", "fp32")), "add")


def amount(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")


def end(driver: Driver, stream: int) -> int:
    graph = ctypes.c_uint64()
    driver.cuStreamEndCapture(stream, ctypes.byref(graph))
    return graph.value


def refused(driver: Driver, stream: int) -> str:
    graph = ctypes.c_uint64(7)
    name = driver.result("cuStreamEndCapture", stream, ctypes.byref(graph))
    assert graph.value == 0
    return name


def instantiate(driver: Driver, graph: int) -> int:
    return driver.made("cuGraphInstantiateWithFlags", graph, ctypes.c_uint64(0))


def test_what_is_captured_runs_at_each_launch(driver: Driver, add: int) -> None:
    stream, data = driver.stream(), driver.upload(bytes(16))
    source = driver.upload(struct.pack("<4f", 1, 2, 3, 4))
    driver.cuStreamBeginCapture(stream, GLOBAL)
    driver.cuMemcpyAsync(data, source, 16, stream)
    driver.launch(add, words(data, amount(0.5)), 4, stream)
    driver.launch(add, words(source, amount(1)), 4, stream)
    graph = end(driver, stream)
    assert driver.download(data, 16) == bytes(16)
    executable = instantiate(driver, graph)
    driver.cuGraphDestroy(graph)
    for _ in range(2):
        driver.cuGraphLaunch(executable, stream)
    assert struct.unpack("<4f", driver.download(data, 16, stream)) == (2.5, 3.5, 4.5, 5.5)
    driver.cuGraphExecDestroy(executable)
    assert driver.result("cuGraphLaunch", executable, stream) == "CUDA_ERROR_INVALID_VALUE"
    assert (driver.live("graphs"), driver.live("graph_execs")) == (0, 0)


def test_events_fork_and_join_a_capture(driver: Driver, add: int) -> None:
    main, side, fork, join = driver.stream(), driver.stream(), driver.event(), driver.event()
    data = driver.upload(bytes(8))
    driver.cuStreamBeginCapture(main, GLOBAL)
    driver.cuEventRecord(fork, main)
    driver.cuStreamWaitEvent(side, fork, 0)
    driver.launch(add, words(data + 4, amount(2)), 1, side)
    driver.launch(add, words(data, amount(1)), 1, main)
    driver.cuEventRecord(join, side)
    driver.cuStreamWaitEvent(main, join, 0)
    graph = end(driver, main)
    driver.cuStreamSynchronize(side)  # it has left the capture
    executable = instantiate(driver, graph)
    driver.cuGraphLaunch(executable, main)
    assert struct.unpack("<2f", driver.download(data, 8, main)) == (1, 2)


def test_a_fork_that_is_not_joined_is_refused(driver: Driver, add: int) -> None:
    main, side, fork, data = driver.stream(), driver.stream(), driver.event(), driver.upload(bytes(8))
    driver.cuStreamBeginCapture(main, GLOBAL)
    driver.cuEventRecord(fork, main)
    driver.cuStreamWaitEvent(side, fork, 0)
    driver.launch(add, words(data, amount(2)), 1, side)
    assert refused(driver, main) == "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("cuStreamSynchronize", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"),
        ("cuStreamQuery", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"),
        ("cuEventQuery", "CUDA_ERROR_CAPTURED_EVENT"),
        ("cuEventSynchronize", "CUDA_ERROR_CAPTURED_EVENT"),
    ],
)
def test_waiting_for_what_is_captured_ends_the_capture(driver: Driver, call: str, name: str) -> None:
    stream, event = driver.stream(), driver.event()
    driver.cuStreamBeginCapture(stream, RELAXED)
    driver.cuEventRecord(event, stream)
    assert driver.result(call, event if "Event" in call else stream) == name
    assert driver.result("cuMemsetD8Async", driver_memory(driver), 0, 1, stream) == (
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    )
    assert refused(driver, stream) == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    driver.cuStreamSynchronize(stream)


def driver_memory(driver: Driver) -> int:
    return driver.made("cuMemAlloc", 16)


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
@pytest.mark.parametrize("is_other_thread", [False, True])
def test_the_mode_says_whose_unsafe_calls_are_refused(driver: Driver, mode: int, is_other_thread: bool) -> None:
    stream, context = driver.stream(), driver.made("cuCtxGetCurrent")
    answers: list[str] = []

    def allocate() -> None:
        driver.cuCtxSetCurrent(context)
        answers.append(driver.result("cuMemAlloc", ctypes.byref(ctypes.c_uint64()), 16))

    driver.cuStreamBeginCapture(stream, mode)
    if is_other_thread:
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()
    else:
        allocate()
    if mode == GLOBAL or (mode == THREAD_LOCAL and not is_other_thread):
        assert answers == ["CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"]
        assert refused(driver, stream) == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    else:
        assert answers == ["CUDA_SUCCESS"]
        end(driver, stream)


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
def test_a_capture_ends_on_its_thread(driver: Driver, mode: int) -> None:
    stream, context = driver.stream(), driver.made("cuCtxGetCurrent")
    answers: list[str] = []

    def end_there() -> None:
        driver.cuCtxSetCurrent(context)
        answers.append(driver.result("cuStreamEndCapture", stream, ctypes.byref(ctypes.c_uint64())))

    driver.cuStreamBeginCapture(stream, mode)
    thread = threading.Thread(target=end_there)
    thread.start()
    thread.join()
    if mode == RELAXED:
        assert answers == ["CUDA_SUCCESS"]
    else:
        assert answers == ["CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"]
        end(driver, stream)


def test_a_capture_is_begun_once_and_not_on_the_legacy_stream(driver: Driver) -> None:
    assert driver.result("cuStreamBeginCapture", 0, GLOBAL) == "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    stream = driver.stream()
    assert driver.result("cuStreamBeginCapture", stream, 3) == "CUDA_ERROR_INVALID_VALUE"
    assert refused(driver, stream) == "CUDA_ERROR_ILLEGAL_STATE"
    driver.cuStreamBeginCapture(stream, GLOBAL)
    assert driver.result("cuStreamBeginCapture", stream, GLOBAL) == "CUDA_ERROR_ILLEGAL_STATE"
    end(driver, stream)


def test_a_joined_stream_cannot_end_the_capture(driver: Driver) -> None:
    main, side, fork = driver.stream(), driver.stream(), driver.event()
    driver.cuStreamBeginCapture(main, GLOBAL)
    driver.cuEventRecord(fork, main)
    driver.cuStreamWaitEvent(side, fork, 0)
    assert refused(driver, side) == "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED"
    end(driver, main)


def test_a_capture_waits_for_nothing_outside_of_it(driver: Driver) -> None:
    stream, event = driver.stream(), driver.event()
    driver.cuEventRecord(event, driver.stream())
    driver.cuStreamBeginCapture(stream, GLOBAL)
    assert driver.result("cuStreamWaitEvent", stream, event, 0) == "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"
    assert refused(driver, stream) == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"


def test_two_captures_do_not_merge(driver: Driver) -> None:
    first, second, event = driver.stream(), driver.stream(), driver.event()
    driver.cuStreamBeginCapture(first, RELAXED)
    driver.cuStreamBeginCapture(second, RELAXED)
    driver.cuEventRecord(event, first)
    assert driver.result("cuStreamWaitEvent", second, event, 0) == "CUDA_ERROR_STREAM_CAPTURE_MERGE"
    assert refused(driver, first) == refused(driver, second) == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"


def test_the_legacy_stream_does_not_touch_a_capture_of_a_blocking_stream(driver: Driver) -> None:
    stream, data = driver.stream(flags=0), driver.made("cuMemAlloc", 16)
    driver.cuStreamBeginCapture(stream, RELAXED)
    assert driver.result("cuMemsetD8Async", data, 0, 16, 0) == "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"
    assert refused(driver, stream) == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    other = driver.stream()
    driver.cuStreamBeginCapture(other, RELAXED)
    driver.cuMemsetD8Async(data, 0, 16, 0)
    end(driver, other)


def test_a_destroyed_stream_takes_its_capture_along(driver: Driver) -> None:
    stream = driver.stream()
    driver.cuStreamBeginCapture(stream, GLOBAL)
    driver.cuStreamDestroy(stream)
    driver.made("cuMemAlloc", 16)  # no capture forbids it any more


def test_an_update_takes_other_parameters_and_no_other_shape(driver: Driver, add: int) -> None:
    stream, data = driver.stream(), driver.upload(bytes(8))

    def captured(value: float, fills: int) -> int:
        driver.cuStreamBeginCapture(stream, GLOBAL)
        driver.launch(add, words(data, amount(value)), 1, stream)
        for _ in range(fills):
            driver.cuMemsetD8Async(data + 4, 1, 4, stream)
        return end(driver, stream)

    executable = instantiate(driver, captured(1, 0))
    info = (ctypes.c_uint64 * 3)()
    driver.cuGraphExecUpdate(executable, captured(10, 0), info)
    assert info[0] & 0xFFFFFFFF == 0
    driver.cuGraphLaunch(executable, stream)
    assert struct.unpack("<f", driver.download(data, 4, stream)) == (10,)
    with pytest.raises(CudaError, match="GRAPH_EXEC_UPDATE_FAILURE"):
        driver.cuGraphExecUpdate(executable, captured(1, 1), info)
    assert info[0] & 0xFFFFFFFF == 2
    driver.cuGraphLaunch(executable, stream)
    assert struct.unpack("<f", driver.download(data, 4, stream)) == (20,)


def test_a_graph_never_runs_beside_itself(driver: Driver) -> None:
    first, second = driver.stream(), driver.stream()
    gate, ran = threading.Event(), []
    hold = HOST_FUNCTION(lambda _: (ran.append(1), gate.wait()))
    driver.cuStreamBeginCapture(first, GLOBAL)
    driver.cuLaunchHostFunc(first, hold, None)
    executable = instantiate(driver, end(driver, first))
    driver.cuGraphLaunch(executable, first)
    driver.cuGraphLaunch(executable, second)
    while not ran:
        pass
    assert driver.result("cuStreamQuery", second) == "CUDA_ERROR_NOT_READY"
    assert ran == [1]
    gate.set()
    driver.cuCtxSynchronize()
    assert ran == [1, 1]


@pytest.mark.parametrize("call", ["cuGraphDestroy", "cuGraphExecDestroy"])
def test_unknown_graphs_are_invalid_values(driver: Driver, call: str) -> None:
    assert driver.result(call, 12345) == "CUDA_ERROR_INVALID_VALUE"


def test_a_graph_of_freed_memory_faults_when_it_runs(driver: Driver) -> None:
    stream, data = driver.stream(), driver.made("cuMemAlloc", 16)
    driver.cuStreamBeginCapture(stream, GLOBAL)
    driver.cuMemsetD8Async(data, 0, 16, stream)
    executable = instantiate(driver, end(driver, stream))
    driver.cuMemFree(data)
    driver.cuGraphLaunch(executable, stream)
    assert driver.result("cuStreamSynchronize", stream) == "CUDA_ERROR_ILLEGAL_ADDRESS"


def test_the_legacy_stream_cannot_be_asked_beside_a_capture_that_would_be_its_own(driver: Driver) -> None:
    blocking, status = driver.stream(0), ctypes.c_int()
    driver.cuStreamBeginCapture(blocking, RELAXED)
    for legacy in (0, 1):
        answer = driver.result("cuStreamIsCapturing", legacy, ctypes.byref(status))
        assert answer == "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"
    end(driver, blocking)  # CUDA driver API, cuStreamIsCapturing: the capture is not invalidated
    driver.cuStreamIsCapturing(0, ctypes.byref(status))
    assert status.value == 0


@pytest.fixture
def released() -> list[int]:
    return []


def user_object(driver: Driver, released: list[int], value: int, references: int = 1) -> int:
    function = HOST_FUNCTION(lambda user: released.append(user))
    functions.append(function)
    return driver.made("cuUserObjectCreate", value, function, references, 1)


functions: list[object] = []  # that the driver may still call


def graph_of(driver: Driver, stream: int) -> int:
    """The graph that a stream is captured into."""
    status, number, graph = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_uint64()
    driver.cuStreamGetCaptureInfo(stream, ctypes.byref(status), ctypes.byref(number), ctypes.byref(graph), None, None)
    assert status.value == (1 if graph.value else 0)
    return graph.value


def wait_for(released: list[int], values: list[int]) -> None:
    latest = time.monotonic() + 30
    while released != values:
        assert time.monotonic() < latest, released
        time.sleep(0.001)


def test_a_user_object_lives_as_long_as_its_graph_and_what_was_made_of_it(
    driver: Driver, add: int, released: list[int]
) -> None:
    stream, data = driver.stream(), driver.upload(bytes(4))
    assert graph_of(driver, stream) == 0
    driver.cuStreamBeginCapture(stream, GLOBAL)
    driver.launch(add, words(data, amount(1)), 1, stream)
    graph = graph_of(driver, stream)
    driver.cuGraphRetainUserObject(graph, user_object(driver, released, 7), 1, 1)
    assert end(driver, stream) == graph
    executables = [instantiate(driver, graph) for _ in range(2)]
    driver.cuGraphDestroy(graph)
    driver.cuGraphExecDestroy(executables[0])
    gate = threading.Event()
    function = HOST_FUNCTION(lambda _: (gate.wait(30), None)[1])
    driver.cuLaunchHostFunc(stream, function, None)
    driver.cuGraphLaunch(executables[1], stream)
    driver.cuGraphExecDestroy(executables[1])
    assert released == []
    gate.set()
    driver.cuStreamSynchronize(stream)
    wait_for(released, [7])


def test_a_user_object_is_released_with_its_last_reference(driver: Driver, released: list[int]) -> None:
    stream = driver.stream()
    held = user_object(driver, released, 8, references=2)
    driver.cuStreamBeginCapture(stream, GLOBAL)
    driver.cuGraphRetainUserObject(graph_of(driver, stream), held, 1, 0)  # a reference more
    driver.cuGraphRetainUserObject(graph_of(driver, stream), held, 1, 1)  # the caller's goes over
    driver.cuUserObjectRelease(held, 1)
    assert released == []
    driver.cuGraphDestroy(end(driver, stream))
    wait_for(released, [8])


def test_a_capture_that_became_invalid_releases_its_user_objects(driver: Driver, released: list[int]) -> None:
    stream = driver.stream()
    driver.cuStreamBeginCapture(stream, RELAXED)
    driver.cuGraphRetainUserObject(graph_of(driver, stream), user_object(driver, released, 9), 1, 1)
    driver.result("cuStreamSynchronize", stream)
    assert refused(driver, stream) == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    wait_for(released, [9])
    wrong = [(0, 1, 1), (user_object(driver, released, 10), 0, 1), (user_object(driver, released, 11), 1, 2)]
    driver.cuStreamBeginCapture(stream, RELAXED)
    for held, count, flags in wrong:
        answer = driver.result("cuGraphRetainUserObject", graph_of(driver, stream), held, count, flags)
        assert answer == "CUDA_ERROR_INVALID_VALUE"
    driver.cuGraphDestroy(end(driver, stream))
