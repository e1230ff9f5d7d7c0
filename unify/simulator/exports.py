"""Which functions a shared library exports, by its own table."""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path

from .section import ELF_HEADER, SECTION

_DYNAMIC_SYMBOLS = 11  # SHT_DYNSYM
_SYMBOL = struct.Struct("<IBBHQQ")  # name, binding and type, visibility, section, value, size
_FUNCTION = 2  # STT_FUNC
_VERSION = re.compile(r"_v\d+$")  # of a form of a function: cuMemAlloc_v2


@functools.cache
def calls_of(library: str) -> frozenset[str]:
    """Returns the names of the vendor's functions in a simulated driver, without the versions of their forms."""
    names = _functions(Path(library).read_bytes())
    return frozenset(_VERSION.sub("", name) for name in names if not name.startswith("unify_"))


def _functions(elf: bytes) -> list[str]:
    """The functions that an ELF64 file defines for others."""
    header = ELF_HEADER.unpack_from(elf)
    sections = [SECTION.unpack_from(elf, header[6] + i * SECTION.size) for i in range(header[12])]
    names = []
    for _, type_, _, _, offset, size, link, *_ in sections:
        if type_ != _DYNAMIC_SYMBOLS:
            continue
        strings = sections[link][4]
        for name, info, _, section, _, _ in _SYMBOL.iter_unpack(elf[offset : offset + size]):
            if info & 0xF == _FUNCTION and section != 0:
                begin = strings + name
                names.append(elf[begin : elf.index(b"\0", begin)].decode())
    return names
