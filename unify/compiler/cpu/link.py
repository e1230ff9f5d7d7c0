"""LLVM IR text to an object file. The only module that imports llvmlite."""

from __future__ import annotations

import functools
import platform
import re
import struct
from typing import Any

from unify._errors import CompileError
from unify.compiler.cpu import processor
from unify.compiler.cpu.processor import Features

# What an object may call: include/unify/host_kernel.h. Anything else would be an unresolved jump at run time.
_LIBM = frozenset([
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "copysign", "cos", "cosh", "erf",
    "erfc",
    "exp", "exp2", "expm1", "floor", "fma", "fmod", "hypot", "j0", "j1", "ldexp", "lgamma", "log", "log10", "log1p",
    "log2", "logb", "nearbyint", "nextafter", "pow", "remainder", "rint", "round", "sin", "sinh", "tan", "tanh",
    "tgamma", "trunc", "y0", "y1",
])  # fmt: skip
_OTHERS = frozenset({"memcpy", "memset", "memmove", "printf", "sched_yield", "clock_gettime"})
_SYMBOL = re.compile(r"^_ZGV[bcde]N\d+v+_(\w+)$")


def _llvm() -> Any:
    import llvmlite.binding as llvm

    return llvm


@functools.cache
def features(arch: str) -> Features:
    """The features of "" (this machine) or a known processor, with changes: "NAME+feature-feature"."""
    return processor.find(arch, _host)


def _host() -> tuple[str, str]:
    llvm = _llvm()
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@functools.cache
def _machine(target: Features) -> Any:
    llvm = _llvm()
    if target.triple.startswith(platform.machine()):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    found = llvm.Target.from_triple(target.triple)
    return found.create_target_machine(cpu=target.cpu, features=target.text, opt=3, reloc="pic", codemodel="small")


def optimise(text: str, target: Features) -> Any:
    """Parses, verifies and simplifies; vectors, unrolling and what leaves a loop are the code generator's business.

    LLVM's own pipeline (O2) took three to eight times as long for 14 kernels, whose cycles on a Zen 3 are now 0.70 to
    1.08 of what they were with it.
    """
    llvm = _llvm()
    machine = _machine(target)
    try:
        module = llvm.parse_assembly(text)
        module.triple = target.triple
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
    machine = _machine(target)
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
