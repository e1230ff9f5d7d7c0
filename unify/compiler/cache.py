"""Compiled kernels on disk: one file each, named by what it was compiled from.

A file is written whole or not at all, is readable by its user alone, and carries a checksum: one that is damaged
counts as absent. A directory that cannot be used costs speed, never correctness.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import stat
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unify._config import settings

from .target import Binary, Parameter

_MAGIC = b"UNIFYK01"
_MOST_BYTES = 512 << 20  # all kernels together; the least recently used go first


def load(key: str) -> Binary | None:
    """Returns the kernel stored under `key`, or None if there is none that can be trusted."""
    content = _read(key)
    return None if content is None else decode(content)


def load_entry(key: str) -> tuple[dict[str, Any], bytes] | None:
    """Returns what store_entry was given under `key`, or None."""
    content = _read(key)
    return None if content is None else _unpack(content)


def store(key: str, binary: Binary) -> None:
    """Keeps the kernel under `key`. Where that is impossible, warns once and goes on."""
    _keep(key, encode(binary))


def store_entry(key: str, fields: dict[str, Any], payload: bytes) -> None:
    """Keeps what another compiler made, as `store` does; fields: whatever JSON can say."""
    _keep(key, _pack(fields, payload))


def _read(key: str) -> bytes | None:
    if settings.no_cache:
        return None
    path = _path(key)
    try:
        if not _is_private(path.parent):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a read-only file system is read all the same
        os.utime(path)  # for the pruning
    return content


def write_private(path: Path, content: bytes, what: str) -> bool:
    """Writes a file of the user's own, whole or not at all.

    Where that is impossible, warns once that `what`, in words, are not kept, and returns False.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(path.parent):
            warn_once(f"{path.parent} is writable by others or not yours; {what} are not kept. chmod 700 it.")
            return False
        _write(path, content)
    except OSError as error:
        warn_once(f"{what} are not kept in {path.parent}: {error.strerror or error}. Set UNIFY_CACHE_DIR.")
        return False
    return True


def _keep(key: str, content: bytes) -> None:
    path = _path(key)
    if not settings.no_cache and write_private(path, content, "compiled kernels"):
        with contextlib.suppress(OSError):
            _prune(path.parent)


def _path(key: str) -> Path:
    return Path(settings.cache_dir) / "kernels" / f"{key}.kernel"


def _is_private(folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def encode(binary: Binary) -> bytes:
    """The binary as one file's content."""
    fields = asdict(binary)
    fields["image"] = None
    return _pack(fields, binary.image)


def decode(content: bytes) -> Binary | None:
    """What encode was given, or None if the content is not whole."""
    unpacked = _unpack(content)
    if unpacked is None:
        return None
    fields, image = unpacked
    fields["parameters"] = tuple(Parameter(**parameter) for parameter in fields["parameters"])
    return Binary(**{**fields, "image": image})


def _pack(fields: dict[str, Any], payload: bytes) -> bytes:
    header = json.dumps(fields).encode()
    body = len(header).to_bytes(8, "little") + header + payload
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unpack(content: bytes) -> tuple[dict[str, Any], bytes] | None:
    start = len(_MAGIC) + hashlib.sha256().digest_size
    body = content[start:]
    if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != content[len(_MAGIC) : start]:
        return None
    end = 8 + int.from_bytes(body[:8], "little")
    return json.loads(body[8:end]), body[end:]


def _write(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _prune(folder: Path) -> None:
    entries = []
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process prunes too
            status = entry.stat()
            entries.append((status.st_mtime, status.st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= _MOST_BYTES:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= size


@functools.cache
def warn_once(text: str) -> None:
    """Warns of what costs speed or convenience, but no result."""
    warnings.warn(text, RuntimeWarning, stacklevel=4)
