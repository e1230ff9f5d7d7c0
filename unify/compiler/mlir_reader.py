"""MLIR's generic textual form to the dataclasses of mlir.py.

Only the generic form is read: its grammar is the same for every operation, so that no release of Triton changes it.
Locations are resolved to file, line and column.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from unify._errors import CompileError

from .mlir import (
    DYNAMIC,
    Array,
    Attribute,
    Block,
    Buffer,
    Dense,
    Function,
    Location,
    Module,
    Opaque,
    Operation,
    Pointer,
    Raw,
    Region,
    Scalar,
    Tensor,
    Type,
    Typed,
    Value,
)

_TOKEN = re.compile(
    r"""\s*(?://[^\n]*\s*)*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<value>%[\w$.-]+(?:\#\d+)?)
    | (?P<block>\^[\w$.-]+)
    | (?P<float>-?\d+\.\d*(?:[eE][-+]?\d+)?)
    | (?P<hex>-?0x[0-9a-fA-F]+(?![0-9a-zA-Z]))
    | (?P<number>-?\d+(?![\dx]))
    | (?P<symbol>[@\#!]?[A-Za-z_][\w$.]*|@"[^"]*")
    | (?P<arrow>->)
    | (?P<dimension>(?:\d+|\?)x)
    | (?P<punctuation>[()<>{}\[\]:,=?*+|-])
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\([0-9A-Fa-f]{2}|.)")
_ADDRESS_SPACES = {"global": 1, "descriptor": 0, "constant": 4}  # TritonTypeEnums.td
_FLOAT_BITS = {"f64": ("<Q", "<d"), "f32": ("<I", "<f"), "f16": ("<H", "<e")}


def parse(text: str) -> Module:
    """Reads one module in generic form, with or without locations. Raises CompileError where the text is not that."""
    return _Reader(text).module()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.locations: dict[str, Location] = {}
        self._pending: dict[str, str] = {}
        self.scopes: list[dict[str, Value]] = [{}]
        self.labels: list[dict[str, Block]] = []
        self.kind, self.token = "", ""
        self._collect_locations()
        self._advance()

    # -- tokens

    def _advance(self) -> None:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            if self.text[self.position :].strip():
                self._fail("unexpected text")
            self.kind, self.token = "end", ""
            return
        self.position = match.end()
        self.kind = match.lastgroup or ""
        self.token = match.group(self.kind)

    def _fail(self, what: str) -> None:
        line = self.text.count("\n", 0, self.position) + 1
        near = self.text[max(0, self.position - 40) : self.position + 40].replace("\n", " ")
        raise CompileError(
            f"MLIR text, line {line}: {what} at '{self.token}', near '…{near}…'. This is a bug of unify."
        )

    def _accept(self, token: str) -> bool:
        if self.token == token and self.kind != "string":
            self._advance()
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            self._fail(f"expected '{token}'")

    def _until(self, end: str) -> Iterator[None]:
        """Goes on until `end` was taken, over the commas between what is read meanwhile."""
        while not self._accept(end):
            if self.kind == "end":
                self._fail(f"expected '{end}'")
            yield
            self._accept(",")

    def _take(self, kind: str) -> str:
        if self.kind != kind:
            self._fail(f"expected a {kind}")
        token = self.token
        self._advance()
        return token

    # -- locations

    def _collect_locations(self) -> None:
        for match in re.finditer(r"^(#loc\d*) = loc\((.*)\)$", self.text, re.MULTILINE):
            self._pending[match.group(1)] = match.group(2)
        end = re.search(r"^#loc\d* = loc", self.text, re.MULTILINE)
        if end is not None and self.text[: end.start()].strip():
            self.text = self.text[: end.start()]
        else:  # aliases printed in front of the module
            self.text = re.sub(r"^#loc\d* = loc.*$", "", self.text, flags=re.MULTILINE)
        # Other aliases (of maps and loop hints, say) read as bare words where they are used.
        self.aliases = dict(re.findall(r"^(#(?!loc\d* )\w+) = (.*)$", self.text, re.MULTILINE))
        self.text = re.sub(r"^#(?!loc\d* )\w+ = .*$", "", self.text, flags=re.MULTILINE)

    def _resolve(self, body: str, depth: int = 0) -> Location:
        """file:line:column of a location; of a call site the callee's, of a named or fused one what is inside."""
        known = self.locations.get(body)
        if known is not None:
            return known
        found = Location()
        direct = re.match(r'"((?:[^"\\]|\\.)*)":(\d+):(\d+)', body)
        if direct:
            found = Location(_unescape(direct.group(1)), int(direct.group(2)), int(direct.group(3)))
        elif depth < 64:
            for alias in re.findall(r"#loc\d*", body):
                found = self._resolve(self._pending.get(alias, ""), depth + 1)
                if found.file:
                    break
            else:
                inner = re.search(r'"(?:[^"\\]|\\.)*":\d+:\d+', body)
                found = self._resolve(inner.group(0), depth + 1) if inner else found
        self.locations[body] = found
        return found

    def _location(self) -> Location:
        if self.token != "loc" or self.kind != "symbol":
            return Location()
        start = self.position
        self._advance()
        begin, depth = self.position, 0
        while True:  # balanced parentheses
            depth += self.token == "(" and self.kind != "string"
            depth -= self.token == ")" and self.kind != "string"
            end = self.position
            self._advance()
            if depth == 0:
                break
            if self.kind == "end":
                self._fail(f"a location that starts at {start} never ends")
        return self._resolve(self.text[begin : end - 1].strip())

    # -- types

    def _address_space(self) -> int:
        """A number, or since Triton 3.9 a name in quotes."""
        if self.kind != "string":
            return int(self._take("number"))
        name = self._take("string")[1:-1]
        if name not in _ADDRESS_SPACES:
            self._fail(f"a pointer's space is one of {', '.join(_ADDRESS_SPACES)}")
        return _ADDRESS_SPACES[name]

    def _type(self) -> Type:
        if self.kind == "symbol":
            word = self.token
            if word == "tensor":
                self._advance()
                return self._tensor()
            if word == "memref":
                self._advance()
                return self._buffer()
            if word == "!tt.ptr":
                self._advance()
                self._expect("<")
                pointee = self._type()
                space = self._address_space() if self._accept(",") else 1
                self._expect(">")
                return Pointer(pointee, space)
            self._advance()
            if word.startswith("!"):
                return Opaque(word + self._balanced())
            return Scalar(word)
        if self.token == "(":
            inputs = self._types()
            self._expect("->")
            return Function(tuple(inputs), tuple(self._types()))
        self._fail("expected a type")
        raise AssertionError

    def _tensor(self) -> Type:
        self._expect("<")
        shape = self._shape()
        element = self._type()
        if self._accept(","):  # an encoding: no TTIR of ours has one, keep it out of the type
            self._attribute()
        self._expect(">")
        return Tensor(tuple(shape), element)

    def _shape(self) -> list[int]:
        shape = []
        while self.kind == "dimension":
            extent = self._take("dimension")[:-1]
            shape.append(DYNAMIC if extent == "?" else int(extent))
        return shape

    def _buffer(self) -> Type:
        self._expect("<")
        shape, element = self._shape(), self._type()
        strides, offset = None, 0
        while self._accept(","):
            if not self._accept("strided"):  # a memory space: all of it is one here
                self._attribute()
                continue
            self._expect("<")
            self._expect("[")
            strides = tuple(self._extent() for _ in self._until("]"))
            if self._accept(","):
                self._expect("offset")
                self._expect(":")
                offset = self._extent()
            self._expect(">")
        self._expect(">")
        return Buffer(tuple(shape), element, strides, offset)

    def _extent(self) -> int:
        return DYNAMIC if self._accept("?") else int(self._take("number"))

    def _types(self) -> list[Type]:
        if not self._accept("("):
            return [self._type()]
        return [self._type() for _ in self._until(")")]

    def _balanced(self) -> str:
        """The text of <…> if one follows."""
        if self.token != "<":
            return ""
        start, depth = self.position - 1, 0
        while True:
            depth += self.token == "<"
            depth -= self.token == ">"
            end = self.position
            self._advance()
            if depth == 0 or self.kind == "end":
                return self.text[start:end]

    # -- attributes

    def _attribute(self) -> Attribute:
        kind, token = self.kind, self.token
        if kind == "string":
            self._advance()
            return _unescape(token[1:-1])
        if kind in ("number", "float", "hex"):
            return self._number()
        if token == "[":
            self._advance()
            return [self._attribute() for _ in self._until("]")]
        if token == "{":
            return self._dictionary("{", "}")
        if token in ("true", "false"):
            self._advance()
            return token == "true"
        if token == "unit":
            self._advance()
            return True
        if token == "dense":
            return self._dense()
        if token == "array":
            return self._array()
        if kind == "symbol" and token[0] in "#@":
            self._advance()
            text = token + self._balanced()
            return token[1:].strip('"') if token[0] == "@" else Raw(text)
        return self._type()

    def _literal(self) -> int | float | bool | str:
        kind, token = self.kind, self.token
        self._advance()
        if kind == "float":
            return float(token)
        if kind == "number":
            return int(token)
        if token in ("true", "false"):
            return token == "true"
        if kind in ("hex", "string"):
            return token
        self._fail("expected a number")
        raise AssertionError

    def _number(self) -> Attribute:
        value = self._literal()
        if not self._accept(":"):
            return Typed(_decode(value, Scalar("i64")), Scalar("i64"))
        type_ = self._type()
        return Typed(_decode(value, type_), type_)

    def _dense(self) -> Dense:
        self._expect("dense")
        self._expect("<")
        values: list[int | float | bool | str] = []
        for _ in self._until(">"):
            if not any(self._accept(mark) for mark in "[],"):
                values.append(self._literal())
        self._expect(":")
        type_ = self._type()
        element = type_.element if isinstance(type_, Tensor) else type_
        if len(values) == 1 and isinstance(values[0], str) and values[0].startswith('"'):
            return Dense(_decode_blob(values[0], element), type_)
        return Dense(tuple(_decode(value, element) for value in values), type_)

    def _array(self) -> Array:
        self._expect("array")
        self._expect("<")
        element = self._type()
        self._accept(":")  # absent if there is no value
        values = [_decode(self._literal(), element) for _ in self._until(">")]
        return Array(tuple(values), element)

    def _dictionary(self, start: str, end: str) -> dict[str, Attribute]:
        self._expect(start)
        entries: dict[str, Attribute] = {}
        for _ in self._until(end):
            key = self.token.strip('"')
            self._advance()
            entries[key] = self._attribute() if self._accept("=") else True
        return entries

    # -- operations

    def module(self) -> Module:
        operation = self._operation()
        if operation.name != "builtin.module":
            self._fail(f"expected builtin.module, found {operation.name}")
        if self.kind != "end":
            self._fail("expected the end of the module's text")
        return Module(operation, self.aliases)

    def _lookup(self, name: str, type_: Type | None = None) -> Value:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        value = Value(name, type_ or Opaque("?"))  # used before its block is printed
        self.scopes[-1][name] = value
        return value

    def _define(self, name: str, type_: Type, owner: Operation | Block, index: int) -> Value:
        value = self.scopes[-1].get(name)
        if value is None or value.owner is not None:
            value = Value(name, type_)
            self.scopes[-1][name] = value
        value.type, value.owner, value.index = type_, owner, index
        return value

    def _result_names(self) -> list[str]:
        names: list[str] = []
        while self.kind == "value":
            name = self.token
            self._advance()
            if self._accept(":"):
                names += [f"{name}#{i}" for i in range(int(self._take("number")))]
            else:
                names.append(name)
            self._accept(",")
        if names:
            self._expect("=")
        return names

    def _operation(self) -> Operation:
        names = self._result_names()
        op = Operation(_unescape(self._take("string")[1:-1]))
        self._expect("(")
        operand_names = [self._take("value") for _ in self._until(")")]
        if self._accept("["):
            op.successors = [self._label(self._take("block")) for _ in self._until("]")]
        if self.token == "<":
            self._advance()
            op.attributes.update(self._dictionary("{", "}"))
            self._expect(">")
        if self._accept("("):
            op.regions = [self._region(op) for _ in self._until(")")]
        if self.token == "{":
            op.attributes.update(self._dictionary("{", "}"))
        self._expect(":")
        inputs = self._types()
        self._expect("->")
        results = self._types()
        op.location = self._location()
        op.operands = [self._lookup(name, type_) for name, type_ in zip(operand_names, inputs)]
        op.results = [self._define(name, type_, op, i) for i, (name, type_) in enumerate(zip(names, results))]
        return op

    def _label(self, name: str) -> Block:
        return self.labels[-1].setdefault(name, Block(name))

    def _region(self, parent: Operation) -> Region:
        region = Region(parent=parent)
        self._expect("{")
        self.scopes.append({})
        self.labels.append({})
        for _ in self._until("}"):
            if self.kind not in ("block", "value", "string"):
                self._fail("expected an operation")
            block = self._block_header() if self.kind == "block" else Block()
            block.parent = region
            region.blocks.append(block)
            while self.kind in ("value", "string"):
                op = self._operation()
                op.parent = block
                block.operations.append(op)
        if not region.blocks:
            region.blocks.append(Block(parent=region))
        self.scopes.pop()
        self.labels.pop()
        return region

    def _block_header(self) -> Block:
        block = self._label(self._take("block"))
        if self._accept("("):
            for _ in self._until(")"):
                name = self._take("value")
                self._expect(":")
                type_ = self._type()
                block.arguments.append(self._define(name, type_, block, len(block.arguments)))
                self._location()
        self._expect(":")
        return block


def _unescape(text: str) -> str:
    """A string's text. MLIR writes each byte of a character beyond ASCII by its number."""
    if "\\" not in text:
        return text
    found = _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]) if len(m[1]) == 2 else m[1], text.encode())
    return found.decode(errors="replace")


def _from_bits(bits: int, name: str) -> float:
    if name == "bf16":
        bits, name = bits << 16, "f32"
    if name not in _FLOAT_BITS:
        raise CompileError(f"MLIR text: a constant of type {name} in hexadecimal is not supported.")
    integer, floating = _FLOAT_BITS[name]
    return float(struct.unpack(floating, struct.pack(integer, bits))[0])


def _decode(value: int | float | bool | str, type_: Type) -> int | float | bool:
    if not isinstance(value, str):
        return value
    bits = int(value, 16)
    if isinstance(type_, Scalar) and type_.name[0] in "fb" and type_.name != "b":
        return _from_bits(bits, type_.name)
    return bits


def _decode_blob(text: str, element: Type) -> tuple[int | float | bool, ...]:
    """dense<"0x…">: the little-endian bytes of all elements."""
    data = bytes.fromhex(text.strip('"')[2:])
    name = str(element)
    if name == "i1":
        return tuple(bool(data[i // 8] >> (i % 8) & 1) for i in range(len(data) * 8))
    width = int(re.sub(r"\D", "", name)) // 8
    numbers = [int.from_bytes(data[i : i + width], "little", signed=name[0] == "i") for i in range(0, len(data), width)]
    return tuple(numbers) if name[0] == "i" else tuple(_from_bits(bits, name) for bits in numbers)
