"""Functions of images, launched as they are: arguments, grids and blocks, order, lifetimes, graphs, threads, faults."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import unify as un
from unify._errors import Error, InvalidArgument, KernelFault
from unify.testing import Kernel
from unify.testing.arrays import random_array
from unify.testing.conformance.fixtures import Gate
from unify.testing.conformance.test_threads import run_in_threads

THREADS = 16
native_host_calls = pytest.mark.needs("host_calls", support="native")
GetKernel = Callable[[str], Kernel]


class Launcher:
    """The suite's kernels, loaded once for a case, and launched by name."""

    def __init__(self, device: un.Device, kernel: GetKernel) -> None:
        self.device = device
        self.kernel = kernel
        self.functions: dict[str, un.Function] = {}

    def function(self, name: str) -> un.Function:
        if name not in self.functions:
            self.functions[name] = self.kernel(name).load(self.device)
        return self.functions[name]

    def __call__(self, name: str, grid: Any, *args: Any, **how: Any) -> None:
        self.function(name).launch(grid, args, **how)

    def grid(self, name: str, n: int) -> tuple[int]:
        """Programs for n elements."""
        return (-(-n // self.kernel(name).elements),)


@pytest.fixture
def launch(device: un.Device, kernel: GetKernel) -> Launcher:
    return Launcher(device, kernel)


# ---- arguments


@pytest.mark.parametrize("n", [1, 63, 64, 65, 257, 10_000])
def test_elements_of_every_number_are_reached_and_no_more(device: un.Device, launch: Launcher, n: int) -> None:
    x = un.full(n + 100, 7, un.int32, device)
    launch("fill", launch.grid("fill", n), x, n, -3)
    np.testing.assert_array_equal(x.numpy(), [-3] * n + [7] * 100)


def test_two_arrays_are_not_exchanged(device: un.Device, launch: Launcher) -> None:
    array = random_array((1000,), "int32", 1)
    x, out = un.asarray(array, device=device, copy=True), un.zeros(1000, un.int32, device)
    launch("copy", launch.grid("copy", 1000), x, out, 1000)
    np.testing.assert_array_equal(out.numpy(), array)
    np.testing.assert_array_equal(x.numpy(), array)


def test_three_arrays_and_a_number(device: un.Device, launch: Launcher) -> None:
    x, y = random_array((1000,), "float32", 1), random_array((1000,), "float32", 2)
    out = un.zeros(1000, un.float32, device)
    launch("add", launch.grid("add", 1000), un.asarray(x, device=device), un.asarray(y, device=device), out, 1000)
    np.testing.assert_array_equal(out.numpy(), x + y)


@pytest.mark.parametrize("offset", [1, 2, 3, 5, 16, 17, 31])
def test_views_are_read_where_they_begin(device: un.Device, launch: Launcher, offset: int) -> None:
    array = np.arange(200, dtype=np.int32)
    x, out = un.asarray(array, device=device, copy=True), un.zeros(200, un.int32, device)
    launch("copy", launch.grid("copy", 100), x[offset:], out[offset + 1 :], 100)
    expected = np.zeros(200, np.int32)
    expected[offset + 1 : offset + 101] = array[offset : offset + 100]
    np.testing.assert_array_equal(out.numpy(), expected)


BOUNDS = {
    "zeros": (0, 0, 0, 0, 0.0, 0.0, 0),
    "ones": (1, 1, 1, 1, 1.0, 1.0, 1),
    "minus_ones": (-1, -1, -1, -1, -1.0, -1.0, -1),
    "least": (-(1 << 7), -(1 << 63), -(1 << 15), -(1 << 31), -3.4e38, -1.7e308, -(1 << 7)),
    "greatest": ((1 << 7) - 1, (1 << 63) - 1, (1 << 15) - 1, (1 << 31) - 1, 3.4e38, 1.7e308, (1 << 7) - 1),
    "each_its_own": (11, 22 << 40, -333, 44_444_444, 0.1, 0.2, -66),
    "infinities": (1, 2, 3, 4, float("inf"), float("-inf"), 5),
}


@pytest.mark.parametrize("values", BOUNDS)
def test_numbers_of_each_size_lie_where_they_belong(device: un.Device, launch: Launcher, values: str) -> None:
    a, b, c, d, e, f, g = BOUNDS[values]
    integers, reals = un.zeros(5, un.int64, device), un.zeros(2, un.float64, device)
    launch("numbers", (1,), integers, a, b, c, d, reals, e, f, g)
    assert integers.tolist() == [a, b, c, d, g]
    assert reals.tolist() == [float(np.float32(e)), f]


@pytest.mark.parametrize("value", [1 << 31, -(1 << 31) - 1, 1 << 63, 1 << 70])
def test_a_number_that_does_not_fit_is_an_error(device: un.Device, launch: Launcher, value: int) -> None:
    x = un.zeros(4, un.int32, device)
    with pytest.raises((InvalidArgument, OverflowError)):
        launch("fill", (1,), x, 4, value)
    assert x.tolist() == [0] * 4


@pytest.mark.parametrize("given", [(), (1,), (1, 2, 3)])
def test_arguments_too_few_or_too_many_are_an_error(
    device: un.Device, launch: Launcher, given: tuple[int, ...]
) -> None:
    with pytest.raises((TypeError, InvalidArgument)):
        launch("fill", (1,), un.zeros(4, un.int32, device), *given)


@pytest.mark.parametrize("value", ["text", [1], {}, 1j])
def test_an_argument_of_another_kind_is_an_error(device: un.Device, launch: Launcher, value: object) -> None:
    with pytest.raises((TypeError, InvalidArgument)):
        launch("fill", (1,), un.zeros(4, un.int32, device), 4, value)


def test_an_array_of_another_device_is_an_error(device: un.Device, other_device: un.Device, launch: Launcher) -> None:
    with pytest.raises(Error) as raised:
        launch("fill", (1,), un.zeros(4, un.int32, other_device), 4, 1)
    assert other_device.name in str(raised.value)


# ---- grids and blocks


@pytest.mark.parametrize("grid", [(1,), (7,), (1, 1, 5), (5, 1, 3), (3, 4), (3, 4, 5), (1, 300)])
def test_each_program_knows_its_place(device: un.Device, launch: Launcher, grid: tuple[int, ...]) -> None:
    columns, rows, layers = (*grid, 1, 1)[:3]
    out = un.full((layers, rows, columns), -1, un.int32, device)
    launch("place", grid, out)
    z, y, x = np.indices((layers, rows, columns))
    np.testing.assert_array_equal(out.numpy(), x + 100 * y + 10000 * z)


@pytest.mark.parametrize("count", [1, 2, 63, 1000, 20_000])
def test_each_program_runs_once(device: un.Device, launch: Launcher, count: int) -> None:
    counts = un.zeros(count, un.int32, device)
    launch("count", (count,), counts)
    np.testing.assert_array_equal(counts.numpy(), np.ones(count))


@pytest.mark.parametrize("grid", [(0,), (3, 0), (2, 2, 0)])
def test_an_empty_grid_launches_nothing(device: un.Device, launch: Launcher, grid: tuple[int, ...]) -> None:
    counts = un.zeros(4, un.int32, device)
    launch("count", grid, counts)
    assert counts.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("grid", [(-1,), (1, 2, 3, 4), (1 << 40,), (), "3", (1.5,)])
def test_a_grid_that_cannot_be_is_an_error(device: un.Device, launch: Launcher, grid: Any) -> None:
    with pytest.raises((InvalidArgument, TypeError)):
        launch("count", grid, un.zeros(4, un.int32, device))


@pytest.mark.parametrize("block", [(8,), (4, 2), (2, 2, 2), (1, 8), (1, 1, 8)])
def test_each_thread_knows_its_place(device: un.Device, launch: Launcher, block: tuple[int, ...]) -> None:
    columns, rows, layers = (*block, 1, 1)[:3]
    out = un.full((layers, rows, columns), -1, un.int32, device)
    launch("block", (1,), out, block=block)
    z, y, x = np.indices((layers, rows, columns))
    np.testing.assert_array_equal(out.numpy(), x + 100 * y + 10000 * z)


def test_more_threads_than_the_device_has_are_an_error(device: un.Device, launch: Launcher) -> None:
    x = un.zeros(4, un.int32, device)
    with pytest.raises(Error):
        launch("fill", (1,), x, 4, 1, block=(1 << 24,))
    device.synchronize()
    assert x.tolist() == [0] * 4


# ---- modules


def test_a_function_outlives_its_module_and_a_launch_its_function(device: un.Device, kernel: GetKernel) -> None:
    fill = kernel("fill")
    for value in range(3):
        x = un.zeros(1000, un.int32, device)
        function = fill.load(device)  # its module is dropped here
        gc.collect()
        function.launch((-(-1000 // fill.elements),), (x, 1000, value))
        del function
        gc.collect()
        assert x.tolist() == [value] * 1000


def test_an_image_loads_often(device: un.Device, kernel: GetKernel) -> None:
    fill = kernel("fill")
    functions = [fill.load(device) for _ in range(10)]
    x = un.zeros(1, un.int32, device)
    for value, function in enumerate(functions):
        function.launch((1,), (x, 1, value))
        assert x.tolist() == [value]


def test_two_functions_of_one_module_are_two(device: un.Device, kernel: GetKernel) -> None:
    fill = kernel("fill")
    module = fill.module(device)
    one, two = (fill.function(module) for _ in range(2))
    x, y = un.zeros(1, un.int32, device), un.zeros(1, un.int32, device)
    one.launch((1,), (x, 1, 1))
    two.launch((1,), (y, 1, 2))
    assert (x.tolist(), y.tolist()) == ([1], [2])


def test_an_unknown_function_is_named(device: un.Device, kernel: GetKernel) -> None:
    fill = kernel("fill")
    with pytest.raises(Error, match="no_such_kernel"):
        un.Module(fill.image, device, fill.name).function("no_such_kernel", fill.signature, threads=fill.threads)


@pytest.mark.parametrize("image", [b"\0", b"text, and no image at all", bytes(4096), b"\x7fELF", b"\x03\x02\x23\x07"])
def test_what_is_no_image_is_refused(device: un.Device, kernel: GetKernel, image: bytes) -> None:
    kernel("fill")
    with pytest.raises(Error):
        un.Module(image, device, "no_image").function("no_image", "*i32", threads=1)


# ---- order


def test_launches_run_in_their_order(device: un.Device, stream: un.Stream, launch: Launcher) -> None:
    n, expected = 1000, np.full(1000, 7)
    x = un.full(n, 7, un.int32, device, stream=stream)
    for step in range(40):
        launch("affine", launch.grid("affine", n), x, n, 3, step, stream=stream)
        expected = (expected * 3 + step).astype(np.int32)
    with stream:
        np.testing.assert_array_equal(x.numpy(), expected)


def test_launches_stand_in_order_with_copies_and_fills(device: un.Device, stream: un.Stream, launch: Launcher) -> None:
    x, kept = (un.empty(1000, un.int32, device, stream=stream) for _ in range(2))
    for value in range(20):
        x.fill_(value, stream=stream)
        launch("affine", launch.grid("affine", 1000), x, 1000, 2, 1, stream=stream)
        kept.copy_(x, stream=stream)
        x.fill_(-1, stream=stream)
        with stream:
            assert kept.tolist() == [2 * value + 1] * 1000


def test_a_long_launch_holds_back_what_follows_on_its_stream(
    device: un.Device, stream: un.Stream, launch: Launcher
) -> None:
    out, kept = un.zeros(1, un.int32, device, stream=stream), un.zeros(1, un.int32, device, stream=stream)
    rounds, value = 2_000_000, 1
    launch("spin", (1,), out, rounds, stream=stream)
    kept.copy_(out, stream=stream)
    for factor, shift, bit in powers(1664525, 1013904223):
        value = (value * factor + shift) % (1 << 32) if rounds & bit else value
        if bit > rounds:
            break
    with stream:
        assert kept.tolist() == [int(np.uint32(value).astype(np.int32))]


def powers(factor: int, shift: int) -> Iterator[tuple[int, int, int]]:
    """What 1, 2, 4 … steps of x · factor + shift are, in 32 bits."""
    bit = 1
    while True:
        yield factor, shift, bit
        factor, shift, bit = factor * factor % (1 << 32), (factor * shift + shift) % (1 << 32), 2 * bit


@native_host_calls
def test_a_launch_waits_for_another_stream(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate, launch: Launcher
) -> None:
    first, second = two_streams
    x = un.full(100, 7, un.int32, device, stream=first)
    launch.function("affine")
    gate.close(first)
    launch("affine", launch.grid("affine", 100), x, 100, 0, 5, stream=first)
    second.wait(first.record())
    launch("affine", launch.grid("affine", 100), x, 100, 10, 0, stream=second)
    gate.open()
    with second:
        assert x.tolist() == [50] * 100


@native_host_calls
def test_a_launch_returns_before_it_has_run(device: un.Device, stream: un.Stream, gate: Gate, launch: Launcher) -> None:
    x = un.zeros(100, un.int32, device, stream=stream)
    launch.function("fill")
    stream.synchronize()
    gate.close(stream)
    launch("fill", launch.grid("fill", 100), x, 100, 3, stream=stream)
    assert not stream.is_idle
    gate.open()
    with stream:
        assert x.tolist() == [3] * 100


@native_host_calls
def test_memory_that_is_dropped_outlives_the_launch(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate, launch: Launcher
) -> None:
    stream, other = two_streams
    x, out = un.full(100, 7, un.int32, device, stream=other), un.zeros(100, un.int32, device, stream=stream)
    launch.function("copy")
    other.synchronize()
    gate.close(stream)
    launch("copy", launch.grid("copy", 100), x, out, 100, stream=stream)
    del x
    thieves = [un.zeros(100, un.int32, device, stream=other) for _ in range(50)]  # none may lie where x does
    other.synchronize()
    gate.open()
    with stream:
        assert out.tolist() == [7] * 100
    del thieves


def test_the_current_stream_takes_a_launch(device: un.Device, stream: un.Stream, launch: Launcher) -> None:
    with stream:
        x = un.zeros(100, un.int32, device)
        launch("fill", launch.grid("fill", 100), x, 100, 3)
        assert x.tolist() == [3] * 100


# ---- graphs


@pytest.mark.needs("graphs")
def test_a_recorded_launch_keeps_its_arguments(device: un.Device, stream: un.Stream, launch: Launcher) -> None:
    x = un.full(100, 7, un.int32, device, stream=stream)
    launch.function("affine")
    stream.synchronize()
    grid, shift = launch.grid("affine", 100), 1
    with un.Graph.capture(stream) as graph:
        launch("affine", grid, x, 100, 2, shift)
        launch("affine", grid, x, 100, 1, 3)
    shift, expected = 1000, 7
    for _ in range(3):
        graph.launch(stream)
        expected = expected * 2 + 1 + 3
    with stream:
        assert x.tolist() == [expected] * 100


@pytest.mark.needs("graphs")
def test_a_recorded_launch_keeps_its_module(device: un.Device, stream: un.Stream, kernel: GetKernel) -> None:
    fill, x = kernel("fill"), un.zeros(100, un.int32, device, stream=stream)
    function = fill.load(device)
    stream.synchronize()
    with un.Graph.capture(stream) as graph:
        function.launch((-(-100 // fill.elements),), (x, 100, 9))
    del function
    gc.collect()
    graph.launch(stream)
    with stream:
        assert x.tolist() == [9] * 100


# ---- threads


def test_threads_launch_one_function_on_streams_of_their_own(device: un.Device, launch: Launcher) -> None:
    function, grid = launch.function("fill"), launch.grid("fill", 500)

    def work(number: int) -> None:
        with un.Stream(device) as stream:
            x = un.zeros(500, un.int32, device)
            for step in range(30):
                function.launch(grid, (x, 500, 1000 * number + step))
                stream.synchronize()
                np.testing.assert_array_equal(x.numpy(), np.full(500, 1000 * number + step))

    run_in_threads(work, THREADS)


def test_threads_launch_on_one_stream(device: un.Device, stream: un.Stream, launch: Launcher) -> None:
    counts = un.zeros(64, un.int32, device, stream=stream)
    function = launch.function("count")

    def work(number: int) -> None:
        for _ in range(30):
            function.launch((64,), (counts,), stream=stream)

    run_in_threads(work, THREADS)
    with stream:
        assert counts.tolist() == [30 * THREADS] * 64


def test_threads_load_and_drop_modules(device: un.Device, kernel: GetKernel) -> None:
    fill = kernel("fill")

    def work(number: int) -> None:
        x = un.zeros(1, un.int32, device)
        for step in range(3):
            fill.load(device).launch((1,), (x, 1, step))
            assert x.tolist() == [step]

    run_in_threads(work, 6)


# ---- faults


def test_a_fault_is_raised_and_names_the_kernel(device: un.Device, stream: un.Stream, launch: Launcher) -> None:
    name = launch.kernel("fault").name
    try:
        launch("fault", (1,), un.zeros(4, un.float32, device, stream=stream), stream=stream)
        with pytest.raises(KernelFault, match=name):
            stream.synchronize()
    finally:
        if device.state != "healthy":
            device.reset()
