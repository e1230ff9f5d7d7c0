"""Whether a backend's library can be loaded without taking the process down: it is loaded in another one first.

A shared library runs code while it is loaded, and one that crashes there cannot be held back. So a new library, or one
that changed, is loaded once in a process of its own, and what was found good is remembered by the file's path, size and
time. What was found bad is asked again each time: a driver that is mended elsewhere must not stay refused. A library
that passed and crashes later, with another driver say, still takes the process down.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

from ._config import environment, settings

LIMIT_S = 60.0  # drivers that start a chip take seconds
QUIET_S = 5.0

# Loads a library and asks it for its table, as the core does. What fails without a crash is the core's to say.
_LOAD = """
import ctypes, sys
class Args(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p), ("abi_major", ctypes.c_uint32),
                ("abi_minor", ctypes.c_uint32), ("library", ctypes.c_char_p), ("why", ctypes.c_char_p)]
try:
    get = ctypes.CDLL(sys.argv[1], mode=2).unify_backend_get
except (OSError, AttributeError):
    sys.exit(0)
get.restype = ctypes.c_void_p
args = Args(ctypes.sizeof(Args), None, int(sys.argv[2]), int(sys.argv[3]), None, None)
get(ctypes.byref(args))
"""
_ABI = (1, 2)


def why_unsafe(library: str) -> str:
    """Why a library must not be loaded here: how the process ended that loaded it. Empty if it may."""
    try:
        found = os.stat(library)
    except OSError:
        return ""  # the loader says it better
    mark = _mark(library, found)
    if mark.exists() or not sys.executable:
        return ""
    # -I -S: nothing of the user's Python is loaded, so that it takes 20 ms.
    command = [sys.executable, "-I", "-S", "-c", _LOAD, os.path.abspath(library), *map(str, _ABI)]
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
        )
    except OSError:
        return ""  # no process can be started here: as it was without a probe
    try:
        said = _wait(process, library).decode(errors="replace").strip().splitlines()
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"loading it takes longer than {LIMIT_S:.0f} s, seen in a process of its own"
    if process.returncode == 0:
        _remember(mark)
        return ""
    how = _name(-process.returncode) if process.returncode < 0 else f"exit status {process.returncode}"
    last = f": {said[-1][:200]}" if said else ""
    return f"loading it ends the process ({how}), seen in a process of its own{last}"


def _wait(process: subprocess.Popen[bytes], library: str) -> bytes:
    """What it says on stderr. Whoever waits for it for long is told why."""
    try:
        return process.communicate(timeout=QUIET_S)[1]
    except subprocess.TimeoutExpired:
        limit = f"{LIMIT_S:.0f} s at most"
        warnings.warn(f"unify: waiting for the backend {library}, which takes long to load: {limit}", stacklevel=2)
    return process.communicate(timeout=LIMIT_S - QUIET_S)[1]


def _mark(library: str, found: os.stat_result) -> Path:
    text = f"{os.path.realpath(library)}\n{found.st_mtime_ns}\n{found.st_size}\n{found.st_ino}\n{_ABI}"
    return Path(settings.cache_dir, "backends", hashlib.sha256(text.encode()).hexdigest()[:32])


def _remember(mark: Path) -> None:
    with contextlib.suppress(OSError):  # asked again next time
        mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark.touch(mode=0o600)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
