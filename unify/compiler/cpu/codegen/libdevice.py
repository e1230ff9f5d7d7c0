"""tt.extern_elementwise: the functions of `tl.extra.libdevice`, by the names that Triton's CUDA module gives them.

Most are libm's; what libm lacks is written out. Rounding modes other than to nearest are refused.
"""

from __future__ import annotations

import math as pymath
import re
from collections.abc import Callable

from unify.compiler import mlir
from unify.compiler.cpu.codegen import math
from unify.compiler.cpu.codegen.arith import intrinsic_call, literal
from unify.compiler.cpu.codegen.convert import cast
from unify.compiler.cpu.codegen.emitter import BYTES, FLOATS, Val
from unify.compiler.cpu.codegen.values import Kernel, Unsupported, element_of, elementwise


class Calculator:
    """Arithmetic on registers of one type and width."""

    def __init__(self, k: Kernel, like: Val) -> None:
        self.k, self.em, self.element, self.lanes = k, k.em, like.element, like.lanes

    def number(self, value: float) -> Val:
        return self.em.splat(Val(self.element, 1, literal(value, self.element)), self.lanes)

    def op(self, instruction: str, a: Val, b: Val | float, element: str = "") -> Val:
        other = b if isinstance(b, Val) else self.number(b)
        return self.em.op(element or a.element, self.lanes, f"{instruction} {self.em.typed(a)}, {self.em.text(other)}")

    def add(self, a: Val, b: Val | float) -> Val:
        return self.op("fadd", a, b)

    def sub(self, a: Val, b: Val | float) -> Val:
        return self.op("fsub", a, b)

    def mul(self, a: Val, b: Val | float) -> Val:
        return self.op("fmul", a, b)

    def div(self, a: Val | float, b: Val | float) -> Val:
        return self.op("fdiv", a if isinstance(a, Val) else self.number(a), b)

    def less(self, a: Val, b: Val | float) -> Val:
        return self.op("fcmp olt", a, b, "i1")

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        em = self.em
        return em.op(a.element, self.lanes, f"select {em.typed(condition)}, {em.typed(a)}, {em.typed(b)}")

    def call(self, name: str, *values: Val) -> Val:
        return math.library_call(self.k, name, list(values))

    def root(self, x: Val) -> Val:
        return intrinsic_call(self.k, "sqrt", [x])

    def magnitude(self, x: Val) -> Val:
        return intrinsic_call(self.k, "fabs", [x])

    def polynomial(self, x: Val, coefficients: tuple[float, ...]) -> Val:
        total = self.number(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            total = self.add(self.mul(total, x), c)
        return total


Function = Callable[[Calculator, list[Val]], Val]


def _in_double(function: Function) -> Function:
    """For formulas that lose more digits than float has."""

    def emit(c: Calculator, v: list[Val]) -> Val:
        if c.element == "double":
            return function(c, v)
        wide = [cast(c.k, "fpext", x, "double") for x in v]
        return cast(c.k, "fptrunc", function(Calculator(c.k, wide[0]), wide), c.element)

    return emit


@_in_double
def _erfinv(c: Calculator, v: list[Val]) -> Val:
    """Winitzki's estimate (2008), then Newton's method on erf. At ±1 the estimate is infinite, which is right."""
    y, a = v[0], 0.147
    log = c.call("log1p", c.sub(c.number(0.0), c.mul(y, y)))
    half = c.add(c.mul(log, 0.5), 2 / (pymath.pi * a))
    square = c.sub(c.root(c.sub(c.mul(half, half), c.mul(log, 1 / a))), half)
    guess = intrinsic_call(c.k, "copysign", [c.root(square), y])
    x = guess
    for _ in range(3):
        error = c.sub(c.call("erf", x), y)
        slope = c.mul(c.call("exp", c.mul(x, x)), pymath.sqrt(pymath.pi) / 2)
        x = c.sub(x, c.mul(error, slope))
    is_edge = c.op("fcmp oeq", c.magnitude(y), 1.0, "i1")
    edge = intrinsic_call(c.k, "copysign", [c.number(float("inf")), y])
    return c.select(is_edge, edge, x)


@_in_double
def _erfcx(c: Calculator, v: list[Val]) -> Val:
    """exp(x²) · erfc(x); far out its asymptotic series (Abramowitz & Stegun 7.1.23), where both factors overflow."""
    x = v[0]
    near = c.mul(c.call("exp", c.mul(x, x)), c.call("erfc", x))
    square = c.div(1.0, c.mul(x, x))
    series = c.polynomial(square, (1.0, -0.5, 0.75, -1.875, 6.5625))
    far = c.mul(c.div(1 / pymath.sqrt(pymath.pi), x), series)
    return c.select(c.less(x, 25.0), near, far)


# Abramowitz & Stegun 9.8.1-9.8.4.
_I0_NEAR = (1.0, 3.5156229, 3.0899424, 1.2067492, 0.2659732, 0.0360768, 0.0045813)
_I0_FAR = (
    0.39894228, 0.01328592, 0.00225319, -0.00157565, 0.00916281, -0.02057706, 0.02635537, -0.01647633, 0.00392377,
)  # fmt: skip
_I1_NEAR = (0.5, 0.87890594, 0.51498869, 0.15084934, 0.02658733, 0.00301532, 0.00032411)
_I1_FAR = (
    0.39894228, -0.03988024, -0.00362018, 0.00163801, -0.01031555, 0.02282967, -0.02895312, 0.01787654, -0.00420059,
)  # fmt: skip


def _bessel(near: tuple[float, ...], far: tuple[float, ...], is_odd: bool) -> Function:
    def emit(c: Calculator, v: list[Val]) -> Val:
        x = c.magnitude(v[0])
        ratio = c.div(x, 3.75)
        small = c.polynomial(c.mul(ratio, ratio), near)
        large = c.mul(c.div(c.call("exp", x), c.root(x)), c.polynomial(c.div(3.75, x), far))
        result = c.select(c.less(x, 3.75), c.mul(small, x) if is_odd else small, large)
        return intrinsic_call(c.k, "copysign", [result, v[0]]) if is_odd else result

    return emit


def _library(name: str) -> Function:
    def emit(c: Calculator, v: list[Val]) -> Val:
        fast = {"exp": math.exp, "exp2": math.exp2, "log": math.log, "log2": math.log2}.get(name)
        return fast(c.k, v[0]) if fast is not None and c.element == "float" else c.call(name, *v)

    return emit


def _intrinsic(name: str) -> Function:
    return lambda c, v: intrinsic_call(c.k, name, v)


def _predicate(instruction: str, other: float | None = None) -> Function:
    """As a 0 or 1 of i32."""

    def emit(c: Calculator, v: list[Val]) -> Val:
        x = v[0] if other is None else c.magnitude(v[0])
        return cast(c.k, "zext", c.op(instruction, x, x if other is None else other, "i1"), "i32")

    return emit


def _signbit(c: Calculator, v: list[Val]) -> Val:
    bits = f"i{8 * BYTES[c.element]}"
    number = cast(c.k, "bitcast", v[0], bits)
    zero = c.em.splat(Val(bits, 1, "0"), c.lanes)
    return cast(c.k, "zext", c.op("icmp slt", number, zero, "i1"), "i32")


def _to_integer(rounding: str) -> Function:
    return lambda c, v: cast(c.k, "fptosi", intrinsic_call(c.k, rounding, v), "i64")


def _ldexp(c: Calculator, v: list[Val]) -> Val:
    """x · 2^n in three steps, so that no power of two overflows on the way."""
    x, power = v
    third = c.op("sdiv", power, c.em.splat(Val("i32", 1, "3"), c.lanes))
    twice = c.op("add", third, third)
    for part in (third, third, c.op("sub", power, twice)):
        x = c.mul(x, c.call("exp2", cast(c.k, "sitofp", part, c.element)))
    return x


def _ilogb(c: Calculator, v: list[Val]) -> Val:
    return cast(c.k, "fptosi", c.call("logb", v[0]), "i32")


def _count(intrinsic: str) -> Function:
    return lambda c, v: intrinsic_call(c.k, intrinsic, v, extra=", i1 false" if intrinsic == "ctlz" else "")


_LIBM = (
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "erf", "erfc", "exp", "exp2",
    "expm1", "fmod", "hypot", "j0", "j1", "lgamma", "log", "log10", "log1p", "log2", "logb", "nextafter", "pow",
    "remainder", "sin", "sinh", "tan", "tanh", "tgamma", "y0", "y1",
)  # fmt: skip
_FUNCTIONS: dict[str, Function] = {
    **{name: _library(name) for name in _LIBM},
    **{f"fast_{name}": _library(name) for name in ("cos", "exp", "log", "log10", "log2", "pow", "sin", "tan")},
    "ceil": _intrinsic("ceil"), "copysign": _intrinsic("copysign"), "fabs": _intrinsic("fabs"),
    "floor": _intrinsic("floor"), "fma": _intrinsic("fma"), "fma_rn": _intrinsic("fma"), "fmaf_rn": _intrinsic("fma"),
    "nearbyint": _intrinsic("nearbyint"), "rint": _intrinsic("rint"), "round": _intrinsic("round"),
    "sqrt": _intrinsic("sqrt"), "trunc": _intrinsic("trunc"), "fmax": _intrinsic("maxnum"),
    "fmin": _intrinsic("minnum"),
    "exp10": lambda c, v: c.call("pow", c.number(10.0), v[0]),
    "fast_exp10": lambda c, v: c.call("pow", c.number(10.0), v[0]),
    "fast_fdivide": lambda c, v: c.div(v[0], v[1]), "fast_tanh": _library("tanh"),
    "rsqrt": lambda c, v: c.div(1.0, c.root(v[0])), "rcbrt": lambda c, v: c.div(1.0, c.call("cbrt", v[0])),
    "rhypot": lambda c, v: c.div(1.0, c.call("hypot", *v)),
    "sinpi": lambda c, v: c.call("sin", c.mul(v[0], pymath.pi)),
    "cospi": lambda c, v: c.call("cos", c.mul(v[0], pymath.pi)),
    "normcdf": lambda c, v: c.mul(c.call("erfc", c.mul(v[0], -pymath.sqrt(0.5))), 0.5),
    "saturate": lambda c, v: intrinsic_call(
        c.k, "minnum", [intrinsic_call(c.k, "maxnum", [v[0], c.number(0.0)]), c.number(1.0)]
    ),
    "fdim": lambda c, v: intrinsic_call(c.k, "maxnum", [c.sub(*v), c.number(0.0)]),
    "erfinv": _erfinv, "erfcinv": lambda c, v: _erfinv(c, [c.sub(c.number(1.0), v[0])]), "erfcx": _erfcx,
    "cyl_bessel_i0": _bessel(_I0_NEAR, _I0_FAR, is_odd=False), "cyl_bessel_i1": _bessel(_I1_NEAR, _I1_FAR, is_odd=True),
    "isnan": _predicate("fcmp uno"), "isinf": _predicate("fcmp oeq", float("inf")),
    "isfinite": _predicate("fcmp one", float("inf")), "finite": _predicate("fcmp one", float("inf")),
    "signbit": _signbit, "llrint": _to_integer("rint"), "llround": _to_integer("round"), "ldexp": _ldexp,
    "scalbn": _ldexp, "ilogb": _ilogb,
    "abs": lambda c, v: intrinsic_call(c.k, "abs", v, extra=", i1 false"),
    "popc": _count("ctpop"), "popcll": _count("ctpop"), "clz": _count("ctlz"), "clzll": _count("ctlz"),
    "brev": _count("bitreverse"), "brevll": _count("bitreverse"),
    **{f"{kind}{name}_rn": (lambda i: lambda c, v: c.op(i, v[0], v[1]))(f"f{name}")
       for kind in "fd" for name in ("add", "sub", "mul", "div")},
    **{f"{kind}sqrt_rn": _intrinsic("sqrt") for kind in "fd"},
    **{f"{kind}rcp_rn": lambda c, v: c.div(1.0, v[0]) for kind in "fd"},
    "frsqrt_rn": lambda c, v: c.div(1.0, c.root(v[0])),
}  # fmt: skip
_FUNCTIONS["llabs"] = _FUNCTIONS["abs"]
_BITS = re.compile(r"(float|double|int|uint|longlong)_as_(float|double|int|uint|longlong)$")
_NUMBERS = re.compile(r"(float|double|int|uint|ll|ull)2(float|double|int|uint|ll|ull)_(rn|rz|rd|ru)$")


@elementwise("tt.extern_elementwise")
def external(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    symbol = op.string("symbol")
    name = symbol.removeprefix("__nv_")
    element = element_of(op.results[0].type)
    if name == symbol:
        raise Unsupported(f"the external function {symbol}", "write it in triton.language")
    if _BITS.match(name):
        return cast(k, "bitcast", v[0], element)
    if _NUMBERS.match(name):
        return _convert(k, name, v[0], element)
    function = _FUNCTIONS.get(name)
    if function is None and v[0].element in FLOATS:
        function = _FUNCTIONS.get(name[:-1]) if name[-1] in "fd" else None
    if function is None:
        raise Unsupported(f"libdevice's {name}", "write it with tl.math, or in triton.language")
    return function(Calculator(k, v[0]), v)


def _convert(k: Kernel, name: str, value: Val, element: str) -> Val:
    source, target, rounding = _NUMBERS.match(name).groups()  # type: ignore[union-attr]
    if target in ("float", "double"):
        if rounding != "rn":
            raise Unsupported(f"libdevice's {name}", "use the _rn form, which rounds to nearest")
        if source in ("float", "double"):
            return cast(k, "fptrunc" if element == "float" else "fpext", value, element)
        return cast(k, "uitofp" if source[0] == "u" else "sitofp", value, element)
    way = {"rn": "rint", "rz": "trunc", "rd": "floor", "ru": "ceil"}[rounding]
    return cast(k, "fptoui" if target[0] == "u" else "fptosi", intrinsic_call(k, way, [value]), element)
