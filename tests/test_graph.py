"""Using graphs wrongly."""

from __future__ import annotations

import os

import pytest

import unify as un
from unify._errors import Error, GraphError

from .conftest import Run


def test_a_capture_is_entered_once() -> None:
    capture = un.Graph.capture(device="cpu")
    with capture:
        pass
    with pytest.raises(GraphError), capture:
        pass


def test_a_graph_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        un.Graph()


def test_a_graph_that_is_still_recorded_cannot_be_launched() -> None:
    stream = un.Stream("cpu")
    with un.Graph.capture(stream) as graph, pytest.raises(Error):
        graph.launch(un.Stream("cpu"))
    graph.launch(stream)


def test_waiting_for_the_device_while_recording_is_an_error() -> None:
    with un.Graph.capture(device="cpu"):
        for wait in (un.synchronize, un.device("cpu").synchronize):
            with pytest.raises(GraphError, match="cannot wait for the device while the stream records"):
                wait()
    un.synchronize()


def test_it_is_shown_in_one_line_and_described_in_many() -> None:
    tensor = un.zeros(100, un.uint8, "cpu")
    with un.Graph.capture(device="cpu") as graph:
        tensor.fill_(1)
        tensor.copy_(tensor.copy())
    assert str(graph) == repr(graph) == "unify.Graph(2 copies, 1 fill)"
    assert [line.split()[0] for line in graph.describe().splitlines()] == ["fill", "copy", "copy"]
    with un.Graph.capture(device="cpu") as graph:
        pass
    assert repr(graph) == "unify.Graph(empty)"


def test_a_capture_on_the_default_device_of_work_that_goes_elsewhere_is_an_error(python: Run) -> None:
    code = """
import unify as un
un.simulate("cuda:90")
x = un.zeros(8, device="cuda:0")
try:
    with un.Graph.capture() as graph:
        x.fill_(1)
except un.errors.GraphError as error:
    print(error)
for named in ("cuda:0", un.device("cuda:0")):
    with un.Graph.capture(named) as graph:
        x.fill_(2)
    print(len(graph), x[0].item())
"""
    finished = python("-c", code)
    assert finished.stderr == ""
    assert finished.stdout.splitlines() == [
        "capture: nothing was recorded on cpu, the default device; work on arrays of another device ran at once. Name "
        'the device: Graph.capture("cuda:0").',
        "1 1.0",
        "1 1.0",
    ]


def test_a_capture_has_one_device() -> None:
    with pytest.raises(un.errors.InvalidArgument, match="given twice"):
        un.Graph.capture("cpu", device="cpu")
    with un.Graph.capture("cpu") as graph:  # a device that was named may have nothing to do
        pass
    assert len(graph) == 0


def test_a_graph_whose_recording_failed_cannot_be_launched() -> None:
    stream = un.Stream("cpu")
    kept = None
    with pytest.raises(KeyError), un.Graph.capture(stream) as graph:
        kept = graph
        raise KeyError
    assert kept is not None
    with pytest.raises(GraphError):
        kept.launch(stream)


def test_a_graph_does_not_keep_the_streams_that_it_ran_on() -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    tensor = un.zeros(100, un.uint8, "cpu")
    with un.Graph.capture(device="cpu") as graph:
        tensor.fill_(3)
    un.synchronize("cpu")
    before = threads()
    for _ in range(50):
        graph.launch(un.Stream("cpu"))  # whose work is served by a thread of its own
    un.synchronize("cpu")
    for _ in range(1000):
        if threads() < before + 10:
            break
        un.synchronize("cpu")
    assert threads() < before + 10
    assert tensor.tolist() == [3] * 100
