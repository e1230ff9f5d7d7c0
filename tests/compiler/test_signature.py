"""How parameters are packed. That drivers lay them out the same is tested with each target, e.g. in test_cuda.py."""

from __future__ import annotations

import ctypes

import pytest

import unify as un
from unify.compiler import mlir_reader, signature

TYPES = {
    "i1": ctypes.c_int8, "i8": ctypes.c_int8, "i16": ctypes.c_int16, "i32": ctypes.c_int32, "i64": ctypes.c_int64,
    "f16": ctypes.c_uint16, "bf16": ctypes.c_uint16, "f32": ctypes.c_float, "f64": ctypes.c_double,
    "!tt.ptr<f32>": ctypes.c_void_p,
}  # fmt: skip


def kernel(*types: str) -> signature.mlir.Operation:
    arguments = ", ".join(f"%a{i}: {type_}" for i, type_ in enumerate(types))
    text = (
        '"builtin.module"() ({ "tt.func"() <{function_type = (' + ", ".join(types) + ') -> (), sym_name = "k", '
        'sym_visibility = "public"}> ({ ^bb0(' + arguments + '): "tt.return"() : () -> () }) : () -> () }) : () -> ()'
    )
    return signature.kernel_of(mlir_reader.parse(text))


@pytest.mark.parametrize("first", TYPES)
@pytest.mark.parametrize("second", TYPES)
def test_fields_lie_as_in_a_struct_of_c(first: str, second: str) -> None:
    types = (first, second, "i8", first)

    class Struct(ctypes.Structure):
        _fields_ = [(f"a{i}", TYPES[type_]) for i, type_ in enumerate(types)]

    found, end = signature.packed(kernel(*types))
    assert [(name, offset) for name, _, offset in found] == [(n, getattr(Struct, n).offset) for n, _ in Struct._fields_]
    assert end == Struct.a3.offset + Struct.a3.size


def test_types_have_triton_s_names() -> None:
    found, _ = signature.packed(kernel("!tt.ptr<f32>", "f16", "bf16", "i32", "!tt.ptr<i8>"))
    assert [type_ for _, type_, _ in found] == ["*fp32", "fp16", "bf16", "i32", "*i8"]


def test_what_cannot_be_passed_is_named() -> None:
    with pytest.raises(un.CompileError, match=r"kernel k: a parameter of type tensor<4xf32> cannot be passed"):
        signature.packed(kernel("i32", "tensor<4xf32>"))
