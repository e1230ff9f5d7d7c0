"""Streams of other libraries, and the launch path of an idle default stream."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import unify as un
from unify._errors import Error


class WithCudaStream:
    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self.address)


class WithAttribute:
    def __init__(self, name: str, address: int) -> None:
        setattr(self, name, address)


@pytest.mark.parametrize(
    "foreign",
    [
        WithCudaStream(4096),
        *(WithAttribute(name, 4096) for name in ("native", "cuda_stream", "npu_stream", "ptr")),
        4096,
    ],
)
def test_a_foreign_stream_is_recognised_and_refused_by_the_cpu(foreign: Any) -> None:
    with pytest.raises(Error, match="cpu"):
        un.zeros(3, un.float32, "cpu", stream=foreign)


def test_a_cpu_stream_is_no_cuda_stream() -> None:
    with pytest.raises(Error, match="CUDA"):
        un.Stream("cpu").__cuda_stream__()


def test_leaving_on_another_thread_than_entering_is_an_error() -> None:
    stream = un.Stream("cpu")
    stream.__enter__()
    raised: list[BaseException] = []

    def leave() -> None:
        try:
            stream.__exit__(None, None, None)
        except un.Error as error:
            raised.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    stream.__exit__(None, None, None)
    assert len(raised) == 1


def test_work_on_the_idle_default_stream_is_done_at_once() -> None:
    un.synchronize("cpu")
    tensor = un.zeros(100, un.float32, "cpu")
    assert un.current_stream("cpu").is_idle
    assert tensor.tolist() == [0] * 100


def test_streams_are_left_in_any_order() -> None:
    outer, inner = un.Stream("cpu"), un.Stream("cpu")
    before = un.current_stream("cpu")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert un.current_stream("cpu") == inner
    inner.__exit__(None, None, None)
    assert un.current_stream("cpu") == before


def test_a_stream_is_entered_twice() -> None:
    stream, other = un.Stream("cpu"), un.Stream("cpu")
    before = un.current_stream("cpu")
    with stream:
        with other, stream:
            assert un.current_stream("cpu") == stream
        assert un.current_stream("cpu") == stream
    assert un.current_stream("cpu") == before
