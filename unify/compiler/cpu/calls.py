"""Calls that Triton's own inliner leaves: of functions with several returns, inside a loop or branch.

Each call gets a copy of the function's body as its region, so that the code generator sees one function only.
"""

from __future__ import annotations

from unify._errors import CompileError
from unify.compiler import mlir


def expand(kernel: mlir.Operation, module: mlir.Module) -> None:
    """Gives every tt.call below `kernel` its callee's body. Raises CompileError for recursion."""
    functions = {f.string("sym_name"): f for f in module.functions}
    _expand(kernel, functions, (kernel.string("sym_name"),))


def _expand(operation: mlir.Operation, functions: dict[str, mlir.Operation], inside: tuple[str, ...]) -> None:
    for op in list(mlir.walk(operation)):
        if op.name != "tt.call" or op.regions:
            continue
        name = op.string("callee").strip('@"')
        if name in inside:
            raise CompileError(f"{op.location}: {name} calls itself; a kernel cannot recurse.")
        op.regions = [_copy(functions[name].regions[0], op)]
        _expand(op, functions, (*inside, name))


def _copy(
    region: mlir.Region, parent: mlir.Operation, values: dict[mlir.Value, mlir.Value] | None = None
) -> mlir.Region:
    values = {} if values is None else values
    copy = mlir.Region(parent=parent)
    blocks = {block: mlir.Block(block.label, parent=copy) for block in region.blocks}
    for block, new in blocks.items():
        copy.blocks.append(new)
        new.arguments = [_value(v, new, values) for v in block.arguments]
    for block, new in blocks.items():
        for op in block.operations:
            made = mlir.Operation(
                op.name, list(op.operands), attributes=op.attributes, location=op.location, parent=new,
                successors=[blocks[b] for b in op.successors],
            )  # fmt: skip
            made.results = [_value(v, made, values) for v in op.results]
            made.regions = [_copy(inner, made, values) for inner in op.regions]
            new.operations.append(made)
    # A block may use what a later one in the text defines.
    for new in copy.blocks:
        for op in new.operations:
            op.operands = [values.get(v, v) for v in op.operands]
    return copy


def _value(value: mlir.Value, owner: mlir.Operation | mlir.Block, values: dict[mlir.Value, mlir.Value]) -> mlir.Value:
    values[value] = mlir.Value(value.name, value.type, owner, value.index)
    return values[value]
