"""GGUF files, read as hostile input: each length is checked against a bound and the file before it is believed.

The `gguf` package knows the formats and dequantises. Its reader is not used: it trusts lengths, and makes an array
object of each of a vocabulary's strings, which takes seconds and 200 MB where this takes a third of a second.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from unify._errors import ModelFileError

if TYPE_CHECKING:
    import numpy as np

_MOST_ENTRIES = 1 << 16  # metadata keys, tensors
_MOST_TEXT = 1 << 24  # bytes of one string
_MOST_ITEMS = 1 << 22  # of one array
_MOST_HEADER = 1 << 26  # bytes before the tensors; the largest vocabularies take some 20 MB
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # value types
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
                self.metadata, self.tensors = _read_header(file, self.path, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise ModelFileError(f"{self.path}: cannot be read: {error.strerror or error}.") from None

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Returns a tensor's bytes as uint8 [n, row bytes], or float32 of its shape for "f32".

        Reads the file anew, so that nothing but the result stays in memory. Raises ModelFileError.
        """
        import numpy as np

        info = self.tensors.get(name)
        if info is None:
            raise ModelFileError(
                f"{self.path}: no tensor '{name}'; {len(self.tensors)} others are there. Is it a whole llama?"
            )
        try:
            with self.path.open("rb") as file:
                data = np.fromfile(file, np.uint8, info.nbytes, offset=info.offset)
        except OSError as error:
            raise ModelFileError(
                f"{self.path}: tensor '{name}' cannot be read: {error.strerror or error}. Was the file moved?"
            ) from None
        if data.size != info.nbytes:
            raise ModelFileError(f"{self.path}: ends inside tensor '{name}'; it was changed while it was read.")
        if info.kind == "f32":
            return data.view(np.float32).reshape(info.shape)
        rows = math.prod(info.shape[:-1])
        return data.reshape(rows, -1)

    def require(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns a metadata value of this type, or the default (if there is one) when the file says nothing.

        Raises ModelFileError when it is absent or another.
        """
        value = self.metadata.get(key, default)
        if type(value) is not kind:
            have = "is absent" if value is None else f"is {value!r:.80}"
            raise ModelFileError(
                f"{self.path}: the metadata '{key}' {have}; {kind.__name__} is needed. Convert the model anew, or take "
                "the file from someone else."
            )
        return value

    def texts(self, key: str) -> list[str]:
        """Returns a metadata array of texts. Raises ModelFileError like require."""
        value: list[str] = self.require(key, list)
        if not all(isinstance(item, str) for item in value):
            raise ModelFileError(f"{self.path}: the metadata '{key}' is no array of texts. Convert the model anew.")
        return value


class _Cursor:
    """Reads the header front to back; every length is checked against what the file has left."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size
        self.at = 0

    def fail(self, what: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: damaged at byte {self.at} of {self.size}: {what}. Fetch it again, or check where it is from."
        )

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise self.fail(f"{count} bytes are needed, {self.size - self.at} are left")
        if self.at + count > _MOST_HEADER:
            raise self.fail(f"a header of more than {_MOST_HEADER >> 20} MB")
        data = self.file.read(count)
        if len(data) != count:
            raise self.fail("the file ended early")
        self.at += count
        return data

    def values(self, code: str, count: int) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code)))

    def number(self, code: str) -> int:
        return int(self.values(code, 1)[0])

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


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    cursor = _Cursor(file, path, size)
    if cursor.take(4) != b"GGUF":
        raise ModelFileError(f"{path}: not a GGUF file (it does not begin with 'GGUF'). Other formats: convert it.")
    version = cursor.number("I")
    if version not in (2, 3):
        raise ModelFileError(f"{path}: GGUF version {version}; 2 and 3, little endian, can be read. Convert it anew.")
    tensor_count = cursor.count("tensors", _MOST_ENTRIES)
    metadata = _read_metadata(cursor, cursor.count("metadata entries", _MOST_ENTRIES))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, no power of two")
    infos = [_read_tensor_info(cursor, alignment) for _ in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for info in infos:
        if info.name in tensors:
            raise cursor.fail(f"two tensors are called '{info.name[:80]}'")
        end = start + info.offset + info.nbytes
        if end > size:
            raise cursor.fail(f"tensor '{info.name[:80]}' reaches to byte {end}, beyond the file's end; it is cut off")
        tensors[info.name] = replace(info, offset=start + info.offset)
    in_order = sorted(tensors.values(), key=lambda info: info.offset)
    for before, after in itertools.pairwise(in_order):
        if before.offset + before.nbytes > after.offset:
            raise cursor.fail(f"the tensors '{before.name[:80]}' and '{after.name[:80]}' overlap")
    return metadata, tensors


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text()
        if key in metadata:
            raise cursor.fail(f"the key '{key[:80]}' comes twice")
        metadata[key] = _read_value(cursor, key, cursor.number("I"))
    return metadata


def _read_value(cursor: _Cursor, key: str, kind: int) -> Any:
    if kind == _STRING:
        return cursor.text()
    if kind in _SCALARS:
        return cursor.values(_SCALARS[kind], 1)[0]
    if kind != _ARRAY:
        raise cursor.fail(f"unknown type {kind} of '{key[:80]}'")
    item = cursor.number("I")
    length = cursor.count(f"items in '{key[:80]}'", _MOST_ITEMS)
    if item == _STRING:
        return [cursor.text() for _ in range(length)]
    if item in _SCALARS:
        return list(cursor.values(_SCALARS[item], length))
    raise cursor.fail(f"an array of unknown type {item} in '{key[:80]}'")


def _read_tensor_info(cursor: _Cursor, alignment: int) -> TensorInfo:
    """Returns a tensor's place relative to the data's start."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name = cursor.text()
    rank = cursor.number("I")
    if not 1 <= rank <= 4:
        raise cursor.fail(f"tensor '{name[:80]}' has {rank} axes")
    shape = [cursor.number("Q") for _ in range(rank)]
    elements = math.prod(shape)
    if elements > 1 << 48 or min(shape) < 1:
        raise cursor.fail(f"tensor '{name[:80]}' has the shape {shape}")
    number = cursor.number("I")
    try:
        kind = GGMLQuantizationType(number)
        block, block_bytes = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise cursor.fail(f"tensor '{name[:80]}' has the unknown type {number}") from None
    if shape[0] % block:
        raise cursor.fail(f"tensor '{name[:80]}' has rows of {shape[0]}, its type has blocks of {block}")
    offset = cursor.number("Q")
    if offset % alignment:
        raise cursor.fail(f"tensor '{name[:80]}' lies at {offset}, not a multiple of {alignment}")
    return TensorInfo(name, tuple(reversed(shape)), kind.name.lower(), offset, elements // block * block_bytes)
