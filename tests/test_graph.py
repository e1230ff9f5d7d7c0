"""Using graphs wrongly."""

from __future__ import annotations

import pytest

import unify as un
from unify._errors import Error, GraphError


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


def test_a_graph_whose_recording_failed_cannot_be_launched() -> None:
    stream = un.Stream("cpu")
    kept = None
    with pytest.raises(KeyError), un.Graph.capture(stream) as graph:
        kept = graph
        raise KeyError
    assert kept is not None
    with pytest.raises(GraphError):
        kept.launch(stream)
