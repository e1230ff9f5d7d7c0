"""8-bit floats: integers to LLVM, taken apart and put together. OCP 8-bit Floating Point (2023), and AMD's FNUZ."""

from __future__ import annotations

from dataclasses import dataclass

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import Val
from unify.compiler.cpu.codegen.values import Kernel


@dataclass(frozen=True)
class Format:
    """`mantissa` bits below an exponent with this bias; the codes of NaN, and of the largest number."""

    mantissa: int
    bias: int
    nan: int
    largest: float
    has_infinity: bool = False
    is_unsigned_zero: bool = False  # FNUZ: the code of -0 is NaN, the only one


_FORMATS = {
    "f8E5M2": Format(2, 15, 0x7F, 57344.0, has_infinity=True),
    "f8E4M3FN": Format(3, 7, 0x7F, 448.0),
    "f8E4M3FNUZ": Format(3, 8, 0x80, 240.0, is_unsigned_zero=True),
    "f8E5M2FNUZ": Format(2, 16, 0x80, 57344.0, is_unsigned_zero=True),
}


def format_of(type_: mlir.Type) -> Format | None:
    """The 8-bit float format of a scalar's or tensor's elements, or None."""
    return _FORMATS.get(str(type_.element if isinstance(type_, mlir.Tensor) else type_))


def code_of(value: float, how: Format) -> int:
    """The nearest number's code, for constants."""
    sign = 0x80 if str(value).startswith("-") and not (how.is_unsigned_zero and value == 0) else 0
    if value != value:
        return how.nan

    def number(code: int) -> float:
        exponent, rest = code >> how.mantissa, code & ((1 << how.mantissa) - 1)
        whole = rest + ((1 << how.mantissa) if exponent else 0)
        return float(whole) * 2.0 ** (max(exponent, 1) - how.bias - how.mantissa)

    codes = [code for code in range(128) if number(code) <= how.largest]
    return sign | min(codes, key=lambda code: (abs(number(code) - abs(value)), code & 1))


class _Lanes:
    """32-bit arithmetic on registers of one width, in few letters."""

    def __init__(self, k: Kernel, lanes: int) -> None:
        self.em, self.lanes = k.em, lanes

    def op(self, instruction: str, a: Val, b: Val, element: str = "") -> Val:
        return self.em.op(element or a.element, self.lanes, f"{instruction} {self.em.typed(a)}, {self.em.text(b)}")

    def integer(self, value: int, element: str = "i32") -> Val:
        return self.em.splat(Val(element, 1, str(value)), self.lanes)

    def number(self, value: float) -> Val:
        from unify.compiler.cpu.codegen.arith import literal

        return self.em.splat(Val("float", 1, literal(value, "float")), self.lanes)

    def cast(self, instruction: str, a: Val, element: str) -> Val:
        to = element if self.lanes == 1 else f"<{self.lanes} x {element}>"
        return self.em.op(element, self.lanes, f"{instruction} {self.em.typed(a)} to {to}")

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        text = f"select {self.em.typed(condition)}, {self.em.typed(a)}, {self.em.typed(b)}"
        return self.em.op(a.element, self.lanes, text)


def decoded(k: Kernel, value: Val, how: Format) -> Val:
    """As float, exactly."""
    m = _Lanes(k, value.lanes)
    code = m.cast("zext", value, "i32")
    magnitude = m.op("and", code, m.integer(0x7F))
    if how.has_infinity:  # the upper half of a half
        half = m.cast("bitcast", m.op("shl", m.cast("trunc", code, "i16"), m.integer(8, "i16")), "half")
        return m.cast("fpext", half, "float")
    if how.bias < 15:
        # Bits at a half's place have its bias; hardware reads its subnormal numbers at full speed.
        half = m.cast("bitcast", m.cast("trunc", m.op("shl", magnitude, m.integer(10 - how.mantissa)), "i16"), "half")
        number = m.op("fmul", m.cast("fpext", half, "float"), m.number(2.0 ** (15 - how.bias)))
    else:
        bits = m.cast("bitcast", m.op("shl", magnitude, m.integer(23 - how.mantissa)), "float")
        number = m.op("fmul", bits, m.number(2.0 ** (127 - how.bias)))
    sign = m.op("shl", m.op("and", code, m.integer(0x80)), m.integer(24))
    signed = m.cast("bitcast", m.op("or", m.cast("bitcast", number, "i32"), sign), "float")
    code_of_nan = code if how.is_unsigned_zero else magnitude
    is_nan = m.op("icmp eq", code_of_nan, m.integer(how.nan), "i1")
    return m.select(is_nan, m.number(float("nan")), signed)


def encoded(k: Kernel, value: Val, how: Format, to_zero: bool) -> Val:
    """A float rounded to nearest even, or to zero; what is too large becomes the largest number, as on chips."""
    m = _Lanes(k, value.lanes)
    bits = m.cast("bitcast", value, "i32")
    sign = m.op("lshr", m.op("and", bits, m.integer(-(1 << 31))), m.integer(24))
    magnitude = m.cast("bitcast", m.op("and", bits, m.integer(0x7FFFFFFF)), "float")
    is_nan = m.op("fcmp uno", value, value, "i1")
    largest = m.number(how.largest)
    limited = m.select(m.op("fcmp olt", magnitude, largest, "i1"), magnitude, largest)
    # Normal numbers: the exponent's bias changes, the mantissa is cut.
    shift = 23 - how.mantissa
    raw = m.cast("bitcast", limited, "i32")
    if not to_zero:
        odd = m.op("and", m.op("lshr", raw, m.integer(shift)), m.integer(1))
        raw = m.op("add", m.op("add", raw, odd), m.integer((1 << (shift - 1)) - 1))
    normal = m.op("sub", m.op("lshr", raw, m.integer(shift)), m.integer((127 - how.bias) << how.mantissa))
    # Subnormal ones are multiples of the smallest; adding 1.5 · 2^23 rounds to whole numbers.
    scaled = m.op("fmul", limited, m.number(2.0 ** (how.bias - 1 + how.mantissa)))
    if not to_zero:
        magic = m.number(12582912.0)
        scaled = m.op("fsub", m.op("fadd", scaled, magic), magic)
    is_small = m.op("fcmp olt", limited, m.number(2.0 ** (1 - how.bias)), "i1")
    # Where it is not small the conversion's result is not used, but it has to be defined.
    small = m.cast("fptosi", m.select(is_small, scaled, m.number(0.0)), "i32")
    code = m.select(is_small, small, normal)
    if how.is_unsigned_zero:
        sign = m.select(m.op("icmp eq", code, m.integer(0), "i1"), m.integer(0), sign)
    code = m.select(is_nan, m.integer(how.nan), m.op("or", code, sign))
    return m.cast("trunc", code, "i8")
