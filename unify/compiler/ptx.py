"""Reads from PTX which functions can be launched and what they take. Source: Nvidia's PTX ISA, "Kernel Function
Parameters" and "Performance-Tuning Directives".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from unify._errors import CompileError, InvalidArgument

from .signature import layout
from .target import Parameter

_TYPES = {
    ".f16": "fp16", ".bf16": "bf16", ".f32": "fp32", ".f64": "fp64",
    ".s8": "i8", ".s16": "i16", ".s32": "i32", ".s64": "b64",
    ".u8": "b8", ".u16": "b16", ".u32": "b32", ".u64": "b64",  # compilers write these for signed ones too
    ".b8": "b8", ".b16": "b16", ".b32": "b32", ".b64": "b64",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A function that can be launched. threads: what it requires a program to have, None if it takes any number.

    args_bytes: of the packed arguments, None if they end with the last parameter. The others are a Binary's.
    """

    name: str
    parameters: tuple[Parameter, ...]
    threads: int | None = None
    shared_bytes: int = 0
    args_bytes: int | None = None
    cluster: int = 0
    flags: int = 0
    scratch_bytes: int = 0
    scratch_offset: int = 0
    scratch_programs: int = 0


def is_ptx(image: bytes) -> bool:
    """Whether an image is PTX: text that says its version before anything but comments."""
    start = image[:4096]
    return b"\0" not in start.rstrip(b"\0") and b".version" in start and b".target" in start


def entries(text: str) -> dict[str, Entry]:
    """The functions that can be launched, by name. Raises CompileError where the text is not PTX as it is specified."""
    found: dict[str, Entry] = {}
    words = _Words(text)
    while words.skip_past(".entry"):
        entry = _entry(words)
        found[entry.name] = entry
    return found


def find(entries: Mapping[str, Entry], aliases: Mapping[str, str], name: str | None, module: str) -> Entry | None:
    """What is known of a function by its name in the image or in C++, or by an alias; None where nothing is of any.

    name: may be None where there is only one. module: its name, for errors. Raises InvalidArgument, naming near ones.
    """
    known = ", ".join(entries)
    if name is None:
        if len(entries) == 1:
            return next(iter(entries.values()))
        raise InvalidArgument(f"module {module}: which function? {f'It has {known}.' if known else 'Give its name.'}")
    if not entries:
        return None
    in_image = aliases.get(name, name)
    if in_image in entries:
        return entries[in_image]
    # C++ writes what a function takes behind its name (Itanium ABI): _Z5saxpyfPKfPfi.
    instances = [entry for other, entry in entries.items() if other.startswith(f"_Z{len(name)}{name}")]
    if len(instances) == 1:
        return instances[0]
    near = difflib.get_close_matches(name, [*entries, *aliases], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if instances:
        hint = " It is several instances of one template, or overloaded: give name_expressions to tell them apart."
    raise InvalidArgument(f"module {module} has no function {name!r}.{hint} It has {known}.")


class _Words:
    """The words of a text, one after the other: names and directives with their dots, and single other characters."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def skip_past(self, directive: str) -> bool:
        """Goes behind the next `directive` outside comments; False at the end of the text."""
        while True:
            found = self._text.find(directive, self._at)
            if found < 0:
                return False
            line = self._text.rfind("\n", 0, found) + 1
            self._at = found + len(directive)
            is_word = not self._text[self._at : self._at + 1].isalnum()
            if is_word and "//" not in self._text[line:found] and not self._is_in_comment(found):
                return True

    def _is_in_comment(self, at: int) -> bool:
        return self._text.rfind("/*", 0, at) > self._text.rfind("*/", 0, at)

    def next(self) -> str:
        """The next word, "" at the end."""
        text, at = self._text, self._at
        while at < len(text) and (text[at].isspace() or text.startswith(("//", "/*"), at)):
            if text.startswith("//", at):
                at = (text.find("\n", at) + 1) or len(text)
            elif text.startswith("/*", at):
                at = (text.find("*/", at) + 2) if "*/" in text[at:] else len(text)
            else:
                at += 1
        end = at
        while end < len(text) and (text[end].isalnum() or text[end] in "._$%"):
            end += 1
        self._at = max(end, min(at + 1, len(text)))
        return text[at : self._at]

    def number(self) -> int:
        """The next word as a number. Raises CompileError."""
        word = self.next()
        if not (word.isascii() and word.isdigit()):
            raise CompileError(f"PTX: {word!r} stands where a number belongs.", reason="PTX")
        return int(word)


def _entry(words: _Words) -> Entry:
    name = words.next()
    types: list[str] = []
    word = words.next()
    if word == "(":
        word = words.next()
        while word == ".param":
            type_name, word = _parameter(name, words)
            types.append(type_name)
            if word == ",":
                word = words.next()
        if word != ")":
            raise CompileError(f"PTX: the parameters of {name} end with {word!r}, not with ')'.", reason="PTX")
        word = words.next()
    threads = None
    while word not in ("{", ";", ""):
        if word == ".reqntid":
            threads, word = _product(words)
        else:
            word = words.next()
    return Entry(name, layout((f"arg{index}", type_name) for index, type_name in enumerate(types)), threads)


def _parameter(function: str, words: _Words) -> tuple[str, str]:
    """One parameter's type, and the word behind it: `.u64 .ptr .global .align 16 name`, `.align 8 .b8 name[24]`."""
    alignment, base, is_pointer = 1, "", False
    word = words.next()
    while word.startswith("."):
        if word == ".align":
            alignment = words.number()
        elif word == ".ptr":
            is_pointer = True
        elif word in _TYPES:
            base = word
        word = words.next()
    name, word = word, words.next()
    if word == "[":
        count = words.number()
        words.next()  # ]
        return f"bytes[{count * int(base[2:]) // 8}]@{alignment}", words.next()
    if base not in _TYPES:
        raise CompileError(f"PTX: the parameter {name} of {function} has no type that can be passed.", reason="PTX")
    return ("ptr" if is_pointer else _TYPES[base]), word


def _product(words: _Words) -> tuple[int, str]:
    """The product of numbers by commas, and the word behind them."""
    product = words.number()
    word = words.next()
    while word == ",":
        product *= words.number()
        word = words.next()
    return product, word
