"""Which kernels are checked, and for which types: those of files, by their annotations and tuners, and unify's own."""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

from unify._compile import specialization_of
from unify._errors import CompileError, InvalidArgument
from unify._report import kernels_of, load
from unify.compiler import Options, Specialization, source_of, to_ttir

from .report import shown
from .subject import Kernel, Outcome, Variant

_TUNED_OPTIONS = ("num_warps", "num_stages", "num_ctas")


def of_files(
    texts: Sequence[str], types: dict[str, str], constants: dict[str, Any]
) -> tuple[list[Kernel], dict[str, str]]:
    """The kernels of several files, and why others are left out, by FILE.py:kernel. Raises InvalidArgument, also where
    no kernel has a parameter that a type or a constant is given for.
    """
    found: list[Kernel] = []
    left_out: dict[str, str] = {}
    known: set[str] = set()
    for text in texts:
        kernels, others = of_file(text, types, constants, known)
        found += kernels
        left_out |= {f"{shown(text)}:{name}": reason for name, reason in others.items()}
    for option, given in (("type", types), ("constant", constants)):
        if strange := [name for name in given if name not in known]:
            close = difflib.get_close_matches(strange[0], known, 1)
            raise InvalidArgument(
                f"check: --{option} {strange[0]}: no kernel of {', '.join(texts)} has such a parameter."
                + (f" Did you mean {close[0]}?" if close else "")
            )
    return found, left_out


def of_file(
    text: str, types: dict[str, str], constants: dict[str, Any], known: set[str] | None = None
) -> tuple[list[Kernel], dict[str, str]]:
    """The kernels of FILE.py, or the one of FILE.py:kernel; and why others of the file are left out, by name.

    types, constants: what is given for parameters besides their annotations and defaults. known: gets the names of all
    parameters. Raises InvalidArgument.
    """
    path, _, name = text.partition(".py:")
    file = Path(f"{path}.py" if name else text)
    module = load(file)
    kernels = kernels_of(module)
    if name and name not in kernels:
        raise InvalidArgument(f"check: {file} has no kernel {name!r}. It has {', '.join(kernels) or 'no kernels'}.")
    found, left_out = [], {}
    for each in [name] if name else _each_once({name: getattr(module, name) for name in kernels}):
        if known is not None:
            known |= set(kernels[each].arg_names)
        try:
            found.append(_kernel(kernels[each], getattr(module, each), types, constants))
        except InvalidArgument as error:
            if name:
                raise InvalidArgument(_for_command(str(error))) from None
            left_out[each] = _for_command(str(error)).removeprefix("compile: ")
    return found, left_out


def _each_once(values: dict[str, Any]) -> list[str]:
    """The names without those for what another one stands for too: a kernel that a tuner is around, say."""
    found: dict[int, str] = {}
    inside: set[int] = set()
    for name, value in values.items():
        around = [*_wrappers(value), _innermost(value)]
        inside |= {id(each) for each in around[1:]}
        found.setdefault(id(around[0]), name)
    return [name for identity, name in found.items() if identity not in inside]


def _for_command(said: str) -> str:
    """What unify.compile says of a kernel's parameters, with the command's options in place of its arguments."""
    said = re.sub(r'types=\{"(\w+)": "(\S+?)"\}', r"--type \1=\2", said)
    return re.sub(r"(parameter '(\w+)' is a constexpr.*) in `constants`", r"\1: --constant \2=...", said)


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


def _innermost(value: Any) -> Any:
    for _ in range(8):
        if isinstance(value, JITFunction):
            return value
        value = getattr(value, "kernel", None) or getattr(value, "fn", None)
    return value


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
