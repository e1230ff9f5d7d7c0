"""LLVM IR text to an object file. The only module that imports llvmlite."""

from __future__ import annotations

import ctypes
import functools
import re
import struct
from dataclasses import dataclass
from typing import Any

from unify._errors import CompileError

# What an object may call: include/unify/host_kernel.h. Anything else would be an unresolved jump at run time.
_LIBM = frozenset([
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "copysign", "cos", "cosh", "erf",
    "erfc",
    "exp", "exp2", "expm1", "floor", "fma", "fmod", "hypot", "j0", "j1", "ldexp", "lgamma", "log", "log10", "log1p",
    "log2", "logb", "nearbyint", "nextafter", "pow", "remainder", "rint", "round", "sin", "sinh", "tan", "tanh",
    "tgamma", "trunc", "y0", "y1",
])  # fmt: skip
_OTHERS = frozenset({"memcpy", "memset", "memmove", "printf"})
_SYMBOL = re.compile(r"^_ZGV[bcde]N\d+v+_(\w+)$")

# Features by name of architecture, beside "" for this machine and LLVM's own CPU names.
_LEVELS = {
    "x86-64-v3": "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe",
    "x86-64-v4": "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl",
}
_AVX512 = "+avx512vnni,+avx512vbmi,+avx512bitalg,+avx512vpopcntdq"
_MODELS = {
    "znver3": "x86-64-v3",
    "znver4": "x86-64-v4",
    "znver5": "x86-64-v4",
    "haswell": "x86-64-v3",
    "skylake-avx512": "x86-64-v4",
    "sapphirerapids": "x86-64-v4",
}


@dataclass(frozen=True)
class Features:
    """A processor as the code generator sees it."""

    cpu: str
    text: str  # "+avx2,-avx512f,…", as LLVM takes it
    flags: frozenset[str]

    def has(self, name: str) -> bool:
        return name in self.flags

    @property
    def vector_bytes(self) -> int:
        return 64 if "avx512f" in self.flags else 32


def _llvm() -> Any:
    import llvmlite.binding as llvm

    return llvm


@functools.cache
def _initialise() -> None:
    llvm = _llvm()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@functools.cache
def features(arch: str) -> Features:
    """The features of "" (this machine), an x86-64 level, a known CPU name, or "NAME+feature-feature"."""
    name, *rest = re.split(r"(?=[+-](?=[a-z]))", arch) if not arch.startswith("x86-64") else [arch]
    if not name:
        llvm = _llvm()
        text = llvm.get_host_cpu_features().flatten()
        cpu = llvm.get_host_cpu_name()
    else:
        level = _MODELS.get(name, name)
        if level not in _LEVELS:
            known = ", ".join([*_LEVELS, *_MODELS])
            raise CompileError(
                f"cpu target: unknown architecture '{arch}'. Known: {known}; or nothing, for this machine."
            )
        text, cpu = _LEVELS[level], name
        if name in ("znver4", "znver5", "sapphirerapids"):
            text += f",{_AVX512},+avx512bf16"
    if rest:
        text += "," + ",".join(rest)
    flags: set[str] = set()
    for item in text.split(","):
        (flags.add if item.startswith("+") else flags.discard)(item[1:])
    if not flags >= {"avx2", "fma", "f16c"}:
        raise CompileError(f"cpu target: '{cpu}' lacks AVX2, FMA or F16C, which the code generator needs.")
    if _has_libmvec():
        flags.add("libmvec")
    return Features(cpu, text, frozenset(flags))


@functools.cache
def _has_libmvec() -> bool:
    """glibc >= 2.35 has the functions beyond sin, cos, exp, log and pow."""
    try:
        library = ctypes.CDLL("libmvec.so.1")
    except OSError:
        return False
    return hasattr(library, "_ZGVdN8v_erff") and hasattr(library, "_ZGVeN16v_tanhf")


@functools.cache
def _machine(cpu: str, text: str) -> Any:
    _initialise()
    llvm = _llvm()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    return target.create_target_machine(cpu=cpu, features=text, opt=3, reloc="pic", codemodel="small")


def optimise(text: str, target: Features) -> Any:
    """Parses, verifies and simplifies; vectors, unrolling and what leaves a loop are the code generator's business.

    LLVM's own pipeline (O2) gives the same speed, within a few percent, and takes some ten times as long.
    """
    llvm = _llvm()
    machine = _machine(target.cpu, target.text)
    try:
        module = llvm.parse_assembly(text)
        module.triple = "x86_64-unknown-linux-gnu"
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as problem:
        raise CompileError(
            f"cpu target: LLVM refuses the code generated for it: {problem}. This is a bug of unify."
        ) from None
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    return module


def link(text: str, target: Features, stages: dict[str, str] | None = None) -> bytes:
    """Object bytes that call nothing but libm, libmvec, the memory functions and printf."""
    module = optimise(text, target)
    machine = _machine(target.cpu, target.text)
    if stages is not None:
        stages["llvm"], stages["asm"] = str(module), machine.emit_assembly(module)
    image = bytes(machine.emit_object(module))
    for symbol in undefined_symbols(image):
        vector = _SYMBOL.match(symbol)
        name = vector.group(1) if vector else symbol
        if symbol not in _OTHERS and name not in _LIBM and name.removesuffix("f") not in _LIBM:
            raise CompileError(
                f"cpu target: the compiled kernel would call '{symbol}', which is in no library that it may use. "
                "This is a bug of unify; a cast to float32 around the operation avoids it."
            )
    return image


def undefined_symbols(image: bytes) -> list[str]:
    """Names that an ELF64 relocatable object expects from outside."""
    (offset,) = struct.unpack_from("<Q", image, 40)
    entry, count = struct.unpack_from("<HH", image, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, offset + i * entry) for i in range(count)]
    found = []
    for section in sections:
        if section[1] != 2:  # SHT_SYMTAB
            continue
        names = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], 24):
            name, _, _, index = struct.unpack_from("<IBBH", image, at)
            if name and index == 0:
                start = names + name
                found.append(image[start : image.index(b"\0", start)].decode())
    return found
