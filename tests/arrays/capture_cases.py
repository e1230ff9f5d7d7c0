"""What test_streams.py runs in a process of its own too: streams that another library captures into a graph of its own.

Wherever something must not be let go of, the case looks before the graph could run without it.
"""

from __future__ import annotations

import ctypes
import gc
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import stand_in
from harness import DEVICE, ZEROS, case, double, launch, made, main, values

import unify as un
from unify import ops

MIB = 1 << 20


def wrapped() -> tuple[stand_in.ForeignStream, un.Stream]:
    foreign = stand_in.ForeignStream()
    return foreign, un.Stream.from_native(foreign, DEVICE)


def settle() -> None:
    """Everything that nobody holds any more has ended."""
    gc.collect()
    DEVICE.synchronize()
    un.memory_statistics(DEVICE)


def wait_until(is_done: Callable[[], bool]) -> None:
    latest = time.monotonic() + 60
    while not is_done():
        settle()
        assert time.monotonic() < latest


def allocated() -> int:
    settle()
    return un.memory_statistics(DEVICE).allocated_bytes


@case
def a_graph_that_a_library_records_takes_our_work_in() -> None:
    for library in made(stand_in.torch, stand_in.torch_by_table, stand_in.cupy):
        x, out, ours = library.array([1.0] * 4), library.array(ZEROS), un.zeros(4, device=DEVICE)
        weight = library.array([2.0] * 4)
        launch(x, out)
        normal = ops.rms_norm(library.array([[3.0] * 4]), weight)
        DEVICE.synchronize()
        rows = library.array([[3.0] * 4])
        with library.stream.captured() as graph:
            launch(x, out)
            launch(out, ours)
            temporary = un.asarray(x).copy()
            result = ops.rms_norm(rows, weight)
        del temporary
        library.stream.fill(x, 5)
        graph.launch()
        library.stream.synchronize()
        assert values(out) == [10] * 4, values(out)
        assert ours.tolist() == [20] * 4
        assert result.numpy().tolist() == normal.numpy().tolist()
        launch(x, ours)  # as ever
        assert values(x) == [5] * 4


@case
def a_host_call_runs_at_each_launch_of_the_graph_and_ends_with_it() -> None:
    foreign, stream = wrapped()
    calls = []

    def call() -> None:
        calls.append(1)

    alive = weakref.ref(call)
    with foreign.captured() as graph:
        stream.host_call(call)
    del call
    for count in range(1, 4):
        assert alive() is not None
        graph.launch()
        foreign.synchronize()
        settle()
        assert len(calls) == count
    graph.destroy()
    wait_until(lambda: alive() is None)


@case
def memory_of_an_operators_own_lives_as_long_as_the_graph() -> None:
    foreign, stream = wrapped()
    random = np.random.default_rng(0)

    def some(*shape: int) -> un.Tensor:
        return un.asarray(random.standard_normal(shape).astype(np.float32), device=DEVICE, copy=True)

    query, keys, values_ = some(1, 2, 32), some(4, 16, 2, 32), some(4, 16, 2, 32)
    table = un.asarray(np.arange(4, dtype=np.int32)[None], device=DEVICE, copy=True)
    lengths = un.asarray(np.array([60], np.int32), device=DEVICE, copy=True)
    with stream:
        wanted = ops.paged_attention(query, keys, values_, table, lengths, splits=4)
    stream.synchronize()
    before = allocated()
    with foreign.captured() as graph, stream:
        out = ops.paged_attention(query, keys, values_, table, lengths, splits=4)
    settle()
    with stream:
        mine = [un.zeros(256, un.float32, DEVICE) for _ in range(8)]  # would get what the graph still writes to
    stream.synchronize()
    graph.launch()
    foreign.synchronize()
    np.testing.assert_array_equal(out.numpy(), wanted.numpy())
    assert not any(tensor.numpy().any() for tensor in mine)
    graph.destroy()
    del mine, out
    wait_until(lambda: allocated() == before)


@case
def what_copies_and_fills_stage_lives_as_long_as_the_graph() -> None:
    foreign, stream = wrapped()
    x, wide = un.zeros(MIB, un.float32, DEVICE), un.zeros(MIB, un.int64, DEVICE)
    x[1:].copy_(x[:-1], stream=stream)  # compiles
    stream.synchronize()
    before = allocated()
    with foreign.captured() as graph:
        x[1:].copy_(x[:-1], stream=stream)  # they overlap: by way of memory of the core's
        wide.fill_(5 << 40, stream=stream)  # no fill has eight bytes: a copy of filled memory
    kept = allocated() - before
    assert kept >= 4 * (MIB - 1), kept
    with stream:
        mine = un.full(MIB, 9.0, un.float32, DEVICE)
    x.copy_(np.arange(MIB, dtype=np.float32))
    DEVICE.synchronize()
    graph.launch()
    foreign.synchronize()
    assert (mine.numpy() == 9).all()
    assert x[:3].tolist() == [0, 0, 1]
    assert (wide.numpy() == 5 << 40).all()
    graph.destroy()
    del mine
    wait_until(lambda: allocated() == before)


@case
def tensors_and_arrays_live_as_long_as_the_graph() -> None:
    foreign, stream = wrapped()
    cupy = stand_in.cupy()
    x, array, out = un.ones(4, device=DEVICE), cupy.array([3.0] * 4), un.zeros(4, device=DEVICE)
    launch(x, out, stream=stream)  # compiles
    settle()
    before = allocated()
    with foreign.captured() as graph:
        launch(x, out, stream=stream)
        launch(array, out, stream=stream)
    del x, array
    assert allocated() == before
    filled = [un.full(4, 100.0, device=DEVICE) for _ in range(4)]
    graph.launch()
    foreign.synchronize()
    assert out.tolist() == [6] * 4
    graph.destroy()
    del filled
    wait_until(lambda: allocated() < before)


@case
def a_module_lives_as_long_as_the_graph() -> None:
    foreign, stream = wrapped()
    x, out = un.ones(4, device=DEVICE), un.zeros(4, device=DEVICE)
    launch(x, out)
    function = un.Module.from_binary(double.binaries[0], DEVICE).function()
    with foreign.captured() as graph:
        function[(1,)](x, out, 4, stream=stream)
    del function
    settle()
    out.fill_(0)
    DEVICE.synchronize()
    graph.launch()
    foreign.synchronize()
    assert out.tolist() == [2] * 4


@case
def a_capture_that_fails_lets_go_of_what_it_took() -> None:
    foreign, stream = wrapped()
    x, out = un.ones(MIB, device=DEVICE), un.zeros(4, device=DEVICE)
    launch(x, out, stream=stream)
    stream.synchronize()
    before = allocated()
    with pytest.raises(AssertionError, match="cuStreamEndCapture"), foreign.captured():
        launch(x, out, stream=stream)
        del x
        assert stand_in.driver._library.cuStreamSynchronize(ctypes.c_void_p(foreign.ptr)) != 0
    wait_until(lambda: allocated() <= before - 4 * MIB)


@case
def work_from_before_a_capture_still_holds_its_memory() -> None:
    for count in (1, 1 << 20):  # of a segment that others use, and one of its own
        foreign, stream = wrapped()
        x = un.zeros((4, count), un.uint8, DEVICE)
        DEVICE.synchronize()
        address = x.address
        gate = foreign.hold()
        x.fill_(1, stream=stream)
        with foreign.captured(2):
            del x
            gc.collect()
            y = un.empty((4, count), un.uint8, DEVICE)
            assert y.address != address
        gate.set()
        foreign.synchronize()
        wait_until(lambda a=address, n=count: un.empty((4, n), un.uint8, DEVICE).address == a)  # type: ignore[misc]


@case
def free_memory_of_a_stream_is_nobody_elses_while_it_is_captured() -> None:
    foreign, stream = wrapped()
    x = un.empty(40 * MIB, un.uint8, DEVICE, stream=stream)
    address = x.address
    gate = foreign.hold()
    x.fill_(1, stream=stream)
    del x
    with foreign.captured(2):
        y = un.empty(40 * MIB, un.uint8, DEVICE)
        z = un.empty(40 * MIB, un.uint8, DEVICE, stream=stream)  # runs with the graph, whenever that is
        assert address not in (y.address, z.address)
    gate.set()
    foreign.synchronize()


@case
def running_out_of_memory_ends_while_a_capture_holds_some() -> None:
    foreign, stream = wrapped()
    settle()
    un.trim_memory(DEVICE)
    x = un.zeros(100 * MIB, un.uint8, DEVICE)
    DEVICE.synchronize()
    x.fill_(1, stream=stream)
    un.set_memory_limit(un.memory_statistics(DEVICE).reserved_bytes + MIB, DEVICE)
    try:
        with foreign.captured(2):
            del x
            with pytest.raises(un.OutOfMemory):
                un.empty(100 * MIB, un.uint8, DEVICE)
    finally:
        un.set_memory_limit(0, DEVICE)


@case
def both_streams_of_one_capture_are_ordered_by_wait() -> None:
    (first, a), (second, b) = wrapped(), wrapped()
    x, y = un.zeros(4, device=DEVICE), un.zeros(4, device=DEVICE)
    launch(x, y)
    DEVICE.synchronize()
    with first.captured() as graph:
        stand_in.order(second.ptr, first.ptr)  # the library forks
        x.fill_(1, stream=b)
        a.wait(b)
        launch(x, y, stream=a)
    graph.launch()
    first.synchronize()
    assert y.tolist() == [2] * 4


@case
def both_streams_of_one_capture_are_ordered_by_what_uses_arrays_on_both() -> None:
    torch, cupy = stand_in.torch(), stand_in.cupy()
    x, out = torch.array(ZEROS), cupy.array(ZEROS)
    launch(x, out)
    DEVICE.synchronize()
    with torch.stream.captured() as graph:
        stand_in.order(cupy.stream.ptr, torch.stream.ptr)
        cupy.stream.fill(out, 9)
        torch.stream.fill(x, 1)
        launch(x, out)  # joins, or the capture could not end
    graph.launch()
    torch.stream.synchronize()
    assert values(out) == [2] * 4


@case
def a_stream_of_ours_that_waits_for_a_captured_one_is_drawn_in() -> None:
    foreign, stream = wrapped()
    ours, x, y = un.Stream(DEVICE), un.zeros(4, device=DEVICE), un.zeros(4, device=DEVICE)
    launch(x, y)
    DEVICE.synchronize()
    with foreign.captured() as graph:
        x.fill_(2, stream=stream)
        ours.wait(stream)
        launch(x, y, stream=ours)
        temporary = un.full(4, 3.0, device=DEVICE, stream=ours)
        x.copy_(temporary, stream=ours)
        del temporary
        settle()
        stream.wait(ours.record())
    assert (x.tolist(), y.tolist()) == ([0] * 4, [0] * 4)
    graph.launch()
    foreign.synchronize()
    assert (x.tolist(), y.tolist()) == ([3] * 4, [4] * 4)
    x.fill_(7, stream=ours)  # as ever
    ours.synchronize()
    assert x.tolist() == [7] * 4


@case
def work_outside_of_a_capture_has_no_order_with_it() -> None:
    for library in made(stand_in.torch, stand_in.cupy):
        x, ours = library.array([1.0] * 4), un.zeros(4, device=DEVICE)
        launch(x, ours)
        DEVICE.synchronize()
        with library.stream.captured() as graph:
            launch(x, ours)  # our current stream is not drawn in
            ours.fill_(9)
            DEVICE.current_stream.synchronize()
        assert ours.tolist() == [9] * 4
        graph.launch()
        library.stream.synchronize()
        assert ours.tolist() == [2] * 4


@case
def the_legacy_stream_is_left_alone_while_a_stream_that_blocks_is_captured() -> None:
    foreign = stand_in.ForeignStream(flags=0)  # as CuPy makes them
    legacy = un.Stream.from_native(0, DEVICE)
    x = un.zeros(4 * MIB, un.uint8, DEVICE)
    DEVICE.synchronize()
    gate = stand_in.hold(legacy)
    x.fill_(1, stream=legacy)
    with foreign.captured(2) as graph:
        del x
        gc.collect()
        y = un.empty(4 * MIB, un.uint8, DEVICE)
        y.fill_(2)
        DEVICE.current_stream.synchronize()
        with pytest.raises(un.errors.UnsupportedError, match="legacy stream"):
            y.fill_(3, stream=legacy)
        gate.set()
        DEVICE.synchronize()
    graph.launch()
    foreign.synchronize()
    legacy.synchronize()
    assert set(y.numpy().tolist()) == {2}
    DEVICE.synchronize()


@case
def a_shared_event_is_not_captured() -> None:
    foreign, stream = wrapped()
    event = un.Event(DEVICE, shared=True)
    refused = pytest.raises(un.errors.GraphError, match="cannot record a shared event into a graph")
    with foreign.captured() as graph, refused:
        event.record(stream)
    graph.launch()
    foreign.synchronize()
    event.record(stream)
    event.synchronize()


@case
def a_copy_that_the_host_would_have_to_wait_for_is_refused_before_it_is_captured() -> None:
    foreign, stream = wrapped()
    x = un.zeros(4, device=DEVICE)
    DEVICE.synchronize()
    with foreign.captured() as graph, stream:
        with pytest.raises(un.errors.GraphError, match="stream="):
            x.copy_(np.ones(4, np.float32))
        with pytest.raises(un.errors.GraphError, match="stream="):
            x.numpy()
        with pytest.raises(un.errors.GraphError, match="stream="):
            x.to("cpu")
    graph.launch()
    foreign.synchronize()
    assert x.tolist() == [0] * 4


if __name__ == "__main__":
    main()
