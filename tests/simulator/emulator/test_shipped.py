"""Each kernel that unify ships: the same operations on the CPU target and emulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unify._copy import TURNED, copy_kernel
from unify.ops.signatures import signatures

from . import shipped
from .harness import compare, tool

ROOT = Path(__file__).parents[3]
# What comes out is rounded to the type once; before that, sums of some hundred products differ in their order.
TOLERANCE = {"float32": (1e-4, 1e-5), "float16": (2.0**-9, 2.0**-10), "bfloat16": (2.0**-6, 2.0**-7)}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """In a process of its own: what was compiled for the CPU stays with its kernels."""
    tool("bishengir-opt")
    out = tmp_path_factory.mktemp("shipped") / "results.npz"
    command = [sys.executable, "-m", "tests.simulator.emulator.shipped", str(out)]
    environment = {**os.environ, "UNIFY_NO_CACHE": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run(command, check=True, env=environment, cwd=ROOT)
    return dict(np.load(out))


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return shipped.results()


@pytest.mark.parametrize("dtype", list(shipped.DTYPES))
@pytest.mark.parametrize("name", list(shipped.CASES))
def test_agrees_with_the_cpu_target(
    emulated: dict[str, np.ndarray], expected: dict[str, np.ndarray], name: str, dtype: str
) -> None:
    rtol, atol = TOLERANCE[dtype]
    got, wanted = emulated[f"{name} {dtype}"], expected[f"{name} {dtype}"]
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol)


def test_a_transposition_of_memory() -> None:
    source = np.arange(70 * 90, dtype=np.uint16).reshape(70, 90)
    arguments = {
        "dst": np.zeros(70 * 90, np.uint16), "src": source, "rows": 90, "columns": 70, "n1": 1, "n2": 1, "d1": 0,
        "d2": 0, "d3": 0, "s1": 0, "s2": 0, "s3": 0, "d_row": 70, "s_column": 90,
    }  # fmt: skip
    constants = {"d_column": 1, "s_row": 1, "ROWS": TURNED[0], "COLUMNS": TURNED[1]}
    grid = (-(-90 // TURNED[0]) * -(-70 // TURNED[1]), 1, 1)
    compare(copy_kernel, grid, arguments, types={"dst": "*u16", "src": "*u16"}, **constants)


def test_no_kernel_is_left_out() -> None:
    assert {row.name for row in signatures("cpu")} == shipped.KERNELS | {"copy_kernel"}
