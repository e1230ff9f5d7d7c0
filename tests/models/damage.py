"""What is done to files that are read as hostile input."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

# Numbers of 64 bits at which sums and products wrap, or that no file is as large as.
HUGE = [0, 1, 2**16, 2**24, 2**31, 2**32 - 1, 2**32, 2**48, 2**63, 2**64 - 32, 2**64 - 1]
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "flip": st.integers(1, 255),  # the bits of a byte
    "digit": st.integers(0, 9),  # in place of another
    "delete": st.integers(1, 64),
    "insert": st.binary(min_size=1, max_size=64),
    "word": st.sampled_from(HUGE),
    "length": st.sampled_from(HUGE),  # the word at the start
    "cut": st.just(0),
}

Change = tuple[str, float, Any]  # kind, place as a fraction of an extent, value


def damages(*kinds: str) -> st.SearchStrategy[list[Change]]:
    """One to four changes of these kinds."""
    place = st.floats(0, 1, exclude_max=True)
    return st.lists(
        st.one_of(*(st.tuples(st.just(kind), place, _VALUES[kind]) for kind in kinds)), min_size=1, max_size=4
    )


def damaged(content: bytes, extent: int, changes: list[Change]) -> bytes:
    """Content after changes in its first `extent` bytes."""
    result = bytearray(content)
    for kind, place, value in changes:
        at = int(place * min(extent, len(result)))
        if kind == "flip" and result:
            result[at] ^= value
        elif kind == "digit":
            digits = [i for i, byte in enumerate(result[:extent]) if chr(byte).isdigit() and byte < 128]
            if digits:
                result[digits[int(place * len(digits))]] = ord(str(value))
        elif kind == "delete":
            del result[at : at + value]
        elif kind == "insert":
            result[at:at] = value
        elif kind == "word":
            result[at : at + 8] = struct.pack("<Q", value)
        elif kind == "length":
            result[:8] = struct.pack("<Q", value)
        elif kind == "cut":
            del result[at:]
    return bytes(result)
