"""Signatures as text: names, types, and the layout that C gives them."""

from __future__ import annotations

import ctypes

import pytest

import unify as un
from unify.compiler import signature

C = {
    "i8": ctypes.c_int8, "b16": ctypes.c_int16, "i32": ctypes.c_int32, "u64": ctypes.c_uint64, "fp32": ctypes.c_float,
    "fp64": ctypes.c_double, "*fp16": ctypes.c_void_p, "ptr": ctypes.c_void_p, "u1": ctypes.c_bool,
}  # fmt: skip


@pytest.mark.parametrize(
    "types",
    [
        ("fp32", "*fp16", "ptr", "i32"),
        ("i8", "fp64", "i8", "i32", "i8"),
        ("u1", "b16", "u1", "*fp16", "u1"),
        ("i32", "u64", "i32"),
    ],
    ids=" ".join,
)
def test_offsets_are_those_of_a_c_struct(types: tuple[str, ...]) -> None:
    fields = [(f"arg{i}", C[type_name]) for i, type_name in enumerate(types)]
    struct = type("Struct", (ctypes.Structure,), {"_fields_": fields})
    parameters = signature.parse(", ".join(types))
    assert [p.offset for p in parameters] == [getattr(struct, p.name).offset for p in parameters]
    last = getattr(struct, fields[-1][0])
    assert signature.total_bytes(parameters) == last.offset + last.size


def test_a_struct_has_the_alignment_it_says() -> None:
    parameters = signature.parse(["i32", "bytes[24]@8", "bytes[3]@1", "i32"])
    assert [p.offset for p in parameters] == [0, 8, 32, 36]
    assert signature.total_bytes(parameters) == 40


def test_names_are_optional() -> None:
    parameters = signature.parse("a: fp32, *kfp32, n:i32")
    assert [(p.name, p.type) for p in parameters] == [("a", "fp32"), ("arg1", "*kfp32"), ("n", "i32")]
    assert signature.parse("") == ()


@pytest.mark.parametrize(
    "text",
    [
        "fp33",
        "*",
        "**fp32",
        "*void",
        "float",
        "bytes[0]@8",
        "bytes[8]",
        "bytes[8]@3",
        "bytes[x]@8",
        "i32,",
        "constexpr",
    ],
)
def test_a_type_that_is_none_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=r"no parameter can be .*There are numbers \(i1"):
        signature.parse(text)


@pytest.mark.parametrize("text", ["a: i32, a: i32", "1a: i32", ": i32", "stream: i32", "arg1: i32, i32"])
def test_a_name_that_cannot_be_given_is_refused(text: str) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="cannot have the name"):
        signature.parse(text)
