"""The vendor's linalg text to loops over buffers, through the vendor's own passes: what we write code for.

Named operations become `linalg.generic`, elementwise ones melt into their only user, tensors become buffers.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from unify._errors import CompileError
from unify.compiler.places import Places

# All that is elementwise or a reduction may be fused; products stay alone, or what feeds them would be computed for
# each row and column again.
_GENERALISED = ("reduce", "broadcast", "fill", "transpose", "map")
_SCHEDULE = f"""module attributes {{transform.with_named_sequence}} {{
  transform.named_sequence @__transform_main(%root: !transform.any_op {{transform.readonly}}) {{
    %named = transform.structured.match ops{{[{", ".join(f'"linalg.{name}"' for name in _GENERALISED)}]}} in %root
      : (!transform.any_op) -> !transform.any_op
    %generic = transform.structured.generalize %named : (!transform.any_op) -> !transform.any_op
    transform.yield
  }}
}}
"""
_PASSES = (
    "--hfusion-decompose",
    "--execution-engine-convert-hfusion-to-upstream",
    "--inline",
    "--convert-elementwise-to-linalg",
    "--transform-interpreter",
    "--canonicalize",
    "--cse",
    "--linalg-fuse-elementwise-ops",
    "--canonicalize",
    "--cse",
    "--eliminate-empty-tensors",
    "--one-shot-bufferize=allow-return-allocs-from-loops=true",
    "--canonicalize",
    "--cse",
    "--linalg-generalize-named-ops",
    "--mlir-print-op-generic",
    "--mlir-print-debuginfo",
)
_TIMEOUT_S = 300
_ERROR = re.compile(r"^(?P<place>(?P<file>[^\n]+?):(?P<line>\d+):\d+): error: (?P<what>.+)$", re.MULTILINE)
_FOREIGN = re.compile(r"Dialect `\w+' not found for custom op '([\w.]+)'")
# A hint to the vendor's own later passes. Its use keeps tensors alive that are otherwise folded away.
_MARK = re.compile(r"^[ \t]*annotation\.mark .*$", re.MULTILINE)
# A choice of the greatest or least whose result begins with nothing: the chip brings the start itself.
_UNSTARTED = re.compile(
    r"^( *)(%(\w+):\d+ = linalg\.reduce ins\(.*\) outs\()(%\w+)(, %\w+ : (tensor<(?:\d+x)*(b?f|i)(\d+)>)"
    r'.*reduce_mode = "(max|min)_with_index".*)$',
    re.MULTILINE,
)
_INFINITY = {"f16": 0x7C00, "bf16": 0x7F80, "f32": 0x7F80_0000, "f64": 0x7FF0_0000_0000_0000}


def to_buffers(linalg: str, tool: Path) -> str:
    """Returns the module in generic form, with locations. `tool` is bishengir-opt. Raises CompileError."""
    linalg = _UNSTARTED.sub(lambda found: _started(found, linalg), _MARK.sub("", linalg))
    with tempfile.TemporaryDirectory(prefix="unify-emulator-") as folder:
        source, schedule = Path(folder, "kernel.mlir"), Path(folder, "schedule.mlir")
        source.write_text(linalg)
        schedule.write_text(_SCHEDULE)
        command = [str(tool), str(source), f"--transform-preload-library=transform-library-paths={schedule}", *_PASSES]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)  # noqa: S603
        except subprocess.TimeoutExpired:
            raise CompileError(f"emulator: {tool.name} was not done after {_TIMEOUT_S} s.") from None
        if done.returncode != 0:
            raise _failure(done.stderr, tool, str(source), linalg)
    return done.stdout


def _started(found: re.Match[str], linalg: str) -> str:
    indent, before, result, out, after, tensor, letter, width, mode = found.groups()
    if re.search(rf"^ *{out} = tensor\.empty", linalg, re.MULTILINE) is None:
        return found[0]
    element, bits = f"{letter}{width}", int(width)
    if letter == "i":
        start = str(-(1 << bits - 1) if mode == "max" else (1 << bits - 1) - 1)
    else:
        start = hex(_INFINITY[element] | (1 << bits - 1 if mode == "max" else 0))
    number, filled = f"%unify_start_{result}", f"%unify_started_{result}"
    return (
        f"{indent}{number} = arith.constant {start} : {element}\n"
        f"{indent}{filled} = linalg.fill ins({number} : {element}) outs({out} : {tensor}) -> {tensor}\n"
        f"{indent}{before}{filled}{after}"
    )


def _failure(stderr: str, tool: Path, source: str, linalg: str) -> CompileError:
    found = _ERROR.search(stderr)
    if found is None:
        reason = stderr.strip().splitlines()[:1] or ["it said nothing"]
        return CompileError(f"emulator: {tool.name} cannot prepare this kernel to run on the CPU: {reason[0]}")
    what, file, line = found["what"], found["file"], int(found["line"])
    foreign = _FOREIGN.search(what)
    if foreign is not None:
        what = f"the vendor's compiler left {foreign[1]} as it was, which no later stage knows"
    if file == source:
        text = "".join(linalg.splitlines()[line - 1 : line])
        place = Places(linalg).of(text.rpartition("loc(")[2])
        if place is None:
            return CompileError(f"emulator: line {line} of the vendor's linalg text: {what}")
        file, line = place.file, place.line
    error = CompileError(f"{file}:{line}: {what}")
    error.file, error.line, error.reason = file, line, what
    return error
