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
_SHORT = re.compile(
    r'^( *)(%[\w$.-]+) = "tt\.fp_to_fp"\((%[\w$.-]+)\) <\{rounding = 1 : i32\}> : '
    r"\(((?:\S*x)?b?f16>?)\) -> ((?:\S*x)?b?f16>?)(.*)$",
    re.MULTILINE,
)
_EXTERNAL = re.compile(r'"tt\.extern_elementwise"(\([^()]*\)) <\{[^{}]*symbol = "(\w+)"[^{}]*\}>')
# libdevice's functions that are operations of MLIR, which the vendor lowers; "fast_" forms may be exact ones.
_OF_MATH = "atan ceil cos erf exp exp2 expm1 floor fma log log10 log1p log2 rsqrt sin sqrt tan tanh"
_OPERATIONS = {
    **{name: f"math.{name}" for name in _OF_MATH.split()},
    **{f"fast_{name}": f"math.{name}" for name in ("cos", "exp", "log", "log10", "log2", "sin", "tan", "tanh")},
    "fabs": "math.absf", "pow": "math.powf", "fmax": "arith.maxnumf", "fmin": "arith.minnumf",
    "fast_pow": "math.powf", "fast_fdivide": "arith.divf", "fadd_rn": "arith.addf", "fsub_rn": "arith.subf",
    "fmul_rn": "arith.mulf", "fdiv_rn": "arith.divf", "fsqrt_rn": "math.sqrt", "fma_rn": "math.fma",
}  # fmt: skip
_PLAIN = "<{overflowFlags = #arith.overflow<none>}>"


def vendor_text(ttir: str) -> str:
    """The module's text for triton-adapter-opt 3.2.0, of LLVM 19 and Triton 3.2.

    They have no flags of arith.trunci, no bundles of assumptions and no hints for caches yet, and a barrier has its old
    name; tl.umulhi is written by its parts, float16 becomes bfloat16, and the reverse, by way of float32; a function of
    libdevice, which is Nvidia's, is MLIR's operation where there is one.

    The adapter makes a signed product of tt.mulhiui, so that tl.rand would draw other numbers than elsewhere.
    """
    text = _FLAGS.sub(r"\1", mlir.valid_text(ttir))
    text = _POLICY.sub("", text).replace(" <{}>", "")
    text = _BUNDLES.sub(r"\1", text)
    text = re.sub(r'"ttg\.barrier"\(\) <\{[^}]*\}>', '"gpu.barrier"()', text)
    text = _EXTERNAL.sub(_by_operation, text)
    return _HIGH.sub(_by_halves, _SHORT.sub(_by_float32, text))


def operation_for(symbol: str) -> str | None:
    """What stands for a function of libdevice, by its symbol: "math.tanh" for "__nv_tanhf"."""
    return _OPERATIONS.get(symbol.removeprefix("__nv_").removesuffix("f").replace("fmaf_", "fma_"))


def _by_operation(found: re.Match[str]) -> str:
    operands, symbol = found.groups()
    operation = operation_for(symbol)
    return found[0] if operation is None else f'"{operation}"{operands} <{{fastmath = #arith.fastmath<none>}}>'


def _by_float32(found: re.Match[str]) -> str:
    """A conversion between two floats of 16 bits, which the adapter leaves as it is. Nothing is rounded twice."""
    indent, name, value, source, target, tail = found.groups()
    wide, between = re.sub(r"b?f16", "f32", source), f"%unify_wide_{name[1:]}"  # "%5_wide" would be read as %5
    return (
        f'{indent}{between} = "arith.extf"({value}) : ({source}) -> {wide}{tail}\n'
        f'{indent}{name} = "arith.truncf"({between}) : ({wide}) -> {target}{tail}'
    )


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
