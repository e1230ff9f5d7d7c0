"""What a kernel does to its arguments, read off its TTIR: the same for every target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from . import mlir, mlir_reader

# What takes a pointer and neither writes through it nor hands it on. Whatever is not known here may write.
_READERS = (
    "tt.load", "tt.atomic_load", "tt.atomic_poll", "tt.descriptor_load", "tt.descriptor_gather", "tt.print",
    "arith.cmpi", "tt.return",
)  # fmt: skip
_CALLS = ("tt.call", "tt.atomic_rmw", "tt.atomic_cas")  # which may write and hand on
_PASSERS = ("scf.for", "scf.while", "scf.if", "scf.yield", "scf.condition", "cf.br", "cf.cond_br")

# The origin of a pointer that was read from memory or made of a number.
UNKNOWN = -1


def written_arguments(ttir: str) -> frozenset[int]:
    """The numbers of the kernel's arguments that it may write to. An argument that is not among them is only read."""
    module = mlir_reader.parse(ttir)
    written: set[int] = set()
    for kernel in module.functions:
        if kernel.string("sym_visibility") == "public":
            found = origins(kernel)
            for operation in mlir.walk(kernel):
                if not _only_reads(operation):
                    written.update(*(found[value] for value in filter(_is_pointer, operation.operands)))
    return frozenset(written - {UNKNOWN})


def _only_reads(operation: mlir.Operation) -> bool:
    hands_on = any(map(_is_pointer, operation.results)) and operation.name not in _CALLS
    return hands_on or operation.name in _READERS or operation.name in _PASSERS


def origins(kernel: mlir.Operation) -> dict[mlir.Value, frozenset[int]]:
    """For each pointer, or tensor of them: the numbers of the arguments that it may have come from, or UNKNOWN."""
    targets: dict[mlir.Value, list[mlir.Value]] = defaultdict(list)
    pending = [(value, index) for index, value in enumerate(kernel.regions[0].entry.arguments) if _is_pointer(value)]
    for operation in mlir.walk(kernel):
        known = False
        for source, result in _flows(operation):
            targets[source].append(result)
            known = known or _is_pointer(source)
        if not known:
            pending += [(value, UNKNOWN) for value in operation.results if _is_pointer(value)]
    found: dict[mlir.Value, set[int]] = defaultdict(set)
    while pending:
        value, origin = pending.pop()
        if origin not in found[value]:
            found[value].add(origin)
            pending += [(target, origin) for target in targets[value]]
    return defaultdict(frozenset, {value: frozenset(numbers) for value, numbers in found.items()})


def _flows(operation: mlir.Operation) -> Iterator[tuple[mlir.Value, mlir.Value]]:
    """Pairs of values of which the second may point where the first does."""
    regions = [region.entry for region in operation.regions if region.blocks and region.entry.operations]
    if operation.name == "scf.for":  # operands: begin, end, step, and what is carried
        carried = operation.operands[3:]
        ends = regions[0].operations[-1].operands
        for targets in (regions[0].arguments[1:], operation.results):
            yield from zip(carried, targets, strict=True)
            yield from zip(ends, targets, strict=True)
    elif operation.name == "scf.while":
        before, after = regions
        passed_on = before.operations[-1].operands[1:]  # of the condition, behind its bit
        yield from zip(operation.operands, before.arguments, strict=True)
        yield from zip(after.operations[-1].operands, before.arguments, strict=True)
        yield from zip(passed_on, after.arguments, strict=True)
        yield from zip(passed_on, operation.results, strict=True)
    elif operation.name == "scf.if":
        for region in regions:
            yield from zip(region.operations[-1].operands, operation.results, strict=True)
    elif operation.name != "tt.load":  # what a table points to is not the table
        targets = [*operation.results, *(value for block in operation.successors for value in block.arguments)]
        for source in filter(_is_pointer, operation.operands):
            yield from ((source, target) for target in targets if _is_pointer(target))


def _is_pointer(value: mlir.Value) -> bool:
    kind = value.type.element if isinstance(value.type, mlir.Tensor) else value.type
    return isinstance(kind, (mlir.Pointer, mlir.Opaque))
