"""Copies, fills and casts, on one device and between two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unify as un
from unify._errors import Error, InvalidArgument, OutOfMemory, ShapeError
from unify._tensor import dtype as dtype_of
from unify.testing.arrays import (
    ALL_DTYPES,
    FLOATS,
    INTEGERS,
    NUMPY_DTYPES,
    assert_close,
    assert_same,
    bits,
    numbers,
    random_array,
    random_views,
)
from unify.testing.conformance.fixtures import Gate


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_a_round_trip_keeps_every_bit(device: un.Device, dtype: str) -> None:
    array = random_array((37, 53), dtype, seed=1)
    assert_same(un.asarray(array, device=device), array)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3", "float8_e5m2"])
def test_a_round_trip_keeps_every_bit_of_small_floats(device: un.Device, dtype: str) -> None:
    width = dtype_of(dtype).itemsize
    pattern = random_array((37, 53), f"uint{8 * width}", seed=2)
    tensor = un.from_numpy(pattern, dtype).to(device)
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(bits(tensor), pattern)


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 4095, 4097, 1 << 20, (1 << 24) + 5])
def test_copies_of_every_size(device: un.Device, size: int) -> None:
    array = random_array((size,), "uint8", seed=size)
    tensor = un.asarray(array, device=device)
    assert_same(tensor.copy(), array)


@pytest.mark.parametrize("seed", range(8))
def test_copies_out_of_random_views(device: un.Device, seed: int) -> None:
    array = random_array((7, 1, 12, 5), "int32", seed)
    tensor = un.asarray(array, device=device)
    for key, expected in random_views(array, seed, 20):
        assert_same(tensor[key], expected)
        assert_same(tensor[key].copy(), expected)


@pytest.mark.parametrize("seed", range(8))
def test_copies_into_random_views(device: un.Device, seed: int) -> None:
    array = random_array((7, 1, 12, 5), "int32", seed)
    for key, part in random_views(array, seed + 100, 10):
        expected = array.copy()
        tensor = un.asarray(array, device=device, copy=True)
        values = random_array(part.shape, "int32", seed + 1)
        expected[key] = values
        tensor[key] = values
        assert_same(tensor, expected)


@pytest.mark.parametrize(
    ("target", "source"),
    [((4, 5), (5,)), ((4, 5), (1, 5)), ((4, 5), (4, 1)), ((4, 5), ()), ((2, 3, 4), (3, 1)), ((2, 3, 4), (1, 1, 1))],
)
def test_copies_broadcast(device: un.Device, target: tuple[int, ...], source: tuple[int, ...]) -> None:
    array = random_array(source, "float32", seed=3)
    tensor = un.zeros(target, un.float32, device)
    tensor.copy_(un.asarray(array, device=device))
    assert_same(tensor, np.broadcast_to(array, target))


@pytest.mark.parametrize(("target", "source"), [((4, 5), (4,)), ((4, 5), (2, 5)), ((5,), (4, 5)), ((0,), (3,))])
def test_shapes_that_do_not_fit_are_an_error_with_both(
    device: un.Device, target: tuple[int, ...], source: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError) as raised:
        un.zeros(target, un.float32, device).copy_(un.zeros(source, un.float32, device))
    assert str(list(target)) in str(raised.value)
    assert str(list(source)) in str(raised.value)


@pytest.mark.parametrize("source", ["bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("target", ["bool", "int16", "uint32", "int64", "float16", "float32", "float64"])
def test_casts_agree_with_numpy(device: un.Device, source: str, target: str) -> None:
    # Values that every type here can hold: out of range, C and NumPy promise nothing.
    array = (random_array((9, 33), "float64", seed=4) * 20).astype(np.int64).clip(0, 100).astype(source)
    assert_same(un.asarray(array, device=device).to(target), array.astype(target))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_casts_from_float64_round_to_nearest_even(device: un.Device, dtype: str) -> None:
    array = np.concatenate([random_array((2000,), "float64", seed=5), np.linspace(-65504, 65504, 1001), [0.0, -0.0]])
    assert_same(un.asarray(array, device=device).to(dtype), array.astype(dtype))


def test_casts_to_bfloat16_round_to_nearest_even(device: un.Device) -> None:
    array = random_array((4000,), "float32", seed=6) * np.float32(1e3)
    raw = array.view(np.uint32).astype(np.uint64)
    expected = ((raw + 0x7FFF + ((raw >> 16) & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(bits(un.asarray(array, device=device).to("bfloat16")), expected)


def test_every_bfloat16_widens_exactly(device: un.Device) -> None:
    pattern = np.arange(1 << 16, dtype=np.uint16)
    expected = (pattern.astype(np.uint32) << 16).view(np.float32)
    tensor = un.from_numpy(pattern, "bfloat16").to(device)
    assert_same(tensor.to("float32"), expected)


def test_every_float16_widens_exactly_and_back(device: un.Device) -> None:
    pattern = np.arange(1 << 16, dtype=np.uint16)
    tensor = un.asarray(pattern.view(np.float16), device=device)
    assert_same(tensor.to("float32"), pattern.view(np.float16).astype(np.float32))
    assert_same(tensor.to("float32").to("float16"), pattern.view(np.float16))


@pytest.mark.parametrize("dtype", ["float8_e4m3", "float8_e5m2"])
def test_every_small_float_survives_widening_and_narrowing(device: un.Device, dtype: str) -> None:
    tensor = un.from_numpy(np.arange(256, dtype=np.uint8), dtype).to(device)
    wide = tensor.to("float32")
    values = wide.numpy()
    again = wide.to(dtype)
    np.testing.assert_array_equal(again.to("float32").numpy(), values)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(bits(again)[finite], np.arange(256, dtype=np.uint8)[finite])


# The largest float8_e4m3 is 448, and there is no infinity: torch, Triton and the chips' own conversion saturate. 464 is
# half way to what would come next. A float8_e5m2 has an infinity, beyond 57344.
TOO_LARGE = [1e30, 465, 464, 448, -1e9, np.inf, -np.inf, np.nan]
TOO_LARGE_E5M2 = [1e30, 61440, 61439, 57344, -1e9, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("float8_e4m3", TOO_LARGE, [448, 448, 448, 448, -448, 448, -448, np.nan]),
        ("float8_e5m2", TOO_LARGE_E5M2, [np.inf, np.inf, 57344, 57344, -np.inf, np.inf, -np.inf, np.nan]),
    ],
)
@pytest.mark.parametrize("source", ["float32", "float64"])
def test_what_is_too_large_for_a_small_float(
    device: un.Device, dtype: str, values: list[float], expected: list[float], source: str
) -> None:
    tensor = un.asarray(np.array(values, source), device=device).to(dtype)
    np.testing.assert_array_equal(numbers(tensor), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_casts_keep_infinities_and_nan(device: un.Device, dtype: str) -> None:
    tensor = un.asarray(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0]), device=device).to(dtype)
    values = numbers(tensor)
    np.testing.assert_array_equal(values, [np.inf, -np.inf, np.nan, 0, 0])
    assert np.signbit(values[-1])


def test_a_cast_of_a_strided_view(device: un.Device) -> None:
    array = random_array((20, 30), "float32", seed=7)
    assert_same(un.asarray(array, device=device)[::3, 1::2].T.to("float64"), array[::3, 1::2].T.astype("float64"))


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("value", [0, 1])
def test_fills_of_every_dtype(device: un.Device, dtype: str, value: int) -> None:
    np.testing.assert_array_equal(numbers(un.full((3, 100), value, dtype, device)), np.full((3, 100), value))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_fills_reach_both_ends_of_an_integer(device: un.Device, dtype: str) -> None:
    for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        assert_same(un.full(65, int(value), dtype, device), np.full(65, value, dtype))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_a_fill_that_does_not_fit_is_an_error(device: un.Device, dtype: str) -> None:
    for value in (int(np.iinfo(dtype).min) - 1, int(np.iinfo(dtype).max) + 1):
        with pytest.raises(InvalidArgument, match=dtype):
            un.full(3, value, dtype, device)


@pytest.mark.parametrize("dtype", FLOATS)
def test_fills_of_fractions_round(device: un.Device, dtype: str) -> None:
    assert_close(un.full(33, 1 / 3, dtype, device), np.full(33, 1 / 3))


def test_a_fill_of_a_strided_view_leaves_the_rest(device: un.Device) -> None:
    expected = random_array((8, 9), "float32", seed=8)
    tensor = un.asarray(expected, device=device, copy=True)
    tensor[1::2, ::3].fill_(7)
    expected = expected.copy()
    expected[1::2, ::3] = 7
    assert_same(tensor, expected)


def test_zeros_ones_and_full(device: un.Device) -> None:
    assert_same(un.zeros((2, 3), un.float32, device), np.zeros((2, 3), np.float32))
    assert_same(un.ones((2, 3), un.int16, device), np.ones((2, 3), np.int16))
    assert_same(un.full((2, 3), 2.5, un.float64, device), np.full((2, 3), 2.5))


@pytest.mark.parametrize("value", ["three", None, [1, 2], 1j])
def test_a_fill_with_no_number_is_an_error(device: un.Device, value: Any) -> None:
    with pytest.raises(InvalidArgument, match="number"):
        un.zeros(3, un.float32, device).fill_(value)


def test_overlapping_copies_act_as_if_the_source_were_copied_first(device: un.Device) -> None:
    for forward in (True, False):
        expected = np.arange(1000, dtype=np.int32)
        tensor = un.asarray(expected, device=device, copy=True)
        low, high = slice(None, -1), slice(1, None)
        target, source = (high, low) if forward else (low, high)
        tensor[target] = tensor[source]
        expected[target] = expected[source].copy()
        assert_same(tensor, expected)


def test_copy_into_itself_changes_nothing(device: un.Device) -> None:
    array = random_array((50,), seed=9)
    tensor = un.asarray(array, device=device, copy=True)
    tensor.copy_(tensor)
    assert_same(tensor, array)


def test_copy_returns_its_target(device: un.Device) -> None:
    tensor = un.zeros(3, un.float32, device)
    assert tensor.copy_(un.ones(3, un.float32, device)) is tensor
    assert tensor.fill_(2) is tensor


def test_copies_of_nothing(device: un.Device) -> None:
    tensor = un.zeros((0, 4), un.float32, device)
    assert tensor.copy_(un.ones((0, 4), un.float32, device)).size == 0
    assert tensor.copy().shape == (0, 4)
    assert tensor.to("float16").shape == (0, 4)


def test_assignment_takes_numbers_arrays_and_lists(device: un.Device) -> None:
    tensor = un.zeros((3, 4), un.float32, device)
    expected = np.zeros((3, 4), np.float32)
    for key, value in [(0, 1.5), ((1, 2), 7), (slice(1, 3), [1, 2, 3, 4]), ((Ellipsis, 1), np.array([5, 6, 7]))]:
        tensor[key] = value
        expected[key] = value
    assert_same(tensor, expected)


def test_a_source_may_be_overwritten_right_after_the_copy(device: un.Device) -> None:
    source = np.full(1 << 20, 3, np.uint8)
    tensor = un.asarray(source, device=device, copy=True)
    source.fill(9)
    if device.kind != "cpu":
        assert_same(tensor, np.full(1 << 20, 3, np.uint8))
    else:
        device.synchronize()  # the copy is work of the device and may still read: wait, then only its end counts
        assert set(np.unique(tensor.numpy())) <= {3, 9}


def test_to_the_same_place_is_the_tensor_itself(device: un.Device) -> None:
    tensor = un.ones(3, un.float32, device)
    assert tensor.to(device) is tensor
    assert tensor.to("float32") is tensor
    assert tensor.to(device, copy=True) is not tensor


def test_to_another_device_and_back(device: un.Device, other_device: un.Device) -> None:
    array = random_array((40, 50), "float32", seed=10)
    there = un.asarray(array, device=device).to(other_device)
    assert there.device is other_device
    assert_same(there, array)
    assert_same(there.to(device), array)


def test_a_strided_view_to_another_device(device: un.Device, other_device: un.Device) -> None:
    array = random_array((40, 50), "int16", seed=11)
    assert_same(un.asarray(array, device=device).T[::3, ::-2].to(other_device), array.T[::3, ::-2])


def test_another_device_and_another_dtype_at_once(device: un.Device, other_device: un.Device) -> None:
    array = random_array((40, 50), "float32", seed=12)
    there = un.asarray(array, device=device).to(other_device, "float64")
    assert there.dtype == "float64"
    assert_same(there, array.astype("float64"))


def test_copy_from_another_device_into_a_view(device: un.Device, other_device: un.Device) -> None:
    source = random_array((10,), "float32", seed=13)
    tensor = un.zeros((4, 20), un.float32, device)
    tensor[1:3, ::2] = un.asarray(source, device=other_device)
    expected = np.zeros((4, 20), np.float32)
    expected[1:3, ::2] = source
    assert_same(tensor, expected)


def test_copies_between_devices_on_a_given_stream(
    device: un.Device, other_device: un.Device, stream: un.Stream
) -> None:
    array = random_array((1000,), "float32", seed=14)
    there = un.asarray(array, device=other_device)
    here = un.empty(1000, un.float32, device, stream=stream)
    here.copy_(there, stream=stream)
    stream.synchronize()
    assert_same(here, array)


def test_a_copy_follows_the_work_of_the_source_device(device: un.Device, other_device: un.Device) -> None:
    tensor = un.empty(1 << 20, un.uint8, device)
    for value in range(50):
        tensor.fill_(value)
    assert_same(tensor.to(other_device), np.full(1 << 20, 49, np.uint8))


def test_read_only_memory_is_not_written(device: un.Device) -> None:
    array = random_array((5,), seed=15)
    array.flags.writeable = False
    tensor = un.asarray(array)
    assert tensor.is_readonly
    for write in (lambda: tensor.fill_(0), lambda: tensor.copy_(0), lambda: tensor[1:].fill_(0)):
        with pytest.raises(InvalidArgument, match="read-only"):
            write()
    assert not un.asarray(array, device=device, copy=True).is_readonly


def test_to_something_unknown_is_an_error(device: un.Device) -> None:
    with pytest.raises(Error):
        un.zeros(3, un.float32, device).to("no such thing")


@pytest.mark.needs("host_calls", support="native")
@pytest.mark.parametrize("dtype", ["uint8", "int32"])  # as it is, and cast
def test_an_array_of_another_library_lives_until_its_copy_has_run(
    device: un.Device, stream: un.Stream, gate: Gate, dtype: str
) -> None:
    tensor = un.zeros(1 << 16, dtype, device, stream=stream)
    expected = random_array((1 << 16,), "uint8", seed=6)
    # A copy from pageable memory may wait for the stream (backend.h, copy): then only its limit opens the gate.
    gate.close(stream, limit_s=1.0)
    array = expected.copy()
    if dtype != "uint8" and not device.is_host_visible:
        gate.open()  # the host casts, and waits for the stream before it does
    tensor.copy_(array, stream=stream)
    del array
    thieves = [np.zeros(1 << 16, np.uint8) for _ in range(20)]  # one of them lies where the array did
    gate.open()
    stream.synchronize()
    assert_same(tensor, expected.astype(dtype))
    del thieves


# ---- every pair of places


def in_place(place: str, device: un.Device, array: Any) -> Any:
    """The array's values on the host, in pinned memory, or on the device."""
    if place == "host":
        return array.copy()
    if place == "device":
        return un.asarray(array, device=device, copy=True)
    tensor = un.empty_pinned(array.shape, str(array.dtype), device=device)
    tensor.copy_(array)
    tensor.device.synchronize()
    return tensor


def copy_between(device: un.Device, target: Any, source: Any) -> Any:
    """Copies on a stream of the device and returns what then lies in the target, as NumPy has it."""
    stream = un.Stream(device)
    tensor = un.asarray(target) if isinstance(target, np.ndarray) else target
    tensor.copy_(source, stream=stream if tensor.device is device else None)
    stream.synchronize()
    tensor.device.synchronize()
    return np.asarray(target) if isinstance(target, np.ndarray) else target.numpy()


PLACES = ("host", "pinned", "device")


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("target", PLACES)
@pytest.mark.parametrize("offset", [0, 1, 7, 64])
def test_every_pair_of_places_at_any_offset(device: un.Device, target: str, source: str, offset: int) -> None:
    for size in (1, 2, 63, 4096, 100_003):
        values, before = random_array((size + 65,), "uint8", size), np.full(size + 65, 9, np.uint8)
        there, here = in_place(target, device, before), in_place(source, device, values)
        copy_between(device, there[offset : offset + size], here[64 - offset : 64 - offset + size])
        expected = before.copy()
        expected[offset : offset + size] = values[64 - offset : 64 - offset + size]
        device.synchronize()
        np.testing.assert_array_equal(there if isinstance(there, np.ndarray) else there.numpy(), expected)


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("target", PLACES)
def test_rows_between_every_pair_of_places(device: un.Device, target: str, source: str) -> None:
    values, before = random_array((30, 50), "int32", 1), np.full((40, 70), -1, np.int32)
    there, here = in_place(target, device, before), in_place(source, device, values)
    copy_between(device, there[5:35, 10:40], here[:, 11:41])
    expected = before.copy()
    expected[5:35, 10:40] = values[:, 11:41]
    device.synchronize()
    np.testing.assert_array_equal(there if isinstance(there, np.ndarray) else there.numpy(), expected)


@pytest.mark.slow
def test_more_than_four_gigabytes(device: un.Device) -> None:
    size = (1 << 32) + 4099
    free = min(device.memory_info()[0], available_bytes())
    if free < 3 * size:
        pytest.skip(f"{device.name}: {free / 1e9:.0f} GB are free, and 13 GB are needed")
    try:
        source, target = un.zeros(size, un.uint8, device), un.zeros(size, un.uint8, device)
    except OutOfMemory as error:
        pytest.skip(str(error))
    for place in (0, 12345, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, size - 1):
        source[place : place + 1].fill_(place % 251 + 1)
    target.copy_(source)
    for place in (0, 12345, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, size - 1):
        assert int(target[place]) == place % 251 + 1
        assert place in (0, size - 1) or int(target[place - 2]) == 0
    assert int(target[4098]) == 0
    del source, target
    un.trim_memory(device)


def available_bytes() -> int:
    """What the host has left, which backs the memory of many devices."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
