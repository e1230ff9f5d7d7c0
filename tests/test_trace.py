"""The trace: a file that Perfetto opens, with what ran and when."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import unify as un
from unify._errors import InvalidArgument


def events(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    found = content["traceEvents"] if isinstance(content, dict) else content
    assert isinstance(found, list)
    return found


def complete(path: Path) -> list[dict[str, Any]]:
    return [event for event in events(path) if event["ph"] == "X"]


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


def test_a_path_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    ran = []
    with pytest.raises(OSError), un.trace(tmp_path / "absent" / "out.json"):
        ran.append(1)
    assert not ran


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
