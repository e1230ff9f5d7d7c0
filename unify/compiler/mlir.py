"""MLIR as plain dataclasses: types, attributes, operations. Attributes without a class are kept as text (`Raw`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Union

# What the front end adds so that MLIR prints the generic form: no module is valid with it.
NO_LAYOUT = "not a layout"


def valid_text(ttir: str) -> str:
    """A module's text as MLIR itself reads it."""
    attribute = rf'"?llvm.data_layout"? = "{NO_LAYOUT}"'
    return re.sub(rf", {attribute}|{attribute}(, )?", "", ttir)


# ---------------------------------------------------------------- types


@dataclass(frozen=True)
class Scalar:
    """i1 … i64, f16, bf16, f32, f64, f8…, index: whatever is one bare word."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Pointer:
    pointee: Type
    space: int = 1

    def __str__(self) -> str:
        return f"!tt.ptr<{self.pointee}>" if self.space == 1 else f"!tt.ptr<{self.pointee}, {self.space}>"


@dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    element: Type

    def __str__(self) -> str:
        return f"tensor<{''.join(f'{_extent(extent)}x' for extent in self.shape)}{self.element}>"


# In a shape, an offset or a stride: known only when the program runs.
DYNAMIC = -(2**63)


@dataclass(frozen=True)
class Buffer:
    """MLIR's memref: elements in memory. No strides: row-major from its start."""

    shape: tuple[int, ...]
    element: Type
    strides: tuple[int, ...] | None = None
    offset: int = 0

    def __str__(self) -> str:
        layout = ""
        if self.strides is not None:
            offset = f", offset: {_extent(self.offset)}" if self.offset else ""
            layout = f", strided<[{', '.join(map(_extent, self.strides))}]{offset}>"
        return f"memref<{''.join(f'{_extent(extent)}x' for extent in self.shape)}{self.element}{layout}>"


def _extent(value: int) -> str:
    return "?" if value == DYNAMIC else str(value)


@dataclass(frozen=True)
class Function:
    inputs: tuple[Type, ...]
    results: tuple[Type, ...]

    def __str__(self) -> str:
        results = ", ".join(map(str, self.results))
        return f"({', '.join(map(str, self.inputs))}) -> " + (results if len(self.results) == 1 else f"({results})")


@dataclass(frozen=True)
class Opaque:
    """A type that we only carry, e.g. !tt.tensordesc<…>."""

    text: str

    def __str__(self) -> str:
        return self.text


Type = Union[Scalar, Pointer, Tensor, Buffer, Function, Opaque]  # noqa: UP007 - read before 3.10 knew `|` of forward names

# ---------------------------------------------------------------- attributes


@dataclass(frozen=True)
class Typed:
    """A number with its type: 0 : i32, 1.0 : f32. A float keeps its exact bits as a Python float."""

    value: int | float | bool
    type: Type


@dataclass(frozen=True)
class Dense:
    """dense<…> : tensor<…>; one value if it is a splat, else all of them in row-major order."""

    values: tuple[int | float | bool, ...]
    type: Type

    @property
    def is_splat(self) -> bool:
        return len(self.values) == 1


@dataclass(frozen=True)
class Array:
    """array<i32: 1, 2>"""

    values: tuple[int | float | bool, ...]
    element: Type


@dataclass(frozen=True)
class Raw:
    text: str


Attribute = Union[  # noqa: UP007
    Typed,
    Dense,
    Array,
    Raw,
    Scalar,
    Pointer,
    Tensor,
    Buffer,
    Function,
    Opaque,
    str,
    bool,
    list["Attribute"],
    dict[str, "Attribute"],
]

# ---------------------------------------------------------------- structure


@dataclass(frozen=True)
class Location:
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.file else "unknown location"


@dataclass(eq=False)
class Value:
    name: str
    type: Type
    owner: Operation | Block | None = None
    index: int = 0

    def __repr__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclass(eq=False)
class Operation:
    name: str
    operands: list[Value] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    attributes: dict[str, Attribute] = field(default_factory=dict)
    regions: list[Region] = field(default_factory=list)
    successors: list[Block] = field(default_factory=list)
    location: Location = Location()
    parent: Block | None = None

    def integer(self, name: str, default: int = 0) -> int:
        value = self.attributes.get(name)
        return int(value.value) if isinstance(value, Typed) else int(value) if isinstance(value, bool) else default

    def integers(self, name: str) -> tuple[int, ...] | None:
        value = self.attributes.get(name)
        return tuple(int(v) for v in value.values) if isinstance(value, (Array, Dense)) else None

    def string(self, name: str, default: str = "") -> str:
        value = self.attributes.get(name)
        return value if isinstance(value, str) else value.text if isinstance(value, Raw) else default

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self.attributes.get(name)
        return value if isinstance(value, bool) else default

    def __repr__(self) -> str:
        return f"<{self.name} at {self.location}>"


@dataclass(eq=False)
class Block:
    label: str = ""
    arguments: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    parent: Region | None = None


@dataclass(eq=False)
class Region:
    blocks: list[Block] = field(default_factory=list)
    parent: Operation | None = None

    @property
    def entry(self) -> Block:
        return self.blocks[0]


@dataclass(eq=False)
class Module:
    """aliases: the attributes that the module names in front of it, as `#map`, with their texts; no locations."""

    operation: Operation
    aliases: dict[str, str] = field(default_factory=dict)

    @property
    def functions(self) -> list[Operation]:
        return [op for op in self.operation.regions[0].entry.operations if op.name == "tt.func"]


def shape_of(value: Value) -> tuple[int, ...]:
    """() for a scalar."""
    return value.type.shape if isinstance(value.type, Tensor) else ()


def is_inside(value: Value, operation: Operation) -> bool:
    """Whether the value is defined in one of the operation's regions, however deep."""
    owner = value.owner
    block = owner.parent if isinstance(owner, Operation) else owner
    while block is not None and block.parent is not None:
        around = block.parent.parent
        if around is operation:
            return True
        block = around.parent if around is not None else None
    return False


def walk(operation: Operation) -> Iterator[Operation]:
    """The operation and all inside it, in textual order."""
    yield operation
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from walk(inner)
