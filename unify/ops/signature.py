"""A row of the table in signatures.py, and the words that rows are written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .quant import COLUMNS, FORMATS

FEATURES, TOKENS = 4096, 2048
ARRAY, FLOATS, INTS, BYTES, CODES = "*fp16:16", "*fp32:16", "*i32:16", "*u8:16", "*i8:16"
SIZE = "i32:16"  # a number of features, or a stride


@dataclass(frozen=True)
class Signature:
    """A kernel and what to give unify.compile for it: options are num_warps and num_stages.

    form: which of several, where a kernel has more than one row.
    """

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    form: str = ""

    @property
    def name(self) -> str:
        """The kernel's."""
        return str(self.kernel.fn.__name__)

    @property
    def title(self) -> str:
        """The kernel's name and its form, which no other row has."""
        return f"{self.name}:{self.form}" if self.form else self.name


def types(names: str, type_name: str) -> dict[str, str]:
    """Parameters, their names between blanks, of one type."""
    return dict.fromkeys(names.split(), type_name)


def row(
    kernel: Any, parameters: dict[str, Any], launch: Mapping[str, int] = MappingProxyType({}), form: str = ""
) -> Signature:
    """A row of parameters by name: a text is a type, anything else a constant."""
    typed = {name: value for name, value in parameters.items() if isinstance(value, str)}
    constants = {name: value for name, value in parameters.items() if name not in typed}
    return Signature(kernel, typed, constants, dict(launch), form)


def blocks(kind: str) -> dict[str, Any]:
    """The constants of a weight in blocks of 32."""
    layout = FORMATS[kind]
    return {"BITS": layout.bits, "OFFSET": layout.offset, "COLUMNS": COLUMNS}
