"""What the vendor's compilers refuse: said with the user's line, and with a form that they take."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import triton
import triton.language as tl
from triton.language.extra import libdevice

import unify as un
from unify._report import load_kernels

from ..installed import NEEDS_ASCEND

pytestmark = NEEDS_ASCEND

POINTERS = {"x": "*fp32", "out": "*fp32", "places": "*i32", "counts": "*i32"}


@un.jit
def large_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) + 1.0)


@un.jit
def large_in_parts_kernel(x, out, BLOCK: tl.constexpr):
    for start in range(0, BLOCK, 8192):
        i = start + tl.arange(0, 8192)
        tl.store(out + i, tl.load(x + i) + 1.0)


@un.jit
def square_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tile = tl.load(x + i[:, None] * BLOCK + i[None, :])
    tl.store(out + i[:, None] * BLOCK + i[None, :], tl.dot(tile, tile))


@un.jit
def square_of_two_kernel(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    left = tl.load(x + i[:, None] * BLOCK + i[None, :])
    right = tl.load(y + i[:, None] * BLOCK + i[None, :])
    tl.store(out + i[:, None] * BLOCK + i[None, :], tl.dot(left, right))


@un.jit
def asinh_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, libdevice.asinh(tl.load(x + i)))


@un.jit
def asinh_by_log_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    tl.store(out + i, tl.log(value + tl.sqrt(value * value + 1.0)))


@un.jit
def float8_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i).to(tl.float32))


@un.jit
def float8_by_bits_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    bits = tl.load(x + i).to(tl.int32)
    shifted = ((bits & 0x80) << 24) | ((bits & 0x7F) << 20)
    tl.store(out + i, shifted.to(tl.float32, bitcast=True) * 1.329227995784916e36)  # 2^120


@un.jit
def place_kernel(counts, x, out):
    place = tl.atomic_add(counts, 1)
    tl.store(out + place, tl.load(x + tl.program_id(0)))


@un.jit
def place_reloaded_kernel(counts, places, x, out):
    tl.store(places + tl.program_id(0), tl.atomic_add(counts, 1))
    tl.store(out + tl.load(places + tl.program_id(0)), tl.load(x + tl.program_id(0)))


@un.jit
def whiles_kernel(counts, x, out, n):
    i = tl.arange(0, 256)
    tl.atomic_add(counts, 1)
    value = tl.load(x + i)
    k = 0
    while k < n:
        value = tl.abs(value)
        k += 1
    k = 0
    while k < n:
        value = value * 2
        k += 1
    tl.store(out + i, value)


@un.jit
def ranges_kernel(counts, x, out, n):
    i = tl.arange(0, 256)
    tl.atomic_add(counts, 1)
    value = tl.load(x + i)
    for _ in range(n):
        value = tl.abs(value)
    for _ in range(n):
        value = value * 2
    tl.store(out + i, value)


@un.jit
def double_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) * 2)


@un.jit
def highest_kernel(x, out, BLOCK: tl.constexpr):
    tl.atomic_max(out, tl.max(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)), 0))


@un.jit
def highest_of_each_kernel(x, out, BLOCK: tl.constexpr):
    tl.store(out + tl.program_id(0), tl.max(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)), 0))


@un.jit
def quotient_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) // 7)


@un.jit
def remainder_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) % 7)


@un.jit
def signed_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i).to(tl.int32)
    tl.store(out + i, value // 7 + value % 7)


@un.jit
def words_kernel(x):
    tl.device_print("here")
    tl.store(x, 1.0)


@un.jit
def words_and_a_number_kernel(x):
    tl.device_print("here", 0)
    tl.store(x, 1.0)


@triton.jit
def _welford(mean, squares, count, other_mean, other_squares, other_count):
    total, far = count + other_count, other_mean - mean
    rest = far * far * count * other_count / total
    return mean + far * other_count / total, squares + other_squares + rest, total


@triton.jit
def _mean(mean, count, other_mean, other_count):
    return (mean * count + other_mean * other_count) / (count + other_count), count + other_count


@un.jit
def welford_kernel(x, out, BLOCK: tl.constexpr):
    value = tl.load(x + tl.arange(0, BLOCK))
    one = tl.full((BLOCK,), 1.0, tl.float32)
    _, squares, count = tl.reduce((value, tl.zeros_like(value), one), 0, _welford)
    tl.store(out, squares / count)


@un.jit
def mean_kernel(x, out, BLOCK: tl.constexpr):
    value = tl.load(x + tl.arange(0, BLOCK))
    mean, _ = tl.reduce((value, tl.full((BLOCK,), 1.0, tl.float32)), 0, _mean)
    tl.store(out, mean)


@un.jit
def two_sums_kernel(x, out, BLOCK: tl.constexpr):
    value = tl.load(x + tl.arange(0, BLOCK))
    mean = tl.sum(value, 0) / BLOCK
    tl.store(out, tl.sum((value - mean) * (value - mean), 0) / BLOCK)


@un.jit
def argmax_kernel(x, places, BLOCK: tl.constexpr):
    tl.store(places, tl.argmax(tl.load(x + tl.arange(0, BLOCK)), 0))


@un.jit
def argmax_by_min_kernel(x, places, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    tl.store(places, tl.min(tl.where(value == tl.max(value, 0), i, 2147483647), 0))


@un.jit
def left_in_a_branch_kernel(x, n):
    place = tl.program_id(0)
    if place >= n:
        if place % 2 == 0:
            return
        tl.store(x + place, -1.0)
    tl.store(x + place, 2.0)


@un.jit
def written_in_a_branch_kernel(x, n):
    place = tl.program_id(0)
    if (place < n) | (place % 2 == 1):
        if place >= n:
            tl.store(x + place, -1.0)
        tl.store(x + place, 2.0)


@un.jit
def chosen(a, b):
    if tl.program_id(0) == 0:
        return a
    if tl.program_id(0) == 1:
        return b
    return a + b


@un.jit
def returned_tile_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, chosen(tl.load(x + i), tl.load(x + BLOCK + i)))


@un.jit
def chosen_tile_kernel(x, out, BLOCK: tl.constexpr):
    i, program = tl.arange(0, BLOCK), tl.program_id(0)
    a, b = tl.load(x + i), tl.load(x + BLOCK + i)
    tl.store(out + i, tl.where(program == 0, a, tl.where(program == 1, b, a + b)))


def error_of(kernel: un.Kernel, chip: str, types: dict[str, str], **constants: int) -> un.errors.CompileError:
    with pytest.raises(un.errors.CompileError) as caught:
        un.compile(kernel, f"ascend:{chip}", types, constants)
    return caught.value


def line_of(kernel: un.Kernel, text: str) -> int:
    lines, start = inspect.getsourcelines(kernel.fn)
    return start + next(number for number, line in enumerate(lines) if text in line)


DOUBLES = {"x": "*fp64", "out": "*fp64"}
WORDS = {"x": "*u32", "out": "*u32"}
HALVES = {"x": "*fp16", "y": "*fp16", "out": "*fp32"}


@pytest.mark.parametrize(
    ("refused", "chip", "types", "constants", "said", "rewritten", "rewritten_constants"),
    [
        (large_kernel, "910B3", POINTERS, {"BLOCK": 65536}, r"ub overflow.* \(\d+ KiB of 192\)", large_in_parts_kernel,
         {"BLOCK": 65536}),
        (large_kernel, "950", POINTERS, {"BLOCK": 65536}, "ub overflow", large_in_parts_kernel, {"BLOCK": 65536}),
        (square_of_two_kernel, "910B3", HALVES, {"BLOCK": 256}, "cc overflow|cbuf overflow", square_of_two_kernel,
         {"BLOCK": 64}),
        (square_kernel, "950", HALVES, {"BLOCK": 64}, "load the tile twice", square_of_two_kernel, {"BLOCK": 64}),
        (asinh_kernel, "910B3", POINTERS, {"BLOCK": 256}, "extern_elementwise.*libdevice is Nvidia's",
         asinh_by_log_kernel, {"BLOCK": 256}),
        (float8_kernel, "910B3", {"x": "*fp8e4nv", "out": "*fp32"}, {"BLOCK": 256}, "load it as int8",
         float8_by_bits_kernel, {"BLOCK": 256}),
        (float8_kernel, "950", {"x": "*fp8e4nv", "out": "*fp32"}, {"BLOCK": 256}, "load it as int8",
         float8_by_bits_kernel, {"BLOCK": 256}),
        (place_kernel, "910B3", POINTERS, {}, "cannot be an address here", place_reloaded_kernel, {}),
        (double_kernel, "910B3", DOUBLES, {"BLOCK": 64}, "computes with float64", double_kernel,
         {"BLOCK": 64}),
        (double_kernel, "950", DOUBLES, {"BLOCK": 64}, "computes with float64", double_kernel, {"BLOCK": 64}),
        (highest_kernel, "910B3", POINTERS, {"BLOCK": 64}, "second kernel", highest_of_each_kernel, {"BLOCK": 64}),
        (highest_kernel, "950", POINTERS, {"BLOCK": 64}, "second kernel", highest_of_each_kernel, {"BLOCK": 64}),
        (quotient_kernel, "910B3", WORDS, {"BLOCK": 64}, "cast them to int32", signed_kernel, {"BLOCK": 64}),
        (remainder_kernel, "910B3", WORDS, {"BLOCK": 64}, "cast them to int32", signed_kernel, {"BLOCK": 64}),
        (words_kernel, "910B3", POINTERS, {}, "needs a value here", words_and_a_number_kernel, {}),
        (welford_kernel, "910B3", POINTERS, {"BLOCK": 64}, "one by one", two_sums_kernel, {"BLOCK": 64}),
        (mean_kernel, "950", POINTERS, {"BLOCK": 64}, "one by one", two_sums_kernel, {"BLOCK": 64}),
        (whiles_kernel, "910B3", {**POINTERS, "n": "i32"}, {}, r"loses a tile .* range\(n\)", ranges_kernel, {}),
        (left_in_a_branch_kernel, "910B3", {"x": "*fp32", "n": "i32"}, {}, "put the rest under the opposite condition",
         written_in_a_branch_kernel, {}),
        (returned_tile_kernel, "910B3", POINTERS, {"BLOCK": 256}, r"choose the value with tl\.where",
         chosen_tile_kernel, {"BLOCK": 256}),
        (argmax_kernel, "950", POINTERS, {"BLOCK": 256}, r"linalg.reduce.*tl\.min\(tl\.where", argmax_by_min_kernel,
         {"BLOCK": 256}),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_taken(
    refused: un.Kernel, chip: str, types: dict[str, str], constants: dict[str, int], said: str, rewritten: un.Kernel,
    rewritten_constants: dict[str, int],
) -> None:  # fmt: skip
    error = error_of(refused, chip, {name: types[name] for name in refused.arg_names if name in types}, **constants)
    message = str(error)
    assert error.file == __file__
    _, start = inspect.getsourcelines(refused.fn)
    assert error.line is not None
    assert start <= error.line <= start + len(inspect.getsource(refused.fn).splitlines())
    assert error.kernel == refused.fn.__name__
    assert message.startswith(f"{__file__}:{error.line}: kernel {error.kernel}: ascend:{chip}: ")
    assert "/tmp" not in message.removeprefix(__file__)
    assert re.search(said, message), message
    taken = {"*fp8e4nv": {"x": "*i8"}, "*fp64": {"x": "*fp32", "out": "*fp32"}}.get(types.get("x", ""), {})
    types = {**POINTERS, **types, **taken}
    un.compile(
        rewritten, f"ascend:{chip}", {n: types[n] for n in rewritten.arg_names if n in types}, rewritten_constants
    )


LONE = """
import triton, triton.language as tl

@triton.jit
def lone(x: "*fp32", N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(x + i, {value})
"""


@pytest.mark.parametrize("name", ["tt.py", "tt.atomic_rmw (copy).py"])
def test_the_file_of_a_kernel_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Its places are in the text that is looked through for what Triton's dialect left there."""
    folder = tmp_path / "my project"
    folder.mkdir()
    for value, is_taken in (("tl.load(x + i) + 1", True), ("libdevice.asinh(tl.load(x + i))", False)):
        path = folder / name
        path.write_text("from triton.language.extra import libdevice" + LONE.format(value=value))
        kernel = un.jit(load_kernels(path)["lone"].fn)
        if is_taken:
            un.compile(kernel, "ascend:910B3", {"x": "*fp32"}, {"N": 64})
        else:
            error = error_of(kernel, "910B3", {"x": "*fp32"}, N=64)
            assert (error.file, error.line) == (str(path), 7)


def test_the_line_is_the_operations_own() -> None:
    error = error_of(asinh_kernel, "910B3", {"x": "*fp32", "out": "*fp32"}, BLOCK=256)
    assert error.line == line_of(asinh_kernel, "libdevice.asinh")


@un.jit
def exchanged(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + i, tl.atomic_xchg(x + i, i))  # here


@un.jit
def exchanged_blindly(x, n):
    tl.atomic_xchg(x + tl.program_id(0), n)  # here


@un.jit
def added(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + i, tl.atomic_add(x + i, i))


EXCHANGES = {"x": "*i32", "out": "*i32", "n": "i32"}


def exchange_error(kernel: un.Kernel, chip: str) -> un.errors.CompileError:
    types = {name: EXCHANGES[name] for name in kernel.arg_names if name in EXCHANGES}
    return error_of(kernel, chip, types, **({"N": 64} if "N" in kernel.arg_names else {}))


@pytest.mark.parametrize("kernel", [exchanged, exchanged_blindly])
def test_an_exchange_that_the_910_drops_is_refused(kernel: un.Kernel) -> None:
    error = exchange_error(kernel, "910B3")
    assert "dropped by the compiler" in str(error)
    assert error.line == line_of(kernel, "# here")


def test_other_atomics_are_taken() -> None:
    for kernel, chip in ((exchanged_blindly, "950"), (added, "910B3"), (compared_blindly, "910B3")):
        types = {name: EXCHANGES[name] for name in kernel.arg_names if name in EXCHANGES}
        un.compile(kernel, f"ascend:{chip}", types, {"N": 64} if "N" in kernel.arg_names else {})


@un.jit
def compared(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + i, tl.atomic_cas(x + i, i, i + 1))  # here


@un.jit
def compared_alone(x, out):
    tl.store(out, tl.atomic_cas(x, 3, 7))  # here


@un.jit
def compared_blindly(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.atomic_cas(x + i, i, i + 1)


@pytest.mark.parametrize("chip", ["910B3", "950"])
@pytest.mark.parametrize("kernel", [compared, compared_alone])
def test_the_result_of_a_compare_and_exchange_is_refused(kernel: un.Kernel, chip: str) -> None:
    error = exchange_error(kernel, chip)
    assert "what is in memory after it" in str(error)
    assert error.line == line_of(kernel, "# here")
