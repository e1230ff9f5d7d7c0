"""Which kernels are checked, and for which types: those of files, by their annotations and tuners, and unify's own."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

from unify._compile import specialization_of
from unify._errors import CompileError, InvalidArgument
from unify._report import kernels_of, load
from unify.compiler import Options, Specialization, source_of, to_ttir

from .subject import Kernel, Outcome, Variant

_TUNED_OPTIONS = ("num_warps", "num_stages", "num_ctas")


def of_file(text: str, types: dict[str, str], constants: dict[str, Any]) -> tuple[list[Kernel], dict[str, str]]:
    """The kernels of FILE.py, or the one of FILE.py:kernel; and why others of the file are left out, by name.

    types, constants: what is given for parameters besides their annotations and defaults. Raises InvalidArgument.
    """
    path, _, name = text.partition(".py:")
    file = Path(f"{path}.py" if name else text)
    module = load(file)
    kernels = kernels_of(module)
    if name and name not in kernels:
        raise InvalidArgument(f"check: {file} has no kernel {name!r}. It has {', '.join(kernels) or 'no kernels'}.")
    found, left_out = [], {}
    for each in [name] if name else kernels:
        try:
            found.append(_kernel(kernels[each], getattr(module, each), types, constants))
        except InvalidArgument as error:
            if name:
                raise
            left_out[each] = str(error).removeprefix("compile: ")
    return found, left_out


def shipped(targets: list[str]) -> list[Kernel]:
    """The kernels of unify.ops, as they are launched for a language model."""
    from unify.ops.signatures import signatures

    found = []
    for target in targets:
        for row in signatures(target):
            specialization = specialization_of(row.kernel, row.types, row.constants)
            variant = variant_of(row.kernel, specialization, row.options)
            found.append(_with_variants(row.kernel, (variant,), targets=(target,)))
    return found


def _kernel(kernel: JITFunction[Any], value: Any, types: dict[str, str], constants: dict[str, Any]) -> Kernel:
    mine = {name: given for name, given in constants.items() if name in kernel.arg_names}
    typed = {name: given for name, given in types.items() if name in kernel.arg_names}
    variants = []
    for values, options in _configurations(value):
        fixed = {**values, **mine}
        fixed |= _heuristics(value, fixed)
        variants.append(variant_of(kernel, specialization_of(kernel, typed, fixed), options, names=fixed))
    return _with_variants(kernel, tuple(variants), needs_all=len(variants) == 1)


def _with_variants(kernel: JITFunction[Any], variants: tuple[Variant, ...], **how: Any) -> Kernel:
    code = kernel.fn.__code__
    return Kernel(kernel.fn.__name__, code.co_filename, code.co_firstlineno, variants, **how)


def variant_of(
    kernel: JITFunction[Any], specialization: Specialization, options: dict[str, Any], names: Any = ()
) -> Variant:
    """A kernel as it is launched for these types; names: of the constants that tell it from others."""
    chosen = Options(**options)

    def key(target: str) -> dict[str, object]:
        return {**source_of(kernel, specialization), "file": kernel.fn.__code__.co_filename}

    def ttir(target: str) -> str | Outcome:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # tl.static_print
                return to_ttir(
                    kernel, specialization, num_warps=chosen.num_warps, num_stages=chosen.num_stages, debug=False,
                    target=target,
                )  # fmt: skip
        except CompileError as error:
            return Outcome("failed", error.reason or str(error), error.file, error.line)

    shown = {name: str(getattr(value, "__name__", value)) for name, value in specialization.constants.items()}
    return Variant({n: text for n, text in shown.items() if not names or n in names}, options, key, _by_front(ttir))


def front(target: str) -> str:
    """What decides how Triton's front end reads a kernel: targets with the same one share their TTIR."""
    return target if target.startswith("cuda") else "cpu"


def _by_front(ttir: Callable[[str], str | Outcome]) -> Callable[[str], str | Outcome]:
    cached = functools.cache(ttir)
    return lambda target: cached(front(target))


# ---------------------------------------------------------------- what stands around a kernel


def _wrappers(value: Any) -> Iterator[Any]:
    """triton.autotune, triton.heuristics and what unify.jit makes of them, outermost first."""
    for _ in range(8):
        if value is None or isinstance(value, JITFunction):
            return
        yield getattr(value, "_tuner", value)
        value = getattr(value, "kernel", None) or getattr(value, "fn", None)


def _configurations(value: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The constants and options of each of a tuner's configurations; one without any where there is no tuner."""
    tuner = next((each for each in _wrappers(value) if isinstance(each, Autotuner)), None)
    if tuner is None:
        return [({}, {})]
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for config in tuner.configs:
        options = {name: getattr(config, name) for name in _TUNED_OPTIONS if getattr(config, name, None) is not None}
        if (config.kwargs, options) not in found:
            found.append((dict(config.kwargs), options))
    return found


def _heuristics(value: Any, constants: dict[str, Any]) -> dict[str, Any]:
    """What heuristics compute from constants alone; the others need the arguments of a launch."""
    found: dict[str, Any] = {}
    for each in _wrappers(value):
        if isinstance(each, Heuristics):
            for name, heuristic in each.values.items():
                try:
                    found[name] = heuristic({**constants, **found})
                except Exception:  # noqa: S112 - it looks at what is not there
                    continue
    return found
