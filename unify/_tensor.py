"""Tensors and dtypes: what the core leaves to Python, because it needs NumPy or reads better here."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _core
from ._core import (
    DType,
    Tensor,
    as_tensor,
    asarray,
    bfloat16,
    bool_,
    dtype,
    empty,
    float8_e4m3,
    float8_e5m2,
    float16,
    float32,
    float64,
    full,
    int8,
    int16,
    int32,
    int64,
    ones,
    uint8,
    uint16,
    uint32,
    uint64,
    wrap_like,
    zeros,
)
from ._device import default_device
from ._errors import DTypeError, InvalidArgument, UnsupportedError

if TYPE_CHECKING:
    import numpy

    from ._device import DeviceLike
    from ._stream import StreamLike

DTypeLike: TypeAlias = "DType | str | type | object"
ArrayLike: TypeAlias = Any  # whatever speaks DLPack, the buffer protocol or an array interface; lists; numbers

__all__ = [
    "DType",
    "Tensor",
    "arange",
    "as_tensor",
    "asarray",
    "bfloat16",
    "bool_",
    "dtype",
    "empty",
    "empty_like",
    "float8_e4m3",
    "float8_e5m2",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "int8",
    "int16",
    "int32",
    "int64",
    "ones",
    "ones_like",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "wrap_like",
    "zeros",
    "zeros_like",
]

# Elements that NumPy has no name for, and the unsigned integers of their width.
_WITHOUT_NUMPY = {bfloat16: "uint16", float8_e4m3: "uint8", float8_e5m2: "uint8"}
_ML_DTYPES = {bfloat16: "bfloat16", float8_e4m3: "float8_e4m3fn", float8_e5m2: "float8_e5m2"}


def empty_like(array: ArrayLike, dtype: DTypeLike | None = None, device: DeviceLike = None) -> Tensor:
    """A new, contiguous tensor of `array`'s shape, dtype and device, with undefined contents."""
    tensor = as_tensor(array)
    return empty(tensor.shape, dtype or tensor.dtype, device or tensor.device)


def zeros_like(array: ArrayLike, dtype: DTypeLike | None = None, device: DeviceLike = None) -> Tensor:
    """A new, contiguous tensor of zeros, of `array`'s shape, dtype and device."""
    tensor = as_tensor(array)
    return zeros(tensor.shape, dtype or tensor.dtype, device or tensor.device)


def ones_like(array: ArrayLike, dtype: DTypeLike | None = None, device: DeviceLike = None) -> Tensor:
    """A new, contiguous tensor of ones, of `array`'s shape, dtype and device."""
    return full_like(array, 1, dtype, device)


def full_like(array: ArrayLike, value: float, dtype: DTypeLike | None = None, device: DeviceLike = None) -> Tensor:
    """A new, contiguous tensor of one value, of `array`'s shape, dtype and device."""
    tensor = as_tensor(array)
    return full(tensor.shape, value, dtype or tensor.dtype, device or tensor.device)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: DTypeLike | None = None,
    device: DeviceLike = None,
    *,
    stream: StreamLike = None,
) -> Tensor:
    """Numbers from `start` (0 if only one is given) up to, and without, `stop`: int64 of integers, else float32.

    Returns a new tensor [ceil((stop - start) / step)] on `device` (default: the stream's, else the default one), filled
    on `stream`. Raises InvalidArgument for a step of 0.

    >>> un.arange(0, 10, 3).tolist()
    [0, 3, 6, 9]
    """
    import numpy as np

    first, last = (0, start) if stop is None else (start, stop)
    is_integral = all(isinstance(number, builtins.int) for number in (first, last, step))
    if step == 0:
        raise InvalidArgument("arange: step must not be 0.")
    values = np.arange(first, last, step, dtype=np.int64 if is_integral else np.float64)
    if device is None:
        device = stream.device if isinstance(stream, _core.Stream) else default_device()
    return asarray(values, dtype or (int64 if is_integral else float32), device, stream=stream)


def from_dlpack(
    array: Any, /, *, device: DeviceLike = None, copy: builtins.bool | None = None, stream: StreamLike = None
) -> Tensor:
    """A tensor over an array that speaks DLPack, zero-copy unless `device` or `copy` asks otherwise.

    stream: where the tensor will be used; the array's library lets it wait for what it has still to do.
    Raises InvalidArgument for anything that has no __dlpack__, or is on a device that is not here.

    >>> un.from_dlpack(np.arange(3)).tolist()
    [0, 1, 2]
    """
    if not hasattr(array, "__dlpack__"):
        raise InvalidArgument(f"from_dlpack: a {type(array).__name__} has no __dlpack__. Use unify.asarray().")
    return asarray(array, device=device, copy=copy, stream=stream)


def from_numpy(array: numpy.ndarray[Any, Any], dtype: DTypeLike | None = None) -> Tensor:
    """A tensor on the cpu that shares a NumPy array's memory.

    dtype: reads the same bytes as another type of the same width, e.g. uint16 as unify.bfloat16 for those without
    ml_dtypes. Raises DTypeError for one of another width.

    >>> un.from_numpy(np.array([0x3F80, 0x4000], np.uint16), un.bfloat16).tolist()
    [1.0, 2.0]
    """
    tensor = as_tensor(array, name="from_numpy")
    if dtype is None:
        return tensor
    wanted = _core.dtype(dtype)
    if wanted.itemsize != tensor.itemsize:
        raise DTypeError(
            f"from_numpy: {tensor.dtype.name} cannot be read as {wanted.name}, which is {wanted.itemsize} bytes wide, "
            f"not {tensor.itemsize}. To convert numbers use .to({wanted!r})."
        )
    return tensor.view(wanted)


def from_sequence(values: Sequence[Any] | float, dtype: DTypeLike | None) -> Tensor:
    """Lists, tuples and numbers. Called by asarray."""
    import numpy as np

    try:
        array = np.asarray([_to_host(value) for value in values] if isinstance(values, list | tuple) else values)
    except ValueError as error:
        raise InvalidArgument(f"asarray: the list is no array: {error}") from None
    if array.dtype.kind not in "biuf":
        return as_tensor(array, name="asarray")  # which says why not
    if array.dtype == np.float64 and dtype is None:
        array = array.astype(np.float32)  # as a list of floats is meant in this field
    elif dtype is not None and (wanted := _core.dtype(dtype)) not in _WITHOUT_NUMPY:
        array = _checked_cast(array, wanted)
    return as_tensor(np.ascontiguousarray(array).reshape(array.shape))


def dtype_in_words(array: Any, buffer_format: str) -> str:
    """What the elements of an array are that are of no dtype of ours. Called by the import of arrays."""
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        return f"the buffer format {buffer_format!r}"
    return {"U": "str", "S": "bytes", "O": "object"}.get(getattr(dtype, "kind", ""), str(dtype))


def _checked_cast(array: numpy.ndarray[Any, Any], wanted: DType) -> numpy.ndarray[Any, Any]:
    import numpy as np

    if array.size and array.dtype.kind in "iu" and not (wanted.is_floating or wanted == bool_):
        limits = np.iinfo(wanted.numpy)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InvalidArgument(
                f"asarray: {wanted.name} holds {limits.min} to {limits.max}, "
                f"the list has {array.min()} to {array.max()}."
            )
    return array.astype(wanted.numpy)


def _to_host(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def numpy_dtype(element: DType) -> numpy.dtype[Any]:
    """NumPy's dtype of the same elements. Called by DType.numpy."""
    import numpy as np

    if element not in _WITHOUT_NUMPY:
        return np.dtype(element.name)
    try:
        import ml_dtypes
    except ImportError:
        raise UnsupportedError(
            f"NumPy has no {element.name}. Install ml_dtypes, or use .view(unify.{_WITHOUT_NUMPY[element]}).numpy() "
            "for the bits, or .to(unify.float32).numpy() for the numbers."
        ) from None
    found: numpy.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[element]))
    return found


def to_numpy(tensor: Tensor) -> numpy.ndarray[Any, Any]:
    """Tensor.numpy()."""
    import numpy as np

    if not tensor.device.is_host_visible:
        tensor = tensor.to("cpu")
    if tensor.dtype in _WITHOUT_NUMPY:
        wanted = numpy_dtype(tensor.dtype)
        return np.asarray(tensor.view(_WITHOUT_NUMPY[tensor.dtype])).view(wanted)
    return np.asarray(tensor)


def to_array(tensor: Tensor, wanted: Any, copy: builtins.bool | None) -> numpy.ndarray[Any, Any]:
    """Tensor.__array__()."""
    import numpy as np

    array = to_numpy(tensor)
    if wanted is not None and np.dtype(wanted) != array.dtype:
        if copy is False:
            raise ValueError(f"a {tensor.dtype.name} tensor cannot become {np.dtype(wanted)} without a copy")
        return array.astype(wanted)
    return array.copy() if copy else array


def to_list(tensor: Tensor) -> Any:
    """Tensor.tolist()."""
    return _readable(tensor).tolist()


def _readable(tensor: Tensor) -> numpy.ndarray[Any, Any]:
    """Elements that NumPy has no name for come as float32, which holds each of them exactly."""
    return to_numpy(tensor.to(float32) if tensor.dtype in _WITHOUT_NUMPY else tensor)


def format_tensor(tensor: Tensor) -> str:
    """Tensor.__repr__(): data, dtype, device."""
    import numpy as np

    description = f"dtype={tensor.dtype.name}, device='{tensor.device.name}'"
    if tensor.device.current_stream.is_capturing:
        return f"unify.Tensor(shape={tensor.shape}, {description}, being captured)"
    if tensor.size == 0:
        return f"unify.Tensor([], shape={tensor.shape}, {description})"
    shown = _readable(_corners(tensor) if tensor.size > 1000 and not tensor.device.is_host_visible else tensor)
    text = np.array2string(shown, separator=", ", prefix="unify.Tensor(", precision=4, threshold=1000)
    shape = f", shape={tensor.shape}" if tensor.size > 1000 else ""
    return f"unify.Tensor({text}{shape}, {description})"


def _corners(tensor: Tensor) -> Tensor:
    """The first rows of a big tensor on a device: nobody reads more, and copying it all would take seconds."""
    return tensor[tuple(slice(0, 6) for _ in range(tensor.ndim))]


def reduce_tensor(tensor: Tensor) -> tuple[Any, ...]:
    """Tensor.__reduce__(): contents, dtype and device by name."""
    bits = {1: uint8, 2: uint16, 4: uint32, 8: uint64}[tensor.itemsize]
    array = to_numpy(tensor.contiguous().view(bits)).copy()
    return rebuild_tensor, (array, tensor.dtype.name, tensor.device.name)


def rebuild_tensor(array: numpy.ndarray[Any, Any], dtype_name: str, device_name: str) -> Tensor:
    """The tensor of a pickle, on a device of the same name."""
    return asarray(array).view(_core.dtype(dtype_name)).to(device_name)


def wrap_like_other(tensor: Tensor, like: Any) -> Any:
    """Returns a tensor as an array of a library that has no DLPack table: NumPy, CuPy, JAX …; called by wrap_like."""
    library = type(like).__module__.partition(".")[0]
    if library in ("numpy", "builtins", "ml_dtypes"):
        return to_numpy(tensor)
    namespace = like.__array_namespace__() if hasattr(like, "__array_namespace__") else None
    if namespace is None:
        import importlib

        namespace = importlib.import_module(library)
    if not hasattr(namespace, "from_dlpack"):
        return tensor
    return namespace.from_dlpack(tensor)
