"""The fixtures of the suite: the device under test, streams on it, and a gate to hold its work back."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import unify as un
from unify._errors import InvalidArgument, TargetError
from unify.compiler import Target
from unify.testing import spec as specs
from unify.testing.conformance.recorder import Recorder
from unify.testing.plugin import case_of, device_of

__all__ = [
    "Gate", "device", "gate", "kernel", "other_device", "pytest_collection_modifyitems", "pytest_generate_tests",
    "recorder", "stream", "target", "two_streams",
]  # fmt: skip

GATE_LIMIT_S = 20.0  # a test that forgets to open its gate fails; it does not hang


def first_device_of_each_kind() -> list[str]:
    """One device tests its backend; its siblings serve as `other_device`."""
    return [device.name for device in un.devices() if device.index == 0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs each case on every device that was named, or on one of every backend there is."""
    if "device" in metafunc.fixturenames:
        names = metafunc.config.getoption("--unify-device") or first_device_of_each_kind()
        metafunc.parametrize("device", names, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what was not asked for, and marks what the backend's spec says of the rest."""
    pattern, without = config.getoption("--unify-match"), config.getoption("--unify-without")
    left_out = set(Path(without).read_text().splitlines()) if without else set()
    for item in list(items):
        case = case_of(item)
        if case is None:
            continue
        if case in left_out or (pattern and not specs.matches(pattern, case)):
            items.remove(item)
            continue
        spec = _spec_of(str(device_of(item)).partition(":")[0], config.getoption("--unify-spec"))
        for unsupported, reason in spec.unsupported.items():
            if specs.matches(unsupported, case):
                item.add_marker(pytest.mark.skip(reason=reason))
        for expected, reason in spec.expected_failures.items():
            if specs.matches(expected, case):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@functools.cache
def _spec_of(kind: str, named: str | None) -> specs.Spec:
    try:
        return specs.find(kind, named)
    except InvalidArgument as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def kernel(request: pytest.FixtureRequest, device: un.Device) -> Callable[[str], specs.Kernel]:
    """The suite's kernels by name, as the backend's spec gives them. Skips where there is none."""
    spec = _spec_of(device.kind, request.config.getoption("--unify-spec"))

    def get(name: str) -> specs.Kernel:
        try:
            found = spec.kernels(device, name)
        except TargetError as error:
            pytest.skip(f"{device.name}: {error}")
        if found is None:
            pytest.skip(f"{device.name}: its spec has no kernel {name!r}")
        return found

    return get


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[un.Device]:
    """The device under test. The only place that skips, with the reason that the device itself gives."""
    opened = un.device(request.param)
    for marker in request.node.iter_markers("needs"):
        capability, accepted = marker.args[0], marker.kwargs.get("support", ("native", "emulated"))
        support = opened.capabilities.get(capability, "absent")
        if support not in ((accepted,) if isinstance(accepted, str) else accepted):
            pytest.skip(f"{opened.name}: {capability} is {support}")
    yield opened
    assert opened.state == "healthy", f"the case left {opened.name} {opened.state}"
    opened.synchronize()


@pytest.fixture
def target(device: un.Device) -> Target:
    """What kernels are compiled for on the device under test. Skips where nothing compiles for it."""
    try:
        return Target.parse(device.target)
    except TargetError as error:
        pytest.skip(f"{device.name}: {error}")


@pytest.fixture
def other_device(device: un.Device) -> un.Device:
    """A second device, of the same backend if there is one; else the host."""
    others = [other for other in un.devices() if other is not device]
    if not others:
        pytest.skip(f"{device.name} is the only device")
    return min(others, key=lambda other: other.kind != device.kind)


@pytest.fixture
def stream(device: un.Device) -> un.Stream:
    """A stream of the device that is nobody else's."""
    return un.Stream(device)


@pytest.fixture
def two_streams(device: un.Device) -> tuple[un.Stream, un.Stream]:
    """Two streams of the device that may run side by side."""
    return un.Stream(device), un.Stream(device)


class Gate:
    """Holds the work of a stream back until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._limit_s = GATE_LIMIT_S
        self._reached = threading.Event()

    def close(self, stream: un.Stream, limit_s: float = GATE_LIMIT_S) -> None:
        """Later work of `stream` waits for open(), or until the time is over."""
        self._limit_s = limit_s
        stream.host_call(self._hold)

    def wait_until_reached(self) -> None:
        """Returns once the stream stands before the gate."""
        assert self._reached.wait(GATE_LIMIT_S), "the stream did not reach the gate"

    def open(self) -> None:
        """Lets the stream pass."""
        self._open.set()

    def _hold(self) -> None:
        self._reached.set()
        self._open.wait(self._limit_s)


@pytest.fixture
def gate(device: un.Device) -> Iterator[Gate]:
    """A gate that is opened at the end of the case in any event. Needs native host calls."""
    made = Gate()
    yield made
    made.open()
    device.synchronize()


@pytest.fixture
def recorder(device: un.Device) -> Recorder:
    """Another library with a stream. Skips where the suite can call none that records."""
    if device.kind != "cuda":
        pytest.skip(f"{device.name}: the suite calls no driver of it")
    return Recorder(device)
