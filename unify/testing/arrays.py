"""Arrays to test with: seeded contents, views of every kind, and comparison with a tolerance that can be argued."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from unify import DType, Tensor
from unify._tensor import dtype as dtype_of

Array = npt.NDArray[Any]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
SMALL_FLOATS = ("float8_e4m3", "float8_e5m2")
NUMPY_DTYPES = ("bool", *INTEGERS, "float16", "float32", "float64")
ALL_DTYPES = ("bool", *INTEGERS, *FLOATS, *SMALL_FLOATS)

# One unit in the last place, relative to 1: 2 to the power of minus the stored bits of the mantissa.
EPSILON = {
    "float8_e5m2": 2.0**-2,
    "float8_e4m3": 2.0**-3,
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}


def random_array(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Array:
    """Seeded contents that fill the range of integers and lie around 0 for floats. `dtype` is one that NumPy has."""
    generator = np.random.default_rng(seed)
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    return generator.standard_normal(shape).astype(dtype)


def bits(tensor: Tensor) -> Array:
    """A tensor's elements as unsigned integers: equality without rounding and for dtypes that NumPy lacks."""
    return tensor.contiguous().view(f"uint{8 * tensor.itemsize}").numpy()


def numbers(tensor: Tensor) -> Array:
    """A tensor's elements as numbers that NumPy has: small floats become float32, which holds each of them."""
    return tensor.numpy() if tensor.dtype.name in NUMPY_DTYPES else tensor.to("float32").numpy()


def random_views(array: Array, seed: int, count: int) -> Iterator[tuple[Any, Array]]:
    """Yields pairs of a random index (slices with steps, integers, None, ...) and NumPy's answer to it."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        key = random_index(generator, array.shape)
        yield key, array[key]


def random_index(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """One index that fits `shape`: parts for its first axes, perhaps ..., parts for its last ones, None in between."""
    first = int(generator.integers(0, len(shape) + 1))
    parts: list[Any] = [_random_part(generator, length) for length in shape[:first]]
    if generator.random() < 0.5:
        last = int(generator.integers(0, len(shape) - first + 1))
        parts += [Ellipsis, *(_random_part(generator, length) for length in shape[len(shape) - last :])]
    if generator.random() < 0.3:
        parts.insert(int(generator.integers(0, len(parts) + 1)), None)
    return tuple(parts)


def _random_part(generator: np.random.Generator, length: int) -> Any:
    if length and generator.random() < 0.3:
        return int(generator.integers(-length, length))
    bound = length + 2
    start, stop = (None if generator.random() < 0.3 else int(generator.integers(-bound, bound + 1)) for _ in "ab")
    step = int(generator.choice([1, 1, 2, 3, -1, -2]))
    return slice(start, stop, step)


def assert_same(tensor: Tensor, expected: Array) -> None:
    """Equal shape and elements; NaN equals NaN."""
    actual = numbers(tensor)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    np.testing.assert_array_equal(actual, expected)


def assert_close(tensor: Tensor, expected: Array, *, depth: int = 1, dtype: str | DType | None = None) -> None:
    """Equal up to rounding: `depth` additions in `dtype` (default: the tensor's), each off by half a unit."""
    name = dtype_of(dtype or tensor.dtype).name
    tolerance = EPSILON[name] * max(1.0, np.sqrt(depth)) * 2
    scale = float(np.max(np.abs(expected))) if expected.size else 0.0
    np.testing.assert_allclose(numbers(tensor), expected, rtol=tolerance, atol=tolerance * scale)
