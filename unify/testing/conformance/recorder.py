"""Another library that records graphs on streams of its own: the driver, called by ctypes, where one is at hand."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import unify as un
from unify.simulator import library_path

_NON_BLOCKING, _RELAXED = 1, 2


class Recorder:
    """The CUDA driver, and a stream that unify did not make."""

    def __init__(self, device: un.Device) -> None:
        library = str(library_path()) if device.properties["simulated"] else "libcuda.so.1"
        self._library = ctypes.CDLL(library)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device.index)
        self._call("cuCtxSetCurrent", context)
        self.stream = ctypes.c_void_p()
        self._call("cuStreamCreateWithPriority", ctypes.byref(self.stream), _NON_BLOCKING, 0)

    def _call(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        assert result == 0, f"{name}: error {result}"

    @contextmanager
    def recording(self) -> Iterator[RecordedGraph]:
        """What is enqueued on `stream` becomes a part of the graph, which can be launched afterwards."""
        graph = RecordedGraph(self)
        self._call("cuStreamBeginCapture_v2", self.stream, _RELAXED)
        yield graph
        graph.end()

    def synchronize(self) -> None:
        """Waits for the stream."""
        self._call("cuStreamSynchronize", self.stream)


class RecordedGraph:
    """A graph of the recorder's."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._call = recorder._call
        self._executable = ctypes.c_void_p()

    def end(self) -> None:
        """Ends the recording."""
        graph = ctypes.c_void_p()
        self._call("cuStreamEndCapture", self._recorder.stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, ctypes.c_uint64(0))
        self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Enqueues its work on the recorder's stream."""
        self._call("cuGraphLaunch", self._executable, self._recorder.stream)

    def destroy(self) -> None:
        """Nothing of it is left but launches under way."""
        self._call("cuGraphExecDestroy", self._executable)
