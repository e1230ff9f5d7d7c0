"""The real torch and CuPy on a real chip: as test_streams.py, where the stand-ins may be wrong about them."""

from __future__ import annotations

from typing import Any

import pytest
import triton.language as tl

import unify as un
from unify import ops

pytestmark = pytest.mark.gpu
SLOW = 100_000_000  # cycles that a stream is held up: some 50 ms


@un.jit
def double(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


def launch(x: Any, out: Any, **options: Any) -> None:
    double[(1,)](x, out, 4, BLOCK=16, **options)


@pytest.fixture
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA device")
    return torch


def test_torch_kernels_and_ours_run_in_order_on_torchs_stream(torch: Any) -> None:
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            x, out = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")
            launch(x, out)  # compiles
            torch.cuda._sleep(SLOW)
            x.fill_(3)
            launch(x, out)
            later = out + 1
            assert not stream.query()
            assert later.tolist() == [7] * 4


def test_a_named_stream_waits_and_torch_does_not_reuse_memory_in_use_there(torch: Any) -> None:
    x, out = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")
    named = un.Stream("cuda:0")
    launch(x, out, stream=named)
    torch.cuda._sleep(SLOW)
    x.fill_(3)
    launch(x, out, stream=named)
    address = x.data_ptr()
    del x
    assert torch.zeros(4, device="cuda").data_ptr() != address
    named.synchronize()
    assert out.tolist() == [6] * 4


def test_ops_return_torch_tensors_on_torchs_stream(torch: Any) -> None:
    x, weight = torch.zeros(2, 4, device="cuda"), torch.ones(4, device="cuda")
    ops.rms_norm(x, weight)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(SLOW)
        x.fill_(3)
        y = ops.rms_norm(x, weight)
        assert isinstance(y, torch.Tensor)
        assert torch.allclose(y + 1, torch.full_like(y, 2.0))


def test_tensors_of_ours_take_part_in_order(torch: Any) -> None:
    x, out = torch.zeros(4, device="cuda"), un.zeros(4, device="cuda:0")
    launch(x, out)
    torch.cuda._sleep(SLOW)
    x.fill_(3)
    launch(x, out)
    assert out.tolist() == [6] * 4
    out.copy_(x)
    x.fill_(9)
    assert out.tolist() == [3] * 4


def test_cupy_arrays_run_on_cupys_stream_and_mix_with_torchs(torch: Any) -> None:
    cupy = pytest.importorskip("cupy")
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream:
            x, out = cupy.zeros(4, cupy.float32), cupy.zeros(4, cupy.float32)
            launch(x, out)
            x.fill(3)
            launch(x, out)
            assert (out + 1).tolist() == [7] * 4
            y = torch.zeros(4, device="cuda")
            torch.cuda._sleep(SLOW)
            y.fill_(5)
            launch(y, out)
            assert out.tolist() == [10] * 4
            assert isinstance(ops.rms_norm(x.reshape(1, 4), out), cupy.ndarray)
            assert un.asarray(out).tolist() == [10] * 4


def test_a_graph_that_torch_records_keeps_what_our_work_in_it_uses(torch: Any) -> None:
    x, weight, out = torch.ones(2, 4, device="cuda"), torch.ones(4, device="cuda"), torch.zeros(4, device="cuda")
    wide = un.zeros(4, un.int64, "cuda:0")
    calls = []
    launch(x, out)
    ops.rms_norm(x, weight)
    un.synchronize("cuda:0")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stream = torch.cuda.current_stream()
        launch(x, out)
        y = ops.rms_norm(un.asarray(x, stream=stream).copy(stream=stream), weight, stream=stream)
        wide.fill_(5 << 40, stream=stream)
        un.Stream.from_native(stream, "cuda:0").host_call(lambda: calls.append(1))
    for value in (3, 5):
        others = [un.full(8, 100.0, un.float32, "cuda:0") for _ in range(8)]  # would get what the graph still uses
        wide.fill_(0)
        x.fill_(value)
        un.synchronize("cuda:0")
        torch.cuda.synchronize()
        graph.replay()
        torch.cuda.synchronize()
        assert out.tolist() == [2 * value] * 4
        assert y.numpy().round(3).tolist() == [[1.0] * 4] * 2
        assert wide.tolist() == [5 << 40] * 4
        assert all(other.tolist() == [100.0] * 8 for other in others)
    assert calls == [1, 1]
