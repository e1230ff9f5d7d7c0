"""Memory of a device: what unify holds, and how much it may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _core
from ._core import empty_pinned
from ._errors import InvalidArgument, described

if TYPE_CHECKING:
    from ._device import DeviceLike

__all__ = [
    "MemoryBlock",
    "MemorySegment",
    "MemoryStatistics",
    "empty_pinned",
    "memory_snapshot",
    "memory_statistics",
    "reset_memory_peaks",
    "set_memory_limit",
    "trim_memory",
]


@dataclass(frozen=True)
class MemoryStatistics:
    """The allocator's figures for one device.

    allocated: asked for and not given back; reserved: taken from the device; waiting: freed, and still used by some
    stream; cache_hits: allocations that took nothing new from the device; trims: how often unused memory went back.
    """

    allocated_bytes: int
    allocated_bytes_peak: int
    reserved_bytes: int
    reserved_bytes_peak: int
    waiting_bytes: int
    allocations: int
    segments: int
    cache_hits: int
    trims: int
    out_of_memory: int


@dataclass(frozen=True)
class MemoryBlock:
    """A part of a segment. state: "allocated", "free", or "waiting" for the streams that used it."""

    address: int
    bytes: int
    requested_bytes: int
    state: str
    stream: int


@dataclass(frozen=True)
class MemorySegment:
    """What was taken from the device at once, and the blocks it was cut into.

    bytes: of its memory. An expandable segment has gaps between its blocks where it has none.
    """

    address: int
    bytes: int
    blocks: tuple[MemoryBlock, ...]


def memory_statistics(device: DeviceLike = None) -> MemoryStatistics:
    """The allocator's figures for `device`. Waits for nothing.

    >>> x = un.empty((1024,))
    >>> un.memory_statistics().allocated_bytes >= x.nbytes
    True
    """
    return MemoryStatistics(**_core.memory_statistics(device))


def memory_snapshot(device: DeviceLike = None) -> list[MemorySegment]:
    """Every segment of `device` and the blocks in it, by address; those of graphs are left out. Waits for nothing."""
    segments = [
        MemorySegment(s["address"], s["bytes"], tuple(MemoryBlock(**block) for block in s["blocks"]))
        for s in _core.memory_snapshot(device)
    ]
    return sorted(segments, key=lambda segment: segment.address)


def trim_memory(device: DeviceLike = None) -> None:
    """Returns to `device` every segment that nothing uses, and every such chunk of an expandable one.

    Waits for the device's work; the next allocations are slower.
    """
    _core.trim_memory(device)


def set_memory_limit(bytes: int, device: DeviceLike = None) -> None:
    """Sets the most that unify may take from `device`; beyond it allocations raise OutOfMemory. 0: no limit.

    Raises InvalidArgument for anything but a number of bytes.
    """
    if not isinstance(bytes, int) or isinstance(bytes, bool) or not 0 <= bytes < 1 << 64:
        raise InvalidArgument(f"set_memory_limit: a number of bytes is needed, 0 for no limit, not {described(bytes)}.")
    _core.set_memory_limit(bytes, device)


def reset_memory_peaks(device: DeviceLike = None) -> None:
    """Lets the peaks of memory_statistics count from now on."""
    _core.reset_memory_peaks(device)
