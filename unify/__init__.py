"""One accelerator abstraction: devices, streams, tensors and kernels on any chip.

    import unify as un

    x = un.asarray([1.0, 2.0, 3.0])
    x.device                              # unify.device('cpu')

Nothing heavy is imported here: a name is loaded from its module at its first use.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os.path
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import *  # noqa: F403

if TYPE_CHECKING:  # what a type checker and a reader see; tests compare it with the tables below
    from . import bench as bench, compiler as compiler, models as models, ops as ops, testing as testing
    from ._compile import (
        compile as compile,
    )
    from ._device import (
        Backend as Backend,
        BackendStatus as BackendStatus,
        Device as Device,
        add_backend as add_backend,
        backends as backends,
        default_device as default_device,
        device as device,
        device_absences as device_absences,
        devices as devices,
        set_default_device as set_default_device,
    )
    from ._graph import (
        Graph as Graph,
    )
    from ._info import (
        info as info,
    )
    from ._kernel import (
        Kernel as Kernel,
        jit as jit,
    )
    from ._memory import (
        MemoryBlock as MemoryBlock,
        MemorySegment as MemorySegment,
        MemoryStatistics as MemoryStatistics,
        empty_pinned as empty_pinned,
        memory_snapshot as memory_snapshot,
        memory_statistics as memory_statistics,
        reset_memory_peaks as reset_memory_peaks,
        set_memory_limit as set_memory_limit,
        trim_memory as trim_memory,
    )
    from ._stream import (
        Event as Event,
        Stream as Stream,
        current_stream as current_stream,
        event as event,
        stream as stream,
        synchronize as synchronize,
    )
    from ._tensor import (
        DType as DType,
        Tensor as Tensor,
        arange as arange,
        asarray as asarray,
        bfloat16 as bfloat16,
        bool_ as bool_,
        dtype as dtype,
        empty as empty,
        empty_like as empty_like,
        float8_e4m3 as float8_e4m3,
        float8_e5m2 as float8_e5m2,
        float16 as float16,
        float32 as float32,
        float64 as float64,
        from_dlpack as from_dlpack,
        from_numpy as from_numpy,
        full as full,
        full_like as full_like,
        int8 as int8,
        int16 as int16,
        int32 as int32,
        int64 as int64,
        ones as ones,
        ones_like as ones_like,
        uint8 as uint8,
        uint16 as uint16,
        uint32 as uint32,
        uint64 as uint64,
        zeros as zeros,
        zeros_like as zeros_like,
    )
    from ._trace import (
        span as span,
        trace as trace,
    )
    from .simulator import simulate as simulate

__version__ = "0.1.0"

_PACKAGES = ("bench", "compiler", "models", "ops", "simulator", "testing")
_NAMES = {
    "_compile": ("compile",),
    "_device": (
        "Backend", "BackendStatus", "Device", "add_backend", "backends", "default_device", "device", "device_absences",
        "devices", "set_default_device",
    ),
    "_graph": ("Graph",),
    "_info": ("info",),
    "_kernel": ("Kernel", "jit"),
    "_memory": (
        "MemoryBlock", "MemorySegment", "MemoryStatistics", "empty_pinned", "memory_snapshot", "memory_statistics",
        "reset_memory_peaks", "set_memory_limit", "trim_memory",
    ),
    "_stream": ("Event", "Stream", "current_stream", "event", "stream", "synchronize"),
    "_tensor": (
        "DType", "Tensor", "arange", "asarray", "bfloat16", "bool_", "dtype", "empty", "empty_like", "float8_e4m3",
        "float8_e5m2", "float16", "float32", "float64", "from_dlpack", "from_numpy", "full", "full_like", "int8",
        "int16", "int32", "int64", "ones", "ones_like", "uint8", "uint16", "uint32", "uint64", "zeros", "zeros_like",
    ),
    "_trace": ("span", "trace"),
    "simulator": ("simulate",),
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["errors", "get_include", *errors.__all__, *_HOME, *_PACKAGES]


def get_include() -> str:
    """The folder to give a C compiler with -I, so that it finds <unify/backend.h>."""
    return os.path.join(os.path.dirname(__file__), "include")


def __getattr__(name: str) -> Any:
    """Loads a public name's module at the name's first use."""
    if name in _PACKAGES:
        return importlib.import_module(f"unify.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'unify' has no attribute {name!r}")
    _load(_HOME[name])
    return globals()[name]


def _load(home: str) -> None:
    """Takes over a module's public names; classes and functions then claim to be from `unify`, as users know them."""
    try:
        module = importlib.import_module(f"unify.{home}")
    except ImportError as error:
        if "_core" not in str(error) or importlib.util.find_spec("unify._core") is not None:
            raise
        raise ImportError("unify._core, the compiled part of unify, is not built: run `make build`.") from error
    for name in _NAMES[home]:
        value = getattr(module, name)
        if callable(value) and str(getattr(value, "__module__", "")).startswith(("unify._", "unify.simulator")):
            with contextlib.suppress(AttributeError, TypeError):  # a few types of the extension cannot be changed
                value.__module__ = "unify"
        globals()[name] = value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
