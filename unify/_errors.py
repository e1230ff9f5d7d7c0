"""Everything that unify raises.

Error (RuntimeError)
├── InvalidArgument (ValueError)
│   ├── ShapeError
│   ├── DTypeError (TypeError)
│   ├── LayoutError
│   └── DeviceMismatchError
├── OutOfMemory (MemoryError)
├── KernelFault
├── DeviceLost
├── TimeoutExpired (TimeoutError)
├── UnsupportedError (NotImplementedError)
├── BackendError
├── GraphError
├── CompileError
├── TargetError (ValueError)
├── CacheError (OSError)
└── ModelFileError (ValueError)
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BackendError",
    "CacheError",
    "CompileError",
    "DTypeError",
    "DeviceLost",
    "DeviceMismatchError",
    "Error",
    "GraphError",
    "InvalidArgument",
    "KernelFault",
    "LayoutError",
    "ModelFileError",
    "OutOfMemory",
    "ShapeError",
    "TargetError",
    "TimeoutExpired",
    "UnsupportedError",
]


class Error(RuntimeError):
    """What failed, where, with which values, and what to do about it. All of it is in the message.

    The fields are None where they do not apply: device ("cuda:0"), stream ("stream 2"), kernel (the launch or copy
    that caused it), native_code and native_name (the vendor's own), advice, recent (the device's last operations).
    """

    code: str | None = None
    device: str | None = None
    stream: str | None = None
    kernel: str | None = None
    native_code: int | None = None
    native_name: str | None = None
    advice: str | None = None
    recent: str | None = None

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        for name, value in fields.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with its fields, so that errors cross process borders whole."""
        return _rebuild, (type(self), str(self.args[0]) if self.args else "", dict(self.__dict__))

    def __str__(self) -> str:
        """Returns the message."""
        return str(self.args[0]) if self.args else ""


def described(value: object) -> str:
    """What a value of a wrong kind is, for an error: its type and a short repr."""
    import reprlib

    if value is None:
        return "None"
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    article = "an" if name[0] in "aeio" else "a"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape:
        return f"{article} {name} of {dtype} with shape {list(shape)}"
    return f"{article} {name}, {reprlib.repr(value)}"


def _rebuild(cls: type[Error], message: str, fields: dict[str, Any]) -> Error:
    return cls(message, **fields)


class InvalidArgument(Error, ValueError):
    """A value that the call cannot take; nothing was done."""


class ShapeError(InvalidArgument):
    """Shapes that do not fit each other or the operation."""


class DTypeError(InvalidArgument, TypeError):
    """A dtype that the operation does not take, or several that differ."""


class LayoutError(InvalidArgument):
    """Strides, contiguity or alignment that the operation does not take."""


class DeviceMismatchError(InvalidArgument):
    """Arrays on different devices, or on another one than the stream's."""


class OutOfMemory(Error, MemoryError):
    """The device, or the host, has no more memory."""


class KernelFault(Error):
    """A kernel failed while it ran."""


class DeviceLost(Error):
    """The device does not answer any more."""


class TimeoutExpired(Error, TimeoutError):
    """Something was not done in the time given."""


class UnsupportedError(Error, NotImplementedError):
    """This device, backend or target cannot do it."""


class BackendError(Error):
    """A backend's library is broken, or was made for another version of unify."""


class GraphError(Error):
    """A recording that is not valid, or work that cannot be recorded."""


class CompileError(Error):
    """A kernel that does not compile: file and line are the user's, reason says why.

    is_accident: something else ended a compiler, as a lack of memory does; the same kernel may not meet it again.
    """

    file: str | None = None
    line: int | None = None
    reason: str | None = None
    is_accident: bool = False


class TargetError(Error, ValueError):
    """A target that does not exist (is_unknown), or cannot be compiled for here."""

    is_unknown: bool = False


class CacheError(Error, OSError):
    """The cache directory cannot be used."""


class ModelFileError(Error, ValueError):
    """A model file that is damaged, hostile or of an unknown kind."""


# A traceback names them as users write them: unify.ShapeError.
for _name in __all__:
    globals()[_name].__module__ = "unify"
