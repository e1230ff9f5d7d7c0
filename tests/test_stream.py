"""Streams of other libraries, and the launch path of an idle default stream."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import triton.language as tl

import unify as un
from unify._errors import Error, KernelFault


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


# ---- failures that the core finds before the user asks


@un.jit
def far_away(x):
    tl.store(x + (1 << 46), 1.0)


def copy_from_numpy(stream: un.Stream) -> None:
    un.zeros(10, stream=stream).copy_(np.ones(10, np.float32), stream=stream)


def drop_a_tensor_of_another_stream(stream: un.Stream) -> None:
    tensor = un.zeros(10)
    tensor.fill_(1, stream=stream)
    del tensor
    un.empty(10)


def trim(stream: un.Stream) -> None:
    un.trim_memory("cpu")


def look_for_memory_elsewhere(stream: un.Stream) -> None:
    del stream
    un.empty(1 << 20, stream=un.Stream("cpu"))


@pytest.mark.parametrize("use", [copy_from_numpy, drop_a_tensor_of_another_stream, trim, look_for_memory_elsewhere])
def test_a_fault_is_raised_whatever_the_core_asked_for_meanwhile(use: Any) -> None:
    for _ in range(30):
        stream = un.Stream("cpu")
        target = un.zeros(1 << 20, un.float32, stream=stream)
        far_away[1](target, stream=stream)
        del target
        for _ in range(3):
            use(stream)
        with pytest.raises(KernelFault, match="far_away"):
            stream.synchronize()


def test_a_fault_of_a_stream_that_was_dropped_is_raised_by_the_device() -> None:
    for _ in range(10):
        stream = un.Stream("cpu")
        far_away[1](un.zeros(4, stream=stream), stream=stream)
        del stream
        for _ in range(20):
            un.empty(10)  # each looks after what was dropped
        with pytest.raises(KernelFault, match="far_away"):
            un.synchronize("cpu")
        un.synchronize("cpu")


def test_a_fault_names_its_kernel_after_many_operations() -> None:
    stream = un.Stream("cpu")
    tensor = un.zeros(4, stream=stream)
    far_away[1](tensor, stream=stream)
    for value in range(500):
        tensor.fill_(value, stream=stream)
    with pytest.raises(KernelFault) as raised:
        stream.synchronize()
    assert "far_away" in str(raised.value.kernel)
