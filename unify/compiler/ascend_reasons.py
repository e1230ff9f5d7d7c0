"""Why the vendor's compilers refused a kernel: their lines, brought back to the user's, with what is known to help.

What helps was tried with triton-ascend 3.2.0 and AscendNPU IR 1.2.0: each form given here is taken by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unify._errors import CompileError
from unify.compiler import mlir, mlir_reader, parameters
from unify.compiler.places import Places

# What they write when only the assembler is missing, and whatever else failed.
_NOT_AN_ERROR = re.compile(
    r"Cannot find hivmc|hivmc --version|hivmc version|External hivmc run fails|BiShengIR pipeline"
)
_ERROR = re.compile(r"error:|ERROR|Assertion|LLVM ERROR|UNREACHABLE")
_EMPTY = re.compile(r"Failed to run \w+ pipeline")
# In quotes, at the start of a line, or anywhere else, where it ends at a space.
_PLACE = re.compile(r'"((?:[^"\\]|\\.)+\.py)":(\d+)|^([^"]+?\.py):(\d+)|([^\s"(]+\.py):(\d+)')
_FILE = re.compile(r'"(?:[^"\\]|\\.)*":\d+')


@dataclass(frozen=True)
class Advice:
    """What to do about it, where a line of the log or an operation of the module shows it."""

    log: str  # a pattern
    module: str  # a pattern in the TTIR, or empty
    text: str
    only_950: bool = False


_ADVICE = (
    Advice(
        r"ub overflow",
        "",
        "A program's tiles are too large for the unified buffer: give it smaller ones, or go through a large one in a "
        "loop over parts (Triton-Ascend, migrate_from_gpu).",
    ),
    Advice(r"cbuf overflow", "", "The operands of tl.dot are too large for L1: give it a smaller tile or a smaller K."),
    Advice(r"cc overflow", "", "The sum of tl.dot is too large for L0C: give it a smaller tile (M · N · 4 bytes)."),
    Advice(
        r"unresolved materialization|tt\.atomic|triton-adapter-opt crashed",
        r'(%[\w.$-]+) = "tt\.atomic_[\s\S]*[(, ]\1[,)]',
        "The result of an atomic cannot be an address here: store it and load it again, or compute the places in one "
        "kernel and use them in another.",
    ),
    Advice(
        r"buffer memory has been released|along control flow edge|Traverse IR Failed",
        r'"scf\.while"',
        "The compiler loses a tile that several while loops change: write them as `for … in range(n)`.",
    ),
    Advice(
        r"hivm\.hir\.\w+' op failed to verify", r"\bf64\b", "No core of the chip computes with float64: use float32."
    ),
    Advice(
        r"Illegal mask for atomicrmwOp|uint32_t_to_half|Failed to propagate memory scope",
        r'"tt\.bitcast".*<f32>[\s\S]*"tt\.atomic_rmw"',
        "An atomic maximum or minimum of floats is not taken: store each program's own, and take the largest of those "
        "in a second kernel.",
    ),
    Advice(
        r"cast uint32_t_to_float|unsupported hfusion binary operation",
        r"arith\.(?:div|rem)ui",
        "A division or remainder of unsigned numbers is not taken: below 2³¹, cast them to int32 first.",
    ),
    Advice(
        r"UseInfo",
        r'"tt\.print"\(\)',
        'tl.device_print needs a value here: tl.device_print("text", 0).',
    ),
    Advice(
        r"reduceOp|tt\.reduce is not taken",
        r"tt\.reduce",
        "A tl.reduce over several values is not taken: reduce them one by one; a variance is tl.sum(v, 0), and then "
        "tl.sum of the squared distances from the mean.",
    ),
    Advice(
        r"tt\.extern_elementwise",
        "",
        "libdevice is Nvidia's, and few of its functions are known here: write this one with tl.exp, tl.log, tl.sqrt "
        "and arithmetic.",
    ),
    Advice(
        r"triton-adapter-opt crashed|unresolved materialization|func\.return",
        r'"cf\.cond_br"',
        "A return inside of a branch, or one of several of a function, is not taken: put the rest under the opposite "
        "condition, or choose the value with tl.where.",
    ),
    Advice(
        r"linalg\.reduce",
        "",
        "A reduction over two values, as tl.argmax and tl.argmin are, is not taken: "
        "tl.min(tl.where(v == tl.max(v, 0), index, LARGE), 0).",
        only_950=True,
    ),
    Advice(
        r"",
        r'"tt\.dot"\((%[\w.-]+), \1,',
        "tl.dot of a tile with itself is not taken: load the tile twice.",
        only_950=True,
    ),
    Advice(
        r"",
        r"f8E\w+",
        "float8 has no arithmetic here: load it as int8, put its bits into a float32 by shifts, and scale by a power "
        "of two.",
    ),
)


_EXCHANGE = 10  # Triton's RMWOp
_COMPARES = (
    "tl.atomic_cas gives back what is in memory after it, not before. Use the result of tl.atomic_add or "
    "tl.atomic_max, which is the old value"
)
_EXCHANGES = (
    "tl.atomic_xchg is dropped by the compiler: the memory stays as it was. Where nobody wants its result, "
    "tl.store does; else let one program load and store"
)


def mistaken(ttir: str, target: object, is_950: bool) -> CompileError | None:
    """The error for a kernel that the vendor's compilers take and make another of, always.

    In the texts of triton-ascend 3.2.0 the copy for the result of an exchange stands behind it, and AscendNPU IR 1.2.0
    leaves nothing of tl.atomic_xchg on the 910.
    """
    if "tt.atomic_cas" not in ttir and "tt.atomic_rmw" not in ttir:
        return None
    function = parameters.kernel_of(mlir_reader.parse(ttir))
    operations = list(mlir.walk(function))
    used = {value for operation in operations for value in operation.operands}
    for operation in operations:
        if operation.name == "tt.atomic_cas" and used.intersection(operation.results):
            reason = _COMPARES
        elif operation.name == "tt.atomic_rmw" and operation.integer("atomic_rmw_op") == _EXCHANGE and not is_950:
            reason = _EXCHANGES
        else:
            continue
        file, line, name = operation.location.file, operation.location.line, function.string("sym_name")
        return CompileError(
            f"{file}:{line}: kernel {name}: {target}: {reason}.", file=file, line=line, reason=reason, kernel=name
        )
    return None


def has_error(log: str) -> bool:
    """Whether a log tells of more than a missing assembler."""
    return bool(_errors(log))


def left_over(linalg: str) -> str:
    """A line for the log that names the first operation of Triton's dialect that is still there, or nothing."""
    text = _FILE.sub("", linalg)
    found = re.search(r"^[^\n]*?\b(tt\.(?!divisibility|tensor_kind|ptr)\w+)[ \"(<][^\n]*$", text, re.MULTILINE)
    if found is None:
        return ""
    place = Places(linalg).of(found[0].rpartition("loc(")[2])
    where = f"{place.file}:{place.line}" if place is not None else ""
    return f"{where}: error: {found[1]} is not taken\n"


def error(ttir: str, target: object, is_950: bool, log: str, died: str, *, is_accident: bool = False) -> CompileError:
    """The error for a kernel: its place, the vendor's most telling line, and advice if there is some."""
    function = parameters.kernel_of(mlir_reader.parse(ttir))
    name = function.string("sym_name")
    lines = _errors(log)
    telling = [line for line in lines if not _EMPTY.search(line)] or lines
    said = telling[0] if telling else died or "the compiler wrote nothing"
    if died and died not in said:
        said = f"{died}: {said}" if telling else died
    place = _users_place(telling[0]) if telling else None
    file, line = place or (function.location.file or None, function.location.line or None)
    reason = _words(said)
    for advice in _ADVICE:
        if advice.only_950 and not is_950:
            continue
        if re.search(advice.log, f"{log}\n{died}") and re.search(advice.module, ttir):
            reason = f"{reason}. {advice.text}"
            break
    where = f"{file}:{line}: " if file else ""
    return CompileError(
        f"{where}kernel {name}: {target}: {reason}", file=file, line=line, reason=reason, kernel=name,
        is_accident=is_accident,
    )  # fmt: skip


def _users_place(said: str) -> tuple[str, int] | None:
    """The innermost file and line that a line of the log names, outside of Triton's own language."""
    for groups in _PLACE.findall(said):
        file, line = (group for group in groups if group)
        if "/triton/language/" not in file:
            return file, int(line)
    return None


def _errors(log: str) -> list[str]:
    return [line.strip() for line in log.splitlines() if _ERROR.search(line) and not _NOT_AN_ERROR.search(line)]


def _words(said: str) -> str:
    """The vendor's words without places, theirs and the kernel's, or their guess at a reason; bits as KiB too."""
    said = re.sub(r"[\w-]+: /\S+:\d+: .*?Assertion `(.*?)' failed.*", r"assertion `\1` failed", said)
    words = re.sub(r"\s*\(possible reason:.*", "", re.sub(r"^.*?\berror: ", "", said)).rstrip(" .!")
    bits = re.search(r"requires (\d+) bits while (\d+) bits available", words)
    return f"{words} ({int(bits[1]) / 8192:g} KiB of {int(bits[2]) / 8192:g})" if bits is not None else words
