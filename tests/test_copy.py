"""Strided and casting copies by a kernel, on a simulated chip: as the host does them, in order, in graphs too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unify as un

from .conftest import Run

PRELUDE = """
import threading
import numpy as np
import unify as un
from unify import _copy

un.simulate("cuda:90", memory_bytes=1 << 30)
device, stream = un.device("cuda:0"), un.Stream("cuda:0")
random = np.random.default_rng(0)


def numpy_of(dtype):
    return dtype.numpy if dtype != un.bfloat16 else np.dtype(np.float32)


def some(shape, dtype):
    kind = numpy_of(dtype)
    if kind.kind == "b":
        return random.random(shape) < 0.5
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return random.integers(info.min, info.max, shape, kind, endpoint=True)
    return random.standard_normal(shape).astype(kind)


def random_view(ndim):
    steps = [int(random.choice([1, 1, 2, -1, -3])) for _ in range(ndim)]
    return tuple(slice(None, None, step) for step in steps), tuple(int(i) for i in random.permutation(ndim))
"""


def run(python: Run, code: str, prelude: str = PRELUDE) -> None:
    finished = python("-c", prelude + code)
    assert finished.returncode == 0, finished.stderr


def test_random_views_of_each_size_of_element(python: Run) -> None:
    code = """
for case in range(8):
    dtype = [un.bool_, un.float16, un.float32, un.int64, un.float64, un.uint8][case % 6]
    ndim = int(random.integers(1, 6))
    shape = tuple(int(n) for n in random.integers(1, [200, 60, 20, 9, 6][ndim - 1], ndim))
    array = some(shape, dtype)
    x = un.asarray(array, device=device, copy=True)
    slices, order = random_view(ndim)
    wanted = array[slices].transpose(order)
    view = x[slices].permute(*order)
    np.testing.assert_array_equal(view.contiguous().numpy(), wanted, err_msg=f"{shape} {slices} {order} {dtype}")
    y = un.zeros(shape, dtype, device)
    y[slices].permute(*order).copy_(view)  # both strided
    expected = np.zeros_like(array)
    expected[slices] = array[slices]
    np.testing.assert_array_equal(y.numpy(), expected)
"""
    run(python, code)


@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.slow)])  # each is a kernel to compile
def test_casts_are_those_of_the_host(python: Run, count: int) -> None:
    code = """
casts = sorted(_copy.CASTS, key=str)
random.shuffle(casts)
for source, target in casts[:COUNT]:
    array = some((65, 130), source)
    on_host = un.asarray(array).to(source)
    if source in (un.float16, un.float32, un.float64):
        on_host[0, :6].copy_(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-7], array.dtype))
    x = on_host.to(device)
    view = np.s_[::-2, 3:]
    bits = _copy.BITS[target.itemsize]
    got, wanted = (t[view].to(target).to("cpu") for t in (x, on_host))
    if target.itemsize > 1 and numpy_of(target).kind == "f":
        nan = np.isnan(wanted.to(un.float64).numpy())
        np.testing.assert_array_equal(np.isnan(got.to(un.float64).numpy()), nan, err_msg=f"{source} {target}")
        got, wanted = (np.where(nan, 0, t.view(bits).numpy()) for t in (got, wanted))
    else:
        got, wanted = got.numpy(), wanted.numpy()
    np.testing.assert_array_equal(got, wanted, err_msg=f"{source} to {target}")
"""
    run(python, code.replace("COUNT", str(count)))


def test_what_lies_in_the_gaps_is_not_written(python: Run) -> None:
    code = """
x = un.zeros((4, 1000), un.float32, device)
device.synchronize()
other, gate = un.Stream(device), threading.Event()
other.host_call(lambda: gate.wait() and None)
x[:, ::2].copy_(un.ones((4, 500), un.float32, "cuda:0"), stream=stream)
stream.synchronize()  # a copy through the host would write the gaps back later, as they are now
x[:, 1::2].fill_(2, stream=other)
gate.set()
other.synchronize()
assert x.tolist() == [[1.0, 2.0] * 500] * 4
"""
    run(python, code)


def test_it_runs_on_the_stream_and_is_recorded(python: Run) -> None:
    code = """
x, out = un.zeros((64, 96), un.float32, device), un.zeros((96, 64), un.float16, device)
device.synchronize()
out.copy_(x.T)  # compiled
device.synchronize()
gate = threading.Event()
stream.host_call(lambda: gate.wait() and None)
x.fill_(3, stream=stream)
out.copy_(x.T, stream=stream)
assert not stream.is_idle
gate.set()
stream.synchronize()
assert (out.numpy() == 3).all()
with un.Graph.capture(stream) as graph:
    out.copy_(x.T, stream=stream)
    out[:, ::2].fill_(1, stream=stream)
x.fill_(5, stream=stream)
graph.launch(stream)
stream.synchronize()
assert (out.numpy() == np.tile([1.0, 5.0], (96, 32))).all()
"""
    run(python, code)


def test_other_dtypes_and_more_axes_go_through_the_host(python: Run) -> None:
    code = """
array = np.array([1.5, -2.5, np.nan, 1e30], np.float32)
x = un.asarray(array, device=device, copy=True)
assert x.to(un.int32).tolist() == un.asarray(array).to(un.int32).tolist()
array = some((2, 3, 2, 3, 2, 3, 2), un.float32)
x = un.asarray(array, device=device, copy=True)
order = (6, 5, 4, 3, 2, 1, 0)
np.testing.assert_array_equal(x.permute(*order).contiguous().numpy(), array.transpose(order))
"""
    run(python, code)


def test_rows_further_apart_than_the_chips_copies_reach(python: Run) -> None:
    code = """
x = un.empty((3, (2 << 30) + 4096), un.uint8, device, stream=stream)
part = x[:, 8:24]
part.copy_(un.asarray(np.arange(48, dtype=np.uint8).reshape(3, 16), device=device, copy=True))
assert part.copy().tolist() == np.arange(48).reshape(3, 16).tolist()
with un.Graph.capture(stream) as graph:
    out = part.copy(stream=stream)
part.fill_(7, stream=stream)
graph.launch(stream)
stream.synchronize()
assert (out.numpy() == 7).all()
"""
    run(python, code, PRELUDE.replace("1 << 30", "16 << 30"))


def test_a_copy_that_the_host_waits_for_is_refused_before_it_is_recorded(python: Run) -> None:
    code = """
x = un.zeros((64, 64), un.float32, device)
ones = np.ones((64, 64), np.float32)
on_host = un.zeros((64, 64))
device.synchronize()
for copy in (
    lambda: x.copy_(ones),
    lambda: x.T.copy_(ones.astype(np.float64)),
    lambda: on_host.copy_(x),
    lambda: x.numpy(),
    lambda: x.to(un.int32),  # which no kernel does: by way of the host
):
    with un.Graph.capture(device=device) as graph:
        try:
            copy()
        except un.errors.GraphError as error:
            assert "stream" in str(error), error
        else:
            raise SystemExit("it was recorded")
    assert repr(graph) == "unify.Graph(empty)", graph
with un.Graph.capture(stream) as graph:
    x.copy_(ones, stream=stream)  # whoever names the stream sees to it
graph.launch(stream)
stream.synchronize()
assert (x.numpy() == 1).all()
"""
    run(python, code)


def test_without_triton_copies_go_through_the_host(python: Run) -> None:
    code = """
import sys
assert not any(name.partition(".")[0] == "triton" for name in sys.modules)
sys.modules["triton"] = None  # as if it was not installed
x = un.asarray(np.arange(12, dtype=np.float32).reshape(3, 4), device=device, copy=True)
assert x.T.contiguous().tolist() == np.arange(12).reshape(3, 4).T.tolist()
assert x.to(un.float16).tolist() == np.arange(12).reshape(3, 4).tolist()
"""
    run(python, code, PRELUDE.replace("from unify import _copy", ""))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_every_float16_becomes_the_small_float_that_torch_makes_of_it(name: str) -> None:
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    source = codes.view(torch.float16)
    expected = source.to(getattr(torch, name)).float().numpy()
    found = un.asarray(source).to(name.removesuffix("fn")).to(un.float32)
    np.testing.assert_array_equal(found.numpy(), expected)
