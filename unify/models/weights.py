"""GGUF files, read as hostile input: everything that the header claims is checked before anything is believed.

The `gguf` package parses; it trusts lengths, so that a bound for each is checked first, in one pass over the header.
"""

from __future__ import annotations

import io
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from unify._errors import ModelFileError

if TYPE_CHECKING:
    import numpy as np

_MOST_ENTRIES = 1 << 16  # metadata keys, tensors
_MOST_TEXT = 1 << 24  # bytes of one string
_MOST_ITEMS = 1 << 22  # of one array
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # GGUF value types
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in the file: shape with the last axis contiguous, GGUF type name in lower case, place in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    nbytes: int


class ModelFile:
    """A GGUF file: `metadata` by key, `tensors` by name, `read` for a tensor's bytes.

    Raises ModelFileError, naming the file, what is wrong and where, for whatever does not hold together.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                _check_header(file, self.path, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise ModelFileError(f"{self.path}: cannot be read: {error.strerror or error}.") from None
        self.metadata, self.tensors = _parse(self.path)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Returns a tensor's bytes as uint8 [n, row bytes], or float32 of its shape for "f32".

        Reads the file anew, so that nothing but the result stays in memory. Raises ModelFileError.
        """
        import numpy as np

        info = self.tensors.get(name)
        if info is None:
            raise ModelFileError(f"{self.path}: no tensor '{name}'; {len(self.tensors)} others are there. Is it a llama?")
        with self.path.open("rb") as file:
            data = np.fromfile(file, np.uint8, info.nbytes, offset=info.offset)
        if data.size != info.nbytes:
            raise ModelFileError(f"{self.path}: ends inside tensor '{name}'; it was changed while it was read.")
        if info.kind == "f32":
            return data.view(np.float32).reshape(info.shape)
        rows = math.prod(info.shape[:-1])
        return data.reshape(rows, -1)

    def require(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """Returns a metadata value of this type. Raises ModelFileError when it is absent or another."""
        value = self.metadata.get(key)
        if not isinstance(value, kind):
            have = "is absent" if value is None else f"is {value!r}"
            raise ModelFileError(f"{self.path}: the metadata '{key}' {have}; this model cannot be used without it.")
        return value


def _parse(path: Path) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        tensors = {}
        for tensor in reader.tensors:
            shape = tuple(int(extent) for extent in reversed(tensor.shape))
            kind = tensor.tensor_type.name.lower()
            tensors[str(tensor.name)] = TensorInfo(
                str(tensor.name), shape, kind, int(tensor.data_offset), int(tensor.n_bytes)
            )
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: not a GGUF file that can be read: {error}.") from None
    return metadata, tensors


class _Cursor:
    """Reads the header front to back; every length is checked against what the file has left."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = io.BufferedReader(file), path, size  # type: ignore[type-var]
        self.at = 0

    def fail(self, what: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: damaged at byte {self.at} of {self.size}: {what}. Fetch it again, or check where it is from."
        )

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise self.fail(f"{count} bytes are needed, {self.size - self.at} are left")
        data = self.file.read(count)
        if len(data) != count:
            raise self.fail("the file ended early")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise self.fail(f"{count} bytes are needed, {self.size - self.at} are left")
        self.file.seek(count, os.SEEK_CUR)
        self.at += count

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize(code)))
        return int(value)

    def count(self, what: str, limit: int) -> int:
        value = self.number("Q")
        if value > limit:
            raise self.fail(f"{value} {what}, at most {limit} are believable")
        return value

    def text(self) -> str:
        data = self.take(self.count("bytes of text", _MOST_TEXT))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.fail("a text that is not UTF-8") from None


def _check_header(file: BinaryIO, path: Path, size: int) -> None:
    cursor = _Cursor(file, path, size)
    if cursor.take(4) != b"GGUF":
        raise ModelFileError(f"{path}: not a GGUF file (it does not begin with 'GGUF').")
    version = cursor.number("I")
    if version not in (2, 3):
        raise ModelFileError(f"{path}: GGUF version {version}; 2 and 3 can be read.")
    tensor_count = cursor.count("tensors", _MOST_ENTRIES)
    alignment = _check_metadata(cursor, cursor.count("metadata entries", _MOST_ENTRIES))
    ranges = [_check_tensor(cursor, alignment) for _ in range(tensor_count)]
    names = [name for name, _, _ in ranges]
    if len(set(names)) != len(names):
        raise cursor.fail("two tensors have one name")
    data_start = -(-cursor.at // alignment) * alignment
    for name, offset, nbytes in ranges:
        if data_start + offset + nbytes > size:
            raise cursor.fail(
                f"tensor '{name}' reaches to byte {data_start + offset + nbytes}, beyond the file's end; it is cut off"
            )


def _check_metadata(cursor: _Cursor, count: int) -> int:
    """Returns the alignment of the tensors' data."""
    alignment = 32
    seen = set()
    for _ in range(count):
        key = cursor.text()
        if key in seen:
            raise cursor.fail(f"the key '{key[:80]}' comes twice")
        seen.add(key)
        kind = cursor.number("I")
        if key == "general.alignment":
            if kind != 4:
                raise cursor.fail("general.alignment is no uint32")
            alignment = cursor.number("I")
            if alignment < 1 or alignment > 1 << 20 or alignment & (alignment - 1):
                raise cursor.fail(f"an alignment of {alignment}")
        else:
            _check_value(cursor, key, kind)
    return alignment


def _check_value(cursor: _Cursor, key: str, kind: int) -> None:
    if kind == _STRING:
        cursor.text()
    elif kind in _SCALAR_BYTES:
        cursor.skip(_SCALAR_BYTES[kind])
    elif kind == _ARRAY:
        item = cursor.number("I")
        length = cursor.count(f"items in '{key[:80]}'", _MOST_ITEMS)
        if item == _STRING:
            for _ in range(length):
                cursor.text()
        elif item in _SCALAR_BYTES:
            cursor.skip(length * _SCALAR_BYTES[item])
        else:
            raise cursor.fail(f"an array of unknown type {item} in '{key[:80]}'")
    else:
        raise cursor.fail(f"unknown type {kind} of '{key[:80]}'")


def _check_tensor(cursor: _Cursor, alignment: int) -> tuple[str, int, int]:
    """Returns a tensor's name, offset and size."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name = cursor.text()
    rank = cursor.number("I")
    if not 1 <= rank <= 4:
        raise cursor.fail(f"tensor '{name[:80]}' has {rank} axes")
    shape = [cursor.number("Q") for _ in range(rank)]
    elements = math.prod(shape)
    if elements > 1 << 48 or min(shape) < 1:
        raise cursor.fail(f"tensor '{name[:80]}' has the shape {shape}")
    kind = cursor.number("I")
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise cursor.fail(f"tensor '{name[:80]}' has the unknown type {kind}") from None
    if shape[0] % block:
        raise cursor.fail(f"tensor '{name[:80]}' has rows of {shape[0]}, its type has blocks of {block}")
    offset = cursor.number("Q")
    if offset % alignment:
        raise cursor.fail(f"tensor '{name[:80]}' lies at {offset}, not a multiple of {alignment}")
    return name, offset, elements // block * block_bytes
