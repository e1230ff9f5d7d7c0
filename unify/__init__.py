"""One accelerator abstraction: devices, streams, tensors and kernels on any chip.

Nothing heavy is imported here: the names below are loaded at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _errors as errors
from ._errors import Error

__version__ = "0.1.0"

_PACKAGES = ("bench", "compiler", "models", "ops", "testing")
_NAMES = {
    "_device": ("Device", "default_device", "device", "device_absences", "devices", "set_default_device"),
    "_stream": ("Event", "Stream", "current_stream", "stream", "synchronize"),
    "_memory": (
        "empty_pinned",
        "memory_snapshot",
        "memory_statistics",
        "reset_memory_peaks",
        "set_memory_limit",
        "trim_memory",
    ),
    "_tensor": (
        "DType", "Tensor", "arange", "asarray", "bfloat16", "bool_", "empty", "empty_like", "float16", "float32",
        "float64", "float8_e4m3", "float8_e5m2", "from_dlpack", "from_numpy", "full", "int16", "int32", "int64",
        "int8", "ones", "uint16", "uint32", "uint64", "uint8", "zeros", "zeros_like",
    ),
    "_graph": ("Graph",),
    "_trace": ("span", "trace"),
    "_kernel": ("Kernel", "jit"),
    "_info": ("info",),
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["Error", "errors", "get_include", *_HOME, *_PACKAGES]  # noqa: PLE0604


def get_include() -> str:
    """The folder to give a compiler with -I, so that <unify/backend.h> is found."""
    import os.path

    return os.path.join(os.path.dirname(__file__), "include")


def __getattr__(name: str) -> Any:
    """Loads a public name at its first use."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"unify.{_HOME[name]}"), name)
    elif name in _PACKAGES:
        value = importlib.import_module(f"unify.{name}")
    else:
        raise AttributeError(f"module 'unify' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, loaded or not."""
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from . import bench, compiler, models, ops, testing
