"""The table of rules, and their application. A rule is a sentence on what is so, one on what to change, and a source.

Sources: the vendor's guides are those of Triton-Ascend (github.com/triton-lang/triton-ascend, docs/en, April 2026);
"the vendor's compiler" is AscendNPU IR 1.2.0, whose line stands in a finding as its evidence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unify._errors import CompileError
from unify.compiler.places import Place

from . import rules_cuda, rules_linalg, rules_lowered, rules_ttir
from .subject import ERROR, PERFORMANCE, PORTABILITY, Finding, Hit, Subject

_COMPILER = "the vendor's compiler (AscendNPU IR 1.2.0)"
_GUIDE = "Triton-Ascend"


@dataclass(frozen=True)
class Rule:
    """targets: kinds of target, or "910" and "950". what and change may name a hit's details in braces."""

    id: str
    severity: str
    targets: tuple[str, ...]
    what: str
    change: str
    source: str
    find: Callable[[Subject], Iterator[Hit]]

    def applies_to(self, subject: Subject) -> bool:
        """Whether it is about the subject's target."""
        if subject.kind == "ascend" and ("950" if subject.is_950 else "910") in self.targets:
            return True
        return subject.kind in self.targets


_ASCEND = ("ascend",)
RULES = (
    Rule(
        "float64", ERROR, _ASCEND,
        "No core of the chip computes with float64.",
        "Compute in float32, and store float32.",
        f"{_GUIDE}, python-api/outline.md (types); {_COMPILER}: \"should have element type … 32-bit float\"",
        rules_ttir.float64,
    ),
    Rule(
        "float8", ERROR, _ASCEND,
        "float8 is not converted, and on the 910 not computed with.",
        "Load it as int8, shift its bits into a float32 and scale by a power of two.",
        f"{_GUIDE}, python-api/outline.md; {_COMPILER}: \"tt.fp_to_fp\" is left over",
        rules_ttir.float8,
    ),
    Rule(
        "libdevice", ERROR, ("ascend", "cpu"),
        "{symbol} is a function of Nvidia's libdevice, and none of those that are known here.",
        "Write it with tl.exp, tl.log, tl.sqrt, tl.erf and arithmetic, or with the likes of libdevice.tanh, which are.",
        f"{_COMPILER}: \"tt.extern_elementwise\" is left over",
        rules_ttir.libdevice,
    ),
    Rule(
        "inline-assembly", ERROR, ("ascend", "cpu"),
        "Inline assembly is for one kind of chip; here it is PTX, Nvidia's.",
        "Write it in Triton's language, or in a kernel of its own for that chip.",
        f"{_GUIDE}, python-api/outline.md; {_COMPILER} hands it on as it is: llvm.inline_asm",
        rules_ttir.inline_assembly,
    ),
    Rule(
        "masked-load", PORTABILITY, _ASCEND,
        "The whole tile is read, and the mask applied afterwards: places that it leaves out are read too.",
        "Let a tile's mask be a range, as i < n is, or keep its places inside of the array: tl.where(mask, index, 0); "
        "load a single number under an if.",
        "triton-ascend 3.2.0: the select behind the load, or a loop over all elements",
        rules_linalg.masked_load,
    ),
    Rule(
        "masked-store", PORTABILITY, _ASCEND,
        "The whole tile is read, and written back with what the mask leaves out: beyond the array too, and over what "
        "another program wrote meanwhile.",
        "Let the mask be a range, as i < n is, or let no other program write to the tile, and keep it inside of the "
        "array.",
        "triton-ascend 3.2.0: the load and the store of the whole tile",
        rules_linalg.masked_store,
    ),
    Rule(
        "lost-assertion", PORTABILITY, _ASCEND,
        "tl.device_assert is dropped by the compiler.",
        "Write a flag to memory and look at it on the host.",
        f"{_COMPILER}: nothing is left of it",
        rules_linalg.lost_assertion,
    ),
    Rule(
        "barrier", PERFORMANCE, _ASCEND,
        "A program has no threads here, and this waits until all units of its core are done.",
        "Leave tl.debug_barrier out: the compiler waits where it must.",
        f"{_GUIDE}, migrate_from_gpu.md (synchronization); {_COMPILER}: pipe_barrier[<PIPE_ALL>]",
        rules_lowered.barrier,
    ),
    Rule(
        "spin-lock", PORTABILITY, _ASCEND,
        "The loop waits for another program. Blocks start in rounds: one that waits for a later one never ends.",
        "Use two kernels, or atomics that nobody waits for.",
        f"{_GUIDE}, architecture_difference.md (blocks) and environment_variable_reference.md (deadlock)",
        rules_ttir.spin_lock,
    ),
    Rule(
        "early-return", PERFORMANCE, _ASCEND,
        "A kernel whose ways join again behind an early return is not turned into one block for each core: it starts a "
        "block for each program, 65,535 at most.",
        "Put the rest under the opposite condition, or mask it.",
        f"{_GUIDE}, programming_guide.md (blocks and cores) and migrate_from_gpu.md (65,535)",
        rules_ttir.early_return,
    ),
    Rule(
        "atomic-order", PORTABILITY, _ASCEND,
        "Atomics know sem=\"acq_rel\" and scope=\"gpu\" only; others are taken as these without a word.",
        "Leave sem and scope out, and count on no weaker or wider order.",
        f"{_GUIDE}, python-api/outline.md (atomics)",
        rules_ttir.atomic_order,
    ),
    Rule(
        "atomic-in-loop", PORTABILITY, _ASCEND,
        "The vendor wants no tl.atomic_{operation} in a loop; its compiler takes it, with a lock around each round.",
        "Gather in the loop, and do one atomic behind it.",
        f"{_GUIDE}, python-api/outline.md (atomics); {_COMPILER}: sync_block_lock",
        rules_ttir.atomic_in_loop,
    ),
    Rule(
        "dot-float32", PORTABILITY, _ASCEND,
        "tl.dot of float32 is off by about 1e-3 of the result here.",
        "Where that is too much, multiply float16 parts, or sum with tl.sum.",
        f"{_GUIDE}, maintainers in issue 1041",
        rules_ttir.dot_float32,
    ),
    Rule(
        "unrolled", PERFORMANCE, _ASCEND,
        "This line is written out {count} times, and what each one holds is kept in on-chip memory.",
        "Use range in place of tl.static_range.",
        f"{_GUIDE}, issue 2246; {_COMPILER}: the sum of UB",
        rules_ttir.unrolled,
    ),
    Rule(
        "gather", PERFORMANCE, _ASCEND,
        "{count} elements are loaded one by one, by the scalar unit, from places that the compiler cannot foresee.",
        "Load whole rows, or the table once, and pick from it on the chip: tl.gather.",
        f"{_GUIDE}, programming_guide.md (discrete access); {_COMPILER}: memref.load of one element in a loop",
        rules_lowered.gather,
    ),
    Rule(
        "scatter", PERFORMANCE, _ASCEND,
        "{count} elements are stored one by one, in places that the compiler cannot foresee.",
        "Order them on the chip, and store whole rows.",
        f"{_GUIDE}, programming_guide.md (discrete access); {_COMPILER}: a store of one element in a loop",
        rules_lowered.scatter,
    ),
    Rule(
        "wrapped-places", PERFORMANCE, _ASCEND,
        "The places are remainders, so that to the compiler a row is no block of memory, and each element comes alone.",
        "Leave % out of the places, and mask what lies beyond the edge: tl.load(…, mask=rows[:, None] < M).",
        f"{_GUIDE}, programming_guide.md (discrete access); {_COMPILER}: one element in a loop, a row without %",
        rules_lowered.wrapped,
    ),
    Rule(
        "strided-access", PERFORMANCE, _ASCEND,
        "Neighbours of a row lie {stride} apart in memory: the copy takes them one by one, not in rows.",
        "Let the last axis be the one with stride 1, and turn the tile on the chip with tl.trans.",
        f"{_GUIDE}, migrate_from_gpu.md (strides); {_COMPILER}: the strides of the copy",
        rules_lowered.strided,
    ),
    Rule(
        "row-padding", PERFORMANCE, ("910",),
        "A row of {bytes} bytes takes {padded} on the chip, which copies in blocks of 32.",
        "Make rows multiples of 32 bytes, or load the tile as one axis and reshape it.",
        f"{_GUIDE}, migrate_from_gpu.md (tail axis); {_COMPILER}: the strides in UB",
        rules_lowered.row_padding,
    ),
    Rule(
        "scalar-arithmetic", PERFORMANCE, _ASCEND,
        "The scalar unit does this {operation} of {type}, {count} elements one by one.",
        "In place of int64 use int32 or float32; of x % n, x - x // n * n (by float32, exact below 2^24) or x & "
        "(n - 1); of a tile of shifts, one for the whole tile.",
        f"{_GUIDE}, performance_guidelines.md (scalar fallback); {_COMPILER}: arith in a loop over elements",
        rules_lowered.scalar_arithmetic,
    ),
    Rule(
        "sequential-scan", PERFORMANCE, ("910",),
        "The scan goes through {count} elements one by one, by the scalar unit.",
        "Scan along the first axis of a tile, where each step is a whole row, or multiply by a triangle of ones.",
        f"{_COMPILER}: a loop over elements",
        rules_lowered.sequential_scan,
    ),
    Rule(
        "integer-compare", PERFORMANCE, ("910",),
        "A comparison of integers in a tile takes three vector operations: the greater, whether it is equal, not.",
        "Compare in float32, which takes one, where numbers stay below 2^24.",
        f"{_GUIDE}, performance_guidelines.md (comparisons); {_COMPILER}: vmaxs, vcmp_eq, vnot",
        rules_lowered.integer_compare,
    ),
    Rule(
        "integer-division", PORTABILITY, ("910",),
        "Integers of a tile are divided as float32: exact below 2^24 only.",
        "Divide a scalar, shift by a power of two, or keep the numbers small.",
        f"{_GUIDE}, python-api/outline.md (mod); {_COMPILER}: vcast to float, vdiv, vcast",
        rules_lowered.integer_division,
    ),
    Rule(
        "masked-fill", PERFORMANCE, ("910",),
        "The vector unit fills the tile with `other` before the load may start.",
        "Leave `other` out: what is masked off is not stored either.",
        f"{_GUIDE}, performance_guidelines.md (care_padding); {_COMPILER}: broadcast_scalar before the load",
        rules_lowered.masked_fill,
    ),
    Rule(
        "no-double-buffer", PERFORMANCE, ("910",),
        "This load has one place in {memory}, so it waits for the last tile: {used} of {limit} KiB are taken.",
        "Smaller tiles leave room for two.",
        f"{_GUIDE}, performance_guidelines.md (multi-buffer); {_COMPILER}: one address for the buffer",
        rules_lowered.no_double_buffer,
    ),
    Rule(
        "atomic-lock", PERFORMANCE, _ASCEND,
        "This atomic takes a lock that all cores share{around}.",
        "Use tl.atomic_add without its result, or sum in a second kernel.",
        f"{_GUIDE}, python-api/outline.md (atomics); {_COMPILER}: sync_block_lock",
        rules_lowered.atomic_lock,
    ),
    Rule(
        "many-operations", PERFORMANCE, ("910",),
        "What this line calls of Triton's library becomes {count} vector operations.",
        "In place of tl.sort and tl.topk take a few maxima; random numbers may come from memory.",
        f"{_GUIDE}, python-api/outline.md (sort); {_COMPILER}: the calls of its library",
        rules_lowered.many_operations,
    ),
    Rule(
        "cube-to-vector", PERFORMANCE, ("910",),
        "In each round of the loop the product goes through device memory, from the cube core to the vector cores.",
        "Sum in tl.dot(a, b, total) and do the rest behind the loop, where the algorithm allows it.",
        f"{_GUIDE}, architecture_difference.md; {_COMPILER}: fixpipe to gm in the loop",
        rules_lowered.cube_to_vector,
    ),
    Rule(
        "spills", PERFORMANCE, ("cuda",),
        "{bytes} bytes do not fit into registers and go through memory.",
        "Use smaller tiles or more warps.",
        "NVIDIA, CUDA C++ Best Practices Guide, local memory; ptxas",
        rules_cuda.spills,
    ),
    Rule(
        "narrow-access", PERFORMANCE, ("cuda",),
        "Each access of a thread is {bytes} bytes wide.",
        "Let the last axis be contiguous, and its start a multiple of 16: a type with :16, tl.multiple_of.",
        "NVIDIA, CUDA C++ Best Practices Guide, coalesced access; Triton's layout: sizePerThread",
        rules_cuda.narrow_access,
    ),
    Rule(
        "shared-memory", ERROR, ("cuda",),
        "A program takes {used} KiB of shared memory; the GPU has {limit}.",
        "Use smaller tiles or fewer stages.",
        "NVIDIA, CUDA C++ Programming Guide, compute capabilities",
        rules_cuda.shared_memory,
    ),
    Rule(
        "grid", ERROR, (),  # by what a launch asks for, not by what is compiled
        "{programs} programs are launched; at most {limit} blocks start.",
        "Launch fewer, each with a loop over its parts.",
        f"{_GUIDE}, migrate_from_gpu.md (65,535); NVIDIA, CUDA C++ Programming Guide, compute capabilities",
        lambda subject: iter(()),
    ),
)  # fmt: skip
_BLOCKS = 65535


def findings(subject: Subject) -> tuple[Finding, ...]:
    """All that the rules say of one compilation, by line; each rule once a line."""
    found: dict[tuple[str, str, int], Finding] = {}
    for rule in RULES:
        if rule.applies_to(subject):
            try:
                applied = list(rule.find(subject))
            except CompileError:  # TTIR that our reader does not know
                continue
            for hit in applied:
                found.setdefault((rule.id, hit.place.file, hit.place.line), _finding(rule, hit))
    order = (ERROR, PERFORMANCE, PORTABILITY)
    return tuple(sorted(found.values(), key=lambda f: (order.index(f.severity), f.file, f.line, f.rule)))


def of_grid(target: str, grid: tuple[int, int, int], is_persistent: bool, file: str, line: int) -> tuple[Finding, ...]:
    """What a launch with this grid meets."""
    x, y, z = grid
    most = 2**31 - 1 - _BLOCKS if is_persistent else _BLOCKS  # csrc/backends/ascend_kernel.cpp
    if target.startswith("ascend") and x * y * z > most:
        details: dict[str, object] = {"programs": f"{x * y * z:,}", "limit": f"{most:,}"}
    elif target.startswith("cuda") and (max(y, z) > _BLOCKS or x > 2**31 - 1):
        details = {"programs": f"{x:,} × {y:,} × {z:,}", "limit": f"2,147,483,647 × {_BLOCKS:,} × {_BLOCKS:,}"}
    else:
        return ()
    rule = next(rule for rule in RULES if rule.id == "grid")
    return (_finding(rule, Hit(Place(file, line), f"grid {grid}", details)),)


def _finding(rule: Rule, hit: Hit) -> Finding:
    text = f"{rule.what} {rule.change}".format_map(hit.details)
    return Finding(rule.id, rule.severity, text, hit.place.file, hit.place.line, rule.source, hit.evidence)


def as_markdown() -> str:
    """The table of rules, as the docs have it."""
    lines = ["| rule | severity | targets | what | what to change | source |", "|---|---|---|---|---|---|"]
    for rule in RULES:
        names = {"910": "ascend:910…", "950": "ascend:950"}
        targets = ", ".join(names.get(target, target) for target in rule.targets) or "ascend, cuda"
        what, change = (re.sub(r"\{\w+\}", "…", text) for text in (rule.what, rule.change))
        cells = (f"`{rule.id}`", rule.severity, targets, what, change, rule.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
