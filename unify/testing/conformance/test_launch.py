"""Launches: arguments, grids, order among other work, lifetimes, faults, and many at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import triton.language as tl

import unify as un
from unify import _errors as errors
from unify.testing.arrays import ALL_DTYPES, NUMPY_DTYPES, random_array
from unify.testing.conformance.fixtures import GATE_LIMIT_S, Gate
from unify.testing.conformance.test_threads import THREADS, run_in_threads

pytestmark = pytest.mark.usefixtures("target")
native_host_calls = pytest.mark.needs("host_calls", support="native")
BLOCK = 256


@un.jit
def copy_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)


@un.jit
def affine_kernel(x, n, factor, shift, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) * factor + shift, mask=i < n)


@un.jit
def numbers_kernel(integers, reals, small, large, negative, real, flag, CONSTANT: tl.constexpr):
    tl.store(integers, small)
    tl.store(integers + 1, large)
    tl.store(integers + 2, negative)
    tl.store(integers + 3, CONSTANT)
    tl.store(reals, real)
    if flag:
        tl.store(reals + 1, 1.0)


@un.jit
def place_kernel(out):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    columns, rows = tl.num_programs(0), tl.num_programs(1)
    tl.store(out + (z * rows + y) * columns + x, x + 100 * y + 10000 * z)


@un.jit
def count_kernel(counts):
    tl.atomic_add(counts + tl.program_id(0), 1)


@un.jit
def sum_kernel(a, b, c, d, e, f, g, h, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    first = tl.load(a + i) + tl.load(b + i) + tl.load(c + i) + tl.load(d + i)
    tl.store(out + i, first + tl.load(e + i) + tl.load(f + i) + tl.load(g + i) + tl.load(h + i))


@un.jit
def far_away_kernel(x):
    tl.store(x + (1 << 46), 1.0)


def programs(n: int) -> tuple[int]:
    return (-(-n // BLOCK),)


def sevens(n: int, device: un.Device, stream: un.Stream | None = None) -> un.Tensor:
    return un.full(n, 7, un.int32, device, stream=stream)


@pytest.mark.parametrize("dtype", [name for name in ALL_DTYPES if name in NUMPY_DTYPES])
@pytest.mark.parametrize("n", [1, BLOCK - 1, 5 * BLOCK])
def test_arrays_of_each_dtype_arrive_whole(device: un.Device, dtype: str, n: int) -> None:
    array = random_array((n,), dtype, n)
    x, out = un.asarray(array, device=device), un.zeros(n, dtype, device)
    copy_kernel[programs(n)](x, out, n, BLOCK=BLOCK)
    np.testing.assert_array_equal(out.numpy(), array)


def test_numbers_arrive_whole(device: un.Device) -> None:
    integers, reals = un.zeros(4, un.int64, device), un.zeros(2, un.float32, device)
    numbers_kernel[(1,)](integers, reals, 3, (1 << 40) + 16, -(1 << 33), 0.1, True, CONSTANT=-5)
    assert integers.tolist() == [3, (1 << 40) + 16, -(1 << 33), -5]
    assert reals.tolist() == [np.float32(0.1), 1.0]
    numbers_kernel[(1,)](integers, reals, 1, -1, 0, 1e30, False, CONSTANT=2**31)
    assert integers.tolist() == [1, -1, 0, 2**31]
    assert reals.tolist() == [np.float32(1e30), 1.0]


def test_views_are_read_where_they_lie(device: un.Device) -> None:
    array = np.arange(1000, dtype=np.int32)
    x, out = un.asarray(array, device=device), un.zeros(900, un.int32, device)
    copy_kernel[programs(900)](x[3:903], out, 900, BLOCK=BLOCK)
    np.testing.assert_array_equal(out.numpy(), array[3:903])


def test_many_arguments_arrive_in_their_order(device: un.Device) -> None:
    arrays = [random_array((BLOCK,), "float32", seed) for seed in range(8)]
    out = un.zeros(BLOCK, un.float32, device)
    sum_kernel[(1,)](*(un.asarray(array, device=device) for array in arrays), out, BLOCK=BLOCK)
    expected = sum(arrays[:4], np.float32(0)) + arrays[4] + arrays[5] + arrays[6] + arrays[7]
    np.testing.assert_allclose(out.numpy(), expected, rtol=8 * 2.0**-23, atol=8 * 2.0**-23)


@pytest.mark.parametrize("grid", [(1,), (7,), (1, 1, 5), (5, 1, 3), (3, 4), (3, 4, 5), (1, 300)])
def test_each_program_knows_its_place_in_the_grid(device: un.Device, grid: tuple[int, ...]) -> None:
    columns, rows, layers = (*grid, 1, 1)[:3]
    out = un.full((layers, rows, columns), -1, un.int32, device)
    place_kernel[grid](out)
    z, y, x = np.indices((layers, rows, columns))
    np.testing.assert_array_equal(out.numpy(), x + 100 * y + 10000 * z)


@pytest.mark.parametrize("count", [1, 2, 63, 1000, 20_000])
def test_each_program_runs_once(device: un.Device, count: int) -> None:
    counts = un.zeros(count, un.int32, device)
    count_kernel[(count,)](counts)
    np.testing.assert_array_equal(counts.numpy(), np.ones(count))


@pytest.mark.parametrize("grid", [(0,), (3, 0), (2, 2, 0)])
def test_an_empty_grid_launches_nothing(device: un.Device, grid: tuple[int, ...]) -> None:
    counts = un.zeros(4, un.int32, device)
    count_kernel[grid](counts)
    assert counts.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("grid", [(-1,), (1, 2, 3, 4), (1 << 40,), ()])
def test_a_grid_that_cannot_be_is_an_error(device: un.Device, grid: tuple[int, ...]) -> None:
    with pytest.raises(errors.InvalidArgument, match="grid"):
        count_kernel[grid](un.zeros(4, un.int32, device))


def test_launches_run_in_their_order(device: un.Device, stream: un.Stream) -> None:
    n, expected = 3 * BLOCK, np.full(3 * BLOCK, 7)
    x = sevens(n, device, stream)
    for step in range(40):
        affine_kernel[programs(n)](x, n, 3, step, BLOCK=BLOCK, stream=stream)
        expected = (expected * 3 + step).astype(np.int32)
    with stream:
        np.testing.assert_array_equal(x.numpy(), expected)


def test_launches_stand_in_order_with_copies_and_fills(device: un.Device, stream: un.Stream) -> None:
    n = 4 * BLOCK
    x, kept = un.empty(n, un.int32, device, stream=stream), un.empty(n, un.int32, device, stream=stream)
    for value in range(20):
        x.fill_(value, stream=stream)
        affine_kernel[programs(n)](x, n, 2, 1, BLOCK=BLOCK, stream=stream)
        kept.copy_(x, stream=stream)
        affine_kernel[programs(n)](x, n, 0, -1, BLOCK=BLOCK, stream=stream)
    with stream:
        np.testing.assert_array_equal(kept.numpy(), np.full(n, 2 * 19 + 1))
        np.testing.assert_array_equal(x.numpy(), np.full(n, -1))


@native_host_calls
def test_a_launch_waits_for_what_stands_before_it(device: un.Device, stream: un.Stream, gate: Gate) -> None:
    x = sevens(BLOCK, device, stream)
    gate.close(stream)
    for shift in range(5):  # each keeps its own arguments
        affine_kernel[(1,)](x, BLOCK, 1, shift, BLOCK=BLOCK, stream=stream)
    assert not stream.is_idle
    gate.open()
    with stream:
        assert x.tolist() == [7 + 0 + 1 + 2 + 3 + 4] * BLOCK


@native_host_calls
def test_a_launch_waits_for_an_event_of_another_stream(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    first, second = two_streams
    x = sevens(BLOCK, device, first)
    gate.close(first)
    affine_kernel[(1,)](x, BLOCK, 0, 5, BLOCK=BLOCK, stream=first)
    second.wait(first.record())
    affine_kernel[(1,)](x, BLOCK, 10, 0, BLOCK=BLOCK, stream=second)
    gate.open()
    with second:
        assert x.tolist() == [50] * BLOCK


@native_host_calls
def test_memory_that_is_dropped_outlives_the_launch(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    stream, other = two_streams
    x, out = sevens(BLOCK, device, other), un.zeros(BLOCK, un.int32, device, stream=stream)
    other.synchronize()
    gate.close(stream)
    copy_kernel[(1,)](x, out, BLOCK, BLOCK=BLOCK, stream=stream)
    del x
    others = [un.zeros(BLOCK, un.int32, device, stream=other) for _ in range(50)]  # none may lie where x does
    other.synchronize()
    gate.open()
    with stream:
        assert out.tolist() == [7] * BLOCK
    del others


def test_a_grid_and_threads_share_the_device(device: un.Device) -> None:
    n = 40 * BLOCK
    expected = np.full(n, 7, np.int32)
    for step in range(20):
        expected = expected * 3 + step

    def work(number: int) -> None:
        with un.Stream(device) as stream:
            for _ in range(5):
                x = sevens(n, device)
                for step in range(20):
                    affine_kernel[programs(n)](x, n, 3, step, BLOCK=BLOCK)
                stream.synchronize()
                np.testing.assert_array_equal(x.numpy(), expected)

    run_in_threads(work)


def test_one_stream_takes_launches_of_all_threads(device: un.Device, stream: un.Stream) -> None:
    counts = un.zeros(8 * THREADS, un.int32, device, stream=stream)

    def work(number: int) -> None:
        for _ in range(50):
            count_kernel[(8 * THREADS,)](counts, stream=stream)

    run_in_threads(work)
    with stream:
        assert counts.tolist() == [50 * THREADS] * (8 * THREADS)


def test_the_default_stream_takes_launches_of_all_threads(device: un.Device) -> None:
    counts = un.zeros(8 * THREADS, un.int32, device)

    def work(number: int) -> None:
        for _ in range(50):
            count_kernel[(8 * THREADS,)](counts)

    run_in_threads(work)
    assert counts.tolist() == [50 * THREADS] * (8 * THREADS)


def test_threads_compile_one_kernel_at_once(device: un.Device) -> None:
    @un.jit
    def fresh(out, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(out + i, i)

    outs = [un.zeros(16, un.int32, device) for _ in range(THREADS)]
    device.synchronize()

    def work(number: int) -> None:
        with un.Stream(device) as stream:
            fresh[(1,)](outs[number], BLOCK=16)
            stream.synchronize()

    run_in_threads(work)
    assert all(out.tolist() == list(range(16)) for out in outs)


def test_an_array_of_another_device_is_an_error(device: un.Device, other_device: un.Device) -> None:
    x, out = un.zeros(BLOCK, un.int32, other_device), un.zeros(BLOCK, un.int32, device)
    other_device.synchronize()
    with pytest.raises(errors.DeviceMismatchError) as raised:
        copy_kernel[(1,)](x, out, BLOCK, BLOCK=BLOCK)
    assert device.name in str(raised.value)
    assert other_device.name in str(raised.value)


# ---- faults


@pytest.fixture
def faulting(device: un.Device) -> Iterator[un.Device]:
    """The device, which is brought back at the end if a kernel's fault was the end of it."""
    yield device
    if device.state != "healthy":
        device.reset()


def require_recovery(device: un.Device) -> None:
    if device.state != "healthy":
        pytest.skip(f"{device.name}: a kernel's fault leaves the device {device.state}")


def test_a_fault_is_raised_once_and_names_the_kernel(faulting: un.Device, stream: un.Stream) -> None:
    x = un.zeros(4, un.float32, faulting, stream=stream)
    far_away_kernel[(1,)](x, stream=stream)
    with pytest.raises(errors.KernelFault, match="far_away_kernel") as raised:
        stream.synchronize()
    assert raised.value.device == faulting.name
    require_recovery(faulting)
    stream.synchronize()
    x.fill_(3, stream=stream)
    with stream:
        assert x.tolist() == [3] * 4


def test_a_fault_is_not_lost_to_what_happens_before_somebody_waits(faulting: un.Device, stream: un.Stream) -> None:
    array = np.ones(4096, np.float32)
    for _ in range(20):
        x, other = un.zeros(4096, un.float32, faulting, stream=stream), un.zeros(4096, un.float32, faulting)
        other.copy_(x, stream=stream)
        far_away_kernel[(1,)](x, stream=stream)
        with pytest.raises(errors.KernelFault, match="far_away_kernel"):  # at the latest whoever waits hears of it
            x.copy_(array, stream=stream)  # looks whether the stream has run dry, to let go of `array`
            del other  # so does this
            un.empty(4096, un.float32, faulting)
            un.Event(faulting).record(stream)
            stream.synchronize()
        require_recovery(faulting)


def test_whoever_asks_a_stream_hears_of_the_fault_and_leaves_it(faulting: un.Device, stream: un.Stream) -> None:
    far_away_kernel[(1,)](un.zeros(4, un.float32, faulting, stream=stream), stream=stream)
    for _ in range(2):
        with pytest.raises(errors.KernelFault, match="far_away_kernel"):
            while not stream.is_idle:
                pass
        require_recovery(faulting)
    with pytest.raises(errors.KernelFault, match="far_away_kernel"):
        stream.synchronize()
    assert stream.is_idle


@native_host_calls
def test_an_event_carries_the_fault_of_what_it_marks(gate: Gate, faulting: un.Device, stream: un.Stream) -> None:
    x = un.zeros(4, un.float32, faulting, stream=stream)
    before = stream.record()
    before.synchronize()
    gate.close(stream)  # a device that is faulted makes no marks
    far_away_kernel[(1,)](x, stream=stream)
    after = stream.record()
    gate.open()
    for wait in (after.synchronize, lambda: after.synchronize(timeout_s=GATE_LIMIT_S), lambda: after.is_done):
        with pytest.raises(errors.KernelFault, match="far_away_kernel"):
            wait()
        require_recovery(faulting)
    assert before.is_done
    with pytest.raises(errors.KernelFault):
        stream.synchronize()
    later = stream.record()
    later.synchronize()
    assert later.is_done


def test_other_streams_go_on_beside_a_fault(faulting: un.Device, two_streams: tuple[un.Stream, un.Stream]) -> None:
    broken, sound = two_streams
    far_away_kernel[(1,)](un.zeros(4, un.float32, faulting, stream=broken), stream=broken)
    with pytest.raises(errors.KernelFault):
        broken.synchronize()
    require_recovery(faulting)
    x = sevens(BLOCK, faulting, sound)
    affine_kernel[(1,)](x, BLOCK, 2, 0, BLOCK=BLOCK, stream=sound)
    with sound:
        assert x.tolist() == [14] * BLOCK


def test_the_device_reports_the_fault_of_a_stream(faulting: un.Device, stream: un.Stream) -> None:
    far_away_kernel[(1,)](un.zeros(4, un.float32, faulting, stream=stream), stream=stream)
    with pytest.raises(errors.KernelFault, match="far_away_kernel"):
        faulting.synchronize()
    require_recovery(faulting)
    stream.synchronize()
    faulting.synchronize()


# ---- graphs


@pytest.mark.needs("graphs")
def test_a_recorded_launch_keeps_its_arguments(device: un.Device, stream: un.Stream) -> None:
    x = sevens(BLOCK, device, stream)
    stream.synchronize()
    shift = 1
    with un.Graph.capture(stream) as graph:
        affine_kernel[(1,)](x, BLOCK, 2, shift, BLOCK=BLOCK)
        affine_kernel[(1,)](x, BLOCK, 1, 3, BLOCK=BLOCK)
    for _ in range(3):
        graph.launch(stream)
    expected = 7
    for _ in range(3):
        expected = expected * 2 + shift + 3
    with stream:
        assert x.tolist() == [expected] * BLOCK
