"""Processors by name, and what each of them has: all that the code generator knows of a machine."""

from __future__ import annotations

import ctypes
import difflib
import functools
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unify._errors import TargetError


@dataclass(frozen=True)
class Features:
    """A processor as the code generator sees it."""

    cpu: str  # as LLVM calls it
    text: str  # "+avx2,-avx512f,…", as LLVM takes it
    flags: frozenset[str]
    triple: str

    def has(self, name: str) -> bool:
        return name in self.flags

    @property
    def vector_bytes(self) -> int:
        return 64 if "avx512f" in self.flags else 32 if "avx2" in self.flags else 16

    @property
    def vector_registers(self) -> int:
        return 16 if self.vector_bytes == 32 else 32

    @property
    def rounds_to_bfloat(self) -> bool:
        return not self.flags.isdisjoint(("avx512bf16", "bf16"))


@dataclass(frozen=True)
class _Family:
    """Processors that run each other's code as far as their features go, and what all of them must have."""

    triple: str
    needs: tuple[str, ...]
    processors: dict[str, str]
    names: dict[str, str]  # LLVM's own where they differ
    libmvec: tuple[str, ...] = ()  # functions that tell a complete one


_X86_64_V3 = "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
_X86_64_V4 = f"{_X86_64_V3},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
_AVX512_BF16 = f"{_X86_64_V4},+avx512vnni,+avx512vbmi,+avx512bitalg,+avx512vpopcntdq,+avx512bf16"
# Atomic operations as instructions (lse): without them each is a loop, or a call into the compiler's own library.
_ARMV8_2 = "+v8.2a,+neon,+lse"
_DOT_PRODUCT = f"{_ARMV8_2},+fullfp16,+dotprod"

_FAMILIES = {
    "x86_64": _Family(
        "x86_64-unknown-linux-gnu",
        ("avx2", "fma", "f16c"),
        {
            "x86-64-v3": _X86_64_V3,
            "x86-64-v4": _X86_64_V4,
            "znver3": _X86_64_V3,
            "znver4": _AVX512_BF16,
            "znver5": _AVX512_BF16,
            "haswell": _X86_64_V3,
            "skylake-avx512": _X86_64_V4,
            "sapphirerapids": _AVX512_BF16,
        },
        {},
        # glibc >= 2.35 has the functions beyond sin, cos, exp, log and pow.
        ("_ZGVdN8v_erff", "_ZGVeN16v_tanhf"),
    ),
    "aarch64": _Family(
        "aarch64-unknown-linux-gnu",
        ("neon", "lse"),
        {
            "aarch64": _ARMV8_2,
            "kunpeng920": _DOT_PRODUCT,
            "neoverse-n1": _DOT_PRODUCT,
            # Its vectors of scalable length are left alone: the code generator's have the 16 bytes of NEON.
            "neoverse-v1": f"{_DOT_PRODUCT},+bf16,+i8mm,-sve",
        },
        {"aarch64": "generic", "kunpeng920": "tsv110"},
    ),
}

# What Linux calls LLVM's features on aarch64 (Documentation/arch/arm64/elf_hwcaps.rst).
_ARM_FEATURES = {
    "asimd": "neon", "atomics": "lse", "asimdhp": "fullfp16", "asimddp": "dotprod", "bf16": "bf16", "i8mm": "i8mm",
}  # fmt: skip


def find(arch: str, host: Callable[[], tuple[str, str]]) -> Features:
    """The processor "NAME+feature-feature", or this machine's if NAME is empty; `host` is LLVM's opinion of that.

    Raises TargetError, which lists the known names, or names what is missing.
    """
    for family in _FAMILIES.values():
        for name, text in family.processors.items():
            if arch.startswith(name) and arch[len(name) :][:1] in ("", "+", "-"):
                changes = _changes(arch[len(name) :])
                return _features(family, family.names.get(name, name), [*text.split(","), *changes])
    here = _FAMILIES.get(platform.machine())
    if arch[:1] not in ("", "+", "-") or here is None:
        known = "; ".join(f"{kind}: {', '.join(family.processors)}" for kind, family in _FAMILIES.items())
        names = [name for family in _FAMILIES.values() for name in family.processors]
        near = difflib.get_close_matches(arch, names, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise TargetError(
            f"cpu target: unknown architecture '{arch}'.{hint} Known: {known}; or nothing, for this machine."
        )
    cpu, text = host()
    if here is _FAMILIES["aarch64"]:
        text = arm_features(Path("/proc/cpuinfo").read_text())
    return _features(here, cpu, [*text.split(","), *_changes(arch)])


def arm_features(cpuinfo: str) -> str:
    """The features of an ARM processor from what Linux tells; LLVM looks for some of them only."""
    found = re.search(r"^Features\s*:(.*)$", cpuinfo, re.MULTILINE)
    names = found.group(1).split() if found else []
    return ",".join([*(f"+{_ARM_FEATURES[name]}" for name in names if name in _ARM_FEATURES), "-sve"])


def _changes(text: str) -> Iterator[str]:
    return filter(None, re.split(r"(?=[+-][a-z])", text))


def _features(family: _Family, cpu: str, items: list[str]) -> Features:
    flags: set[str] = set()
    for item in items:
        (flags.add if item.startswith("+") else flags.discard)(item[1:])
    missing = [name.upper() for name in family.needs if name not in flags]
    if missing:
        raise TargetError(f"cpu target: '{cpu}' lacks {', '.join(missing)}, which the code generator needs.")
    if _has_libmvec(family.libmvec):
        flags.add("libmvec")
    return Features(cpu, ",".join(items), frozenset(flags), family.triple)


@functools.cache
def _has_libmvec(functions: tuple[str, ...]) -> bool:
    if not functions:
        return False
    try:
        library = ctypes.CDLL("libmvec.so.1")
    except OSError:
        return False
    return all(hasattr(library, name) for name in functions)
