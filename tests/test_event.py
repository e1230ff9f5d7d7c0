"""Events between devices of different backends."""

from __future__ import annotations

import pytest

import unify as un
from unify._stream import event


def test_events_are_of_the_default_device_unless_said_otherwise() -> None:
    assert un.Event().device is un.device()
    assert event().device is un.device()


def test_options_are_named() -> None:
    with pytest.raises(TypeError):
        un.Event("cpu", True)  # type: ignore[misc]


def test_elapsed_is_in_milliseconds() -> None:
    start, stop = un.Event("cpu", timing=True), un.Event("cpu", timing=True)
    stream = un.Stream("cpu")
    start.record(stream)
    stop.record(stream)
    stream.synchronize()
    assert isinstance(start.elapsed_ms(stop), float)


def test_elapsed_without_timing_names_the_remedy() -> None:
    timed, plain = un.Event("cpu", timing=True), un.Event("cpu")
    for first, second in ((timed, plain), (plain, timed)):
        with pytest.raises(un.InvalidArgument, match=r"made without timing.*unify.event\(timing=True\)"):
            first.elapsed_ms(second)
