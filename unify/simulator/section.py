"""A section added to an ELF file, and what it holds there for a simulated chip: a kernel for this machine's CPU."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from unify._errors import InvalidArgument

NAME = ".nv.unify.host"  # of a cubin
ASCEND_NAME = ".unify.host"
MAGIC = b"UNIFYHST"
VERSION = 1
HEADER = struct.Struct("<8sIIIIQQII")  # csrc/simulator/image.h: HostHeader
PARAMETER = struct.Struct("<III")  # HostParameter: offset, bytes, whether it is a pointer

ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
_PROGBITS, _STRTAB = 1, 3
_SIZES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}


@dataclass(frozen=True)
class HostKernel:
    """A kernel for this machine's CPU: what the CPU compiler made of it, and how its arguments lie."""

    name: str
    object: bytes
    args_bytes: int
    scratch_bytes: int
    parameters: Sequence[tuple[str, int]]  # Triton's type and the offset of each
    prefix_bytes: int = 0  # of the arguments, before these: what Ascend's launcher puts there, which the chip looks at


def host_section(kernel: HostKernel) -> bytes:
    """Returns the content of the section for one kernel."""
    name = kernel.name.encode()
    table = b"".join(_parameter(type_, offset) for type_, offset in kernel.parameters)
    header_bytes = _round_up(HEADER.size + len(table) + len(name), 64)
    header = HEADER.pack(
        MAGIC,
        VERSION,
        header_bytes,
        kernel.args_bytes,
        len(kernel.parameters),
        kernel.scratch_bytes,
        len(kernel.object),
        len(name),
        kernel.prefix_bytes,
    )
    return (header + table + name).ljust(header_bytes, b"\0") + kernel.object


def _parameter(type_: str, offset: int) -> bytes:
    is_pointer = type_.startswith("*")
    size = 8 if is_pointer else _SIZES.get(type_.replace("u", "i") if type_.startswith("u") else type_, 0)
    if size == 0:
        raise InvalidArgument(f"a simulated chip cannot pass arguments of type {type_!r} to a kernel.")
    return PARAMETER.pack(offset, size, is_pointer)


def empty_elf() -> bytes:
    """Returns an ELF64 file without code, for no machine: only its table of sections and their names."""
    names = b"\0.shstrtab\0".ljust(16, b"\0")
    table = ELF_HEADER.size + len(names)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ELF_HEADER.pack(ident, 1, 0, 1, 0, 0, table, 0, ELF_HEADER.size, 0, 0, SECTION.size, 2, 1)
    return header + names + bytes(SECTION.size) + SECTION.pack(1, _STRTAB, 0, 0, ELF_HEADER.size, 11, 0, 0, 1, 0)


def with_section(elf: bytes, name: str, content: bytes) -> bytes:
    """Returns an ELF64 file with one more section, aligned to 64 bytes. What the file had stays where it was.

    The content, a new table of names and a new table of sections follow its end. Raises InvalidArgument if it is no
    little-endian ELF64 file or if its tables lie outside of it.
    """
    if len(elf) < ELF_HEADER.size or elf[:6] != b"\x7fELF\x02\x01":
        raise InvalidArgument("with_section: not a little-endian ELF64 file.")
    header = list(ELF_HEADER.unpack_from(elf))
    table, entry_bytes, count, names_index = header[6], header[11], header[12], header[13]
    if entry_bytes != SECTION.size or names_index >= count or table + count * entry_bytes > len(elf):
        raise InvalidArgument("with_section: the file's table of sections is damaged.")
    sections = [list(SECTION.unpack_from(elf, table + i * entry_bytes)) for i in range(count)]
    names_offset, names_bytes = sections[names_index][4:6]
    if names_offset + names_bytes > len(elf):
        raise InvalidArgument("with_section: the file's names of sections lie outside of it.")

    out = bytearray(elf)

    def append(data: bytes) -> int:
        out.extend(bytes(_round_up(len(out), 64) - len(out)))
        out.extend(data)
        return len(out) - len(data)

    content_offset = append(content)
    names = elf[names_offset : names_offset + names_bytes] + name.encode() + b"\0"
    sections[names_index][4] = append(names)
    sections[names_index][5] = len(names)
    sections.append([names_bytes, _PROGBITS, 0, 0, content_offset, len(content), 0, 0, 64, 0])
    header[6] = append(b"".join(SECTION.pack(*section) for section in sections))
    header[12] = count + 1
    out[: ELF_HEADER.size] = ELF_HEADER.pack(*header)
    return bytes(out)


def _round_up(value: int, to: int) -> int:
    return (value + to - 1) // to * to
