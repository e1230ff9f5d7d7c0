"""`unify.compile`: a kernel to a binary for any target, without a device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from triton._utils import type_canonicalisation_dict
from triton.runtime.jit import JITFunction, KernelParam

from ._errors import InvalidArgument, described
from .compiler import Binary, Options, Specialization, Target, compile as compile_specialized

_SUFFIX = ":16"  # Triton's own, in its ahead-of-time compiler, for a multiple of 16
_DESCRIPTOR = re.compile(r"tensordesc<(\w+)\[\s*\d+(?:\s*,\s*\d+)*\s*\](?:,.+)?>")


def compile(
    kernel: JITFunction[Any],
    target: str = "cpu",
    types: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    **options: Any,
) -> Binary:
    """Compiles a kernel for `target` ("cpu", "cpu:kunpeng920"), on any machine; nothing is launched.

    kernel: a function under unify.jit or triton.jit. types: Triton's type of each parameter (``"*fp32"``, ``"i32"``),
    with ":16" behind it where addresses or numbers are multiples of 16; without it, the parameter's annotation.
    constants: the values of the constexpr parameters without a default; any other parameter may be fixed here too.
    options: the fields of unify.compiler.Options; `stages=("llvm", "asm")`, say, keeps these texts in `Binary.stages`.

    Raises CompileError with the kernel's file and line, TargetError for an unknown target, and InvalidArgument where a
    parameter has neither a type nor a value, or a stage is not the target's.
    """
    specialization = specialization_of(kernel, types or {}, constants or {})
    return compile_specialized(kernel, Target.parse(target), specialization, _options(options))


def specialization_of(
    kernel: JITFunction[Any], types: Mapping[str, str], constants: Mapping[str, Any]
) -> Specialization:
    """What `compile` compiles a kernel for. Raises InvalidArgument where a parameter has neither a type nor a value."""
    if not isinstance(kernel, JITFunction):
        raise InvalidArgument(f"compile: a function under unify.jit is needed, not {described(kernel)}.")
    if strange := sorted({*types, *constants} - set(kernel.arg_names)):
        raise InvalidArgument(
            f"compile: kernel {kernel.fn.__name__} has no parameter {', '.join(strange)}. "
            f"It has {', '.join(kernel.arg_names)}."
        )
    fixed = _defaults(kernel) | dict(constants)
    signature = {p.name: _type(kernel, p, fixed, types) for p in kernel.params}
    aligned = frozenset(name for name, text in signature.items() if text.endswith(_SUFFIX))
    plain = {name: text.removesuffix(_SUFFIX) for name, text in signature.items()}
    return Specialization(plain, fixed, aligned)


def _defaults(kernel: JITFunction[Any]) -> dict[str, Any]:
    return {p.name: p.default for p in kernel.params if p.is_constexpr and p.has_default}


def _type(kernel: JITFunction[Any], parameter: KernelParam, fixed: Mapping[str, Any], types: Mapping[str, str]) -> str:
    name = parameter.name
    if name in fixed:
        return "constexpr"
    where = f"compile: kernel {kernel.fn.__name__}: parameter '{name}'"
    if parameter.is_constexpr:
        raise InvalidArgument(f"{where} is a constexpr without a default. Give its value in `constants`.")
    text = types.get(name) or parameter.annotation.strip("'\"")  # `import annotations` quotes once more
    if not text:
        raise InvalidArgument(f'{where} has no type. Give it, say types={{"{name}": "*fp32"}}, or annotate it.')
    element = text.removesuffix(_SUFFIX).removeprefix("*").removeprefix("k")
    known = sorted({*type_canonicalisation_dict.values()})
    descriptor = _DESCRIPTOR.fullmatch(element)
    if (descriptor[1] if descriptor is not None else element) not in known:
        raise InvalidArgument(
            f"{where} cannot be {text!r}. Types: {', '.join(known)}; a pointer to one: '*fp32'; "
            "'tensordesc<fp32[16, 16]>'."
        )
    return text


def _options(given: dict[str, Any]) -> Options:
    try:
        return Options(**given)
    except TypeError:
        known = ", ".join(Options.__dataclass_fields__)
        strange = ", ".join(sorted(set(given) - set(Options.__dataclass_fields__)))
        raise InvalidArgument(f"compile: no option {strange}. There are {known}.") from None
