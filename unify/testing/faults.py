"""Faults on demand, to see what a program does when a chip fails.

Any backend fails on demand with the layer `faults` around it (UNIFY_LAYERS=faults); some do by themselves, by the same
device option "fail". A kernel fault leaves the device faulted until it is reset, as on a chip.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from unify import Device
from unify._errors import InvalidArgument, UnsupportedError


def can_inject(device: Device) -> bool:
    """Whether this device fails on demand."""
    try:
        device.set_option("fail", "")
    except (InvalidArgument, UnsupportedError):
        return False
    return True


def fail_next(device: Device, verb: str) -> None:
    """Lets the next call of `verb` on the device end as a kernel fault does.

    verb: a word of the ABI function's name, such as "copy", "record" or "query".
    """
    _set(device, verb)


def fail_call(device: Device, call: str, *, after: int = 0, status: str = "kernel_fault") -> None:
    """Lets a call fail with a status of the ABI, after some that succeed. Needs the layer `faults`.

    call: an ABI function ("event_record") or a word of its name; status: "out_of_memory", "device_lost", "timeout", ...
    """
    _set(device, f"{call}:{after + 1}:{status}")


def lose(device: Device) -> None:
    """Lets the device stop answering, as one that fell off its bus does."""
    _set(device, "lost")


@contextlib.contextmanager
def recovered(device: Device) -> Iterator[Device]:
    """Resets the device at the end, so that the next test finds it healthy."""
    try:
        yield device
    finally:
        with contextlib.suppress(Exception):  # what the test broke may surface once more
            device.synchronize()
        device.reset()


def _set(device: Device, what: str) -> None:
    try:
        device.set_option("fail", what)
    except (InvalidArgument, UnsupportedError) as error:
        raise UnsupportedError(f"{device.name} does not fail on demand: {error} Set UNIFY_LAYERS=faults.") from None
