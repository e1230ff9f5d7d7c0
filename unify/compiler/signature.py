"""How a kernel's parameters are packed: one C struct, naturally aligned, the same for every target."""

from __future__ import annotations

from unify._errors import CompileError

from . import mlir

_NAMES = {"f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp64"}
_BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}


def kernel_of(module: mlir.Module) -> mlir.Operation:
    """The one public function of a module. Raises CompileError."""
    public = [f for f in module.functions if f.string("sym_visibility") == "public"]
    if len(public) != 1:
        raise CompileError(f"expected one kernel in the module, found {len(public)}.")
    return public[0]


def packed(function: mlir.Operation) -> tuple[list[tuple[str, str, int]], int]:
    """Name, Triton's type and offset of each parameter, and where the last one ends. Raises CompileError."""
    end, found = 0, []
    for argument in function.regions[0].entry.arguments:
        type_ = argument.type
        if isinstance(type_, mlir.Pointer):
            size, name = 8, f"*{_NAMES.get(str(type_.pointee), str(type_.pointee))}"
        elif str(type_) in _BYTES:
            size, name = _BYTES[str(type_)], _NAMES.get(str(type_), str(type_))
        else:
            place, kernel = function.location, function.string("sym_name")
            raise CompileError(
                f"{place}: kernel {kernel}: a parameter of type {type_} cannot be passed.",
                file=place.file,
                line=place.line,
                kernel=kernel,
            )
        offset = (end + size - 1) // size * size
        found.append((argument.name.lstrip("%"), name, offset))
        end = offset + size
    return found, end
