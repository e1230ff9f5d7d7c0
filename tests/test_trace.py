"""The trace: a file that Perfetto opens, with what ran and when."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import unify as un
from unify._errors import InvalidArgument
from unify.testing.backends import compile_backend

TOY = Path(__file__).parent / "plugin" / "toy.c"


def events(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    found = content["traceEvents"] if isinstance(content, dict) else content
    assert isinstance(found, list)
    return found


def complete(path: Path) -> list[dict[str, Any]]:
    return [event for event in events(path) if event["ph"] == "X"]


def by_name(path: Path) -> dict[str, dict[str, Any]]:
    return {span["name"]: span for span in complete(path)}


def end(span: dict[str, Any]) -> float:
    return float(span["ts"]) + float(span["dur"])


def dropped(path: Path) -> int:
    return int(json.loads(path.read_text())["otherData"]["dropped"])


def test_work_appears_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    stream = un.Stream("cpu")
    tensor = un.empty(1 << 20, un.uint8, "cpu", stream=stream)
    with un.trace(path):
        for value in range(5):
            tensor.fill_(value, stream=stream)
        tensor.copy(stream=stream)
    spans = complete(path)
    assert len(spans) >= 6
    for span in spans:
        assert span["dur"] >= 0
        assert span["ts"] >= 0
        assert isinstance(span["name"], str)


def test_spans_of_the_program_appear_by_name(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with un.trace(path), un.span("prefill"), un.span('layer "0"\n'):
        un.zeros(10)
    names = [span["name"] for span in complete(path)]
    assert "prefill" in names
    assert 'layer "0"\n' in names


def test_spans_nest(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with un.trace(path), un.span("outer"), un.span("inner"):
        pass
    spans = {span["name"]: span for span in complete(path)}
    outer, inner = spans["outer"], spans["inner"]
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 0.01


def test_a_span_without_a_trace_is_nothing() -> None:
    with un.span("nothing"):
        pass


def test_the_trace_is_written_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with pytest.raises(KeyError), un.trace(path):
        un.zeros(10)
        raise KeyError
    assert events(path)
    with un.trace(path):
        pass


def test_two_traces_at_once_are_an_error(tmp_path: Path) -> None:
    with (
        un.trace(tmp_path / "first.json"),
        pytest.raises(InvalidArgument, match="second"),
        un.trace(tmp_path / "second.json"),
    ):
        pass
    assert events(tmp_path / "first.json") is not None
    assert not (tmp_path / "second.json").exists()


def test_of_two_threads_that_begin_a_trace_at_once_one_is_refused(tmp_path: Path) -> None:
    together, tried = threading.Barrier(2), threading.Barrier(2)
    refused = []

    def begin(path: Path) -> None:
        together.wait()
        try:
            with un.trace(path):
                tried.wait()
        except InvalidArgument:
            refused.append(path)
            tried.wait()

    for attempt in range(50):
        threads = [threading.Thread(target=begin, args=(tmp_path / name,)) for name in ("one.json", "other.json")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == attempt + 1


def test_a_path_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    ran = []
    with pytest.raises(OSError), un.trace(tmp_path / "absent" / "out.json"):
        ran.append(1)
    assert not ran
    with un.trace(tmp_path / "out.json"):
        pass


def test_more_events_than_asked_for_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    tensor = un.zeros(10, un.uint8)
    with un.trace(path, max_events=10):
        for value in range(100):
            tensor.fill_(value)
    assert len(complete(path)) <= 10


def test_threads_trace_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out.json"

    def work() -> None:
        stream = un.Stream("cpu")
        for _ in range(50):
            with un.span("step"):
                un.zeros(100, stream=stream)
        stream.synchronize()

    with un.trace(path):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [span["name"] for span in complete(path)].count("step") == 200


def test_it_decorates_a_function(tmp_path: Path) -> None:
    path = tmp_path / "out.json"

    @un.trace(path)
    def work() -> int:
        un.zeros(10)
        return 3

    assert work() == 3
    assert events(path)


CLOCKS_AGREE_S = 0.002  # the device's and the host's, also where a thread waits for a processor


def test_work_is_drawn_when_it_ran_also_behind_a_stream_that_was_busy(tmp_path: Path) -> None:
    path, gate = tmp_path / "out.json", threading.Event()
    stream = un.Stream("cpu")
    tensor = un.zeros(1 << 16, un.uint8, stream=stream)
    stream.synchronize()
    stream.host_call(lambda: gate.wait() and None)
    with un.trace(path):
        tensor.fill_(1, stream=stream)
        with un.span("before"):
            un.zeros(16, un.uint8, "cpu").fill_(1)
        time.sleep(CLOCKS_AGREE_S)
        gate.set()
        stream.synchronize()
        with un.span("after"):
            time.sleep(CLOCKS_AGREE_S)
            tensor.copy(stream=stream)
            stream.synchronize()
            time.sleep(CLOCKS_AGREE_S)
    spans = by_name(path)
    gated = next(span for span in complete(path) if span["name"] == "fill" and span["tid"] != 0)
    assert end(spans["before"]) <= gated["ts"]
    assert end(gated) <= spans["after"]["ts"]
    assert spans["after"]["ts"] <= spans["copy"]["ts"]
    assert end(spans["copy"]) <= end(spans["after"])


def test_operations_of_a_stream_are_drawn_in_order(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    stream = un.Stream("cpu")
    tensor = un.empty(1 << 16, un.uint8, stream=stream)
    with un.trace(path):
        for value in range(20):
            tensor.fill_(value, stream=stream)
        stream.synchronize()
    fills = [span for span in complete(path) if span["name"] == "fill"]
    assert len(fills) == 20
    for earlier, later in itertools.pairwise(fills):
        assert end(earlier) <= later["ts"] + 0.002  # three digits after the point


def test_each_host_thread_has_a_track_of_its_own(tmp_path: Path) -> None:
    path, together = tmp_path / "out.json", threading.Barrier(2)
    ids: dict[str, int] = {}

    def work(name: str) -> None:
        ids[name] = threading.get_native_id()
        with un.span(name):
            together.wait()

    with un.trace(path):
        threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "other")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with un.span("alone"):
            pass
    spans = by_name(path)
    assert {name: spans[name]["tid"] for name in ids} == ids
    assert spans["one"]["tid"] != spans["other"]["tid"]
    names = {event["tid"]: event["args"]["name"] for event in events(path) if event["name"] == "thread_name"}
    assert names[spans["alone"]["tid"]] == "main"
    assert names[ids["one"]] == f"thread {ids['one']}"


def test_a_span_that_ends_after_the_trace_is_in_no_later_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    with un.trace(first):
        span = un.span("late")
        span.__enter__()
    span.__exit__(None, None, None)
    with un.trace(second):
        pass
    assert complete(first) == []
    assert complete(second) == []


def run_with_layers(code: str, *arguments: str) -> str:
    """In a process of its own, since layers are chosen before the first device is opened. Returns what it printed."""
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, unify as un\nfrom unify.testing.faults import fail_call\n{code}",
            *arguments,
        ],
        env={**os.environ, "UNIFY_LAYERS": "faults,validate"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "unify validate:" not in finished.stderr, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("name", ["cpu", "toy:0"])
def test_a_reset_inside_the_block_leaves_what_came_after_it(tmp_path: Path, name: str) -> None:
    code = """
name, path, library = sys.argv[1:]
if library: un.add_backend(library)
device = un.device(name)
with un.trace(path):
    for value in range(2):
        x = un.empty(100, un.uint8, device)
        with un.span(f"round {value}"):
            for _ in range(3): x.fill_(value)
            device.synchronize()
        if value == 0: device.reset()
"""
    path = tmp_path / "out.json"
    library = "" if name == "cpu" else str(compile_backend(TOY, tmp_path / "toy.so"))
    run_with_layers(code, name, str(path), library)
    assert [span["name"] for span in complete(path)] == ["round 0", "round 1", "fill", "fill", "fill"]
    assert dropped(path) == 3
    spans = by_name(path)
    assert spans["round 1"]["ts"] <= spans["fill"]["ts"]
    assert end(spans["fill"]) <= end(spans["round 1"])


@pytest.mark.parametrize(
    "call", ["event_create", "event_record", "stream_create", "event_synchronize", "event_elapsed"]
)
def test_a_device_that_makes_no_events_costs_spans_and_nothing_else(tmp_path: Path, call: str) -> None:
    code = """
path, call = sys.argv[1:]
device = un.device("cpu")
x = un.empty(100, un.uint8, device)
for after in range(8):
    with un.trace(f"{path}{after}"):
        fail_call(device, call, after=after, status="out_of_memory")
        for value in range(3): x.fill_(value)
    device.set_option("fail", "")
    assert x.tolist() == [2] * 100
"""
    run_with_layers(code, f"{tmp_path}/out", call)
    kept = []
    for after in range(8):
        path = tmp_path / f"out{after}"
        kept.append(len(complete(path)))
        assert kept[-1] + dropped(path) == 3
    assert min(kept) < 3
