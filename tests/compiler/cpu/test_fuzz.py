"""Random programs, compiled for the CPU and run by Triton's own interpreter, give the same bits.

A program is a list of steps over tensors: arithmetic, casts, reductions, scans, products, gathers, changes of shape,
memory read and written at odd places, loops and branches. Floats hold small whole numbers, so that each result is exact
and the order of a sum means nothing. The interpreter runs in a process of its own, since Triton chooses it when it is
imported.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

import unify as un

from .interpreter import Interpreter, kernel_of

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
FLOATS = ("float16", "float32")
SMALL, BIG = -32, 32  # what floats hold after each step
SIZES = (1, 2, 4, 8, 16, 32)
CELLS = 4096  # of the memory that programs read and write
PROGRAMS = int(os.environ.get("UNIFY_FUZZ_PROGRAMS", "60"))


@dataclass(frozen=True)
class Value:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))


@dataclass
class Program:
    """Source lines, and what they have computed so far."""

    draw: Any
    lines: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    depth: int = 1
    count: int = 0

    def write(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def add(self, expression: str, dtype: str, shape: tuple[int, ...]) -> Value:
        """A new value; floats are held small, so that they stay exact."""
        name, self.count = f"v{self.count}", self.count + 1
        if dtype in FLOATS:
            expression = f"tl.minimum(tl.maximum({expression}, {SMALL}.0), {BIG}.0)"
        self.write(f"{name} = ({expression}).to(tl.{dtype})")
        value = Value(name, dtype, shape)
        self.values.append(value)
        return value

    def pick(self, *, rank: int | None = None, dtypes: tuple[str, ...] = INTEGERS + FLOATS) -> Value | None:
        fitting = [v for v in self.values if v.dtype in dtypes and (rank is None or len(v.shape) == rank)]
        return self.draw(st.sampled_from(fitting)) if fitting else None

    def partner(self, value: Value) -> str:
        """Something of the same shape and kind: a value or a number."""
        fitting = [v.name for v in self.values if v.shape == value.shape and v.is_float == value.is_float]
        return str(self.draw(st.sampled_from([*fitting, "3", "1"])))

    def indices(self, shape: tuple[int, ...]) -> str:
        """Places in memory, one for each element, not all of them in order."""
        rows, columns = shape if len(shape) == 2 else (1, shape[0])
        i = f"tl.arange(0, {shape[-1]})"
        if len(shape) == 2:
            i = f"tl.arange(0, {rows})[:, None] * {self.draw(st.sampled_from([columns, columns + 3]))} + {i}[None, :]"
        pattern = self.draw(
            st.sampled_from(["{i}", "{last} - ({i})", "({i}) * 3", "({i}) % 7", "({i}) // 2", "({i}) ^ 5"])
        )
        if rows * (columns + 3) <= 100:
            pattern = self.draw(st.sampled_from([pattern, "({i}) * n", "({i}) * n + ({i}) % 16"]))
        start = self.draw(st.sampled_from(["0", "1", "n"]))  # each program has memory of its own
        return f"tl.program_id(0) * {CELLS // 2} + {start} + ({pattern.format(i=i, last=rows * (columns + 3))})"


# ---------------------------------------------------------------- steps: each adds to the program, or nothing


def arithmetic(p: Program) -> None:
    x = p.pick()
    if x is None:
        return
    y = p.partner(x)
    if x.is_float:
        operator = p.draw(st.sampled_from(["{x} + {y}", "{x} - {y}", "{x} * {y}", "tl.maximum({x}, {y})", "-{x}"]))
    else:
        choices = ["{x} + {y}", "{x} - {y}", "{x} * {y}", "{x} & {y}", "{x} | {y}", "{x} ^ {y}", "~{x}"]
        choices += ["{x} // {d}", "{x} % {d}", "{x} << ({y} & 3)", "{x} >> ({y} & 3)"]
        choices += ["tl.minimum({x}, {y})", "tl.where({x} < {y}, {x}, {y})", "tl.where({x} == {y}, {y}, {x})"]
        operator = p.draw(st.sampled_from(choices))
    divisor = y if y.isdecimal() else f"(({y}.to(tl.{x.dtype}) & 7) + 1)"
    p.add(operator.format(x=x.name, y=y, d=divisor), x.dtype, x.shape)


def convert(p: Program) -> None:
    x = p.pick()
    if x is None:
        return
    dtype = p.draw(st.sampled_from(INTEGERS + FLOATS))
    if x.is_float and dtype[0] == "u":
        p.add(f"tl.abs({x.name})", dtype, x.shape)
    elif not x.is_float and dtype in FLOATS:
        p.add(f"({x.name} & 31)", dtype, x.shape)
    else:
        p.add(x.name, dtype, x.shape)


def reduce(p: Program) -> None:
    x = p.pick(dtypes=("int32", "int64", "uint32", "float32"))
    if x is None or not x.shape:
        return
    axis = p.draw(st.integers(0, len(x.shape) - 1))
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    names = ["sum", "max", "min", *(["argmax", "argmin"] if shape else []), *([] if x.is_float else ["xor_sum"])]
    name = p.draw(st.sampled_from(names))
    p.add(f"tl.{name}({x.name}, axis={axis})", "int32" if name[:3] == "arg" else x.dtype, shape)


def scan(p: Program) -> None:
    x = p.pick(dtypes=("int32", "int64", "float32"))
    if x is None or not x.shape:
        return
    axis, reverse = p.draw(st.integers(0, len(x.shape) - 1)), p.draw(st.booleans())
    small = f"({x.name} * 0 + 1)" if x.is_float else x.name  # sums of ones stay exact and are no longer than a row
    p.add(f"tl.cumsum({small}, axis={axis}, reverse={reverse})", x.dtype, x.shape)


def product(p: Program) -> None:
    x = p.pick(rank=2, dtypes=("float32",))
    if x is None:
        return
    matrices = [v for v in p.values if v.dtype == "float32" and len(v.shape) == 2]
    right = [v for v in matrices if v.shape[0] == x.shape[1]]
    y = p.draw(st.sampled_from(right)) if right else None
    shape = (x.shape[0], x.shape[0] if y is None else y.shape[1])
    sums = ["", *(f", {v.name}" for v in matrices if v.shape == shape)]
    other = f"tl.trans({x.name})" if y is None else y.name
    total = p.draw(st.sampled_from(sums))
    p.add(f"tl.dot({x.name}, {other}{total}, input_precision='ieee')", "float32", shape)


def gather(p: Program) -> None:
    x = p.pick()
    if x is None or len(x.shape) not in (1, 2):
        return
    axis = p.draw(st.integers(0, len(x.shape) - 1))
    places = [v.name for v in p.values if v.dtype == "int32" and v.shape == x.shape]
    own = f"{x.name}.to(tl.int32)"
    index = p.draw(st.sampled_from([own, *places]))
    p.add(f"tl.gather({x.name}, {index} & {x.shape[axis] - 1}, {axis})", x.dtype, x.shape)


def read_at(p: Program) -> None:
    """Reads where a narrow integer, which may have wrapped around, says."""
    x = p.pick(rank=1, dtypes=("int8",))
    if x is None:
        return
    place = p.draw(st.sampled_from(["{x} + {x}", "{x} * 3", "{x} * 0 + tl.arange(0, {size}).to(tl.int8)"]))
    where = place.format(x=x.name, size=x.size)
    p.add(f"tl.load(int32_memory + tl.program_id(0) * {CELLS // 2} + 300 + ({where}).to(tl.int32))", "int32", x.shape)


def reshape(p: Program) -> None:
    x = p.pick()
    if x is None or not x.shape:
        return
    kind = p.draw(st.sampled_from(["trans", "ravel", "fold", "expand", "join", "flip", "scalar"]))
    if kind == "trans" and len(x.shape) == 2:
        p.add(f"tl.trans({x.name})", x.dtype, x.shape[::-1])
    elif kind == "ravel" and len(x.shape) == 2:
        p.add(f"tl.ravel({x.name})", x.dtype, (x.size,))
    elif kind == "fold" and x.size >= 4:
        p.add(f"tl.reshape({x.name}, ({x.size // 2}, 2))", x.dtype, (x.size // 2, 2))
    elif kind == "expand" and len(x.shape) == 1 and x.size <= 32:
        n = p.draw(st.sampled_from((2, 8)))
        p.add(f"tl.broadcast_to({x.name}[:, None], ({x.size}, {n}))", x.dtype, (x.size, n))
    elif kind == "join" and len(x.shape) == 1 and x.size <= 256:
        p.add(f"tl.interleave({x.name}, {x.name} + 1)", x.dtype, (2 * x.size,))
    elif kind == "flip" and x.shape[-1] > 1:
        p.add(f"tl.flip({x.name}, {len(x.shape) - 1})", x.dtype, x.shape)


def read(p: Program) -> None:
    shape = p.draw(st.sampled_from([(n,) for n in SIZES[1:]] + [(m, n) for m in (2, 8) for n in (2, 16)]))
    memory = p.draw(st.sampled_from(["int32", "float32", "float16", "uint8", "int64"]))
    where = p.indices(shape)
    mask = p.draw(st.sampled_from(["", ", mask={w} < n * 4, other=0", ", mask=({w}) % 3 == 0, other=2"]))
    p.add(f"tl.load({memory}_memory + {where}{mask.format(w=where)})", memory, shape)


def write(p: Program) -> None:
    x = p.pick(dtypes=("int32", "float32", "float16", "uint8", "int64"))
    if x is None or not x.shape or len(x.shape) > 2:
        return
    # Two elements at one place would race: only patterns that keep places apart.
    rows, columns = x.shape if len(x.shape) == 2 else (1, x.shape[0])
    i = f"tl.arange(0, {columns})"
    if len(x.shape) == 2:
        i = f"tl.arange(0, {rows})[:, None] * {columns} + {i}[None, :]"
    pattern = p.draw(st.sampled_from(["{i}", "{last} - ({i})", "({i}) * 2", "({i}) ^ 1"]))
    where = f"tl.program_id(0) * {CELLS // 2} + ({pattern.format(i=i, last=x.size)})"
    p.write(f"tl.store({x.dtype}_memory + {where}, {x.name})")


def loop(p: Program) -> None:
    x = p.pick()
    if x is None:
        return
    total = p.add(f"{x.name} + 0", x.dtype, x.shape)
    p.write(f"for k in range({p.draw(st.sampled_from(['3', 'n', '0']))}):")
    p.depth += 1
    outside = len(p.values)
    inside = [arithmetic, convert, reshape, read, gather, product]
    for step in p.draw(st.lists(st.sampled_from(inside), min_size=1, max_size=3)):
        step(p)
    partner = p.partner(total)
    carried = f"{total.name} + {partner}"
    if total.is_float:
        carried = f"tl.minimum(tl.maximum({carried}, {SMALL}.0), {BIG}.0)"
    p.write(f"{total.name} = ({carried}).to(tl.{total.dtype})")
    p.depth -= 1
    del p.values[outside:]


def branch(p: Program) -> None:
    x = p.pick()
    if x is None:
        return
    result = p.add(f"{x.name} + 0", x.dtype, x.shape)
    p.write(p.draw(st.sampled_from(["if n > 4:", "if tl.program_id(0) == 1:"])))
    p.depth += 1
    p.write(f"{result.name} = ({p.partner(result)} + {result.name} * 0).to(tl.{result.dtype})")
    p.depth -= 1


STEPS = [arithmetic, arithmetic, arithmetic, convert, reduce, scan, reshape, reshape, read, read, write, loop, branch]
STEPS += [product, product, gather, read_at]


@st.composite
def programs(draw: Any) -> tuple[str, list[Value]]:
    p = Program(draw)
    read(p)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=3, max_size=14)):
        step(p)
    outputs = p.values[-6:]
    for number, value in enumerate(outputs):
        i = ""
        if len(value.shape) == 1:
            i = f" + tl.arange(0, {value.size})"
        elif len(value.shape) == 2:
            m, n = value.shape
            i = f" + tl.arange(0, {m})[:, None] * {n} + tl.arange(0, {n})[None, :]"
        p.write(f"tl.store(out{number} + tl.program_id(0) * {value.size}{i}, {value.name})")
    memories = ", ".join(f"{d}_memory" for d in ("int32", "float32", "float16", "uint8", "int64"))
    outs = ", ".join(f"out{number}" for number in range(len(outputs)))
    head = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
    return head + f"def program({memories}, {outs}, n):\n" + "\n".join(p.lines) + "\n", outputs


# ---------------------------------------------------------------- running


def written(source: str, folder: Path) -> Path:
    path = folder / f"fuzz_{hashlib.sha256(source.encode()).hexdigest()[:16]}.py"
    path.write_text(source)
    return path


def memory() -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 16, CELLS).astype(d) for d in ("int32", "float32", "float16", "uint8", "int64")]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter() as running:
        yield running


@settings(
    max_examples=PROGRAMS,
    phases=[Phase.generate],  # programs are short: to make one shorter takes longer than to read it
    derandomize=PROGRAMS <= 100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(program=programs(), n=st.sampled_from([1, 5, 16]))
def test_a_program_gives_what_the_interpreter_gives(
    program: tuple[str, list[Value]], n: int, interpreter: Interpreter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source, outputs = program
    path = written(source, tmp_path_factory.mktemp("fuzz", numbered=True))
    arrays = [*memory(), *(np.zeros(2 * v.size, v.dtype) for v in outputs)]
    wanted = interpreter.run(path, arrays, n)
    un.jit(kernel_of(path))[(2,)](*arrays, n)
    names = ["int32", "float32", "float16", "uint8", "int64"] + [v.name for v in outputs]
    for name, got, want in zip(names, arrays, wanted, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=f"{name} with n={n} of\n{source}")
