"""Faults on demand, to see what a program does when a chip fails.

A backend offers them by the option "fail" of its devices (unify's simulators do): `fail` = a verb makes the next
call of that verb end as a kernel fault does; `fail` = "lost" makes the device stop answering.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from unify import Device
from unify._errors import InvalidArgument, UnsupportedError

VERBS = ("copy", "fill", "record", "wait", "synchronize", "query", "event", "allocate", "stream", "launch")


def can_inject(device: Device) -> bool:
    """Whether this device fails on demand."""
    try:
        device.set_option("fail", "")
    except (InvalidArgument, UnsupportedError):
        return False
    return True


def fail_next(device: Device, verb: str) -> None:
    """Lets the next call of `verb` on the device end as a kernel fault does."""
    if verb not in VERBS:
        raise InvalidArgument(f"fail_next: no verb {verb!r}; known: {', '.join(VERBS)}.")
    _set(device, verb)


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
        raise UnsupportedError(f"{device.name} does not fail on demand: {error}") from None
