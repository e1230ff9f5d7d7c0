"""Kernels to binaries: look in the cache, else Triton's front end, then the target's compiler."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unify._config import settings
from unify._errors import CompileError, InvalidArgument

from . import cache, dump
from .effects import written_arguments
from .frontend import Specialization, source_key, to_ttir
from .target import Binary, CompileFunction, Options, Parameter, Target, compiler_for, register_target

__all__ = ["Binary", "Options", "Parameter", "Specialization", "Target", "compile", "register_target", "to_ttir"]


def compile(kernel: Any, target: Target, specialization: Specialization, options: Options | None = None) -> Binary:
    """Compiles a Triton kernel (a triton.JITFunction, unify.jit's included) for a target.

    Needs no device. What is kept on disk, refusals among it, has no stages: to get some compiles anew. Raises
    CompileError, TargetError, InvalidArgument for a stage that the target does not have.
    """
    options = options or Options()

    def ttir() -> str:
        return to_ttir(
            kernel, specialization, num_warps=options.num_warps, num_stages=options.num_stages, debug=options.debug,
            target=str(target),
        )  # fmt: skip

    file = kernel.fn.__code__.co_filename
    return _through_cache(source_of(kernel, specialization), kernel.fn.__name__, ttir, target, options, file)


def source_of(kernel: Any, specialization: Specialization) -> dict[str, object]:
    """What stands for a kernel's source and what it is compiled for. Raises CompileError."""
    return {
        "source": source_key(kernel),
        "types": specialization.types,
        "constants": {name: _text(value) for name, value in specialization.constants.items()},
        "aligned": sorted(specialization.aligned),
    }


def compile_ttir(name: str, ttir: str, target: Target, options: Options) -> Binary:
    """The half behind Triton's front end. ttir: a module in MLIR's generic form with one public function, `name`.

    One module is one entry in the cache, whatever sources and launch options it came from. Raises as `compile` does.
    """
    return _through_cache({"ttir": ttir}, name, lambda: ttir, target, options)


def _through_cache(
    source: dict[str, object], name: str, ttir: Callable[[], str], target: Target, options: Options, file: str = ""
) -> Binary:
    """file: where the source is, which a refusal's place names."""
    key = key_of(source, target, replace(options, stages=()))
    refused = hashlib.sha256(f"refused {key} {file}".encode()).hexdigest()
    if not settings.dump and not options.stages:
        if (kept := cache.load(key)) is not None:
            return kept
        if (entry := cache.load_entry(refused)) is not None:
            message, fields = entry[0]["message"], entry[0]["fields"]
            raise CompileError(message, **fields)
    text = ttir()
    try:
        binary = _build(name, text, target, options)
    except CompileError as error:
        # One that names no line is about a tool, and may be another one the next time.
        if error.line is not None and not error.is_accident:
            cache.store_entry(refused, {"message": str(error), "fields": dict(vars(error))}, b"")
        raise
    cache.store(key, replace(binary, stages={}))
    return binary


def _build(name: str, ttir: str, target: Target, options: Options) -> Binary:
    dump.write(name, ttir, {"ttir": ttir})
    binary = compiler_for(target)(ttir, target, replace(options, stages=(*options.stages, *settings.dump)))
    dump.write(name, ttir, binary.stages)
    written = written_arguments(ttir)
    parameters = (replace(p, is_written=index in written) for index, p in enumerate(binary.parameters))
    texts = {"ttir": ttir, **binary.stages}
    if strange := sorted({*options.stages} - texts.keys()):
        raise InvalidArgument(f"compile: no stage {', '.join(strange)}; {target} has {', '.join(sorted(texts))}.")
    if strange := sorted({*settings.dump} - texts.keys()):
        cache.warn_once(f"UNIFY_DUMP: no stage {', '.join(strange)}; {target} has {', '.join(sorted(texts))}.")
    stages = {stage: texts[stage] for stage in options.stages}
    return replace(binary, parameters=tuple(parameters), stages=stages)


def key_of(source: dict[str, object], target: Target, options: Options) -> str:
    """What stands for a kernel, whatever `source` says of it, compiled for a target by what is installed here."""
    parts = {
        **source,
        "options": vars(options),
        "target": str(target),
        "machine": machine() if target.arch[:1] in ("", "+", "-") else "",  # this one, or this one with changes
        "compiler": compiler_version(),
        "tools": _tools(target.kind),
        "half": _version_of(compiler_for(target)),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _text(value: Any) -> str:
    return f"{type(value).__name__}:{getattr(value, 'cache_key', value)!r}"


def _tools(kind: str) -> str:
    """Names programs of others that a target's compiler runs, where they are not in Triton's package."""
    if kind != "ascend":
        return ""
    from . import ascend

    return ascend.version()


@functools.cache
def machine() -> str:
    """Names this CPU and what it can do: code for one that can do more would not run here."""
    lines = []
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "flags", "Features")):
                lines.append(line)
            elif not line:
                break
    except OSError:
        lines.append(platform.processor())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@functools.cache
def _version_of(compile_function: CompileFunction) -> str:
    """Names a compile half: where it stands and, if that is not here, a hash of the folder it comes from.

    And this machine: what such a half makes may be code for its CPU, as a simulated device's is.
    """
    name = f"{compile_function.__module__}.{getattr(compile_function, '__qualname__', '')}"
    file = getattr(inspect.getmodule(compile_function), "__file__", None)
    if file is None or Path(file).is_relative_to(Path(__file__).parent):
        return name
    digest = hashlib.sha256()
    for path in sorted(Path(file).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{name} {digest.hexdigest()} {machine()}"


@functools.cache
def compiler_version() -> str:
    """A hash of everything that decides which code comes out: our compiler's source, Triton's and LLVM's versions."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    for package in ("triton", "llvmlite"):
        try:
            digest.update(f"{package} {version(package)}".encode())
        except PackageNotFoundError:
            digest.update(f"no {package}".encode())
    return digest.hexdigest()
