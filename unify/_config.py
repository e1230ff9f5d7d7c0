"""Every setting of unify, and the only reader of the environment.

A setting is read when it is first used. `settings.override(...)` replaces values for a while, for tests and tools.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import InvalidArgument


@dataclass(frozen=True)
class Setting:
    """One setting: its environment variable, how to read it, its default, and what it means."""

    variable: str
    parse: Callable[[str], Any]
    default: Callable[[], Any]
    meaning: str


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("expected 0 or 1")


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError("expected a number from 0")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _paths(text: str) -> tuple[str, ...]:
    return tuple(path for path in text.split(os.pathsep) if path)


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unify"


def _toolchain_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "unify" / "toolchains"


TABLE: dict[str, Setting] = {
    "device": Setting("UNIFY_DEVICE", str, lambda: "cpu", "The device that is used when none is named."),
    "cpu_threads": Setting("UNIFY_CPU_THREADS", _count, lambda: 0, "Threads of the CPU device; 0: one for each core."),
    "cpu_pin": Setting("UNIFY_CPU_PIN", _flag, lambda: False, "Bind each thread of the CPU device to a core."),
    "cache_dir": Setting("UNIFY_CACHE_DIR", _path, _cache_dir, "Where compiled kernels and models are kept."),
    "toolchain_dir": Setting(
        "UNIFY_TOOLCHAIN_DIR", _path, _toolchain_dir, "Where `unify toolchain install` puts vendors' compilers."
    ),
    "no_cache": Setting("UNIFY_NO_CACHE", _flag, lambda: False, "Neither read nor write compiled kernels."),
    "backend_path": Setting("UNIFY_BACKEND_PATH", _paths, lambda: (), "Backend libraries to load, as in PATH."),
    "cuda_library": Setting("UNIFY_CUDA_LIBRARY", str, lambda: "", "CUDA's driver, in place of libcuda.so.1."),
    "ascend_library": Setting(
        "UNIFY_ASCEND_LIBRARY", str, lambda: "", "ACL of Ascend's CANN, in place of libascendcl.so."
    ),
    "simulate": Setting(
        "UNIFY_SIMULATE", str, lambda: "", "Chips to simulate: cuda:90, or cuda:90x2,4g;ascend:910B3 for more."
    ),
    "expandable_segments": Setting(
        "UNIFY_EXPANDABLE_SEGMENTS", _flag, lambda: False, "Memory grows and shrinks in place, where the device can."
    ),
    "layers": Setting("UNIFY_LAYERS", _names, lambda: (), "Around each backend: validate, leaks, trace, faults."),
    "trace_file": Setting(
        "UNIFY_TRACE_FILE", _path, lambda: Path("unify-trace.json"), "Where UNIFY_LAYERS=trace writes to."
    ),
    "check_bounds": Setting("UNIFY_CHECK_BOUNDS", _flag, lambda: False, "Check each access of kernels on the CPU."),
    "dump": Setting("UNIFY_DUMP", _names, lambda: (), "Stages to write for each compiled kernel: ttir, llvm, asm, ..."),
    "cuda_home": Setting("CUDA_HOME", str, lambda: "", "A CUDA toolkit: its headers and NVRTC, for CUDA C++."),
    "triton_default_backend": Setting(
        "TRITON_DEFAULT_BACKEND", str, lambda: "", "Triton's own: `cpu` runs unmodified Triton programs on the CPU."
    ),
    "dump_dir": Setting("UNIFY_DUMP_DIR", _path, lambda: Path("unify-dump"), "Where UNIFY_DUMP writes to."),
}


_OF_OTHERS = (
    *("UNIFY_JOBS", "UNIFY_SANITIZE", "UNIFY_WERROR"),  # setup.py's
    *("UNIFY_SIMULATED_FAULTS", "UNIFY_SIMULATED_REPORT", "UNIFY_SIMULATED_TRACE"),  # csrc/simulator/ascend's
    "UNIFY_SIMULATED_OPERATORS",  # simulator/environment.py's
    "UNIFY_SIMULATED_BY",  # simulator/pytest_plugin.py's
)


def unknown_variables() -> list[str]:
    """What is set with our prefix and is no setting, in words: a slip would be ignored silently."""
    import difflib

    prefix = "UNIFY_"
    known = [s.variable.removeprefix(prefix) for s in TABLE.values() if s.variable.startswith(prefix)]
    lines = []
    for name in sorted(os.environ):
        rest = name.removeprefix(prefix)
        if name.startswith(prefix) and rest not in known and name not in _OF_OTHERS:
            near = difflib.get_close_matches(rest, known, n=1)
            lines.append(f"unknown setting {name}" + (f"; did you mean {prefix}{near[0]}?" if near else ""))
    return lines


def environment() -> dict[str, str]:
    """A copy of the environment, for programs that unify starts."""
    return dict(os.environ)


class Settings:
    """The settings as attributes: `settings.cache_dir`. Raises InvalidArgument for a variable that cannot be read."""

    def __init__(self) -> None:
        self._overrides: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """Reads a setting: an override, else its variable, else its default."""
        if name.startswith("_") or name not in TABLE:
            raise AttributeError(f"no setting {name!r}; known: {', '.join(TABLE)}")
        if name in self._overrides:
            return self._overrides[name]
        setting = TABLE[name]
        text = os.environ.get(setting.variable)
        if text is None:
            return setting.default()
        try:
            return setting.parse(text)
        except ValueError as error:
            raise InvalidArgument(f"{setting.variable}={text!r}: {error}. {setting.meaning}") from None

    @contextlib.contextmanager
    def override(self, **values: Any) -> Iterator[None]:
        """Replaces settings inside a with block."""
        unknown = values.keys() - TABLE.keys()
        if unknown:
            raise AttributeError(f"no setting {', '.join(sorted(unknown))}; known: {', '.join(TABLE)}")
        before = dict(self._overrides)
        self._overrides.update(values)
        try:
            yield
        finally:
            self._overrides = before


settings = Settings()
