"""What a kernel does to its arguments, read off its TTIR: the same for every target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from . import mlir

# What takes a pointer and neither writes through it nor hands it on. Whatever is not known here may write.
_READERS = ("tt.load", "tt.descriptor_load", "tt.descriptor_gather", "tt.print", "arith.cmpi", "tt.return")
_PASSERS = ("scf.for", "scf.while", "scf.if", "scf.yield", "scf.condition", "cf.br", "cf.cond_br")


def written_arguments(ttir: str) -> frozenset[int]:
    """The numbers of the kernel's arguments that it may write to. An argument that is not among them is only read."""
    module = mlir.parse(ttir)
    kernels = [function for function in module.functions if function.string("sym_visibility") == "public"]
    arguments = {value: index for kernel in kernels for index, value in enumerate(kernel.regions[0].entry.arguments)}
    sources: dict[mlir.Value, list[mlir.Value]] = defaultdict(list)
    pending: list[mlir.Value] = []
    for operation in mlir.walk(module.operation):
        for source, result in _flows(operation):
            sources[result].append(source)
        pointers = [value for value in operation.operands if _is_pointer(value)]
        hands_on = any(map(_is_pointer, operation.results)) or operation.name in _PASSERS
        if pointers and not hands_on and operation.name not in _READERS:
            pending += pointers
    written: set[mlir.Value] = set()
    while pending:
        value = pending.pop()
        if value not in written:
            written.add(value)
            pending += sources[value]
    return frozenset(index for value, index in arguments.items() if value in written)


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
    else:
        targets = [*operation.results, *(value for block in operation.successors for value in block.arguments)]
        for source in filter(_is_pointer, operation.operands):
            yield from ((source, target) for target in targets if _is_pointer(target))


def _is_pointer(value: mlir.Value) -> bool:
    kind = value.type.element if isinstance(value.type, mlir.Tensor) else value.type
    return isinstance(kind, (mlir.Pointer, mlir.Opaque))
