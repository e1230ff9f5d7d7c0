"""What a kernel is compiled for, what comes out, and who does it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from unify import _plugins
from unify._errors import TargetError


@dataclass(frozen=True)
class Target:
    """A kind of device and its architecture: "cpu:kunpeng920", "cuda:90". An empty arch is this machine's."""

    kind: str
    arch: str = ""

    @staticmethod
    def parse(text: str) -> Target:
        """Reads "kind" or "kind:arch". Raises TargetError naming the known kinds."""
        kind, _, arch = text.partition(":")
        if kind not in _COMPILERS:
            for backend in _plugins.installed()[0]:
                if backend.compile is not None:
                    _COMPILERS.setdefault(backend.name, cast("CompileFunction", backend.compile))
        if kind not in _COMPILERS:
            known = ", ".join(sorted(_COMPILERS))
            near = difflib.get_close_matches(kind, _COMPILERS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TargetError(f"no target {text!r}.{hint} Known: {known}.", is_unknown=True)
        return Target(kind, arch)

    def __str__(self) -> str:
        """Returns what parse reads."""
        return f"{self.kind}:{self.arch}" if self.arch else self.kind


@dataclass(frozen=True)
class Options:
    """How to compile. Options that a target has no use for are ignored by it.

    maxnreg, launch_cooperative_grid, launch_pdl: as in Triton, on CUDA. stages: names of intermediate texts that are
    wanted in `Binary.stages`: "ttir", and those that the target knows.
    """

    num_warps: int = 4
    num_stages: int = 3
    num_ctas: int = 1
    debug: bool = False
    check_bounds: bool = False
    maxnreg: int = 0
    launch_cooperative_grid: bool = False
    launch_pdl: bool = False
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """One field of the packed arguments: its Triton type (`*fp32`, `i32`, `fp32`) and byte offset.

    is_written: whether the kernel may write through it, if it is a pointer. `compile` finds that out.
    """

    name: str
    type: str
    offset: int
    is_written: bool = True


@dataclass(frozen=True)
class Binary:
    """A compiled kernel, ready to load: image is what the backend's module_load takes.

    parameters lists the packed arguments in order, without constexprs; args_bytes is their size. shared_bytes is the
    scratch memory of one program, threads what a program is made of (1 on a CPU). cluster: blocks that one program is
    spread over, 0 for none; flags: UNIFY_LAUNCH_* of backend.h. scratch_bytes: device memory that a launch brings for
    each program, or for scratch_programs where that is not 0 and fewer; its address stands at scratch_offset of the
    arguments. stages: texts on the way that were asked for, "llvm" and "asm" say.
    """

    name: str
    image: bytes
    target: str
    parameters: tuple[Parameter, ...]
    args_bytes: int
    shared_bytes: int = 0
    threads: int = 1
    cluster: int = 0
    flags: int = 0
    scratch_bytes: int = 0
    scratch_offset: int = 0
    scratch_programs: int = 0
    metadata: dict[str, object] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)


CompileFunction = Callable[[str, Target, Options], Binary]


def _built_in(kind: str) -> CompileFunction:
    """The compile half in the module of that name, which is imported when it is first needed."""

    def compile(ttir: str, target: Target, options: Options) -> Binary:
        half: CompileFunction = importlib.import_module(f"unify.compiler.{kind}").compile
        return half(ttir, target, options)

    return compile


_COMPILERS: dict[str, CompileFunction] = {kind: _built_in(kind) for kind in ("cpu", "cuda", "ascend")}


def register_target(kind: str, compile_function: CompileFunction) -> None:
    """Makes a kind of target known: compile_function(ttir, target, options) returns its Binary."""
    _COMPILERS[kind] = compile_function


def compiler_for(target: Target) -> CompileFunction:
    """The compile function of a target. Raises TargetError."""
    return _COMPILERS[Target.parse(str(target)).kind]
