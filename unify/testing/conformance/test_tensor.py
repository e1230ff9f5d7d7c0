"""Tensors: attributes, views and indexing, on whatever memory the device has."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import unify as un
from unify._errors import LayoutError, ShapeError, UnsupportedError
from unify._tensor import dtype as dtype_of, full_like, ones_like
from unify.testing.arrays import ALL_DTYPES, assert_same, random_array, random_views


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_attributes_of_a_new_tensor(device: un.Device, dtype: str) -> None:
    tensor = un.empty((2, 3, 4), dtype, device)
    assert tensor.shape == (2, 3, 4)
    assert tensor.strides == (12, 4, 1)
    assert tensor.ndim == 3
    assert tensor.size == 24
    assert tensor.dtype == dtype
    assert tensor.nbytes == 24 * tensor.itemsize == 24 * dtype_of(dtype).itemsize
    assert tensor.device is device
    assert tensor.is_contiguous
    assert not tensor.is_readonly


@pytest.mark.parametrize("seed", range(10))
def test_random_views_agree_with_numpy(device: un.Device, seed: int) -> None:
    array = random_array((6, 5, 1, 7), "int16", seed)
    tensor = un.asarray(array, device=device)
    for key, expected in random_views(array, seed, 30):
        view = tensor[key]
        assert view.shape == expected.shape, key
        assert_same(view, expected)


@pytest.mark.parametrize("view", [(4, 4), (2, 4), (4, 4, 4)])
def test_what_is_broadcast_is_not_written(device: un.Device, view: tuple[int, ...]) -> None:
    tensor = un.zeros(4, un.float32, device)
    broadcast = tensor.broadcast_to(view)
    assert_same(broadcast, np.broadcast_to(np.zeros(4, np.float32), view))
    for write in (
        lambda: broadcast.copy_(un.ones(view, un.float32, device)),
        lambda: broadcast.fill_(1),
        lambda: broadcast.__setitem__(0, 1.0),
    ):
        with pytest.raises(LayoutError, match="axis 0 of the tensor of shape .* is broadcast"):
            write()
    assert_same(tensor, np.zeros(4, np.float32))
    tensor.broadcast_to((1, 4)).fill_(2)  # nothing is repeated
    assert_same(tensor, np.full(4, 2, np.float32))


def test_views_share_memory(device: un.Device) -> None:
    tensor = un.zeros((4, 5), un.float32, device)
    tensor[1:3].T[2].fill_(9)
    expected = np.zeros((4, 5), np.float32)
    expected[1:3, 2] = 9
    assert_same(tensor, expected)


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (-1, 8), (3, -1), (1, 24, 1), (2, 2, 2, 3)])
def test_reshape_agrees_with_numpy(device: un.Device, shape: tuple[int, ...]) -> None:
    array = random_array((2, 12), "int32", seed=1)
    tensor = un.asarray(array, device=device)
    assert_same(tensor.reshape(shape), array.reshape(shape))
    assert_same(tensor.reshape(*shape), array.reshape(shape))


@pytest.mark.parametrize("shape", [(5, 5), (-1, 7), (0,), (23,)])
def test_a_reshape_that_does_not_fit_is_an_error(device: un.Device, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="24|2, 12"):
        un.zeros((2, 12), un.int32, device).reshape(shape)


@pytest.mark.parametrize("shape", [(-1, -1), (-2, 12), (24, -1, -1)])
def test_a_reshape_with_several_unknown_lengths_is_an_error(device: un.Device, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="-1"):
        un.zeros((2, 12), un.int32, device).reshape(shape)


def test_a_reshape_that_needs_a_copy_is_an_error(device: un.Device) -> None:
    with pytest.raises(LayoutError):
        un.zeros((4, 6), un.int32, device).T.reshape(24)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (-1, 0, 1)])
def test_permute_agrees_with_numpy(device: un.Device, axes: tuple[int, ...]) -> None:
    array = random_array((2, 3, 4), "int32", seed=2)
    assert_same(un.asarray(array, device=device).permute(axes), array.transpose(axes))


@pytest.mark.parametrize("axes", [(0, 0, 1), (0, 1), (0, 1, 3), ()])
def test_a_permutation_that_is_none_is_an_error(device: un.Device, axes: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        un.zeros((2, 3, 4), un.int32, device).permute(axes)


def test_transposes(device: un.Device) -> None:
    array = random_array((2, 3, 4), "int32", seed=3)
    tensor = un.asarray(array, device=device)
    assert_same(tensor.T, array.T)
    assert_same(tensor.mT, array.transpose(0, 2, 1))
    assert_same(tensor.transpose(0, -1), array.swapaxes(0, 2))


def test_squeeze_and_new_axes(device: un.Device) -> None:
    array = random_array((1, 3, 1, 4), "int32", seed=4)
    tensor = un.asarray(array, device=device)
    assert_same(tensor.squeeze(), array.squeeze())
    assert_same(tensor.squeeze(0), array.squeeze(0))
    assert_same(tensor[:, None, ..., None], array[:, None, ..., None])
    with pytest.raises(ShapeError, match="3"):
        tensor.squeeze(1)


def test_broadcast_to_repeats_without_memory(device: un.Device) -> None:
    array = random_array((3, 1), "float32", seed=5)
    tensor = un.asarray(array, device=device)
    wide = tensor.broadcast_to(2, 3, 4)
    assert wide.strides[0] == wide.strides[2] == 0
    assert wide.address == tensor.address
    assert_same(wide, np.broadcast_to(array, (2, 3, 4)))
    with pytest.raises(ShapeError):
        tensor.broadcast_to(2, 4)


@pytest.mark.parametrize(
    ("source", "target"), [("float32", "uint32"), ("int64", "int16"), ("uint8", "float64"), ("int16", "uint8")]
)
def test_a_view_as_another_dtype_agrees_with_numpy(device: un.Device, source: str, target: str) -> None:
    array = random_array((3, 16), source, seed=6)
    view = un.asarray(array, device=device).view(target)
    np.testing.assert_array_equal(view.view("uint8").numpy(), array.view(target).view("uint8"))
    assert view.shape == array.view(target).shape


def test_a_view_as_another_width_needs_whole_contiguous_rows(device: un.Device) -> None:
    with pytest.raises(LayoutError):
        un.zeros((4, 4), un.int32, device).T.view(un.int64)
    with pytest.raises(LayoutError):
        un.zeros((4, 3), un.int32, device).view(un.int64)


def test_contiguous_copies_only_what_is_not(device: un.Device) -> None:
    tensor = un.zeros((3, 4), un.float32, device)
    assert tensor.contiguous() is tensor
    assert tensor.T.contiguous().is_contiguous
    assert tensor.T.contiguous().address != tensor.address


@pytest.mark.parametrize("index", [3, -4, (0, 5), (0, 0, 0), (Ellipsis, Ellipsis)])
def test_an_index_out_of_range_is_an_index_error(device: un.Device, index: Any) -> None:
    with pytest.raises(IndexError):
        un.zeros((3, 4), un.float32, device)[index]


@pytest.mark.parametrize("index", [[0, 1], True, np.array([0]), np.array([True, False, True])])
def test_indices_that_would_copy_are_refused(device: un.Device, index: Any) -> None:
    with pytest.raises(UnsupportedError):
        un.zeros((3, 4), un.float32, device)[index]


@pytest.mark.parametrize("index", ["a", 1.0, {}])
def test_indices_that_are_none_are_type_errors(device: un.Device, index: Any) -> None:
    with pytest.raises(TypeError):
        un.zeros((3, 4), un.float32, device)[index]


def test_length_and_iteration(device: un.Device) -> None:
    array = random_array((3, 2), "int32", seed=7)
    tensor = un.asarray(array, device=device)
    assert len(tensor) == 3
    for row, expected in zip(tensor, array, strict=True):
        assert_same(row, expected)
    for operation in (len, iter):
        with pytest.raises(TypeError):
            operation(tensor[0, 0])  # type: ignore[operator]


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_single_elements_become_python_numbers(device: un.Device, dtype: str) -> None:
    element = un.full((1, 1), 1, dtype, device)
    assert element.item() == 1
    assert int(element) == 1
    assert float(element) == 1.0
    assert bool(element) is True
    assert bool(un.zeros((), dtype, device)) is False


def test_several_elements_are_no_number(device: un.Device) -> None:
    for convert in (int, float, bool, lambda tensor: tensor.item()):
        with pytest.raises((ShapeError, TypeError)):
            convert(un.zeros(2, un.float32, device))


def test_an_integer_can_be_an_index(device: un.Device) -> None:
    assert "abc"[un.full((), 2, un.int64, device)] == "c"  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        "abc"[un.full((), 2, un.float32, device)]  # type: ignore[call-overload]


def test_tolist_agrees_with_numpy(device: un.Device) -> None:
    array = random_array((2, 3), "float32", seed=8)
    assert un.asarray(array, device=device).tolist() == array.tolist()
    assert un.full((), 3, un.int32, device).tolist() == 3
    assert un.full(2, 1.5, un.bfloat16, device).tolist() == [1.5, 1.5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
def test_repr_shows_data_dtype_and_device(device: un.Device, dtype: str) -> None:
    text = repr(un.ones(3, dtype, device))
    assert "1" in text or "True" in text
    assert dtype in text
    assert device.name in text


def test_repr_of_much_is_short(device: un.Device) -> None:
    assert len(repr(un.zeros((1000, 1000), un.float32, device))) < 2000
    assert "shape=(1000, 1000)" in repr(un.zeros((1000, 1000), un.float32, device))
    assert "shape=(0, 3)" in repr(un.zeros((0, 3), un.float32, device))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_pickle_and_deepcopy_keep_everything(device: un.Device, dtype: str) -> None:
    tensor = un.asarray(random_array((3, 4), "float32", seed=9), dtype, device).T
    for again in (pickle.loads(pickle.dumps(tensor)), copy.deepcopy(tensor)):
        assert again.device is device
        assert again.dtype == dtype
        np.testing.assert_array_equal(again.to("float32").numpy(), tensor.to("float32").numpy())


def test_like_functions_follow_their_model(device: un.Device) -> None:
    model = un.zeros((2, 3), un.int16, device)
    for made in (un.empty_like(model), un.zeros_like(model), ones_like(model), full_like(model, 4)):
        assert (made.shape, made.dtype, made.device) == (model.shape, model.dtype, device)
    assert un.empty_like(model, un.float32).dtype == "float32"
    assert_same(full_like(model, 4), np.full((2, 3), 4, np.int16))


@pytest.mark.parametrize("arguments", [(5,), (2, 7), (0, 10, 3), (10, 0, -3), (0.0, 1.0, 0.25), (3, 3)])
def test_arange_agrees_with_numpy(device: un.Device, arguments: tuple[float, ...]) -> None:
    tensor = un.arange(*arguments, device=device)
    expected = np.arange(*arguments)
    assert tensor.device is device
    assert_same(tensor, expected.astype(np.int64 if expected.dtype == np.int64 else np.float32))
