"""What all ops share: the stream that they run on, the dtypes that they take, and arrays as rows."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

from unify._core import call_on_stream_of_arrays
from unify._errors import LayoutError
from unify._stream import Stream
from unify._tensor import Tensor, as_tensor, bfloat16, float16, float32, wrap_like

from . import tuning

FLOATS = (float16, bfloat16, float32)

Function = TypeVar("Function", bound=Callable[..., Any])


def op(function: Function) -> Function:
    """Runs an op with its argument `stream` as the current one, so that its body cannot forget it.

    Helper copies, kernels and what makes a result ready for the caller's library all go to the current stream. The
    body's own `stream` is always None. The device is that of the op's first array. Without the argument it is the
    current stream of the library that the first array on a device is of: torch's tensors stay on torch's stream.
    """
    first = next(iter(inspect.signature(function).parameters))
    name = f"{function.__name__}: {first}"

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        stream = kwargs.pop("stream", None)
        if tuning.active is not None and kwargs.get("out") is None:
            return tuning.active.run(lambda: on_stream(stream, args, kwargs))
        return call_on_stream_of_arrays(function, args, kwargs) if stream is None else on_stream(stream, args, kwargs)

    def on_stream(stream: Any, args: Any, kwargs: Any) -> Any:
        if stream is None:
            return call_on_stream_of_arrays(function, args, kwargs)
        array = args[0] if args else kwargs.get(first)
        device = as_tensor(getattr(array, "codes", array), name=name).device  # of what is quantised
        with Stream.from_native(stream, device):
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]


def written(tensor: Any, array: Any) -> Any:
    """Returns the caller's `array`, whose memory an op wrote as `tensor`, ready for the library that it is of.

    While a graph is captured nothing is written yet: who launches the graph waits for it.
    """
    if not (isinstance(array, Tensor) or tensor.device.current_stream.is_capturing):
        wrap_like(tensor, array)
    return array


def check_overlap(name: str, out: Any, **read: Any) -> None:
    """Raises LayoutError where writing `out` would change what is still to be read: it may lie on an array, not across.

    out, read: contiguous tensors of one device, which the op named `name` reads and writes element by element.
    """
    for what, tensor in read.items():
        overlaps = out.address < tensor.address + tensor.nbytes and tensor.address < out.address + out.nbytes
        if overlaps and (out.address, out.nbytes) != (tensor.address, tensor.nbytes):
            raise LayoutError(
                f"{name}: out overlaps {what} in memory: {out.nbytes} bytes from {out.address:#x} on, and "
                f"{tensor.nbytes} from {tensor.address:#x}. Give {what} itself as out, or memory of its own."
            )


def as_rows(tensor: Any, columns: int) -> Any:
    """[..., columns] as [rows, columns], the last axis contiguous; a copy where that needs one."""
    rows = tensor if tensor.ndim == 2 else tensor.reshape(math.prod(tensor.shape[:-1]), columns)
    return rows if rows.strides[1] == 1 else rows.contiguous()
