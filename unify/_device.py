"""Devices: opening one by name, the default one, and why a backend is absent."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from . import _core, _plugins, _probe
from ._config import settings
from ._core import Device
from ._errors import BackendError, InvalidArgument
from ._plugins import Backend

DeviceLike: TypeAlias = "Device | str | None"

# DLPack's device types by the names that backends of these chips have; others are found by opening devices.
# 12 is DLPack's "extension device", as which torch_npu hands out its arrays.
_DLPACK_KINDS = {1: "cpu", 2: "cuda", 12: "ascend"}
# The backends of ours that need a vendor's driver, and the setting that names another library for it.
_DRIVERS = {"cuda": "cuda_library", "ascend": "ascend_library"}

__all__ = [
    "Backend",
    "BackendStatus",
    "Device",
    "add_backend",
    "backends",
    "default_device",
    "device",
    "device_absences",
    "devices",
    "set_default_device",
]


@dataclass(frozen=True)
class BackendStatus:
    """A backend that was found: `why` says why it cannot be used, and is empty if it can."""

    name: str
    library: str
    version: str
    device_count: int
    why: str

    @property
    def is_usable(self) -> bool:
        """Whether it has devices to open."""
        return not self.why and self.device_count > 0


class _Registration:
    """Tells the core, once, which backends there are: the cheap sources first, entry points only when asked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.has_settings = False
        self.has_entry_points = False
        self.opening = threading.RLock()
        self.opened: set[str] = set()

    def read_settings(self) -> None:
        if self.has_settings:
            return
        with self.lock:
            if self.has_settings:
                return
            options = []
            if settings.cpu_threads:
                options.append(f"threads={settings.cpu_threads}")
            if settings.cpu_pin:
                options.append("pin=1")
            if options:
                _core.set_open_options("cpu", ";".join(options))
            if settings.expandable_segments:
                _core.set_expandable_segments(True)
            if settings.layers:
                _core.set_layers(list(settings.layers), str(settings.trace_file), os.path.dirname(__file__) + os.sep)
            for path in settings.backend_path:
                _load(str(path))
            atexit.register(_end)
            self.has_settings = True

    def open_builtin(self, name: str) -> None:
        """Looks for the driver of a backend of ours, which takes its time on some machines."""
        self.read_settings()
        if name not in _DRIVERS or name in self.opened:
            return
        with self.opening:  # others wait until the driver was found or not
            if name in self.opened:
                return
            parts = [part for part in settings.simulate.split(";") if settings.simulate]
            kinds = {part: part.partition(":")[0] for part in parts}
            asked = [part for part in parts if kinds[part] == name or kinds[part] not in _DRIVERS]
            if asked:  # a kind that nobody knows is refused with those that are known
                importlib.import_module("unify.simulator").from_text(";".join(asked))
            else:
                _core.open_builtin(name, getattr(settings, _DRIVERS[name]))
            self.opened.add(name)

    def read_entry_points(self) -> None:
        for name in _DRIVERS:
            self.open_builtin(name)
        if self.has_entry_points:
            return
        with self.lock:
            if self.has_entry_points:
                return
            self.has_entry_points = True
            found, broken = _plugins.installed()
            for backend in found:
                _load(backend.library, backend.name)
            # Without a library to ask; `unify info` shows the reason.
            _broken.extend(BackendStatus(entry.name, entry.value, "", 0, entry.why) for entry in broken)


def _end() -> None:
    """Waits for all devices, and tells what was held by reference cycles from what is held to the end."""
    _core.shutdown()
    if "leaks" in settings.layers:
        _core.begin_collection()
        gc.collect()
        _core.end_collection()


def _load(library: str, name: str = "") -> BackendStatus:
    """Adds a library to the core, unless a process that tried it first did not survive it."""
    why = _probe.why_unsafe(library)
    if not why:
        return BackendStatus(**_core.add_library(library, name))
    status = BackendStatus(name or os.path.basename(library), library, "", 0, why)
    _broken.append(status)
    return status


_registration = _Registration()
_broken: list[BackendStatus] = []
_default: Device | None = None


def device(name: DeviceLike = None) -> Device:
    """Opens a device by its name ("cpu", "cuda:1"); None is the default device.

    Returns the same object for the same device. Raises InvalidArgument for an unknown name, naming near ones,
    UnsupportedError for a backend that finds no chip or driver here, and BackendError for a broken one, saying why.

    >>> un.device("cpu").kind
    'cpu'
    """
    if name is None:
        return default_device()
    if isinstance(name, Device):
        return name
    if not isinstance(name, str):
        raise InvalidArgument(f"device: a name such as 'cpu' or 'cuda:0' is needed, not {name!r}.")
    _registration.open_builtin(name.partition(":")[0])
    if name.partition(":")[0] not in {backend["name"] for backend in _core.backends()}:
        _registration.read_entry_points()
        for status in _broken:
            if status.name == name.partition(":")[0]:
                raise BackendError(
                    f"device {name!r}: the backend {status.name!r} ({status.library}) cannot be used: {status.why}"
                )
    return _core.open_device(name)


def devices() -> list[Device]:
    """All devices of this machine, opened. Devices that cannot be used are left out: see `backends()`."""
    _registration.read_entry_points()
    return [_core.open_device(name) for name in _core.device_names()]


def default_device() -> Device:
    """The device that is meant when none is named: `set_default_device`, else UNIFY_DEVICE, else "cpu"."""
    global _default
    if _default is None:
        set_default_device(settings.device)
    assert _default is not None
    return _default


def set_default_device(name: Device | str) -> None:
    """Makes a device the one that is meant when none is named, in all threads. Raises as `device` does."""
    global _default
    _default = device(name)
    _core.set_default_device(_default)


def backends() -> list[BackendStatus]:
    """All backends that were found, also those that cannot be used here, with the reason."""
    _registration.read_entry_points()
    return [BackendStatus(**record) for record in _core.backends()] + _broken


def device_absences() -> dict[str, str]:
    """Why each backend that cannot be used here cannot: its name and the reason."""
    return {status.name: status.why or "no device found" for status in backends() if not status.is_usable}


def add_backend(library: str, name: str = "") -> BackendStatus:
    """Loads a backend's shared library now; `name`, if given, is what the backend must call itself.

    Does not raise: `why` of the result says why it cannot be used.

    >>> un.add_backend("/nowhere/libtoy.so").is_usable
    False
    """
    _registration.read_settings()
    return _load(str(library), name)


def open_driver(name: str, library: str, prepare: Callable[[], None] | None = None) -> None:
    """Makes a backend of ours ("cuda", "ascend") use this driver, once `prepare` has made it ready.

    Raises InvalidArgument if the backend has looked for a driver, before `prepare` is called, and what that raises.
    """
    _registration.read_settings()
    with _registration.opening:
        is_first = name not in _registration.opened
        if is_first:
            if prepare is not None:
                prepare()
            is_first = _core.open_builtin(name, library)
            _registration.opened.add(name)
    if not is_first:
        raise InvalidArgument(f"{name}: its driver was looked for already. Name another one before the first device.")


def device_of_dlpack(device_type: int, device_id: int) -> Device:
    """The device that DLPack calls (device_type, device_id). Called by the core's import of foreign arrays."""
    _registration.read_entry_points()
    kind = _DLPACK_KINDS.get(device_type)
    names = _core.device_names()
    for name in sorted(names, key=lambda name: name.partition(":")[0] != kind):
        opened = _core.open_device(name)
        if opened.dlpack_device == (device_type, device_id):
            return opened
    raise InvalidArgument(
        f"array: it is on DLPack device ({device_type}, {device_id}), which no device here is; found: "
        f"{', '.join(names)}. Bring it to one of them in its own library first."
    )
