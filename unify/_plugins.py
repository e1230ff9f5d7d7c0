"""Packages that bring a backend: what their entry points name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

GROUP = "unify.backends"


@dataclass(frozen=True)
class Backend:
    """What an entry point of group `unify.backends` names: the two halves of a backend.

    name: what stands before the colon of its devices' names and of its targets; library: path of the shared library
    with its run half; compile: its compile half, `compile(ttir, target, options) -> unify.compiler.Binary`, or None if
    it launches no Triton kernels.
    """

    name: str
    library: str
    compile: Callable[..., object] | None = None


@dataclass(frozen=True)
class Broken:
    """An entry point that could not be loaded: it must not take the other backends away."""

    name: str
    value: str
    why: str


@functools.cache
def installed() -> tuple[tuple[Backend, ...], tuple[Broken, ...]]:
    """The backends of installed packages, and those that could not be loaded. Reads the entry points once."""
    from importlib.metadata import entry_points  # 10 ms that a program on built-in devices need not pay

    found: list[Backend] = []
    broken: list[Broken] = []
    for entry in entry_points(group=GROUP):
        try:
            backend = entry.load()
            found.append(Backend(str(backend.name), str(backend.library), backend.compile))
        except Exception as error:
            broken.append(Broken(entry.name, entry.value, f"{type(error).__name__}: {error}"))
    return tuple(found), tuple(broken)
