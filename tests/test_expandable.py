"""Expandable segments: the setting, a chip that runs out of memory, resets, peers, and the layers around it all.

What every backend with virtual memory must do is in the conformance suite.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import unify as un

MIB = 1 << 20
simulation = un.simulate("cuda:90", count=2, memory_bytes=256 * MIB)
device, peer = un.device("cuda:0"), un.device("cuda:1")

def reserved():
    device.synchronize()
    un.trim_memory(device)
    return un.memory_statistics(device).reserved_bytes
"""


def run(root: Path, code: str, **settings: str) -> str:
    """Runs a program with the setting on, as far as `settings` do not say otherwise. Returns what it printed."""
    finished = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        cwd=root,
        env={**os.environ, "UNIFY_EXPANDABLE_SEGMENTS": "1", "UNIFY_LAYERS": "validate", **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return finished.stdout


@pytest.mark.parametrize(("value", "peak_mib"), [("0", 28 + 42 + 62), ("1", 80)])
def test_the_setting_lets_segments_grow(root: Path, value: str, peak_mib: int) -> None:
    printed = run(
        root,
        """
for size in (28, 42, 62):
    un.empty(size * MIB, un.uint8, device)
print(un.memory_statistics(device).reserved_bytes_peak // MIB, device.capabilities["virtual_memory"])
""",
        UNIFY_EXPANDABLE_SEGMENTS=value,
    )
    assert printed == f"{peak_mib} native\n"


def test_a_full_chip_gives_what_lies_idle_and_then_raises(root: Path) -> None:
    run(
        root,
        """
streams = [un.Stream(device) for _ in range(3)]
held = [un.full(12 * MIB, number, un.uint8, device, stream=streams[number % 3]) for number in range(18)]
try:
    un.empty(100 * MIB, un.uint8, device)
except un.OutOfMemory as error:
    assert "100.0 MiB asked" in str(error), error
else:
    raise SystemExit("there was no memory for it")
kept = held[0]
del held
large = un.full(180 * MIB, 7, un.uint8, device, stream=streams[1])  # more than any stream had
device.synchronize()
assert (large.numpy() == 7).all() and (kept.numpy() == 0).all()
assert un.memory_statistics(device).reserved_bytes <= 256 * MIB
del large, kept
assert reserved() == 0
whole = un.empty(250 * MIB, un.uint8, device)
""",
    )


def test_addresses_stay_mapped_under_work_of_the_default_stream(root: Path) -> None:
    run(
        root,
        """
import threading
gate, stream, other = threading.Event(), un.Stream(device), un.Stream(device)
x = un.empty(40 * MIB, un.uint8, device, stream=stream)
stream.synchronize()
del stream
un.memory_statistics(device)  # ends what nobody holds any more
device.current_stream.host_call(lambda: gate.wait(60) and None)
x.fill_(1)
del x
threading.Timer(0.2, gate.set).start()
y = un.full(230 * MIB, 2, un.uint8, device, stream=other)  # more than there is beside x
assert gate.is_set()
device.synchronize()
assert (y.numpy() == 2).all()
""",
    )


def test_idle_memory_that_can_be_cut_is_taken_before_more_is_asked_for(root: Path) -> None:
    run(
        root,
        """
from unify import _core
_core.set_expandable_segments(False)
ordinary = un.empty(40 * MIB, un.uint8, device)
_core.set_expandable_segments(True)
expandable = un.empty(64 * MIB, un.uint8, device)
inside = range(expandable.address, expandable.address + 64 * MIB)
del ordinary, expandable
before = un.memory_statistics(device).reserved_bytes
held = un.empty(12 * MIB, un.uint8, device)  # the ordinary one is kept for a request of its size
assert held.address in inside
assert un.memory_statistics(device).reserved_bytes == before
""",
    )


def test_a_reset_frees_the_chip(root: Path) -> None:
    run(
        root,
        """
for round in range(4):
    held, freed = un.full(100 * MIB, 1, un.uint8, device), un.zeros(100 * MIB, un.uint8, device)
    del freed
    device.reset()
    try:
        held.numpy()
    except un.errors.DeviceLost:
        pass
    else:
        raise SystemExit("its memory is gone")
    assert un.memory_statistics(device).reserved_bytes == 0
""",
    )


def test_a_peer_reaches_it(root: Path) -> None:
    run(
        root,
        """
early = un.full(8 * MIB, 2, un.int32, device)
device.synchronize()
there = early.to(peer)  # peers see each other from here on
late = un.full(8 * MIB, 5, un.int32, device)
for value, tensor in ((2, early), (5, late)):
    there.copy_(tensor)
    assert (there.numpy() == value).all()
    there.fill_(9)
    tensor.copy_(there)
    assert (tensor.numpy() == 9).all()
""",
    )


@pytest.mark.parametrize(
    "files",
    [
        "test_graph.py test_memory.py test_peer.py test_stream.py",
        pytest.param("", marks=pytest.mark.slow),
    ],
)
def test_the_suite_keeps_the_rules_with_it(root: Path, files: str) -> None:
    devices = [argument for name in ("cpu", "toy:0", "cuda:0") for argument in ("--unify-device", name)]
    paths = [f"tests/conformance/{file}" for file in files.split()] or ["tests/conformance"]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "--capture=no", "-p", "no:cacheprovider", *devices, *paths],
        cwd=root,
        env={**os.environ, "UNIFY_EXPANDABLE_SEGMENTS": "1", "UNIFY_LAYERS": "faults,validate,leaks"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output[-5000:]
    assert "unify validate:" not in output, output
