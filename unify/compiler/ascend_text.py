"""TTIR as Huawei's programs read it rightly: they come with an older MLIR, and lower one operation wrongly."""

from __future__ import annotations

import re

from unify.compiler import mlir

_FLAGS = re.compile(r'("arith\.trunci"\([^()]*\)) <\{overflowFlags = #arith\.overflow<\w+>\}>')
_POLICY = re.compile(r", cachePolicy = #tt\.cache_policy<[^>]*>|cachePolicy = #tt\.cache_policy<[^>]*>(?:, )?")
_BUNDLES = re.compile(r'("llvm\.intr\.assume"\([^()]*\)) <\{op_bundle_sizes = array<i32>\}>')
_HIGH = re.compile(
    r'^( *)(%[\w$.-]+) = "tt\.mulhiui"\((%[\w$.-]+), (%[\w$.-]+)\) : \((\S+), \S+\) -> \S+(.*)$', re.MULTILINE
)
_PLAIN = "<{overflowFlags = #arith.overflow<none>}>"


def vendor_text(ttir: str) -> str:
    """The module's text for triton-adapter-opt 3.2.0, of LLVM 19 and Triton 3.2.

    They have no flags of arith.trunci, no bundles of assumptions and no hints for caches yet, and a barrier has its old
    name; tl.umulhi is written by its parts.

    The adapter makes a signed product of tt.mulhiui, so that tl.rand would draw other numbers than elsewhere.
    """
    text = _FLAGS.sub(r"\1", mlir.valid_text(ttir))
    text = _POLICY.sub("", text).replace(" <{}>", "")
    text = _BUNDLES.sub(r"\1", text)
    text = re.sub(r'"ttg\.barrier"\(\) <\{[^}]*\}>', '"gpu.barrier"()', text)
    return _HIGH.sub(_by_halves, text)


def _by_halves(found: re.Match[str]) -> str:
    """The upper half of an unsigned product, of four products of halves (Warren, Hacker's Delight, 8-2)."""
    indent, name, a, b, type_, tail = found.groups()
    half = int(type_.rstrip(">").rpartition("i")[2]) // 2
    lines: list[str] = []

    def value(suffix: str, operation: str, *operands: str, flags: str = "") -> str:
        new = f"%unify_{name[1:]}_{suffix}" if suffix else name  # after digits alone no letter may follow
        types = ", ".join([type_] * len(operands))
        lines.append(f'{indent}{new} = "arith.{operation}"({", ".join(operands)}){flags} : ({types}) -> {type_}{tail}')
        return new

    def constant(suffix: str, number: int) -> str:
        dense = f"dense<{number}>" if type_.startswith("tensor") else str(number)
        return value(suffix, "constant", flags=f" <{{value = {dense} : {type_}}}>")

    def product(suffix: str, left: str, right: str) -> str:
        return value(suffix, "muli", left, right, flags=f" {_PLAIN}")

    def total(suffix: str, left: str, right: str) -> str:
        return value(suffix, "addi", left, right, flags=f" {_PLAIN}")

    width, lower = constant("width", half), constant("lower", (1 << half) - 1)
    a_low, a_high = value("a_low", "andi", a, lower), value("a_high", "shrui", a, width)
    b_low, b_high = value("b_low", "andi", b, lower), value("b_high", "shrui", b, width)
    carry = value("carry", "shrui", product("low", a_low, b_low), width)
    middle = total("middle", product("cross", a_high, b_low), carry)
    other = total("other", product("crossed", a_low, b_high), value("rest", "andi", middle, lower))
    upper = total("upper", product("high", a_high, b_high), value("over", "shrui", middle, width))
    total("", upper, value("beyond", "shrui", other, width))
    return "\n".join(lines)
