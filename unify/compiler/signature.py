"""A function's parameters as text, "fp32, *fp32, y: *fp32, n: i32", and where each lies among the arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unify._errors import InvalidArgument

from .target import Parameter

# By value, with their bytes. b8 … b64 have no sign: what PTX says of an integer. ptr and b64 take arrays too.
_SCALARS = {
    "i1": 1, "u1": 1, "i8": 1, "u8": 1, "b8": 1,
    "i16": 2, "u16": 2, "b16": 2, "fp16": 2, "bf16": 2,
    "i32": 4, "u32": 4, "b32": 4, "fp32": 4,
    "i64": 8, "u64": 8, "b64": 8, "fp64": 8, "ptr": 8,
}  # fmt: skip
_ELEMENTS = {
    "i1", "i8", "i16", "i32", "i64", "u1", "u8", "u16", "u32", "u64", "fp16", "bf16", "fp32", "fp64",
    "fp8e4nv", "fp8e4b8", "fp8e4b15", "fp8e5", "fp8e5b16",
}  # fmt: skip
_KNOWN = (
    "numbers (i1, i8 … i64, u8 … u64, fp16, bf16, fp32, fp64), pointers to them (*fp32; *kfp32 is read only), ptr (any "
    "array, or an address), bytes[24]@8 (a struct of 24 bytes, aligned to 8)"
)


def parse(text: str | Sequence[str]) -> tuple[Parameter, ...]:
    """Reads types by commas, or one by one, each with a name before it or not; lays them out as C does.

    Raises InvalidArgument, naming the types there are.
    """
    parts = text.split(",") if isinstance(text, str) else list(text)
    if isinstance(text, str) and not text.strip():
        parts = []
    named: list[tuple[str, str]] = []
    for index, part in enumerate(parts):
        before, colon, after = part.partition(":")
        name, type_name = (before.strip(), after.strip()) if colon else (f"arg{index}", part.strip())
        if not name.isidentifier() or name == "stream" or name in (taken for taken, _ in named):
            raise InvalidArgument(f"a parameter cannot have the name {name!r} in {part.strip()!r}, or has it twice.")
        named.append((name, type_name))
    return layout(named)


def layout(named: Iterable[tuple[str, str]]) -> tuple[Parameter, ...]:
    """Parameters from names and types, at the offsets of a C struct. Raises InvalidArgument."""
    offset = 0
    parameters = []
    for name, type_name in named:
        size, alignment = size_and_alignment(type_name)
        offset = -(-offset // alignment) * alignment
        parameters.append(Parameter(name, type_name, offset))
        offset += size
    return tuple(parameters)


def total_bytes(parameters: Sequence[Parameter]) -> int:
    """Of the packed arguments, without padding at their end."""
    return max((p.offset + size_and_alignment(p.type)[0] for p in parameters), default=0)


def size_and_alignment(type_name: str) -> tuple[int, int]:
    """Bytes of a parameter of this type, and what its offset is a multiple of. Raises InvalidArgument."""
    if type_name in _SCALARS:
        return _SCALARS[type_name], _SCALARS[type_name]
    if type_name.startswith("*") and (type_name[1:] in _ELEMENTS or type_name[1:].removeprefix("k") in _ELEMENTS):
        return 8, 8
    if type_name in ("low", "high"):  # where an array's memory ends, of kernels that check it
        return 8, 8
    size, found, alignment = type_name.removeprefix("bytes[").partition("]@")
    is_size = size.isascii() and size.isdigit() and int(size) > 0
    if found and type_name.startswith("bytes[") and is_size and alignment in ("1", "2", "4", "8", "16"):
        return int(size), int(alignment)
    raise InvalidArgument(f"no parameter can be {type_name!r}. There are {_KNOWN}.")
