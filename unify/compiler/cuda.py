"""Triton on CUDA: TTIR text in, a cubin out, by Triton's own Nvidia compiler and NVIDIA's ptxas. Needs no GPU.

Triton's launcher and driver take no part. Tensor descriptors were rewritten to pointers before, so that no kernel needs
a tensor map from the host.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unify._errors import CompileError, TargetError
from unify.compiler import mlir, mlir_reader, parameters

if TYPE_CHECKING:
    from unify.compiler.target import Binary, Options, Target

__all__ = ["compile"]

_WARP = 32
# For which Triton's LLVM writes code for its own kernels and ptxas takes it. LLVM ends the process for others.
_CAPABILITIES = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
# UNIFY_LAUNCH_* of backend.h
_COOPERATIVE, _OVERLAPPING = 1, 2
_PREFIX = re.compile(r'("tt\.print".*\bprefix = )("[^"]*")')  # MLIR writes a quotation mark as \22


def compile(ttir: str, target: Target, options: Options) -> Binary:
    """The compile half of the targets `cuda:<compute capability>`: ttir → ttgir → llir → ptx → cubin.

    Raises CompileError with what Triton or ptxas said, TargetError for an architecture that they do not know.
    """
    from unify.compiler.target import Binary, Parameter

    arch = _arch(target)
    function = parameters.kernel_of(mlir_reader.parse(ttir))
    name, place = function.string("sym_name"), str(function.location)
    try:
        lowered = _lower(ttir, arch, options)
    except CompileError:
        raise
    except Exception as error:  # Triton's passes raise what they like
        raise _error(name, place, target, f"{type(error).__name__}: {error}") from None
    assembled = _assemble(lowered.ptx, arch, name, place, target)
    fields, end = parameters.packed(function)
    scratch = -(-end // 8) * 8  # Triton appends two pointers: memory for the program, and for a profiler
    if lowered.profile_bytes:
        raise _error(name, place, target, "it was instrumented for a profiler, whose memory a launch does not bring")
    return Binary(
        name=lowered.name,
        image=assembled.cubin,
        target=str(target),
        parameters=tuple(Parameter(*field) for field in fields),
        args_bytes=scratch + 16,
        shared_bytes=lowered.shared_bytes,
        threads=lowered.num_warps * _WARP,
        cluster=options.num_ctas if options.num_ctas > 1 else 0,
        flags=_COOPERATIVE * options.launch_cooperative_grid + _OVERLAPPING * options.launch_pdl,
        scratch_bytes=lowered.scratch_bytes * options.num_ctas,
        scratch_offset=scratch,
        metadata={"registers": assembled.registers, "spill_bytes": assembled.spill_bytes, "ptxas": assembled.version},
        stages=lowered.stages if options.stages else {},
    )


def _arch(target: Target) -> int:
    if target.arch in map(str, _CAPABILITIES):
        return int(target.arch)
    known = ", ".join(map(str, _CAPABILITIES))
    raise TargetError(
        f"no target '{target}': behind 'cuda:' stands a compute capability that Triton and ptxas know, such as "
        f"'cuda:90' for an H100. Known: {known}.",
        is_unknown=True,
    )


def _error(name: str, place: str, target: object, reason: str) -> CompileError:
    file, _, line = place.rpartition(":")
    number = int(line) if line.isdigit() else None
    message = f"{place}: kernel {name}: {target}: {reason.strip()}"
    return CompileError(message, file=file or None, line=number, reason=reason.strip(), kernel=name)


# ---------------------------------------------------------------- Triton's part


@dataclass(frozen=True)
class _Lowered:
    name: str
    ptx: str
    num_warps: int
    shared_bytes: int
    scratch_bytes: int
    profile_bytes: int
    stages: dict[str, str]


def _lower(ttir: str, arch: int, options: Options) -> _Lowered:
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget, Language
    from triton.backends.nvidia.compiler import CUDABackend

    backend = CUDABackend(GPUTarget("cuda", arch, _WARP))
    wanted = backend.parse_options(
        {
            "num_warps": options.num_warps,
            "num_stages": options.num_stages,
            "num_ctas": options.num_ctas,
            "debug": options.debug,
            "maxnreg": options.maxnreg or None,
            "launch_cooperative_grid": options.launch_cooperative_grid,
            "launch_pdl": options.launch_pdl,
            "enable_fp_fusion": True,
            "sanitize_overflow": False,
        }
    )
    stages: dict[str, Any] = {}
    backend.add_stages(stages, wanted, Language.TRITON)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    module: Any = _parse(ttir, context)
    metadata: dict[str, Any] = {**vars(wanted), "target": backend.target}
    texts: dict[str, str] = {}
    for stage in ("ttir", "ttgir", "llir", "ptx"):
        module = stages[stage](module, metadata)
        if stage != "ttir":
            texts[stage] = str(module)
    return _Lowered(
        metadata["name"],
        texts["ptx"],
        metadata["num_warps"],
        metadata["shared"],
        metadata.get("global_scratch_size", 0),
        metadata.get("profile_scratch_size", 0),
        texts,
    )


def _parse(ttir: str, context: Any) -> Any:
    """The module, which Triton reads from files only."""
    from triton._C.libtriton import ir

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.ttir"
        path.write_text(_with_literal_prefixes(mlir.valid_text(ttir)))
        module = ir.parse_mlir_module(str(path), context)
    module.context = context  # as Triton keeps it
    return module


def _with_literal_prefixes(ttir: str) -> str:
    """Triton makes the text of tl.device_print a part of printf's format as it is."""
    return _PREFIX.sub(lambda found: found[1] + found[2].replace("%", "%%"), ttir)


# ---------------------------------------------------------------- NVIDIA's part


@dataclass(frozen=True)
class _Assembled:
    cubin: bytes
    registers: int
    spill_bytes: int
    version: str


def _assemble(ptx: str, arch: int, name: str, place: str, target: object) -> _Assembled:
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    try:
        tool = get_ptxas(arch)
        path, version = tool.path, tool.version
    except Exception as error:
        raise TargetError(f"{target}: Triton's package has no ptxas that runs here: {error}") from None
    flags = ["--regAllocOptLevel=2"] if version.startswith("13.") else []  # as Triton, around a bug of ptxas 13
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / f"{name}.ptx", Path(folder) / f"{name}.cubin"
        source.write_text(ptx)
        command = [path, "-lineinfo", "-v", *flags, f"--gpu-name={sm_arch_from_capability(arch)}"]
        finished = subprocess.run(  # noqa: S603 - of Triton's package
            [*command, str(source), "-o", str(out)], capture_output=True, text=True, check=False, close_fds=False
        )
        log = finished.stderr.replace(f"{folder}/", "")
        if finished.returncode:
            failure = _error(name, place, target, f"ptxas {version} ended with {finished.returncode}: {log}")
            failure.is_accident = finished.returncode < 0  # a signal ended it
            raise failure
        cubin = out.read_bytes()
    return _Assembled(cubin, _number(r"Used (\d+) registers", log), _number(r"(\d+) bytes spill stores", log), version)


def _number(pattern: str, log: str) -> int:
    return sum(map(int, re.findall(pattern, log)))
