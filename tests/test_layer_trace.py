"""The layer `trace`: each call and what ran on the devices, in a file that Perfetto opens."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from unify.testing.backends import compile_backend

TOY = Path(__file__).parent / "plugin" / "toy.c"
Event = dict[str, Any]


def run(folder: Path, code: str, layers: str = "trace", **settings: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"  # a kernel's source is read
    program.write_text("import unify as un\n" + code)
    return subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env={**os.environ, "UNIFY_LAYERS": layers, **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def trace_of(folder: Path, code: str, layers: str = "trace", **settings: str) -> list[Event]:
    finished = run(folder, code, layers, **settings)
    assert finished.returncode == 0, finished.stderr
    content = json.loads((folder / settings.get("UNIFY_TRACE_FILE", "unify-trace.json")).read_text())
    assert content["otherData"]["dropped"] == "0"
    return list(content["traceEvents"])


def spans(events: list[Event], category: str) -> list[Event]:
    return [event for event in events if event["ph"] == "X" and event["cat"] == category]


def tracks(events: list[Event]) -> dict[tuple[int, int], str]:
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def end(span: Event) -> float:
    return float(span["ts"]) + float(span["dur"])


def assert_ordered(events: list[Event]) -> None:
    """On each track of a device one span ends before the next begins, and none takes less than no time."""
    by_track = defaultdict(list)
    for span in spans(events, "device"):
        assert span["dur"] >= 0
        by_track[span["pid"], span["tid"]].append(span)
    for track in by_track.values():
        for earlier, later in itertools.pairwise(track):
            assert end(earlier) <= later["ts"] + 0.002  # three digits after the point


def assert_nested(events: list[Event]) -> None:
    """Two spans of one thread of the host lie apart, or one inside the other."""
    by_thread = defaultdict(list)
    for event in events:
        if event["ph"] == "X" and event["pid"] == 0:
            by_thread[event["tid"]].append(event)
    for thread in by_thread.values():
        open_spans: list[Event] = []
        for span in sorted(thread, key=lambda span: (span["ts"], -span["dur"])):
            while open_spans and end(open_spans[-1]) <= span["ts"] + 0.002:
                open_spans.pop()
            assert not open_spans or end(span) <= end(open_spans[-1]) + 0.002
            open_spans.append(span)


WORK = """
import triton.language as tl

@un.jit
def double(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i) * 2)

stream = un.Stream("cpu")
with un.span("work"):
    x = un.ones(1 << 16, stream=stream)
    y = x.copy(stream=stream)
    with stream:
        for _ in range(3): double[4](x, BLOCK=64)
    stream.synchronize()
"""


def test_calls_and_what_ran_are_there_with_their_arguments(tmp_path: Path) -> None:
    events = trace_of(tmp_path, WORK)
    calls = spans(events, "cpu")
    assert {"device_open", "memory_allocate", "stream_create", "launch", "copy", "stream_synchronize"} <= {
        call["name"] for call in calls
    }
    assert all(call["args"]["status"] in ("OK", "NOT_READY", "UNSUPPORTED") for call in calls)
    launch = next(call for call in calls if call["name"] == "launch")
    assert launch["args"]["grid"] == "4×1×1"
    ran = spans(events, "device")
    assert [span["name"] for span in ran if span["args"].get("grid")] == ["double"] * 3
    copy = next(span for span in ran if span["name"] == "copy")
    assert copy["args"]["bytes"] == 1 << 18
    assert copy["args"]["gb_s"] == pytest.approx((1 << 18) / copy["dur"] / 1000, rel=0.01)
    assert (copy["args"]["from"], copy["args"]["to"]) == ("cpu:0", "cpu:0")
    names = tracks(events)
    assert names[copy["pid"], copy["tid"]] == launch["args"]["stream"] == "stream 1"
    assert names[0, launch["tid"]] == "main"
    work = next(span for span in spans(events, "host") if span["name"] == "work")
    assert work["ts"] <= copy["ts"]
    assert end(copy) <= end(work)
    assert_ordered(events)
    assert_nested(events)


def test_a_graph_is_one_span_and_its_recording_none(tmp_path: Path) -> None:
    library = compile_backend(TOY, tmp_path / "toy.so")
    code = f"""un.add_backend({str(library)!r})
device = un.device("toy:0")
x = un.zeros(64, un.uint8, device)
with un.Graph.capture(device=device) as graph:
    for value in range(5): x.fill_(value)
for _ in range(3): graph.launch()
device.synchronize()
"""
    events = trace_of(tmp_path, code)
    assert [span["name"] for span in spans(events, "device")] == ["fill"] + ["graph"] * 3
    assert [call["name"] for call in spans(events, "toy")].count("fill") == 6
    assert_ordered(events)


def test_a_backend_that_tells_no_times_has_calls_only(tmp_path: Path) -> None:
    library = compile_backend(TOY, tmp_path / "plain.so", ["TOY_PLAIN", 'TOY_NAME="plain"', "TOY_DLPACK=14"])
    code = f"un.add_backend({str(library)!r})\nun.zeros(64, un.uint8, un.device('plain:0'))\n"
    events = trace_of(tmp_path, code)
    assert spans(events, "device") == []
    assert "fill" in {call["name"] for call in spans(events, "plain")}


def test_the_file_is_whole_when_the_program_raises_or_is_killed(tmp_path: Path) -> None:
    assert run(tmp_path, "un.zeros(3)\nraise KeyError\n").returncode == 1
    content = json.loads((tmp_path / "unify-trace.json").read_text())
    assert "fill" in {event["name"] for event in spans(content["traceEvents"], "cpu")}
    code = (
        "import os, signal\nx = un.zeros(3)\nfor _ in range(2000): x.fill_(1)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run(tmp_path, code).returncode == -signal.SIGKILL
    content = json.loads((tmp_path / "unify-trace.json").read_text())
    assert len(spans(content["traceEvents"], "cpu")) > 1000


def test_a_process_that_it_starts_has_a_file_of_its_own(tmp_path: Path) -> None:
    code = """import subprocess, sys
un.zeros(3)
if len(sys.argv) == 1:
    subprocess.run([sys.executable, __file__, "child"], check=True)
"""
    trace_of(tmp_path, code, UNIFY_TRACE_FILE="out.json")
    others = sorted(path.name for path in tmp_path.glob("out.*.json"))
    assert len(others) == 1
    assert json.loads((tmp_path / others[0]).read_text())["traceEvents"]


def test_a_file_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    finished = run(tmp_path, "un.zeros(3)\nprint('ran')\n", UNIFY_TRACE_FILE="absent/out.json")
    assert "ran" not in finished.stdout
    assert (
        "InvalidArgument: layer 'trace': absent/out.json cannot be written: No such file or directory. "
        "UNIFY_TRACE_FILE names another file." in finished.stderr
    )


def test_it_does_not_mind_a_trace_of_a_block(tmp_path: Path) -> None:
    events = trace_of(tmp_path, "x = un.zeros(8)\nwith un.trace('block.json'): x.fill_(1)\n")
    assert len([span for span in spans(events, "device") if span["name"] == "fill"]) >= 2
    block = json.loads((tmp_path / "block.json").read_text())["traceEvents"]
    assert [span["name"] for span in spans(block, "device")] == ["fill"]


def test_a_reset_ends_what_was_not_passed_and_later_work_is_drawn(tmp_path: Path) -> None:
    code = """
device = un.device("cpu")
un.zeros(64).fill_(1)
device.synchronize()
device.reset()
with un.span("after"):
    un.zeros(64).fill_(2)
    device.synchronize()
"""
    finished = run(tmp_path, code, "faults,trace")
    assert finished.returncode == 0, finished.stderr
    events = json.loads((tmp_path / "unify-trace.json").read_text())["traceEvents"]
    after = next(span for span in spans(events, "host") if span["name"] == "after")
    assert any(after["ts"] <= span["ts"] and end(span) <= end(after) for span in spans(events, "device"))
    assert_ordered(events)
