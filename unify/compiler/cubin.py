"""Reads from a cubin how many bytes of arguments its functions take. It says so in a section for each function.

The sections .nv.info.<function> are a list of attributes: a byte of form, a byte of kind, two bytes of value or, in the
form 4, of the length of what follows. Source: `cuobjdump -elf` of CUDA 12 and 13, which names them EIATTR_….
"""

from __future__ import annotations

import struct

_PREFIX = ".nv.info."
_LONG_FORM = 4
_CBANK_PARAM_SIZE = 0x19


def is_cubin(image: bytes) -> bool:
    """Whether an image is a cubin: a 64-bit ELF file for CUDA's machine, little-endian."""
    return len(image) >= 64 and image[:6] == b"\x7fELF\x02\x01" and image[18:20] == b"\xbe\x00"


def argument_bytes(image: bytes) -> dict[str, int]:
    """The bytes of arguments that each function takes, by its name in the image. Empty for what cannot be read."""
    try:
        return {name: size for name, size in map(_function, _sections(image)) if name} if is_cubin(image) else {}
    except (struct.error, ValueError, OverflowError):
        return {}


def _sections(image: bytes) -> list[tuple[str, bytes]]:
    (start,) = struct.unpack_from("<Q", image, 40)
    entry_bytes, count, of_names = struct.unpack_from("<HHH", image, 58)
    headers = [struct.unpack_from("<IIQQQQ", image, start + index * entry_bytes) for index in range(count)]
    if not of_names < count:
        raise ValueError("it has no names of sections")
    names = _content(image, headers[of_names])
    return [(names[header[0] : names.index(b"\0", header[0])].decode(), _content(image, header)) for header in headers]


def _content(image: bytes, header: tuple[int, ...]) -> bytes:
    *_, offset, size = header
    return image[offset : offset + size]


def _function(section: tuple[str, bytes]) -> tuple[str, int]:
    """A function and its bytes, or no name."""
    name, content = section
    place = 0
    while name.startswith(_PREFIX) and place + 4 <= len(content):
        form, kind, value = struct.unpack_from("<BBH", content, place)
        if kind == _CBANK_PARAM_SIZE and form != _LONG_FORM:
            return name.removeprefix(_PREFIX), value
        place += 4 + (value if form == _LONG_FORM else 0)
    return "", 0
