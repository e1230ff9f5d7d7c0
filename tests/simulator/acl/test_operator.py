"""The few operators of the vendor's library, on tensors of the simulated device."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import numpy as np
import pytest

from .driver import Acl

FLOAT, HALF, INT8, INT32, INT16, INT64, DOUBLE, BOOL, BFLOAT = 0, 1, 2, 3, 6, 9, 11, 12, 27
TYPES = [
    (FLOAT, np.float32),
    (HALF, np.float16),
    (DOUBLE, np.float64),
    (INT8, np.int8),
    (INT16, np.int16),
    (INT32, np.int32),
    (INT64, np.int64),
]


def tensor(acl: Acl, address: int, type_: int, sizes: Sequence[int], strides: Sequence[int], offset: int = 0) -> int:
    create = acl.library.aclCreateTensor
    create.restype = ctypes.c_void_p
    whole = [(ctypes.c_int64 * len(values))(*values) for values in (sizes, strides)]
    rank = ctypes.c_uint64(len(sizes))
    made = create(whole[0], rank, type_, whole[1], ctypes.c_int64(offset), 2, whole[0], rank, ctypes.c_void_p(address))
    assert made
    return int(made)


def scalar(acl: Acl, value: float) -> int:
    create = acl.library.aclCreateScalar
    create.restype = ctypes.c_void_p
    return int(create(struct.pack("<d", value), DOUBLE))


def of(acl: Acl, array: np.ndarray, type_: int) -> tuple[int, int]:
    """A tensor with an array's content and layout, and its address."""
    address = acl.upload(array.tobytes() or bytes(1))
    strides = [stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides]
    return tensor(acl, address, type_, array.shape, strides), address


def run(acl: Acl, operator: str, *arguments: int, stream: int = 0) -> int:
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    plan = getattr(acl.library, f"{operator}GetWorkspaceSize")
    status = int(plan(*map(ctypes.c_void_p, arguments), ctypes.byref(size), ctypes.byref(executor)))
    if status == 0:
        assert size.value == 0
        status = int(getattr(acl.library, operator)(None, size, executor, ctypes.c_void_p(stream)))
    return status


@pytest.mark.parametrize(("type_", "dtype"), TYPES)
def test_a_sum_is_numpys(acl: Acl, type_: int, dtype: type) -> None:
    chance = np.random.default_rng(1)
    a, b = (chance.normal(size=shape, scale=30).astype(dtype) for shape in ((5, 7), (7,)))
    out, address = of(acl, np.zeros((5, 7), dtype), type_)
    assert run(acl, "aclnnAdd", of(acl, a, type_)[0], of(acl, b, type_)[0], scalar(acl, 1), out) == 0
    acl.aclrtSynchronizeDevice()
    assert acl.download(address, a.nbytes) == (a + b).tobytes()
    assert run(acl, "aclnnAdds", of(acl, a, type_)[0], scalar(acl, 2), scalar(acl, 3), out) == 0
    acl.aclrtSynchronizeDevice()
    assert acl.download(address, a.nbytes) == (a + dtype(6)).tobytes()


def test_halves_are_rounded_as_numpys(acl: Acl) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    out, address = of(acl, np.zeros(1 << 16, np.float32), FLOAT)
    assert run(acl, "aclnnInplaceCopy", out, of(acl, values, HALF)[0]) == 0
    acl.aclrtSynchronizeDevice()
    single = values.astype(np.float32)
    assert np.array_equal(np.frombuffer(acl.download(address, single.nbytes), np.float32), single, equal_nan=True)
    finite = single[np.isfinite(single)]
    steps = np.concatenate([finite * np.float32(f) for f in (1, 1 + 2**-11, 1 - 2**-12, 1 + 2**-10, 0.49)])
    out, address = of(acl, np.zeros(steps.size, np.float16), HALF)
    assert run(acl, "aclnnInplaceCopy", out, of(acl, steps, FLOAT)[0]) == 0
    acl.aclrtSynchronizeDevice()
    with np.errstate(over="ignore"):
        assert acl.download(address, 2 * steps.size) == steps.astype(np.float16).tobytes()


def test_bfloats_are_rounded_to_the_nearest_even(acl: Acl) -> None:
    bits = np.concatenate(
        [np.arange(0, 1 << 16, 5, dtype=np.uint32) << 16 | low for low in (0, 0x7FFF, 0x8000, 0x8001)]
    )
    values = bits.view(np.float32)
    out, address = of(acl, np.zeros(values.size, np.uint16), BFLOAT)
    assert run(acl, "aclnnInplaceCopy", out, of(acl, values, FLOAT)[0]) == 0
    acl.aclrtSynchronizeDevice()
    expected = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    got = np.frombuffer(acl.download(address, 2 * values.size), np.uint16)
    is_nan = np.isnan(values)
    assert np.array_equal(got[~is_nan], expected[~is_nan])
    assert np.isnan((got[is_nan].astype(np.uint32) << 16).view(np.float32)).all()


def test_a_copy_follows_strides(acl: Acl) -> None:
    data = np.arange(12, dtype=np.int32).reshape(3, 4)
    source = tensor(acl, acl.upload(data.tobytes()), INT32, (4, 2), (1, 4), 4)  # the last two rows, transposed
    out, address = of(acl, np.zeros((4, 2), np.int64), INT64)
    assert run(acl, "aclnnInplaceCopy", out, source) == 0
    acl.aclrtSynchronizeDevice()
    assert acl.download(address, 64) == data[1:].T.astype(np.int64).tobytes()


def test_an_operator_waits_for_its_stream(acl: Acl) -> None:
    data = np.ones(1 << 16, np.float32)
    stream, host = acl.stream(), acl.pinned(data.nbytes)
    ctypes.memmove(host, data.tobytes(), data.nbytes)
    a, address = of(acl, np.zeros_like(data), FLOAT)
    assert acl.copy_later(address, host, data.nbytes, 1, stream) == "SUCCESS"
    for _ in range(5):
        assert run(acl, "aclnnAdd", a, a, scalar(acl, 1), a, stream=stream) == 0
    acl.aclrtSynchronizeStream(stream)
    assert acl.download(address, data.nbytes) == (data * 32).tobytes()


def test_a_tensor_that_is_not_there_is_a_fault_of_a_kernel(acl: Acl) -> None:
    good, _ = of(acl, np.ones(4, np.float32), FLOAT)
    host = ctypes.create_string_buffer(16)
    for bad in (1 << 40, ctypes.addressof(host)):
        assert run(acl, "aclnnAdd", good, good, scalar(acl, 1), tensor(acl, bad, FLOAT, (4,), (1,))) == 0
        assert acl.result("aclrtSynchronizeDevice") == "RT_AICORE_EXCEPTION"
    assert host.raw == bytes(16)


def test_what_cannot_be_is_refused_before_it_runs(acl: Acl) -> None:
    whole, real = of(acl, np.ones(4, np.int32), INT32)[0], of(acl, np.ones(4, np.float32), FLOAT)[0]
    other = of(acl, np.ones(3, np.float32), FLOAT)[0]
    unknown = tensor(acl, 0, 16, (4,), (1,))
    one = scalar(acl, 1)
    for arguments, part in (
        ((real, real, one, whole), "does not fit into whole"),
        ((real, other, one, real), "shapes do not fit"),
        ((unknown, real, one, real), "type 16 are not served"),
    ):
        assert run(acl, "aclnnAdd", *arguments) == 161002
        assert part in acl.message()
    assert run(acl, "aclnnAdd", real, real, one, 0) == 161001
    assert run(acl, "aclnnInplaceCopy", real, other) == 161002


def test_a_planned_fault_shows_once_the_operator_ran(acl: Acl) -> None:
    a, _ = of(acl, np.ones(4, np.float32), FLOAT)
    acl.fail("aclnnAdd:0:aicore")
    assert run(acl, "aclnnAdd", a, a, scalar(acl, 1), a) == 0
    assert acl.result("aclrtSynchronizeDevice") == "RT_AICORE_EXCEPTION"
