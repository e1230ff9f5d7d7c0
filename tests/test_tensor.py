"""Tensors beside NumPy and torch: what goes in comes out, without a copy, and says so when it cannot."""

from __future__ import annotations

import array
import ctypes
import gc
import operator
import subprocess
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import unify as un
from unify._errors import DTypeError, Error, InvalidArgument, LayoutError, ShapeError, UnsupportedError
from unify._tensor import as_tensor, dtype as dtype_of, wrap_like
from unify.testing.arrays import NUMPY_DTYPES, assert_same, random_array, random_index

torch = pytest.importorskip("torch")

TORCH_DTYPES = [*NUMPY_DTYPES, "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def torch_array(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    if dtype.startswith(("float", "bfloat")):
        return torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    return torch.randint(0, 2 if dtype == "bool" else 100, shape, generator=generator).to(getattr(torch, dtype))


# ---- NumPy


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_numpy_in_and_out_shares_memory(dtype: str) -> None:
    source = random_array((5, 7), dtype, seed=1)
    tensor = un.asarray(source)
    assert tensor.dtype == dtype
    assert tensor.address == source.ctypes.data
    again = tensor.numpy()
    assert np.shares_memory(again, source)
    np.testing.assert_array_equal(again, source)


@pytest.mark.parametrize("seed", range(30))
def test_views_of_numpy_arrays_keep_shape_strides_and_contents(seed: int) -> None:
    generator = np.random.default_rng(seed)
    source = random_array((5, 1, 6, 4), "int32", seed).transpose(generator.permutation(4))
    view = source[random_index(generator, source.shape)]
    tensor = un.asarray(view)
    assert tensor.shape == view.shape
    assert_same(tensor, view)
    if view.size:
        assert np.shares_memory(tensor.numpy(), source)
        counted = [axis for axis, length in enumerate(view.shape) if length != 1]  # else a stride means nothing
        assert [tensor.strides[axis] * 4 for axis in counted] == [view.strides[axis] for axis in counted]


def test_writes_on_either_side_are_seen_on_the_other() -> None:
    source = np.zeros(4, np.float32)
    tensor = un.asarray(source)
    tensor[1] = 5
    un.synchronize()
    assert source[1] == 5
    source[2] = 6
    assert tensor[2].item() == 6


def test_a_read_only_array_stays_read_only() -> None:
    source = random_array((4,))
    source.flags.writeable = False
    tensor = un.asarray(source)
    assert tensor.is_readonly
    assert tensor[1:].is_readonly
    assert not tensor.numpy().flags.writeable
    assert memoryview(tensor).readonly
    with pytest.raises(TypeError, match="writable"):
        ctypes.c_float.from_buffer(tensor)


def test_the_array_lives_as_long_as_the_tensor_and_no_longer() -> None:
    class Owner(np.ndarray[Any, Any]):
        pass

    source = np.zeros(100, np.float32).view(Owner)
    reference = weakref.ref(source)
    tensor = un.asarray(source)
    view = tensor[10:]
    del source, tensor
    gc.collect()
    assert reference() is not None
    del view
    gc.collect()
    assert reference() is None


def test_the_tensor_lives_as_long_as_its_numpy_array() -> None:
    before = un.memory_statistics().allocated_bytes
    result = un.ones(1 << 20, un.uint8).numpy()
    gc.collect()
    assert un.memory_statistics().allocated_bytes > before
    assert result.sum() == 1 << 20
    del result
    gc.collect()
    assert un.memory_statistics().allocated_bytes == before


def test_a_tensor_dropped_while_a_stream_still_reads_its_array() -> None:
    stream = un.Stream("cpu")
    opened = threading.Event()
    stream.host_call(lambda: opened.wait(20))
    target = un.empty(1 << 16, un.uint8, "cpu", stream=stream)
    target.copy_(np.full(1 << 16, 7, np.uint8), stream=stream)  # the array has no other owner
    gc.collect()
    garbage = [np.full(1 << 16, 9, np.uint8) for _ in range(10)]
    opened.set()
    stream.synchronize()
    assert_same(target, np.full(1 << 16, 7, np.uint8))
    del garbage


@pytest.mark.parametrize(
    ("dtype", "words"),
    [("complex64", "complex64"), ("S3", "bytes"), ("U3", "str"), ("object", "object"), (">f4", ">f4")],
)
def test_elements_we_have_no_name_for_are_a_dtype_error(dtype: str, words: str) -> None:
    source = np.zeros(3, dtype)
    with pytest.raises(DTypeError, match=f"^array: unify has no dtype for {words}. Convert .*float32.*imaginary"):
        un.asarray(source)


@pytest.mark.parametrize(
    ("values", "words"), [([1j], "complex128"), (["a"], "str"), ([b"a"], "bytes"), ([{}], "object")]
)
def test_a_list_of_what_we_have_no_name_for_is_a_dtype_error(values: list[Any], words: str) -> None:
    with pytest.raises(DTypeError, match=f"^asarray: unify has no dtype for {words}. "):
        un.asarray(values)


def test_other_libraries_elements_are_named_too() -> None:
    with pytest.raises(DTypeError, match="no dtype for complex64"):
        un.asarray(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(DTypeError, match="its library does not hand it out"):
        un.asarray(np.zeros(3, "datetime64[s]"))
    with pytest.raises(DTypeError, match="no dtype for the buffer format '.'"):
        un.asarray(array.array("u", "ab"))


def test_strides_that_are_no_multiple_of_the_element_are_a_layout_error() -> None:
    raw = np.zeros(30, np.uint8)
    odd = np.ndarray((4,), np.int32, raw, strides=(5,))
    with pytest.raises(LayoutError):
        un.asarray(odd)


def test_more_axes_than_a_tensor_has_are_a_shape_error() -> None:
    with pytest.raises(ShapeError, match="9 axes"):
        un.asarray(np.zeros((1,) * 9))


def test_bfloat16_bits_from_numpy() -> None:
    bits = np.array([0x3F80, 0x4000, 0xBF80], np.uint16)
    tensor = un.from_numpy(bits, un.bfloat16)
    assert tensor.address == bits.ctypes.data
    assert tensor.tolist() == [1.0, 2.0, -1.0]
    with pytest.raises(DTypeError, match="uint16"):
        un.from_numpy(bits, un.float32)


def test_bfloat16_to_numpy_says_what_to_do_without_ml_dtypes() -> None:
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        with pytest.raises(UnsupportedError, match="ml_dtypes"):
            un.ones(3, un.bfloat16).numpy()
    else:
        assert un.ones(3, un.bfloat16).numpy().dtype.name == "bfloat16"


def test_bfloat16_arrays_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    source = np.array([1.0, 2.5], ml_dtypes.bfloat16)
    tensor = un.asarray(source)
    assert tensor.dtype == un.bfloat16
    assert tensor.address == source.ctypes.data
    assert tensor.numpy().dtype == source.dtype


def test_numpy_functions_take_tensors() -> None:
    tensor = un.asarray(random_array((3, 4), seed=2))
    assert float(np.sum(tensor)) == float(tensor.numpy().sum())
    assert np.asarray(tensor, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(tensor, copy=True), tensor.numpy())
    assert np.shares_memory(np.array(tensor, copy=False), tensor.numpy())


def test_array_interface_describes_the_memory() -> None:
    tensor = un.zeros((3, 4), un.int16)[:, ::2]
    interface = tensor.__array_interface__
    assert interface["data"] == (tensor.address, False)
    assert interface["strides"] == (8, 4)
    assert interface["typestr"] == "<i2"
    assert not hasattr(un.zeros(3, un.bfloat16), "__array_interface__")
    assert not hasattr(tensor, "__cuda_array_interface__")


class Interface:
    """An array that speaks nothing but the array interface."""

    def __init__(self, source: np.ndarray[Any, Any]) -> None:
        self.__array_interface__ = source.__array_interface__
        self.source = source


def test_arrays_that_speak_only_the_array_interface() -> None:
    source = random_array((4, 6), "int16", seed=3)[::2, ::-1]
    tensor = un.asarray(Interface(source))
    assert_same(tensor, source)
    assert tensor[0, 0].address == source.ctypes.data


def test_buffers_of_all_kinds() -> None:
    assert un.asarray(b"abc").tolist() == [97, 98, 99]
    assert un.asarray(b"abc").is_readonly
    assert un.asarray(bytearray(b"abc")).dtype == un.uint8
    assert un.asarray(array.array("d", [1, 2])).dtype == un.float64
    assert un.asarray(memoryview(bytearray(8)).cast("i")).dtype == un.int32
    assert un.asarray((ctypes.c_float * 3)(1, 2, 3)).tolist() == [1, 2, 3]


def test_a_bytearray_cannot_move_its_memory_under_a_tensor() -> None:
    source = bytearray(b"abc")
    tensor = un.asarray(source)
    with pytest.raises(BufferError):
        source.extend(b"def" * 1000)
    del tensor
    gc.collect()
    source.extend(b"def")


def test_memoryview_of_a_tensor() -> None:
    tensor = un.asarray(np.arange(12, dtype=np.int32).reshape(3, 4), copy=True)
    view = memoryview(tensor)
    assert (view.format, view.shape, view.strides) == ("i", (3, 4), (16, 4))
    assert bytes(tensor) == tensor.numpy().tobytes()
    assert memoryview(tensor.T).tolist() == tensor.numpy().T.tolist()
    with pytest.raises(BufferError):
        memoryview(un.zeros(3, un.bfloat16))


# ---- lists and numbers


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2, 3], "int64"),
        ([1.5, 2], "float32"),
        ([True, False], "bool"),
        ([[1], [2]], "int64"),
        (3, "int64"),
        (2.5, "float32"),
        ([], "float32"),
    ],
)
def test_lists_and_numbers(values: Any, dtype: str) -> None:
    tensor = un.asarray(values)
    assert tensor.dtype == dtype
    assert tensor.tolist() == values


def test_lists_as_a_dtype() -> None:
    assert un.asarray([1, 2], un.bfloat16).tolist() == [1, 2]
    assert un.asarray([1.25], "float64").dtype == "float64"
    with pytest.raises(InvalidArgument, match="uint8"):
        un.asarray([1, 300], un.uint8)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([[1], [2, 3]], "asarray: the list is no array"), ([None], "no dtype for object"),
        ({"a": 1}, "array: an array is needed, not a dict, {'a': 1}"),
        ("text", "array: an array is needed, not a str, 'text'"),
        (None, "array: an array is needed, not None"), (1j, "not a complex, 1j.*real number"),
    ],
)  # fmt: skip
def test_what_is_no_array_is_an_error(values: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        un.asarray(values)


@pytest.mark.parametrize("name", ["add", "iadd", "sub", "mul", "truediv", "matmul"])
def test_arithmetic_says_where_it_is(name: str) -> None:
    for pair in ((un.ones(2), un.ones(2)), (un.ones(2), 1), (2.5, un.ones(2))):
        with pytest.raises(TypeError, match=r"^unify.Tensor has no arithmetic: use unify.ops.*jit.*numpy\(\)"):
            getattr(operator, name)(*pair)
    with pytest.raises(TypeError, match=r"'unify.Tensor' and 'str'"):
        un.ones(2) + "text"


def test_arithmetic_with_an_array_of_another_library_is_that_librarys() -> None:
    assert (un.ones(2) + np.ones(2)).tolist() == (np.ones(2) + un.ones(2)).tolist() == [2, 2]
    assert (un.ones(2) * np.float32(3)).tolist() == [3, 3]


def test_a_list_of_tensors_becomes_one() -> None:
    assert un.asarray([un.ones(2), un.zeros(2)]).tolist() == [[1, 1], [0, 0]]


# ---- torch


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_torch_in_and_out_shares_memory(dtype: str) -> None:
    source = torch_array((5, 7), dtype)
    tensor = un.asarray(source)
    assert tensor.address == source.data_ptr()
    again = wrap_like(tensor, source)
    assert again.dtype == source.dtype
    assert again.data_ptr() == source.data_ptr()
    assert torch.equal(again.view(torch.uint8), source.view(torch.uint8))


@pytest.mark.parametrize("seed", range(20))
def test_views_of_torch_tensors_keep_shape_strides_and_contents(seed: int) -> None:
    generator = np.random.default_rng(seed)
    source = torch_array((5, 1, 6, 4), "int32", seed).permute(*generator.permutation(4).tolist())
    key = tuple(slice(None, None, int(generator.integers(1, 3))) for _ in range(int(generator.integers(0, 4))))
    view = source[key]
    tensor = un.asarray(view)
    assert tensor.strides == view.stride()
    assert_same(tensor, view.numpy())


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("how", ["from_dlpack", "wrap_like"])
def test_our_tensors_in_torch(dtype: str, how: str) -> None:
    name = "float8_e4m3" if dtype == "float8_e4m3fn" else dtype
    tensor = un.ones((3, 4), name)[:, 1:]
    result = torch.from_dlpack(tensor) if how == "from_dlpack" else wrap_like(tensor, torch.zeros(1))
    assert result.dtype == getattr(torch, dtype)
    assert result.data_ptr() == tensor.address
    assert result.shape == (3, 3)
    assert bool((result.to(torch.float32) == 1).all())


def test_torch_keeps_our_memory_alive_and_lets_it_go() -> None:
    gc.collect()  # what an earlier test left
    before = un.memory_statistics().allocated_bytes
    result = torch.from_dlpack(un.ones(1 << 20, un.uint8))
    gc.collect()
    assert un.memory_statistics().allocated_bytes > before
    assert int(result.sum(dtype=torch.int64)) == 1 << 20
    del result
    gc.collect()
    assert un.memory_statistics().allocated_bytes == before


def test_we_keep_torchs_memory_alive() -> None:
    tensor = un.asarray(torch.full((1 << 16,), 7, dtype=torch.uint8))
    gc.collect()
    garbage = [torch.full((1 << 16,), 9, dtype=torch.uint8) for _ in range(10)]
    assert_same(tensor, np.full(1 << 16, 7, np.uint8))
    del garbage


def test_dlpack_by_capsule_both_ways() -> None:
    tensor = un.asarray(torch.arange(6))
    old = tensor.__dlpack__()
    assert "dltensor" in repr(old)
    assert "versioned" not in repr(old)
    assert torch.utils.dlpack.from_dlpack(old).tolist() == list(range(6))
    assert "dltensor_versioned" in repr(tensor.__dlpack__(max_version=(1, 0)))
    assert "versioned" not in repr(tensor.__dlpack__(max_version=(0, 8)))


def test_dlpack_copies_when_asked() -> None:
    tensor = un.ones(3)
    assert np.from_dlpack(tensor).ctypes.data == tensor.address
    copied = torch.from_dlpack(tensor, copy=True)
    assert copied.data_ptr() != tensor.address
    copied[0] = 9
    assert tensor.tolist() == [1, 1, 1]
    with pytest.raises((BufferError, Error)):
        tensor.__dlpack__(stream=3, max_version=(1, 0))


def test_a_read_only_tensor_cannot_go_through_old_dlpack() -> None:
    source = np.zeros(3)
    source.flags.writeable = False
    tensor = un.asarray(source)
    with pytest.raises(BufferError, match="read-only"):
        tensor.__dlpack__()
    assert not np.from_dlpack(tensor).flags.writeable


class OldProducer:
    """An array from before DLPack 1.0: its method knows no max_version."""

    def __init__(self, source: np.ndarray[Any, Any]) -> None:
        self.source = source

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.source.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class NewProducer(OldProducer):
    """One that answers versioned, with the read-only flag."""

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:  # type: ignore[override]
        return self.source.__dlpack__(max_version=max_version)


@pytest.mark.parametrize("producer", [OldProducer, NewProducer])
def test_arrays_that_speak_dlpack_by_method_only(producer: type[OldProducer]) -> None:
    source = random_array((3, 4), seed=4)
    tensor = un.from_dlpack(producer(source))
    assert tensor.address == source.ctypes.data
    assert_same(tensor, source)


def test_the_read_only_flag_of_dlpack_is_kept() -> None:
    source = random_array((3,), seed=5)
    source.flags.writeable = False
    assert un.from_dlpack(NewProducer(source)).is_readonly


def test_a_producer_that_raises_is_heard() -> None:
    class Broken(OldProducer):
        def __dlpack__(self, **_: Any) -> Any:
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        un.from_dlpack(Broken(np.zeros(3)))
    with pytest.raises(InvalidArgument, match="__dlpack__"):
        un.from_dlpack(3)


def test_a_capsule_that_nobody_takes_gives_its_memory_back() -> None:
    before = un.memory_statistics().allocated_bytes
    for version in ((1, 3), None):
        capsule = un.ones(1 << 20, un.uint8).__dlpack__(max_version=version)
        del capsule
    gc.collect()
    assert un.memory_statistics().allocated_bytes == before


def test_the_exchange_table_is_a_capsule_on_the_type() -> None:
    assert "dlpack_exchange_api" in repr(un.Tensor.__dlpack_c_exchange_api__)


def test_wrap_like_returns_each_callers_kind() -> None:
    tensor = un.ones((2, 3))
    assert wrap_like(tensor, tensor) is tensor
    assert isinstance(wrap_like(tensor, np.zeros(1)), np.ndarray)
    assert isinstance(wrap_like(tensor, torch.zeros(1)), torch.Tensor)
    assert isinstance(wrap_like(tensor, [1, 2]), np.ndarray)


def test_wrap_like_torch_waits_for_the_work() -> None:
    with un.Stream("cpu"):
        tensor = un.zeros(1 << 22, un.uint8)
        for value in range(1, 20):
            tensor.fill_(value)
        assert int(wrap_like(tensor, torch.zeros(1))[-1]) == 19


def test_as_tensor_returns_our_own_as_it_is() -> None:
    tensor = un.ones(3)
    assert as_tensor(tensor) is tensor


# ---- odds and ends


def test_dtypes_from_everywhere() -> None:
    for spelling in ("float32", un.float32, np.float32, np.dtype("float32"), torch.float32, float):
        assert dtype_of(spelling) is un.float32
    assert dtype_of(torch.bfloat16) is un.bfloat16
    assert dtype_of(bool) is un.bool_
    assert dtype_of(int) is un.int64
    assert un.float32 == "float32"
    assert un.float32 != "float64"
    assert {un.float32: 1}["float32"] == 1  # type: ignore[index]
    assert un.float16.numpy == np.dtype("float16")
    assert un.float16.triton_name == "fp16"
    assert repr(un.float16) == "unify.float16"


def test_tensors_can_be_weakly_referenced_and_hashed() -> None:
    tensor = un.ones(3)
    reference = weakref.ref(tensor)
    assert {tensor: 1}[tensor] == 1
    del tensor
    gc.collect()
    assert reference() is None


def test_tensors_cannot_be_made_or_derived_by_hand() -> None:
    with pytest.raises(TypeError):
        un.Tensor()
    with pytest.raises(TypeError):
        type("Derived", (un.Tensor,), {})


@pytest.mark.parametrize("shape", [(16, 2**60 + 1), (2**32, 2**32, 16), (2**62, 4, 16), (-1, 2**62, 16)])
def test_a_shape_whose_elements_overflow_a_count_is_no_shape_of_a_few(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="reshape"):
        un.zeros(16, un.uint8).reshape(shape)


@pytest.mark.parametrize("shape", [(2**62, 4), (2**40, 2**40, 2), (2**62, 2**62, 2**62)])
def test_a_tensor_is_not_broadcast_beyond_what_an_address_counts(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="broadcast_to"):
        un.zeros(1, un.float32).broadcast_to(shape)


class Described:
    def __init__(self, **interface: Any) -> None:
        self.kept = np.zeros(64, np.float32)
        self.__array_interface__ = {**self.kept.__array_interface__, **interface}


@pytest.mark.parametrize("count", [1, 3, 9, 4000])
def test_an_array_interface_with_other_strides_than_lengths_is_refused(count: int) -> None:
    with pytest.raises(ShapeError, match=f"2 lengths and {count} strides"):
        un.asarray(Described(shape=(2, 3), strides=(4,) * count))


@pytest.mark.parametrize("stride", [2**62, -(2**62)])
def test_an_array_interface_that_reaches_around_the_address_space_is_refused(stride: int) -> None:
    with pytest.raises(LayoutError, match="reaches further"):
        un.asarray(Described(shape=(8, 8), strides=(stride, 4)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("flags", ["C_CONTIGUOUS", "F_CONTIGUOUS", "ANY_CONTIGUOUS", "STRIDES"])
def test_the_buffer_protocol_refuses_what_numpy_refuses(order: str, flags: str) -> None:
    flag = {"C_CONTIGUOUS": 0x38, "F_CONTIGUOUS": 0x58, "ANY_CONTIGUOUS": 0x98, "STRIDES": 0x18}[flags]
    source = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays = [source, un.asarray(source)]
    if order == "F":
        arrays = [each.T for each in arrays]
    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    get.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    release.argtypes = [ctypes.c_void_p]
    granted = []
    for each in arrays:
        view = ctypes.create_string_buffer(256)
        try:
            get(each, view, flag)
        except (BufferError, ValueError):
            granted.append(False)
        else:
            granted.append(True)
            release(view)
    assert granted[1] == granted[0]


def test_making_and_dropping_tensors_leaks_nothing() -> None:
    def once() -> None:
        source = np.zeros(1000, np.float32)
        tensor = un.asarray(source)
        _ = tensor[1:].reshape(9, 111).T.numpy(), torch.from_dlpack(tensor), memoryview(tensor), repr(tensor[:3])
        with pytest.raises(IndexError):
            tensor[5000]

    import resource

    for _ in range(300):
        once()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blocks = sys.getallocatedblocks()
    for _ in range(3000):
        once()
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB


def test_importing_unify_loads_nothing_heavy() -> None:
    code = (
        "import sys, unify; unify.empty; unify.device;"
        "heavy = {'numpy', 'torch', 'triton', 'llvmlite', 'importlib.metadata'};"
        "unify.zeros(3, unify.float32, 'cpu'); print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
