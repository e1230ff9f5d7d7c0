"""Streams and events of a device, as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ._core import Event, Stream
from ._device import device as _open

if TYPE_CHECKING:
    from ._device import DeviceLike

StreamLike: TypeAlias = "Stream | object | None"

__all__ = ["Event", "Stream", "StreamLike", "current_stream", "event", "stream", "synchronize"]


def stream(device: DeviceLike = None, *, priority: int = 0) -> Stream:
    """A new stream of `device`. Lower priorities run first: Device.properties gives the range."""
    return Stream(device, priority=priority)


def event(device: DeviceLike = None, *, timing: bool = False) -> Event:
    """A new event of `device`; `timing` is needed for Event.elapsed_ms."""
    return Event(device, timing=timing)


def current_stream(device: DeviceLike = None) -> Stream:
    """The calling thread's stream of `device`: what `with stream:` set, or the device's default stream."""
    return _open(device).current_stream


def synchronize(device: DeviceLike = None) -> None:
    """Waits for all work of all streams of `device`. Raises what failed in it."""
    _open(device).synchronize()
