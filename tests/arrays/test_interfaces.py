"""What other libraries say of their arrays, and ask of ours, when they say it wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import unify as un


class Interface:
    def __init__(self, **interface: Any) -> None:
        self.array = np.arange(8.0)
        data = (self.array.ctypes.data, False)
        self.__array_interface__ = {"shape": (2,), "typestr": "<f8", "data": data, "version": 3, **interface}


@pytest.mark.parametrize(
    "typestr", ["", "<f", "<", "|i33", "<i256", "<f0", "<fx", "<f8x", "<f-8", ">f8", "<c8", "<f 8"]
)
def test_a_type_that_is_none_of_ours_is_named(typestr: str) -> None:
    with pytest.raises(un.DTypeError, match=f"no dtype for '{typestr.replace('|', '.')}'"):
        un.asarray(Interface(typestr=typestr))


@pytest.mark.parametrize("typestr", ["<f8", "=f8", "|u1", "|b1", "<i4"])
def test_a_type_of_ours_is_taken(typestr: str) -> None:
    assert un.asarray(Interface(typestr=typestr)).dtype.itemsize == int(typestr[2:])


@pytest.mark.parametrize("missing", ["typestr", "shape", "data"])
def test_an_interface_that_lacks_something_is_no_array(missing: str) -> None:
    array = Interface()
    del array.__array_interface__[missing]
    with pytest.raises(un.InvalidArgument, match=f"its interface .*'{missing}'"):
        un.asarray(array)


@pytest.mark.parametrize(
    ("name", "value"), [("data", None), ("data", (1,)), ("shape", 3), ("shape", ("a",)), ("typestr", 3)]
)
def test_an_interface_of_something_else_is_no_array(name: str, value: Any) -> None:
    with pytest.raises(un.InvalidArgument, match=f"its interface .*'{name}'"):
        un.asarray(Interface(**{name: value}))


@pytest.mark.parametrize("pair", [[1, 0], (1,), (1, 0, 0), ("cpu", 0), (1.5, 0), "ab", 1, (1 << 40, 0)])
def test_a_device_for_dlpack_is_a_pair_of_numbers(pair: Any) -> None:
    if pair == [1, 0]:  # a sequence will do
        assert "dltensor" in repr(un.zeros(4).__dlpack__(dl_device=pair))
        return
    with pytest.raises(TypeError, match="dl_device"):
        un.zeros(4).__dlpack__(dl_device=pair)


@pytest.mark.parametrize("version", [("a", 0), (), 1, "1", (1.5, 0), (None, None)])
def test_a_version_for_dlpack_is_a_pair_of_numbers(version: Any) -> None:
    with pytest.raises(TypeError, match="max_version"):
        un.zeros(4).__dlpack__(max_version=version)


@pytest.mark.parametrize("stream", ["x", 1.5])
def test_a_stream_for_dlpack_is_a_number(stream: Any) -> None:
    with pytest.raises(TypeError):
        un.zeros(4).__dlpack__(stream=stream)
