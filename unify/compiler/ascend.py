"""Triton on Ascend: TTIR text in, Huawei's compilers in the middle, an image for the Ascend backend out. Needs no chip.

ttir → linalg (triton-adapter-opt) → hivm (bishengir-compile) → object (hivmc, which only CANN has). Without hivmc a
kernel ends fully lowered: on-chip memory given out, pipes synchronised, vector and cube parts split. That shows that
the vendor's compiler takes it and what it needs; how fast it is, and the order of its memory, only a chip shows.
"""

from __future__ import annotations

import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unify._errors import CompileError, TargetError
from unify.compiler import ascend_facts, ascend_reasons, mlir_reader, parameters, persistent, toolchain
from unify.compiler.ascend_text import vendor_text

if TYPE_CHECKING:
    from unify.compiler import mlir
    from unify.compiler.ascend_facts import Facts
    from unify.compiler.target import Binary, Options, Target

__all__ = ["CHIPS", "Chip", "compile", "lower"]

# Before the user's arguments the vendor's launcher puts the addresses of the cores' synchronisation, of the block lock
# and of the workspace; behind them the grid (triton-ascend 3.2.0, driver.py, generate_npu_wrapper_src).
_PREFIX_BYTES = 24
_WORKSPACE_OFFSET = 16
_GRID_BYTES = 12
IMAGE = struct.Struct("<8sIIIIQQqIII4s")  # csrc/backends/ascend_image.cpp: Header
_MAGIC, _VERSION = b"UNIFYASC", 1
_OBJECT, _LOWERED = 0, 1
_MODES = {"aiv": 0, "aic": 1, "mix": 2}
_LIMIT_S = 600
# CPU time of the adapter, which takes a second at most, or never ends; and for a form that can be done without.
_ADAPTER_CPU_S = 30
_LOOPED_CPU_S = 10
TRIES = 3  # of a program that crashes: the adapter does so now and then, and then takes the same file
# What others do to a program, or a machine without memory; any other signal is the program's own, of the same file.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Chip:
    """A chip as targets name it ("910B3"), and as the vendor's compiler and runtime do."""

    name: str
    soc: str

    @property
    def family(self) -> str:
        """How the image of a kernel names the chips that can run it: "910B", "910C" or "950"."""
        return "950" if self.is_950 else "910C" if self.name.startswith(("910C", "910_")) else "910B"

    @property
    def is_950(self) -> bool:
        """Whether it takes the other pair of compilers."""
        return self.name.startswith("950")


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("910B1", "Ascend910B1"),
        Chip("910B2", "Ascend910B2"),
        Chip("910B3", "Ascend910B3"),
        Chip("910B4", "Ascend910B4"),
        Chip("910C", "Ascend910_9392"),
        Chip("950", "Ascend950PR_9599"),
    )
}
# What aclrtGetSocName says of these families; each name is one that the vendor's compiler knows, with its own number of
# cores (AscendNPU IR, bishengir/include/bishengir/Dialect/HACC/Targets/NPUTargetSpec.td).
_SOC = re.compile(r"(?:Ascend)?(910B[1-4](?:C|-1)?|910_93\d\d|950(?:PR|DT)_95\w\w)")


@dataclass(frozen=True)
class Lowered:
    """What the vendor made of a module. object: the binary, None without hivmc. lines: hivm with the user's lines."""

    linalg: str
    hivm: str
    facts: Facts
    object: bytes | None
    lines: str = ""


def compile(ttir: str, target: Target, options: Options) -> Binary:
    """The compile half of the targets `ascend:<chip>`.

    A kernel becomes persistent where its form allows it and the vendor's compiler takes it: a block for each core, with
    a loop over the programs. metadata tells what the vendor's compiler decided (ascend_facts.Facts) and whether there
    is a binary. Stages: "linalg", "hivm", and "lines", which is hivm just before it ends, with the user's lines.

    Raises CompileError with the user's file and line, what the vendor said and what is known to help; TargetError for
    an unknown chip or where the vendor's compilers are not installed.
    """
    from unify.compiler.target import Binary, Parameter

    chip = chip_of(target)
    if (mistake := ascend_reasons.mistaken(ttir, target, chip.is_950)) is not None:
        raise mistake
    function = parameters.kernel_of(mlir_reader.parse(ttir))
    name = function.string("sym_name")
    lowered, is_persistent = _lowered(ttir, chip, target, with_lines="lines" in options.stages)
    fields, end = _packed(function)
    logical = end if is_persistent else 0
    end += _GRID_BYTES if is_persistent else 0
    facts = lowered.facts
    cores = facts.vector_cores if facts.mode == "aiv" else facts.cube_cores
    payload = lowered.object if lowered.object is not None else lowered.hivm.encode()
    if is_persistent and not cores:
        raise CompileError(f"{target}: the vendor's compiler does not say how many cores {chip.soc} has.")
    header = IMAGE.pack(
        _MAGIC, _VERSION, IMAGE.size, _LOWERED if lowered.object is None else _OBJECT, _MODES[facts.mode], len(payload),
        facts.lock_count, facts.lock_init, end, logical, cores if is_persistent else 0,
        chip.family.encode(),
    )  # fmt: skip
    texts = {"linalg": lowered.linalg, "hivm": lowered.hivm, "lines": lowered.lines}
    return Binary(
        name=name,
        image=header + payload,
        target=str(target),
        parameters=tuple(Parameter(*field) for field in fields),
        args_bytes=end + _GRID_BYTES,
        threads=1,
        scratch_bytes=facts.workspace_bytes or 0,
        scratch_offset=_WORKSPACE_OFFSET,
        scratch_programs=cores if is_persistent else 0,
        metadata={
            "status": "lowered" if lowered.object is None else "ok",
            "soc": chip.soc,
            "persistent": is_persistent,
            **facts.as_dict(),
        },
        stages=texts if options.stages else {},
    )


def chip_of(target: Target) -> Chip:
    """The chip of a target: one of CHIPS, or what a device says of itself ("910_9382"). Raises TargetError."""
    if target.arch in CHIPS:
        return CHIPS[target.arch]
    if (soc := _SOC.fullmatch(target.arch)) is not None:
        return Chip(soc[1], f"Ascend{soc[1]}")
    raise TargetError(
        f"no target '{target}': behind 'ascend:' stands a chip, {', '.join(CHIPS)}, or the name that CANN gives it, "
        "such as Ascend910_9382.",
        is_unknown=True,
    )


def version() -> str:
    """What decides besides the source which image comes out: the vendor's programs that are found here."""
    assembler = shutil.which("hivmc")
    stamp = f"{assembler} {Path(assembler).stat().st_mtime_ns}" if assembler else "no hivmc"
    return f"{toolchain.version_of('ascend')} {stamp}"


def _lowered(ttir: str, chip: Chip, target: Target, with_lines: bool) -> tuple[Lowered, bool]:
    """The persistent form if there is one that the vendor's compiler takes, else the plain one; and which it is."""
    looped = persistent.persistent(ttir)
    if looped is not None:
        try:
            return lower(looped, chip, target, with_lines, _LOOPED_CPU_S), True
        except CompileError:
            pass  # what the user wrote decides what is said of it
    return lower(ttir, chip, target, with_lines), False


def _packed(function: mlir.Operation) -> tuple[list[tuple[str, str, int]], int]:
    """As parameters.packed, in the vendor's block, where a scalar has 4 bytes or 8: a narrower one the lower of 4."""
    fields, _ = parameters.packed(function)
    end, found = _PREFIX_BYTES, []
    for name, type_, _ in fields:
        size = 8 if type_.startswith("*") or type_ in ("i64", "fp64") else 4
        offset = -(-end // size) * size
        found.append((name, type_, offset))
        end = offset + size
    return found, -(-end // 4) * 4


# ---------------------------------------------------------------- the vendor's programs


def lower(
    ttir: str, chip: Chip, target: object, with_lines: bool = False, adapter_cpu_s: int = _ADAPTER_CPU_S
) -> Lowered:
    """Runs the vendor's compilers on a module with one kernel. Raises CompileError, TargetError."""
    tools = toolchain.find("ascend")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = _Job(tools, folder, chip, target, ttir, with_lines, adapter_cpu_s)
        linalg = _to_linalg(job)
        return _to_hivm(job, linalg)


@dataclass(frozen=True)
class _Job:
    tools: Path
    folder: Path
    chip: Chip
    target: object
    ttir: str
    with_lines: bool
    adapter_cpu_s: int

    def fail(self, log: str, died: str, *, is_accident: bool = False) -> CompileError:
        """The error for what a program wrote, and how it ended if that was by a signal."""
        log = log.replace(f"{self.folder}/", "")
        return ascend_reasons.error(self.ttir, self.target, self.chip.is_950, log, died, is_accident=is_accident)


def adapter_flags(is_950: bool) -> list[str]:
    """The passes of triton-adapter-opt, as the vendor gives them: triton-ascend 3.2.0, compiler.py, ttir_to_linalg."""
    chip = f"compile-on-910-95={is_950}"
    return [
        f"--discrete-mask-access-conversion={chip} force-simt-template=False",
        "--triton-to-annotation",
        f"--triton-to-unstructure={chip} force-simt-template=False",
        "--triton-to-hivm",
        "--triton-to-hfusion",
        "--triton-to-llvm",
        "--bubble-up-operation",
        "--triton-to-linalg=global-kernel=false named-ops=True enable-nd2nz-on-vector=False "
        f"enable-select-analysis={is_950} {chip}",
        "--mlir-print-debuginfo",
    ]


def _to_linalg(job: _Job) -> str:
    """Triton's dialect to linalg."""
    source, out = job.folder / "kernel.ttir.mlir", job.folder / "kernel.linalg.mlir"
    source.write_text(vendor_text(job.ttir))
    log, died = _run(job, "triton-adapter-opt", [str(source), *adapter_flags(job.chip.is_950), "-o", str(out)])
    if died or not out.exists():
        raise job.fail(log, died)
    text = out.read_text()
    if "tt." in text and (left := ascend_reasons.left_over(text)):  # the adapter says nothing of what it leaves
        raise job.fail(left + log, died)
    return text


def _to_hivm(job: _Job, linalg: str) -> Lowered:
    """linalg to what the assembler takes, and through it where there is one.

    The exit status is 1 whenever hivmc is not there; so what was written is looked at, and the lines of the log.
    """
    source, made, out = job.folder / "kernel.mlir", job.folder / "module.hivm.opt.mlir", job.folder / "kernel"
    source.write_text(re.sub(r', mix_mode\s*=\s*"[^"]*"', "", linalg))
    flags = [f"--target={job.chip.soc}", f"--save-temps={job.folder}", "-o", str(out)]
    flags += [f"--enable-{part}-compile=true" for part in ("hfusion", "hivm", "triton-kernel")]
    if job.chip.is_950:
        flags += ["--enable-auto-multi-buffer=false", "--enable-auto-bind-sub-block=false"]
        flags += ["--enable-print-memory-allocated-size"]
    else:
        flags += ["--enable-auto-multi-buffer=true", "--enable-auto-bind-sub-block=true"]
    if job.with_lines:  # what --save-temps writes has none
        flags += ["--mlir-print-debuginfo", "--mlir-print-ir-after=convert-hivm-to-std"]
    log, died = _run(job, "bishengir-compile-a5" if job.chip.is_950 else "bishengir-compile", [str(source), *flags])
    log, lines = _without_dumps(log)
    if died or not made.exists() or ascend_reasons.has_error(log):
        raise job.fail(log, died)
    hivm = made.read_text()
    compiled = out.with_suffix(".o")
    made_object = compiled.read_bytes() if compiled.exists() else None
    return Lowered(linalg, hivm, ascend_facts.read(hivm, log), made_object, lines)


def _without_dumps(log: str) -> tuple[str, str]:
    """The log, and the last module that is printed in it: the 950's compiler starts again where hivmc fails."""
    kept: list[str] = []
    dump: list[str] = []
    for line in log.splitlines():
        if line.startswith("// -----// IR Dump"):
            dump = [line]
        elif dump and (not line or line.startswith(("#", " ", "}", "module"))):
            dump.append(line)
        else:
            kept.append(line)
    return "\n".join(kept), "\n".join(dump)


def _run(job: _Job, program: str, arguments: list[str]) -> tuple[str, str]:
    """What a program wrote, and the signal that ended it, if one did."""
    log, died = "", ""
    cpu_s = job.adapter_cpu_s if program == "triton-adapter-opt" else _LIMIT_S
    for _ in range(TRIES):
        try:
            log, status = _ended([str(job.tools / program), *arguments], job.folder, cpu_s)
        except subprocess.TimeoutExpired:
            raise job.fail("", f"{program} was not done after {_LIMIT_S} s", is_accident=True) from None
        except OSError as error:
            raise TargetError(f"{job.target}: {job.tools / program} does not run: {error}.") from None
        if status >= 0:
            return log, ""
        if -status == signal.SIGXCPU:
            raise job.fail("", f"{program} was not done after {cpu_s} s of CPU time")
        died = f"{program} crashed ({signal.Signals(-status).name})"
        if -status in _FROM_OUTSIDE:
            raise job.fail(log, died, is_accident=True)
    return log, died


def _ended(command: list[str], folder: Path, cpu_s: int) -> tuple[str, int]:
    """Runs a program; what it wrote, and its status. It may take cpu_s of CPU time, which no other program uses up."""
    with subprocess.Popen(  # noqa: S603 - by its path
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", cwd=folder
    ) as process:
        try:
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))
            out, errors = process.communicate(timeout=_LIMIT_S)
        except BaseException:  # Ctrl-C too
            process.kill()
            raise
    return out + errors, process.returncode
