"""Directories of Hugging Face safetensors, read as hostile input like GGUF files: lengths are checked, nothing is run.

A shard is 8 bytes with the length of a JSON header, the header (dtype, shape and place of each tensor), and the
tensors without gaps (the safetensors format, github.com/huggingface/safetensors). What is read goes where it is needed,
tensor by tensor: a mapped file would count as memory as long as it is mapped.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unify._errors import ModelFileError

from .weights import TensorInfo

if TYPE_CHECKING:
    import numpy as np

_MOST_JSON = 1 << 25  # bytes of a header, an index or a config; the index of DeepSeek-V3's 91,000 tensors takes 9 MB
_MOST_AXES = 8
_MOST_ELEMENTS = 1 << 48
_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
# Bytes of an element; the names are those of GGUF for what both have.
_KINDS = {
    "F64": ("f64", 8), "F32": ("f32", 4), "F16": ("f16", 2), "BF16": ("bf16", 2), "F8_E4M3": ("f8_e4m3", 1),
    "F8_E5M2": ("f8_e5m2", 1), "I64": ("i64", 8), "I32": ("i32", 4), "I16": ("i16", 2), "I8": ("i8", 1),
    "U64": ("u64", 8), "U32": ("u32", 4), "U16": ("u16", 2), "U8": ("u8", 1), "BOOL": ("bool", 1),
}  # fmt: skip
# NumPy's names; of what it lacks, the bits.
_NUMPY = {
    "f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2", "f8_e4m3": "u1", "f8_e5m2": "u1", "i64": "<i8",
    "i32": "<i4", "i16": "<i2", "i8": "i1", "u64": "<u8", "u32": "<u4", "u16": "<u2", "u8": "u1", "bool": "?",
}  # fmt: skip

Progress = Callable[[str, int, int], None]  # shard, bytes of it read so far, bytes in all


@dataclass(frozen=True)
class ShardTensor(TensorInfo):
    """A tensor and the file that it lies in. kind: the format's dtype in lower case, "bf16" or "f8_e4m3"."""

    shard: Path


class Checkpoint:
    """A directory with config.json and safetensors: `config`, `tensors` by name, `read` for a tensor's elements.

    The shards are those of the index, or model.safetensors alone. progress: called for each tensor that is read.
    Raises ModelFileError, naming the file, what is wrong and where, for whatever does not hold together.
    """

    def __init__(self, path: str | os.PathLike[str], progress: Progress | None = None) -> None:
        self.path = Path(path)
        self.config: dict[str, Any] = read_object(self.path / "config.json")
        self.tensors: dict[str, ShardTensor] = {}
        self._progress = progress
        self._sizes: dict[Path, int] = {}  # bytes of tensors in a shard, and how many of them were read
        self._done: dict[Path, int] = {}
        names = _index(self.path / _INDEX) if (self.path / _INDEX).exists() else None
        for shard in sorted(set(names.values())) if names is not None else [self._whole()]:
            self._add(self.path / shard)
        for name, shard in (names or {}).items():
            if name not in self.tensors or self.tensors[name].shard.name != shard:
                raise ModelFileError(
                    f"{self.path / _INDEX}: the tensor '{name:.80}' should be in {shard}, and is not. Fetch both again."
                )

    def _whole(self) -> str:
        if (self.path / _WHOLE).exists():
            return _WHOLE
        others = sorted(path.name for path in self.path.glob("*") if path.suffix in (".safetensors", ".bin", ".pth"))
        shards = [name for name in others if name.endswith(".safetensors")]
        if shards:
            raise ModelFileError(
                f"{self.path}: {_INDEX} is missing, which says what is in {', '.join(shards[:3])}"
                f"{' …' if len(shards) > 3 else ''}. Fetch it too."
            )
        found = f"{', '.join(others[:3])} {'are' if len(others) > 1 else 'is'} there" if others else "nothing like it"
        raise ModelFileError(
            f"{self.path}: neither {_WHOLE} nor {_INDEX}; {found}. Pickled weights (.bin, .pth) are never read, since "
            "reading them runs what they say: convert them to safetensors."
        )

    def _add(self, shard: Path) -> None:
        for info in _read_shard(shard):
            if info.name in self.tensors:
                other = self.tensors[info.name].shard.name
                raise ModelFileError(f"{shard}: the tensor '{info.name:.80}' is in {other} too. Fetch them again.")
            self.tensors[info.name] = info
            self._sizes[shard] = self._sizes.get(shard, 0) + info.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self._sizes.values())

    def info(self, name: str, shape: tuple[int, ...] | None = None) -> ShardTensor:
        """Returns what is known of a tensor. Raises ModelFileError when it is absent, or has another shape."""
        info = self.tensors.get(name)
        if info is None or shape not in (None, info.shape):
            have = "is absent" if info is None else f"is {list(info.shape)}"
            wanted = "" if shape is None else f"; {list(shape)} is needed"
            raise ModelFileError(f"{self.path}: the tensor '{name:.120}' {have}{wanted}. Is the model whole?")
        return info

    def read(self, name: str, first: int = 0, rows: int | None = None) -> np.ndarray[Any, Any]:
        """Returns a tensor as an array of its own; bfloat16 as uint16 and float8 as uint8, which are their bits.

        first, rows: the part of its first axis that is read, by default all of it.
        Raises ModelFileError when it is absent, or the file changed since it was opened.
        """
        import numpy as np

        info = self.info(name)
        shape = info.shape if rows is None else (rows, *info.shape[1:])
        out = np.empty(shape, _NUMPY[info.kind])
        self.read_into(name, out, first)
        return out

    def read_into(self, name: str, out: np.ndarray[Any, Any], first: int = 0) -> None:
        """Reads a tensor's bytes into a contiguous array of as many, or what fits into it from row `first` on.

        Raises ModelFileError.
        """
        info = self.info(name)
        start = first * (info.nbytes // info.shape[0]) if first else 0
        assert start + out.nbytes <= info.nbytes
        assert out.flags.c_contiguous
        bits: Any = out.reshape(-1).view("u1") if out.nbytes else b""
        left = memoryview(bits)
        try:
            with _open(info.shard) as file:
                file.seek(info.offset + start)
                while left:
                    count = file.readinto(left)
                    if not count:
                        break
                    left = left[count:]
        except OSError as error:
            raise ModelFileError(
                f"{info.shard}: the tensor '{name:.80}' cannot be read: {error.strerror or error}. Was the file moved?"
            ) from None
        if left:
            raise ModelFileError(
                f"{info.shard}: ends inside the tensor '{name:.80}'; it was changed while it was read."
            )
        self._done[info.shard] = self._done.get(info.shard, 0) + out.nbytes
        if self._progress is not None:
            self._progress(info.shard.name, self._done[info.shard], self._sizes[info.shard])

    def require(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns an entry of the config of this type, or the default (if there is one) where it is absent or null.

        A whole number counts as a float. Raises ModelFileError when the entry is absent or another, or a number that no
        size is.
        """
        value: Any = self.config.get(key)
        value = default if value is None else value
        if kind is float and type(value) is int and abs(value) < 1 << 53:
            value = float(value)
        is_believable = type(value) is not int or abs(value) < 1 << 53  # with some 4,300 digits it could not be shown
        if type(value) is not kind or value in (math.inf, -math.inf) or not is_believable:  # 1e999 is infinite
            have = "is absent" if value is None else f"is {reprlib.repr(value)}"
            raise ModelFileError(
                f"{self.path / 'config.json'}: '{key}' {have}; {kind.__name__} is needed. Fetch it again, or take the "
                "model from someone else."
            )
        return value


def _open(path: Path) -> Any:
    """Opens a regular file unbuffered. What is none (a pipe, a device) could never end; links are how caches are laid
    out, and lead to what the directory's owner chose."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _failure(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path}: {what}. Fetch it again, or check where it is from.")


def _unique(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """What makes an object of JSON, where each key comes once: of two, one would be believed and the other shown."""

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _failure(path, "a key comes twice in one object of its JSON")
        return found

    return make


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python's reader takes NaN and Infinity


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique(path), parse_constant=_no_constant)
    except ModelFileError:
        raise
    except UnicodeDecodeError:
        raise _failure(path, "its JSON is not UTF-8") from None
    except RecursionError:
        raise _failure(path, "its JSON is nested too deeply") from None
    except ValueError as error:
        raise _failure(path, f"its JSON cannot be read: {error!s:.80}") from None
    if not isinstance(value, dict):
        raise _failure(path, f"its JSON is no object but {reprlib.repr(value)}")
    return value


def read_text(path: Path) -> str:
    """The text of a small file in a directory. Raises ModelFileError."""
    try:
        return _read_small(path).decode()
    except UnicodeDecodeError:
        raise _failure(path, "it is not UTF-8") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a small file in a directory is. Raises ModelFileError."""
    return _parse(path, _read_small(path))


def _read_small(path: Path) -> bytes:
    try:
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MOST_JSON:
                raise _failure(path, f"{size} bytes, at most {_MOST_JSON} are believable")
            data: bytes = file.readall()
            return data
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}. Is the model whole?") from None


def _index(path: Path) -> dict[str, str]:
    """The shard of each tensor; shards lie in the directory itself."""
    names = read_object(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise _failure(path, "no 'weight_map' that names the shard of each tensor")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]{0,200}\.safetensors", name, re.ASCII):
            raise _failure(path, f"{reprlib.repr(name)} is no name of a safetensors file in the same directory")
    return names


def _read_shard(path: Path) -> list[ShardTensor]:
    try:
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise ModelFileError(f"{path}: is empty (0 bytes): was the download cut off? Fetch it again.")
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _MOST_JSON):
                raise _failure(
                    path, f"a header of {length} bytes in a file of {size}, at most {_MOST_JSON} are believable"
                )
            data = file.read(length)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}. Is the model whole?") from None
    if len(data) != length or data[:1] != b"{":
        raise _failure(path, "it ended early" if len(data) != length else "its header does not begin with '{'")
    header = _parse(path, data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _failure(path, f"its '__metadata__' are no texts but {reprlib.repr(metadata)}")
    infos = [_tensor(path, 8 + length, name, entry) for name, entry in header.items()]
    at = 8 + length
    for info in sorted(infos, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != at:
            raise _failure(
                path, f"the tensor '{info.name:.80}' begins at byte {info.offset}, not {at}: a gap or an overlap"
            )
        at += info.nbytes
    if at != size:
        raise _failure(path, f"its tensors end at byte {at}, the file at {size}")
    return infos


def _tensor(path: Path, start: int, name: str, entry: Any) -> ShardTensor:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    place: Any = fields.get("data_offsets")
    kind, itemsize = _KINDS.get(dtype if isinstance(dtype, str) else "", ("", 0))
    if not kind:
        raise _failure(path, f"the tensor '{name:.80}' has the dtype {reprlib.repr(dtype)}, which is not known")
    if not _are_sizes(shape) or len(shape) > _MOST_AXES or math.prod(shape) > _MOST_ELEMENTS:
        raise _failure(path, f"the tensor '{name:.80}' has the shape {reprlib.repr(shape)}")
    nbytes = math.prod(shape) * itemsize
    if not _are_sizes(place) or len(place) != 2 or place[1] - place[0] != nbytes:
        raise _failure(path, f"the tensor '{name:.80}' lies at {reprlib.repr(place)}, and has {nbytes} bytes")
    return ShardTensor(name, tuple(shape), kind, start + place[0], nbytes, path)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= _MOST_ELEMENTS * 8 for size in value)
