"""math.*: exp, exp2, log and log2 of float as polynomials in registers; the rest from libm and its vector half.

LLVM turns llvm.exp on vectors into a libm call a lane, whatever the vector library options say, so names are explicit.
"""

from __future__ import annotations

import struct

from unify.compiler import mlir
from unify.compiler.cpu.codegen import convert, float8
from unify.compiler.cpu.codegen.arith import intrinsic_call
from unify.compiler.cpu.codegen.emitter import Val
from unify.compiler.cpu.codegen.values import ELEMENTWISE, Elementwise, Kernel, Unsupported, elementwise

# Minimax on [-1/2, 1/2] and [-ln 2 / 2, ln 2 / 2], relative error below half a unit in the last place.
_EXP2 = (1.0, 0.6931472029, 0.2402264791, 0.05550332472, 0.009618437489, 0.001339887441, 0.0001535332919)
_EXP = (1.0, 1.000000032, 0.4999999421, 0.1666643126, 0.0416680026, 0.008374155308, 0.001384362401)
# log(1 + f) = f - f²/2 + f³·P(f) on [√½ - 1, √2 - 1] (Cephes, logf).
_LOG = (
    3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1, -1.2420140846e-1,
    1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2,
)  # fmt: skip
_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4


class _Math:
    """Float arithmetic on registers of one width, in few letters."""

    def __init__(self, k: Kernel, lanes: int) -> None:
        self.k, self.em, self.lanes = k, k.em, lanes

    def number(self, value: float) -> Val:
        bits = struct.pack(">d", struct.unpack("<f", struct.pack("<f", value))[0]).hex().upper()
        return self.em.splat(Val("float", 1, "0x" + bits), self.lanes)

    def integer(self, value: int) -> Val:
        return self.em.splat(Val("i32", 1, str(value)), self.lanes)

    def op(self, instruction: str, a: Val, b: Val, element: str = "") -> Val:
        return self.em.op(element or a.element, self.lanes, f"{instruction} {self.em.typed(a)}, {self.em.text(b)}")

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        return intrinsic_call(self.k, "fma", [a, b, c])

    def cast(self, instruction: str, a: Val, element: str) -> Val:
        return convert.cast(self.k, instruction, a, element)

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        em = self.em
        return em.op(a.element, self.lanes, f"select {em.typed(condition)}, {em.typed(a)}, {em.typed(b)}")

    def polynomial(self, x: Val, coefficients: tuple[float, ...]) -> Val:
        total = self.number(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            total = self.fma(total, x, self.number(c))
        return total

    def clamp(self, x: Val, low: float, high: float) -> Val:
        """Keeps a NaN: with it as second operand, x86's min and max return it."""
        a, b = self.number(low), self.number(high)
        x = self.select(self.op("fcmp ogt", a, x, "i1"), a, x)
        return self.select(self.op("fcmp olt", b, x, "i1"), b, x)

    def scale(self, value: Val, rounded: Val) -> Val:
        """value · 2^rounded, right through overflow and subnormal results."""
        if self.lanes % 16 == 0 and self.k.features.has("avx512f"):
            return self._scalef(value, rounded)
        power = self.cast("fptosi", self.clamp_exponent(rounded), "i32")
        half = self.op("ashr", power, self.integer(1))
        rest = self.op("sub", power, half)
        for part in (half, rest):
            bits = self.op("shl", self.op("add", part, self.integer(127)), self.integer(23))
            value = self.op("fmul", value, self.cast("bitcast", bits, "float"))
        return value

    def clamp_exponent(self, rounded: Val) -> Val:
        # A NaN may take any exponent: its product stays a NaN. Zero keeps the conversion defined.
        nan = self.op("fcmp uno", rounded, rounded, "i1")
        return self.select(nan, self.number(0.0), rounded)

    def _scalef(self, value: Val, rounded: Val) -> Val:
        em, name, type_ = self.em, "@llvm.x86.avx512.mask.scalef.ps.512", "<16 x float>"
        em.declare(name, f"declare {type_} {name}({type_}, {type_}, {type_}, i16, i32)")
        parts = []
        for start in range(0, self.lanes, 16):
            a, b = em.slice(value, start, 16), em.slice(rounded, start, 16)
            call = f"call {type_} {name}({em.typed(a)}, {em.typed(b)}, {type_} zeroinitializer, i16 -1, i32 4)"
            parts.append(em.op("float", 16, call))
        return em.concat(parts)


# Masks make many numbers of this size or below. 2^-254 is scaled by 2^-127 twice, whose bits are those of 0.0: the
# product is exact, where one that underflows costs a Zen 3 tens of cycles.
_ZERO_EXPONENT = -254.0


def exp2(k: Kernel, x: Val) -> Val:
    m = _Math(k, x.lanes)
    x = m.clamp(x, _ZERO_EXPONENT, 200.0)
    whole = intrinsic_call(k, "rint", [x])
    return m.scale(m.polynomial(m.op("fsub", x, whole), _EXP2), whole)


def exp(k: Kernel, x: Val) -> Val:
    m = _Math(k, x.lanes)
    x = m.clamp(x, _ZERO_EXPONENT / _LOG2_E, 150.0)
    whole = intrinsic_call(k, "rint", [m.op("fmul", x, m.number(_LOG2_E))])
    rest = m.fma(whole, m.number(-_LN2_HIGH), x)
    rest = m.fma(whole, m.number(-_LN2_LOW), rest)
    return m.scale(m.polynomial(rest, _EXP), whole)


def _log_parts(k: Kernel, x: Val) -> tuple[_Math, Val, Val, Val]:
    """x = 2^e · (1 + f); returns e, f and log(1 + f) - f."""
    m = _Math(k, x.lanes)
    small = m.op("fcmp olt", x, m.number(1.17549435e-38), "i1")
    scaled = m.select(small, m.op("fmul", x, m.number(8388608.0)), x)
    bits = m.op("sub", m.cast("bitcast", scaled, "i32"), m.integer(0x3F3504F3))  # around √½
    power = m.op("ashr", bits, m.integer(23))
    power = m.op("sub", power, m.select(small, m.integer(23), m.integer(0)))
    mantissa = m.op("add", m.op("and", bits, m.integer(0x7FFFFF)), m.integer(0x3F3504F3))
    f = m.op("fsub", m.cast("bitcast", mantissa, "float"), m.number(1.0))
    square = m.op("fmul", f, f)
    tail = m.op("fmul", m.op("fmul", square, f), m.polynomial(f, _LOG))
    return m, m.cast("sitofp", power, "float"), f, m.fma(square, m.number(-0.5), tail)


def _log_specials(m: _Math, x: Val, result: Val) -> Val:
    infinity, zero = m.number(float("inf")), m.number(0.0)
    result = m.select(m.op("fcmp oeq", x, infinity, "i1"), infinity, result)
    result = m.select(m.op("fcmp oeq", x, zero, "i1"), m.number(float("-inf")), result)
    return m.select(m.op("fcmp ult", x, zero, "i1"), m.number(float("nan")), result)


def log(k: Kernel, x: Val) -> Val:
    m, power, f, tail = _log_parts(k, x)
    tail = m.fma(power, m.number(_LN2_LOW), tail)
    return _log_specials(m, x, m.fma(power, m.number(_LN2_HIGH), m.op("fadd", f, tail)))


def log2(k: Kernel, x: Val) -> Val:
    m, power, f, tail = _log_parts(k, x)
    # log2(e) = 1 + 0.4427: the leading 1 costs no rounding.
    extra = m.fma(tail, m.number(_LOG2_E - 1), m.op("fmul", f, m.number(_LOG2_E - 1)))
    total = m.op("fadd", m.op("fadd", extra, tail), f)
    return _log_specials(m, x, m.op("fadd", total, power))


# ---------------------------------------------------------------- from libm

_MVEC32 = frozenset([
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "erf", "erfc", "exp", "exp2",
    "expm1", "hypot", "log", "log10", "log1p", "log2", "pow", "sin", "sinh", "tan", "tanh",
])  # fmt: skip


def library_call(k: Kernel, name: str, v: list[Val]) -> Val:
    """A libm function by lanes; its vector form where the machine's libm has one."""
    em, element, lanes = k.em, v[0].element, v[0].lanes
    if element not in ("float", "double"):
        return convert.narrowed(k, library_call(k, name, [convert.widened(k, x) for x in v]), element)
    widest = k.features.vector_bytes // (4 if element == "float" else 8)
    if lanes > 1 and name in _MVEC32 and k.features.has("libmvec"):
        if lanes > widest:
            parts = [
                library_call(k, name, [em.slice(x, start, widest) for x in v]) for start in range(0, lanes, widest)
            ]
            return em.concat(parts)
        isa = {64: "e", 32: "d", 16: "b"}.get(lanes * (4 if element == "float" else 8))
        if isa is not None:
            symbol = f"@_ZGV{isa}N{lanes}{'v' * len(v)}_{name}{'f' if element == 'float' else ''}"
            em.declare(
                symbol, f"declare {v[0].type} {symbol}({', '.join(x.type for x in v)}) nounwind willreturn memory(none)"
            )
            return em.op(element, lanes, f"call {v[0].type} {symbol}({', '.join(em.typed(x) for x in v)})")
    symbol = f"@{name}{'f' if element == 'float' else ''}"
    em.declare(symbol, f"declare {element} {symbol}({', '.join(element for _ in v)}) nounwind willreturn memory(none)")
    results = []
    for lane in range(lanes):
        arguments = ", ".join(em.typed(em.extract(x, lane)) for x in v)
        results.append(em.op(element, 1, f"call {element} {symbol}({arguments})"))
    return em.concat(results)


def _function(name: str) -> Elementwise:
    fast = {"exp": exp, "exp2": exp2, "log": log, "log2": log2}.get(name)

    def emit(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
        x = convert.widened(k, v[0])
        if fast is not None and x.element == "float":
            return convert.narrowed(k, fast(k, x), v[0].element)
        return library_call(k, name, v)

    return emit


for _name in sorted(_MVEC32 - {"hypot", "pow"}):
    ELEMENTWISE[f"math.{_name}"] = _function(_name)
ELEMENTWISE["math.powf"] = _function("pow")


def _intrinsic(name: str) -> Elementwise:
    def emit(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
        wide = [convert.widened(k, x) for x in v]
        return convert.narrowed(k, intrinsic_call(k, name, wide), v[0].element)

    return emit


for _name, _llvm in {
    "math.sqrt": "sqrt", "math.floor": "floor", "math.ceil": "ceil", "math.trunc": "trunc",
    "math.round": "round", "math.roundeven": "roundeven", "math.fma": "fma", "tt.precise_sqrt": "sqrt",
    "math.copysign": "copysign",
}.items():  # fmt: skip
    ELEMENTWISE[_name] = _intrinsic(_llvm)


@elementwise("math.rsqrt")
def rsqrt(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    root = intrinsic_call(k, "sqrt", [convert.widened(k, v[0])])
    one = k.em.splat(Val(root.element, 1, "1.0"), root.lanes)
    return convert.narrowed(
        k, k.em.op(root.element, root.lanes, f"fdiv {k.em.typed(one)}, {k.em.text(root)}"), v[0].element
    )


@elementwise("math.absf")
def magnitude(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    if float8.format_of(op.operands[0].type):
        mask = k.em.text(k.em.splat(Val("i8", 1, "127"), v[0].lanes))
        return k.em.op("i8", v[0].lanes, f"and {k.em.typed(v[0])}, {mask}")
    return convert.narrowed(k, intrinsic_call(k, "fabs", [convert.widened(k, v[0])]), v[0].element)


@elementwise("math.absi")
def absolute(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    return intrinsic_call(k, "abs", v, extra=", i1 false")


@elementwise("tt.elementwise_inline_asm")
def inline_assembly(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    raise Unsupported("inline assembly is for one GPU's instruction set", "write it in triton.language")
