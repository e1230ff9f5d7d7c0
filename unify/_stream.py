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
    """A new stream of `device`, beside its others.

    priority: lower numbers run first; `Device.properties` gives the range, "priority_greatest" to "priority_least".
    Raises InvalidArgument for a priority outside of it.

    >>> with un.stream() as stream:
    ...     x = un.ones(3)
    >>> stream.synchronize()
    """
    return Stream(device, priority=priority)


def event(device: DeviceLike = None, *, timing: bool = False, shared: bool = False) -> Event:
    """A new event of `device`, which counts as passed until it is recorded.

    timing: for `Event.elapsed_ms`. shared: for other processes, by `Event.share`. Raises InvalidArgument for both, and
    UnsupportedError where the backend shares nothing.

    >>> begin, end = un.event(timing=True), un.event(timing=True)
    >>> begin.record(); x = un.ones(3); end.record(); end.synchronize()
    >>> begin.elapsed_ms(end) >= 0
    True
    """
    return Event(device, timing=timing, shared=shared)


def current_stream(device: DeviceLike = None) -> Stream:
    """The calling thread's stream of `device`: what `with stream:` set, or the device's default stream."""
    return _open(device).current_stream


def synchronize(device: DeviceLike = None) -> None:
    """Waits for all work of all streams of `device`. Raises what failed in it: KernelFault, DeviceLost …"""
    _open(device).synchronize()
