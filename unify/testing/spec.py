"""What the conformance suite must know of a backend beyond its devices: its kernels, what it lacks, what it breaks."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from unify import Device, Function, Module
from unify._errors import InvalidArgument
from unify.compiler import Binary

GROUP = "unify.conformance"

# The kernels that the suite launches, and what each does. A thread handles one element; a program `elements` of them.
KERNELS = {
    "fill": "(*i32 x, i32 n, i32 value): x[i] = value for each i < n",
    "copy": "(*i32 x, *i32 out, i32 n): out[i] = x[i] for each i < n",
    "affine": "(*i32 x, i32 n, i32 factor, i32 shift): x[i] = x[i] * factor + shift for each i < n",
    "add": "(*fp32 x, *fp32 y, *fp32 out, i32 n): out[i] = x[i] + y[i] for each i < n",
    "place": "(*i32 out): program (x, y, z) of a grid X, Y, Z: out[(z * Y + y) * X + x] = x + 100 * y + 10000 * z",
    "numbers": "(*i64 integers, i8 a, i64 b, i16 c, i32 d, *fp64 reals, fp32 e, fp64 f, i8 g): integers[0…4] = a, b, "
    "c, d, g and reals[0…1] = e, f",
    "count": "(*i32 counts): each program adds 1 to counts[x], atomically, x being its place on the first axis",
    "spin": "(*i32 out, i32 rounds): *out is 1 and then rounds times *out * 1664525 + 1013904223, in 32 bits",
    "block": "(*i32 out): thread (x, y, z) of a block X, Y, Z: out[(z * Y + y) * X + x] = x + 100 * y + 10000 * z",
    "fault": "(*fp32 x): writes 2⁴⁶ elements behind x. None if a fault would end the process",
}


@dataclass(frozen=True)
class Kernel:
    """One of the suite's kernels: what a device loads, and how it is launched.

    image and name are what module_load and function_get take; signature is that of `unify.Module.function`; threads
    make a program, which handles `elements` of an array (kernels that get an `n`).
    """

    image: bytes
    name: str
    signature: str
    threads: int = 1
    elements: int = 1
    shared_bytes: int = 0
    binary: Binary | None = None  # of a compile half, which knows more than this

    def module(self, device: Device) -> Module:
        """The image, loaded onto a device."""
        return Module(self.image, device, self.name) if self.binary is None else Module.from_binary(self.binary, device)

    def function(self, module: Module) -> Function:
        """The kernel's function of a module that was made so."""
        if self.binary is not None:
            return module.function(self.name)
        return module.function(self.name, self.signature, threads=self.threads, shared_bytes=self.shared_bytes)

    def load(self, device: Device) -> Function:
        """Its function, in a module of its own."""
        return self.function(self.module(device))


def compiled(device: Device, name: str) -> Kernel | None:
    """The suite's kernel `name`, compiled from Triton by the compile half of the device's backend."""
    from . import kernels  # Triton, which a backend without a compile half does not need

    return kernels.compiled(device, name)


@dataclass(frozen=True)
class Spec:
    """How the suite treats a backend. An entry point of the group `unify.conformance`, named as the backend, names one.

    kernels(device, name) gives the kernels of `KERNELS`, or None for one that the backend cannot have. unsupported and
    expected_failures map cases to reasons: the first are skipped; the second run, must fail, and are failures once they
    pass. A case is `concept::test_name` or `concept::test_name[parameters]`, and may have `*` in it.
    """

    kernels: Callable[[Device, str], Kernel | None] = compiled
    unsupported: Mapping[str, str] = field(default_factory=dict)
    expected_failures: Mapping[str, str] = field(default_factory=dict)


def matches(pattern: str, case: str) -> bool:
    """Whether a pattern means a case: `copy::*`, `copy::test_fills*`, with or without the parameters in brackets."""
    expression = re.escape(pattern).replace(r"\*", ".*")
    return any(re.fullmatch(expression, name) for name in (case, case.partition("[")[0]))


def find(kind: str, named: str | None = None) -> Spec:
    """The spec of a backend: `named` as "module:attribute", else its entry point's, else one without exceptions.

    Raises InvalidArgument where it cannot be loaded or is none.
    """
    if named is not None:
        return _load(named)
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=kind):
        return _load(entry.value)
    return Spec()


def _load(named: str) -> Spec:
    module, _, attribute = named.partition(":")
    try:
        value = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise InvalidArgument(f"spec {named!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(value, Spec):
        raise InvalidArgument(f"spec {named!r} is a {type(value).__name__}, not a unify.testing.Spec.")
    return value
