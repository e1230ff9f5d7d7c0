"""DLPack's C table by ctypes, for a stand-in of torch: its functions in Python, over those of unify's own tensors."""

from __future__ import annotations

import ctypes
from typing import Any

import unify as un

ADDRESS = ctypes.POINTER(ctypes.c_void_p)
OBJECT = ctypes.POINTER(ctypes.py_object)
FROM_OBJECT = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ADDRESS)
TO_OBJECT = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, OBJECT)
BORROW = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
CURRENT_STREAM = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_int32, ADDRESS)
NAME = b"dlpack_exchange_api"


class Table(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("from_object", FROM_OBJECT),
        ("to_object", TO_OBJECT),
        ("borrow", BORROW),
        ("current_stream", CURRENT_STREAM),
    )


def own_table() -> Table:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return Table.from_address(pointer(un.Tensor.__dlpack_c_exchange_api__, NAME))


def add_table(array_type: Any) -> None:
    """`array_type` then speaks DLPack by table; `array_type.library.stream` is the current one."""
    own = own_table()

    def to_object(managed: int, out: Any) -> int:
        tensor = ctypes.py_object()
        assert own.to_object(managed, ctypes.byref(tensor)) == 0
        out[0] = array = array_type(tensor.value)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(array))  # `out` gives a reference away,
        ctypes.pythonapi.Py_DecRef(tensor)  # and the tensor's came so
        return 0

    def current_stream(device_type: int, device_index: int, out: Any) -> int:
        array_type.library.asked += 1
        out[0] = array_type.library.stream.ptr
        return 0

    table = Table(
        own.version,
        None,
        None,
        FROM_OBJECT(lambda array, out: own.from_object(array.memory, out)),
        TO_OBJECT(to_object),
        BORROW(lambda array, out: own.borrow(array.memory, out)),
        CURRENT_STREAM(current_stream),
    )
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    array_type.table = table
    array_type.__dlpack_c_exchange_api__ = make(ctypes.addressof(table), NAME, None)
