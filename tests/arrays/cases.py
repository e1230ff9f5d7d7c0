"""What test_streams.py runs in a process of its own, which has a simulated chip: `python cases.py` prints failures.

Each case closes a stream by a host call that waits, enqueues, and looks at what came first.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import stand_in
from harness import DEVICE, ZEROS, case, double, launch, made, main, values

import unify as un
from unify import ops


@case
def the_first_op_on_a_chip_waits_for_its_end() -> None:
    torch = stand_in.torch()
    x, weight = torch.array([ZEROS]), torch.array([1.0] * 4)
    gate = torch.stream.hold()
    threading.Timer(0.2, gate.set).start()
    torch.stream.fill(x, 3)
    y = ops.rms_norm(x, weight)
    assert gate.is_set()
    assert np.allclose(y.numpy(), 1, atol=1e-5)


@case
def a_kernel_runs_between_earlier_and_later_work_of_its_arrays_stream() -> None:
    for library in made(stand_in.torch, stand_in.cupy, stand_in.torch_by_table):
        x, out, later = library.array(ZEROS), library.array(ZEROS), library.array(ZEROS)
        ours, gate = stand_in.hold(DEVICE.current_stream), library.stream.hold()
        library.stream.fill(x, 3)
        launch(x, out)
        library.stream.copy(later, out)
        gate.set()
        assert values(later) == [6] * 4, values(later)
        ours.set()
        assert library.recorded == []
        assert set(library.made_ready_for) <= {-1}
        assert library.asked > 0


@case
def a_function_runs_on_its_arrays_stream() -> None:
    library = stand_in.torch()
    x, out, later = library.array(ZEROS), library.array(ZEROS), library.array(ZEROS)
    launch(x, out)  # compiles
    function = un.Module.from_binary(double.binaries[0], DEVICE).function()
    ours, gate = stand_in.hold(DEVICE.current_stream), library.stream.hold()
    library.stream.fill(x, 4)
    function[(1,)](x, out, 4)
    library.stream.copy(later, out)
    gate.set()
    assert values(later) == [8] * 4
    ours.set()


@case
def the_first_array_decides_and_the_other_librarys_stream_comes_before_and_goes_on_after() -> None:
    torch, cupy = stand_in.torch(), stand_in.cupy()
    x, out, later = torch.array(ZEROS), cupy.array(ZEROS), cupy.array(ZEROS)
    torch_gate, cupy_gate = torch.stream.hold(), cupy.stream.hold()
    torch.stream.fill(x, 3)
    cupy.stream.fill(out, 9)  # the kernel writes over it
    launch(x, out)
    cupy.stream.copy(later, out)
    cupy_gate.set()
    assert not torch.stream.is_idle()
    assert not cupy.stream.is_idle()
    torch_gate.set()
    assert values(later) == [6] * 4, values(later)


@case
def tensors_of_ours_take_part_in_the_order_of_our_current_stream() -> None:
    torch = stand_in.torch()
    x, out, copy = torch.array([1.0] * 4), un.zeros(4, device=DEVICE), un.zeros(4, device=DEVICE)
    DEVICE.synchronize()
    ours = stand_in.hold(DEVICE.current_stream)
    out.fill_(9)  # behind the gate of our stream: comes before the kernel
    gate = torch.stream.hold()
    launch(x, out)
    copy.copy_(out)
    ours.set()
    assert not DEVICE.current_stream.is_idle
    gate.set()
    assert copy.tolist() == [2] * 4, copy.tolist()


@case
def a_named_stream_waits_for_the_librarys_which_is_told_of_the_use() -> None:
    for torch in made(stand_in.torch, stand_in.torch_by_table):
        x, out = torch.array(ZEROS), torch.array(ZEROS)
        named = un.Stream(DEVICE)
        gate = torch.stream.hold()
        torch.stream.fill(x, 3)
        launch(x, out, stream=named)
        assert not named.is_idle
        gate.set()
        named.synchronize()
        assert values(out) == [6] * 4
        assert torch.recorded == [(x.memory.address, named.native), (out.memory.address, named.native)]
        torch.recorded.clear()
        with named:
            launch(x, out)
        assert torch.recorded == [(x.memory.address, named.native), (out.memory.address, named.native)]
        torch.recorded.clear()
        with torch.on(stand_in.ForeignStream()) as stream:  # named, and current too
            launch(x, out, stream=stream)
        assert torch.recorded == []


@case
def an_array_lives_until_the_named_stream_has_passed() -> None:
    cupy = stand_in.cupy()
    x, out = cupy.array([1.0] * 4), cupy.array(ZEROS)
    named = un.Stream(DEVICE)
    gate = stand_in.hold(named)
    launch(x, out, stream=named)
    del x
    freed = un.full(4, 7.0, device=DEVICE)  # would get the block
    DEVICE.current_stream.synchronize()
    gate.set()
    named.synchronize()
    assert (values(out), freed.tolist()) == ([2] * 4, [7] * 4)


@case
def what_passed_is_let_go_of_at_the_next_launch_on_the_stream() -> None:
    torch = stand_in.torch()
    out, x = torch.array(ZEROS), torch.array([1.0] * (1 << 20))  # more than all other cases hold
    gate = torch.stream.hold()
    launch(x, out)
    del x
    assert un.memory_statistics(DEVICE).allocated_bytes > 4 << 20
    gate.set()
    torch.stream.synchronize()
    launch(out, out)
    assert un.memory_statistics(DEVICE).allocated_bytes < 4 << 20


@case
def a_librarys_stream_lives_as_long_as_work_that_we_put_there() -> None:
    cupy = stand_in.cupy()
    x, out = cupy.array([1.0] * 4), cupy.array(ZEROS)
    for _ in range(40):  # each ends with its object
        with cupy.on(stand_in.ForeignStream()):
            launch(x, out)
            assert values(out) == [2] * 4
    DEVICE.synchronize()


@case
def an_op_works_on_its_arrays_stream_and_returns_their_kind() -> None:
    for torch in made(stand_in.torch, stand_in.torch_by_table):
        x, weight, later = torch.array([ZEROS]), torch.array([1.0] * 4), torch.array([ZEROS])
        ops.rms_norm(x, weight)  # compiles
        ours, gate = stand_in.hold(DEVICE.current_stream), torch.stream.hold()
        torch.stream.fill(x, 3)
        y = ops.rms_norm(x, weight)
        assert type(y) is torch.Array
        torch.stream.copy(later, y)
        gate.set()
        assert np.allclose(later.numpy(), 1, atol=1e-5), later.numpy()
        ours.set()


@case
def an_op_on_a_named_stream_hands_its_result_to_the_librarys() -> None:
    for torch in made(stand_in.torch, stand_in.torch_by_table):
        x, weight, later = torch.array([ZEROS]), torch.array([1.0] * 4), torch.array([ZEROS])
        named = un.Stream(DEVICE)
        gate = torch.stream.hold()
        torch.stream.fill(x, 3)
        y = ops.rms_norm(x, weight, stream=named)
        assert type(y) is torch.Array
        torch.stream.copy(later, y)
        gate.set()
        assert np.allclose(later.numpy(), 1, atol=1e-5), later.numpy()
        assert {stream for _, stream in torch.recorded} >= {named.native}


@case
def a_copy_comes_between_work_of_the_librarys_stream() -> None:
    torch = stand_in.torch()
    x, out = torch.array(ZEROS), un.zeros(4, device=DEVICE)
    gate = torch.stream.hold()
    torch.stream.fill(x, 3)
    out.copy_(x)
    torch.stream.fill(x, 9)
    moved = un.asarray(x, copy=True)
    torch.stream.fill(x, 10)
    gate.set()
    assert out.tolist() == [3] * 4, out.tolist()
    assert moved.tolist() == [9] * 4, moved.tolist()
    torch.stream.synchronize()
    assert un.asarray(x).to("cpu").tolist() == [10] * 4
    assert un.asarray(x, device="cpu").tolist() == [10] * 4


@case
def an_array_that_is_taken_over_is_ready_on_our_stream_or_on_the_named_one() -> None:
    for library in made(stand_in.torch, stand_in.torch_by_table, stand_in.cupy, stand_in.unknown):
        x = library.array(ZEROS)
        for stream in (None, un.Stream(DEVICE)):
            gate = library.stream.hold()
            library.stream.fill(x, 3)
            tensor = un.from_dlpack(x, stream=stream)
            used = stream or DEVICE.current_stream
            assert not used.is_idle
            gate.set()
            with used:
                assert tensor.tolist() == [3] * 4
            library.stream.fill(x, 0)


@case
def a_library_without_a_known_stream_orders_after_its_own_by_the_standard() -> None:
    library, torch = stand_in.unknown(), stand_in.torch()
    x, out = library.array(ZEROS), library.array(ZEROS)
    gate = library.stream.hold()
    library.stream.fill(x, 3)
    launch(x, out)
    assert library.made_ready_for == [DEVICE.current_stream.native] * 2
    assert not DEVICE.current_stream.is_idle
    gate.set()
    DEVICE.synchronize()
    assert values(out) == [6] * 4
    # torch's stream is where the kernel runs, once torch takes part
    library.made_ready_for.clear()
    result = torch.array(ZEROS)
    gate = library.stream.hold()
    library.stream.fill(x, 4)
    launch(x, result)
    gate.set()
    assert values(result) == [8] * 4


@case
def the_stream_of_a_cuda_array_interface_comes_first() -> None:
    stream = stand_in.ForeignStream()
    for foreign, address in ((stream, stream.ptr), (None, None)):
        x, out = un.zeros(4, device=DEVICE), un.zeros(4, device=DEVICE)
        DEVICE.synchronize()
        array = stand_in.InterfaceArray(x, address)
        gate = stream.hold()
        stream.fill(array, 3)
        launch(array, out)
        assert DEVICE.current_stream.is_idle is (foreign is None) or foreign is None
        gate.set()
        stream.synchronize()
        if foreign is not None:
            assert out.tolist() == [6] * 4, out.tolist()
    for native in (1, 2):  # the legacy and the per-thread stream by their names
        x = un.ones(4, device=DEVICE)
        DEVICE.synchronize()
        out = un.zeros(4, device=DEVICE)
        launch(stand_in.InterfaceArray(x, native), out)
        assert out.tolist() == [2] * 4


@case
def the_stream_of_a_cuda_array_interface_goes_on_after() -> None:
    for others in (stand_in.torch, None):  # on torch's stream, or on ours
        foreign, x, later = stand_in.ForeignStream(), un.zeros(4, device=DEVICE), un.zeros(4, device=DEVICE)
        y = others().array([1.0] * 4) if others else un.ones(4, device=DEVICE)
        array = stand_in.InterfaceArray(x, foreign.ptr)
        launch(y, array)
        DEVICE.synchronize()
        x.fill_(0)
        DEVICE.synchronize()
        gate = y.library.stream.hold() if others else stand_in.hold(DEVICE.current_stream)
        launch(y, array)
        foreign.copy(stand_in.InterfaceArray(later, None), array)
        assert not foreign.is_idle()
        gate.set()
        foreign.synchronize()
        assert later.tolist() == [2] * 4, later.tolist()


@case
def an_interface_array_is_on_the_device_that_it_says() -> None:
    x = un.ones(4, device="cuda:1")
    un.synchronize("cuda:1")
    array = stand_in.InterfaceArray(x, None)
    array.device = type("Device", (), {"id": 1})()  # type: ignore[attr-defined]
    assert un.asarray(array).device.name == "cuda:1"


@case
def a_consumers_stream_comes_after_our_current_one() -> None:
    stream = stand_in.ForeignStream()
    for current in (DEVICE.current_stream, un.Stream(DEVICE)):
        with current:
            x = un.zeros(4, device=DEVICE)
            DEVICE.synchronize()
            gate = stand_in.hold(current)
            x.fill_(3)
            x.__dlpack__(stream=stream.ptr)
            assert x.__cuda_array_interface__["stream"] == current.native
            out = un.zeros(4, device=DEVICE, stream=un.Stream(DEVICE))
            stream.copy(type("A", (), {"memory": out})(), type("A", (), {"memory": x})())
            assert not stream.is_idle()
            gate.set()
            stream.synchronize()
            assert out.tolist() == [3] * 4


@case
def a_tensor_outlives_the_stream_of_a_consumer_that_nobody_knows() -> None:
    stream = stand_in.ForeignStream()
    x = un.zeros(4, device=DEVICE)
    x.__dlpack__(stream=stream.ptr)
    del stream
    gc.collect()
    del x
    DEVICE.synchronize()


@case
def memory_waits_for_the_stream_of_a_consumer_that_is_known_and_keeps_it() -> None:
    for library in made(stand_in.torch, stand_in.cupy):
        x = un.zeros(1000, device=DEVICE)
        address = x.address
        x.__dlpack__(stream=library.stream.ptr)
        gate = library.stream.hold()
        library.stream = stand_in.ForeignStream()
        gc.collect()
        del x
        assert un.empty(1000, device=DEVICE).address != address
        gate.set()
        latest = time.monotonic() + 60
        while un.empty(1000, device=DEVICE).address != address:  # once that stream has passed
            assert time.monotonic() < latest


@case
def a_stream_that_ended_after_its_work_is_not_asked_any_more() -> None:
    for library in made(stand_in.torch, stand_in.torch_by_table):  # torch knows of ExternalStreams that others end
        x, kept = library.array([1.0] * 4), un.zeros(4, device=DEVICE)
        external = stand_in.ForeignStream()
        with library.on(external):
            kept.copy_(x)
            made_there = un.asarray(x, copy=True)
            result = ops.rms_norm(library.array([[1.0] * 4]), x)
        external.synchronize()
        DEVICE.synchronize()
        del external, made_there, result
        stand_in.endless[:] = [stream for stream in stand_in.endless if stream is library.stream]
        gc.collect()
        for _ in range(2):
            un.empty(4096, device=DEVICE)
            un.trim_memory(DEVICE)
            DEVICE.current_stream.synchronize()
            DEVICE.synchronize()
            kept = un.zeros(4, device=DEVICE)


@case
def a_device_waits_for_work_of_ours_on_a_librarys_stream() -> None:
    library = stand_in.cupy()
    x, out = library.array([1.0] * 4), un.zeros(4, device=DEVICE)
    stream = un.Stream.from_native(library.stream, DEVICE)
    done: list[int] = []
    with un.Graph.capture(device=DEVICE) as graph:
        out.fill_(3)
    for enqueue in (
        lambda: launch(x, out),
        lambda: stream.host_call(lambda: done.append(1)),
        lambda: graph.launch(stream),
    ):
        gate = library.stream.hold()
        enqueue()
        threading.Timer(0.05, gate.set).start()
        DEVICE.synchronize()
        assert gate.is_set()
        assert library.stream.is_idle()
    assert done == [1]


@case
def a_stream_that_torch_was_told_of_never_ends() -> None:
    torch = stand_in.torch()
    x, out = torch.array([1.0] * 4), torch.array(ZEROS)
    natives = set()
    for _ in range(3):
        named = un.Stream(DEVICE, priority=-1)
        launch(x, out, stream=named)
        named.synchronize()
        natives.add(native := named.native)
        assert torch.recorded[-1] == (out.memory.address, native)
        del named
        gc.collect()
        un.memory_statistics(DEVICE)  # ends what nobody holds any more
        # As torch does when the memory is let go of.
        assert stand_in.driver._library.cuStreamQuery(ctypes.c_void_p(native)) == 0
    assert len(natives) == 1  # it is used again


def on_a_thread(function: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@case
def the_per_thread_stream_is_no_place_for_work() -> None:
    x = un.zeros(4, device=DEVICE)
    stream = stand_in.ThreadsStream()
    for use in (
        lambda: un.Stream.from_native(2, DEVICE),
        lambda: un.Stream.from_native(stream, DEVICE),
        lambda: x.fill_(1, stream=stream),
        lambda: launch(x, x, stream=2),
        lambda: un.empty(4, device=DEVICE, stream=stream),
    ):
        with pytest.raises(un.InvalidArgument, match="per-thread"):
            use()


@case
def work_with_arrays_on_the_per_thread_stream_comes_between_that_streams() -> None:
    @on_a_thread
    def check() -> None:
        cupy = stand_in.cupy()
        x, out, later = cupy.array(ZEROS), cupy.array(ZEROS), cupy.array(ZEROS)
        launch(x, out)
        with cupy.on(stand_in.ThreadsStream()) as stream:
            gate = stream.hold()
            stream.fill(x, 3)
            launch(x, out)
            assert not DEVICE.current_stream.is_idle
            gate.set()
            DEVICE.synchronize()
            ours = stand_in.hold(DEVICE.current_stream)
            stream.fill(x, 4)
            launch(x, out)
            stream.copy(later, out)
            assert not stream.is_idle()
            ours.set()
            assert values(later) == [8] * 4
            named = un.Stream(DEVICE)
            gate = stream.hold()
            stream.fill(x, 5)
            launch(x, out, stream=named)
            assert not named.is_idle
            gate.set()
            named.synchronize()
            assert values(out) == [10] * 4


@case
def tensors_go_to_the_per_thread_stream_in_order() -> None:
    @on_a_thread
    def check() -> None:
        stream = stand_in.ThreadsStream()
        x, later = un.zeros(4, device=DEVICE), un.zeros(4, device=DEVICE)
        DEVICE.synchronize()
        ours = stand_in.hold(DEVICE.current_stream)
        x.fill_(3)
        x.__dlpack__(stream=2)
        stream.copy(stand_in.InterfaceArray(later, None), stand_in.InterfaceArray(x, None))
        assert not stream.is_idle()
        ours.set()
        stream.synchronize()
        assert later.tolist() == [3] * 4
        gate = stream.hold()
        DEVICE.current_stream.wait(2)
        assert not DEVICE.current_stream.is_idle
        gate.set()
        DEVICE.synchronize()


@case
def arrays_of_two_devices_are_refused() -> None:
    torch = stand_in.torch()
    x = torch.array(ZEROS)
    other = un.zeros(4, device="cuda:1")
    for first, second in ((x, other), (other, x)):
        try:
            launch(first, second)
        except un.errors.DeviceMismatchError:
            continue
        raise AssertionError("it ran")


@case
def a_graph_records_kernels_with_foreign_arrays() -> None:
    torch = stand_in.torch()
    x, out = torch.array([1.0] * 4), torch.array(ZEROS)
    launch(x, out)
    torch.stream.synchronize()
    with un.Graph.capture(device=DEVICE) as graph:
        launch(x, out)
    torch.stream.fill(x, 5)
    torch.stream.synchronize()
    graph.launch()
    DEVICE.synchronize()
    assert values(out) == [10] * 4


if __name__ == "__main__":
    main()
