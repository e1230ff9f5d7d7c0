"""Errors: their class, their fields, and that nothing but the faulty device suffers."""

from __future__ import annotations

import functools
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import unify as un
from unify import _errors as errors
from unify._tensor import as_tensor
from unify.compiler import Target
from unify.testing import faults

NOTHING = object()

# A call with one argument that cannot be, for each function.
BAD_CALLS: dict[str, Callable[[un.Device], object]] = {
    "ones_shape": lambda d: un.ones((-1,), un.float32, d),
    "full_dtype": lambda d: un.full((2,), 1, "no", d),
    "full_value": lambda d: un.full((2,), "x", un.float32, d),
    "arange_dtype": lambda d: un.arange(3, dtype="no", device=d),
    "zeros_stream": lambda d: un.zeros(3, un.float32, d, stream=NOTHING),
    "asarray_object": lambda d: un.asarray(NOTHING, device=d),
    "asarray_dtype": lambda d: un.asarray([1], "no", device=d),
    "from_dlpack": lambda d: un.from_dlpack(NOTHING),
    "from_numpy": lambda d: un.from_numpy(NOTHING),
    "pinned_shape": lambda d: un.empty_pinned((-1,), un.float32, device=d),
    "pinned_dtype": lambda d: un.empty_pinned((1,), "no", device=d),
    "stream_priority": lambda d: un.Stream(d, priority="high"),
    "stream_wait": lambda d: un.Stream(d).wait(NOTHING),
    "stream_record": lambda d: un.Stream(d).record(NOTHING),
    "stream_host_call": lambda d: un.Stream(d).host_call(3),
    "stream_timeout": lambda d: un.Stream(d).synchronize(timeout_s="x"),
    "event_stream": lambda d: un.Event(d).record(NOTHING),
    "event_elapsed": lambda d: un.Event(d, timing=True).elapsed_ms(NOTHING),
    "graph_capture": lambda d: un.Graph.capture(NOTHING).__enter__(),
    "copy_": lambda d: un.zeros((3, 4), un.float32, d).copy_(NOTHING),
    "fill_": lambda d: un.zeros((3, 4), un.float32, d).fill_(NOTHING),
    "to": lambda d: un.zeros((3, 4), un.float32, d).to(NOTHING),
    "reshape": lambda d: un.zeros((3, 4), un.float32, d).reshape(5, 5),
    "permute": lambda d: un.zeros((3, 4), un.float32, d).permute(0, 0),
    "view": lambda d: un.zeros((3, 4), un.float32, d).view("no"),
    "index": lambda d: un.zeros((3, 4), un.float32, d)["x"],
    "setitem": lambda d: un.zeros((3, 4), un.float32, d).__setitem__(0, NOTHING),
    "memory_limit": lambda d: un.set_memory_limit(-1, d),
    "option_key": lambda d: d.set_option("no", "1"),
    "option_type": lambda d: d.set_option(3, 4),
    "statistics": lambda d: un.memory_statistics("nowhere"),
    "trim": lambda d: un.trim_memory(NOTHING),
    "default": lambda d: un.set_default_device("nowhere"),
    "module_image": lambda d: un.Module(3, d),
    "module_device": lambda d: un.Module(b"x", "nowhere"),
    "from_native": lambda d: un.Stream.from_native(NOTHING, d),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_an_argument_that_cannot_be_is_an_error_and_changes_nothing(device: un.Device, call: str) -> None:
    device.synchronize()
    before = un.memory_statistics(device).allocated_bytes
    with pytest.raises((errors.Error, TypeError)) as raised:
        BAD_CALLS[call](device)
    assert str(raised.value)
    del raised
    device.synchronize()
    gc.collect()
    assert un.memory_statistics(device).allocated_bytes <= before
    assert un.ones(3, un.int8, device).tolist() == [1, 1, 1]


@pytest.fixture
def faulty(device: un.Device) -> Any:
    """The device, if it fails on demand; healthy again afterwards."""
    if not faults.can_inject(device):
        pytest.skip(f"{device.name}: does not fail on demand")
    if device.capabilities["reset"] == "absent":
        pytest.skip(f"{device.name}: reset is absent")
    with faults.recovered(device):
        yield device


def test_a_wrong_dtype_suggests_a_near_one(device: un.Device) -> None:
    with pytest.raises(errors.DTypeError, match="float32"):
        un.empty(3, "flaot32", device)


@pytest.mark.parametrize("dtype", ["", "complex64", "object", object(), 3])
def test_an_unknown_dtype_is_an_error(device: un.Device, dtype: Any) -> None:
    with pytest.raises(errors.DTypeError):
        un.empty(3, dtype, device)


@pytest.mark.parametrize("shape", ["3", 1.5, None, [1, "2"], {}])
def test_a_shape_of_no_integers_is_an_error(device: un.Device, shape: Any) -> None:
    with pytest.raises(errors.ShapeError, match="integers"):
        un.empty(shape, un.float32, device)


@pytest.mark.parametrize("value", [3, 1.5, object(), b"cpu"])
def test_something_that_is_no_device_is_an_error(device: un.Device, value: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="device"):
        un.empty(3, un.float32, value)


def test_an_argument_too_many_is_a_type_error(device: un.Device) -> None:
    with pytest.raises(TypeError, match="empty"):
        un.empty(3, un.float32, device, 4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="colour"):
        un.empty(3, un.float32, device, colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="shape"):
        un.empty()  # type: ignore[call-arg]


def test_an_array_on_another_device_than_the_work_is_an_error(device: un.Device, other_device: un.Device) -> None:
    with pytest.raises(errors.DeviceMismatchError) as raised:
        as_tensor(un.zeros(3, un.float32, device), name="attention: q", device=other_device)
    assert "attention: q" in str(raised.value)
    assert device.name in str(raised.value)
    assert other_device.name in str(raised.value)


def test_as_tensor_names_the_argument(device: un.Device) -> None:
    tensor = un.zeros((3, 4), un.float32, device)
    with pytest.raises(errors.DTypeError, match="norm: x.*int32.*float32"):
        as_tensor(tensor, name="norm: x", dtype=un.int32)
    with pytest.raises(errors.DTypeError, match="int32, int64 or uint8"):
        as_tensor(tensor, name="norm: x", dtype=(un.int32, un.int64, un.uint8))
    with pytest.raises(errors.ShapeError, match="norm: x.*3 axes.*3, 4"):
        as_tensor(tensor, name="norm: x", ndim=3)
    with pytest.raises(errors.LayoutError, match="norm: x.*contiguous"):
        as_tensor(tensor.T, name="norm: x", contiguous=True)
    with pytest.raises(errors.InvalidArgument, match="norm: x"):
        as_tensor(object(), name="norm: x")


def test_an_error_is_of_its_python_kind_too(device: un.Device) -> None:
    with pytest.raises(ValueError):
        un.empty((-1,), un.float32, device)
    with pytest.raises(TypeError):
        un.empty(1, "no such", device)
    with pytest.raises(RuntimeError):
        un.empty((-1,), un.float32, device)


def test_running_out_of_memory_names_the_device_and_survives_pickle(device: un.Device) -> None:
    with pytest.raises(errors.OutOfMemory) as raised:
        un.empty(1 << 55, un.uint8, device)
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value)
    assert again.device == device.name


def test_a_failed_call_leaves_the_device_usable(device: un.Device) -> None:
    for _ in range(50):
        with pytest.raises(errors.Error):
            un.empty((-1,), un.float32, device)
    assert un.ones(3, un.float32, device).tolist() == [1, 1, 1]


def test_a_fault_says_what_where_and_why(faulty: un.Device, stream: un.Stream) -> None:
    source = un.zeros(4096, un.uint8, faulty, stream=stream)
    target = un.empty(4096, un.uint8, faulty, stream=stream)
    stream.synchronize()
    faults.fail_next(faulty, "copy")
    with pytest.raises(errors.KernelFault) as raised:
        target.copy_(source, stream=stream)
        stream.synchronize()
    error = raised.value
    assert error.device == faulty.name
    assert error.native_code
    assert error.native_name
    assert error.native_name in str(error)
    assert "4096" in str(error) or "4.0 KiB" in str(error)
    assert error.recent


def test_a_faulted_device_refuses_work_and_names_the_cause(faulty: un.Device, stream: un.Stream) -> None:
    tensor = un.zeros(64, un.uint8, faulty, stream=stream)
    faults.fail_next(faulty, "fill")
    with pytest.raises(errors.KernelFault):
        tensor.fill_(1, stream=stream)
        stream.synchronize()
    assert faulty.state == "faulted"
    for use in (lambda: un.zeros(3, un.uint8, faulty), lambda: tensor.fill_(1), lambda: un.Stream(faulty)):
        with pytest.raises(errors.KernelFault, match="fill"):
            use()


def test_other_devices_go_on_beside_a_faulted_one(faulty: un.Device, other_device: un.Device) -> None:
    faults.fail_next(faulty, "fill")
    with pytest.raises(errors.KernelFault):
        un.zeros(3, un.uint8, faulty)
        faulty.synchronize()
    with un.Stream(other_device) as stream:
        un.ones(3, un.uint8, other_device)
        stream.synchronize()  # reading it would go through the host's own device, which may be the faulty one
    assert other_device.state == "healthy"


def test_reset_brings_a_faulted_device_back(faulty: un.Device) -> None:
    faults.fail_next(faulty, "fill")
    with pytest.raises(errors.KernelFault):
        un.zeros(3, un.uint8, faulty)
        faulty.synchronize()
    faulty.reset()
    assert faulty.state == "healthy"
    assert un.ones(3, un.uint8, faulty).tolist() == [1, 1, 1]


def test_what_was_made_before_a_reset_says_so(faulty: un.Device) -> None:
    tensor, stream, event = un.ones(3, un.uint8, faulty), un.Stream(faulty), un.Event(faulty)
    faulty.synchronize()
    faulty.reset()
    for use in (functools.partial(tensor.fill_, 1), stream.synchronize, event.record):
        with pytest.raises(errors.Error, match="reset"):
            use()
    del tensor, stream, event
    np.testing.assert_array_equal(un.zeros(3, un.uint8, faulty).numpy(), [0, 0, 0])


def test_a_lost_device_is_lost_until_reset(faulty: un.Device) -> None:
    faults.lose(faulty)
    with pytest.raises(errors.DeviceLost) as raised:
        un.zeros(3, un.uint8, faulty)
        faulty.synchronize()
    assert raised.value.device == faulty.name
    with pytest.raises(errors.DeviceLost):
        faulty.synchronize()


@pytest.mark.parametrize("verb", ["copy", "fill", "record", "wait", "synchronize", "query", "stream", "allocate"])
def test_a_fault_of_every_verb_becomes_an_error_and_no_crash(faulty: un.Device, verb: str) -> None:
    un.trim_memory(faulty)
    faults.fail_next(faulty, verb)
    with pytest.raises(errors.Error):
        stream = un.Stream(faulty)
        tensor = un.zeros(1 << 22, un.uint8, faulty, stream=stream)
        tensor.copy_(tensor.copy(stream=stream), stream=stream)
        stream.wait(un.Stream(faulty).record())
        _ = stream.is_idle
        stream.synchronize()
        faulty.synchronize()


def test_a_kernel_runs_again_after_a_reset(faulty: un.Device, target: Target) -> None:
    from unify.ops import rms_norm

    def run() -> list[float]:
        return rms_norm(un.ones((1, 16), device=faulty), un.ones(16, device=faulty), eps=0.0).tolist()[0]

    assert run() == [1.0] * 16
    faulty.synchronize()
    faulty.reset()
    assert run() == [1.0] * 16
