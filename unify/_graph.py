"""Graphs: work recorded once, launched often.

with unify.Graph.capture() as graph:
    step(x, out=y)
graph.launch()
"""

from __future__ import annotations

from ._core import Graph

__all__ = ["Graph"]
