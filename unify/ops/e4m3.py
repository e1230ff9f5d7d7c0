"""float8_e4m3 by its bits, for chips that have no arithmetic with it: loaded and stored as bytes."""

from __future__ import annotations

import triton.language as tl

import unify


@unify.jit
def from_e4m3(code):
    """Bytes of float8_e4m3 as float16 that are 2⁻⁸ of what they stand for: exact, and a NaN stays one."""
    return tl.where(is_nan(code), float("nan"), from_finite_e4m3(code))


@unify.jit
def from_finite_e4m3(code):
    """The same of bytes that are no NaN, which is a third less work."""
    # The sign is stretched over the upper byte, so that one shift puts it and the rest where float16 has them.
    bits = (code.to(tl.int8, bitcast=True).to(tl.int16) << 7) & -0x4080
    return bits.to(tl.float16, bitcast=True)


@unify.jit
def is_nan(code):
    """Whether bytes of float8_e4m3 are a NaN: it has no infinity, and two of them."""
    return (code & 0x7F) == 0x7F


@unify.jit
def to_e4m3(value):
    """float32 as bytes of the nearest float8_e4m3, of two the even one; ±448 beyond that; a NaN stays one."""
    bits = tl.minimum(tl.maximum(value, -448.0), 448.0).to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # From 2⁻⁶ on: rounded to 3 bits of mantissa; the exponent's bias changes by 120.
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - 960
    # Below, steps of 2⁻⁹, which are those of float32 from 2¹⁴ on.
    small = (tl.abs(value) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(magnitude < 0x3C800000, small, normal) | ((bits >> 24) & 0x80)
    return tl.where(value == value, code, 0x7F).to(tl.uint8)
