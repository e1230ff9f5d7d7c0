"""Each kernel that unify ships: the same operations on the CPU target and emulated."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from unify._copy import TURNED, copy_kernel
from unify.ops.signatures import signatures

from . import shipped
from .harness import compare, tool

ROOT = Path(__file__).parents[3]
# What comes out is rounded to the type once, and what goes into a second product once more; sums of some hundred
# products differ in their order. So a number that is left of terms which cancel is as exact as the largest one there:
# the second tolerance is in parts of that.
TOLERANCE = {"float32": (1e-4, 1e-5), "float16": (2.0**-9, 2.0**-10), "bfloat16": (2.0**-6, 2.0**-7)}
# "linalg": the CPU's own tiles, without the rest of the vendor's compiler. A chip: as programs run on it. The 950's
# compiler takes a minute for some of them.
PLACES = [
    pytest.param("linalg", ("float32", "bfloat16")),
    pytest.param("linalg", ("float16",), marks=pytest.mark.slow),
    pytest.param("ascend:910B3", tuple(shipped.DTYPES), marks=pytest.mark.slow),
    pytest.param("ascend:910C", ("float16",), marks=pytest.mark.slow),
    pytest.param("ascend:950", ("float16",), marks=pytest.mark.slow),
]


@functools.cache
def emulated(where: str, dtypes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """In a process of its own: what was compiled for the CPU stays with its kernels."""
    tool("bishengir-opt")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results.npz")
        command = [sys.executable, "-m", "tests.simulator.emulator.shipped", str(out), where, *dtypes]
        environment = {**os.environ, "UNIFY_NO_CACHE": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
        return dict(np.load(out))


@functools.cache
def expected(dtype: str) -> dict[str, np.ndarray]:
    return shipped.results([dtype])


@pytest.mark.parametrize("name", list(shipped.CASES))
@pytest.mark.parametrize(("where", "dtypes"), PLACES)
def test_agrees_with_the_cpu_target(where: str, dtypes: tuple[str, ...], name: str) -> None:
    for dtype in dtypes:
        rtol, atol = TOLERANCE[dtype]
        got, wanted = emulated(where, dtypes)[f"{name} {dtype}"], expected(dtype)[f"{name} {dtype}"]
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol * max(1.0, np.abs(wanted).max()), err_msg=dtype)


@pytest.mark.parametrize(("where", "dtypes"), PLACES)
def test_no_kernel_is_left_out(where: str, dtypes: tuple[str, ...]) -> None:
    """What `unify compile --shipped` lists is what the cases above were seen to compile."""
    listed = {row.name for row in signatures(where)}
    # A transposition has a call of its own on the CPU.
    assert set(emulated(where, dtypes)["kernels"]) == listed - ({"copy_kernel"} if where == "linalg" else set())


def test_a_transposition_of_memory() -> None:
    source = np.arange(70 * 90, dtype=np.uint16).reshape(70, 90)
    arguments = {
        "dst": np.zeros(70 * 90, np.uint16), "src": source, "rows": 90, "columns": 70, "n1": 1, "n2": 1, "d1": 0,
        "d2": 0, "d3": 0, "s1": 0, "s2": 0, "s3": 0, "d_row": 70, "s_column": 90,
    }  # fmt: skip
    constants = {"d_column": 1, "s_row": 1, "ROWS": TURNED[0], "COLUMNS": TURNED[1]}
    grid = (-(-90 // TURNED[0]) * -(-70 // TURNED[1]), 1, 1)
    compare(copy_kernel, grid, arguments, types={"dst": "*u16", "src": "*u16"}, **constants)
