"""The kernels that the CPU target is tested with give the same by way of the vendor's adapter and the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unify._errors import CompileError

from ...compiler.cpu.test_aarch64 import CASES, Case
from .harness import Emulated, tool

pytestmark = pytest.mark.filterwarnings("ignore:.*can_reorder")

# What the vendor's adapter leaves as it is: conversions of float8.
REFUSED = {"float8e4nv": "tt.fp_to_fp", "float8e5": "tt.fp_to_fp"}
# Functions of libm, and products that one of the two fuses with a sum.
_TOLERANCE = 1e-6


def _run(case: Case, is_950: bool) -> dict[str, np.ndarray[Any, Any]]:
    copies = {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in case.arguments.items()}
    Emulated(case.compile(""), is_950=is_950).launch(case.grid, copies)
    return {name: v for name, v in copies.items() if isinstance(v, np.ndarray)}


@pytest.mark.parametrize("is_950", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name in CASES if name not in REFUSED])
def test_emulated_it_gives_what_the_cpu_target_gives(name: str, is_950: bool) -> None:
    tool("bishengir-opt")
    case = CASES[name]()
    expected = case.run("")
    if name == "atomics":
        expected["flags"][2] = 7  # atomic_cas(flags + 1, 0, 7): the vendor's gives the new value
    for argument, found in _run(case, is_950).items():
        is_short = (case.types or {}).get(argument) == "*bf16"
        got, wanted = (_floats(a) if is_short else a for a in (found, expected[argument]))
        rtol, atol = (max(number, _TOLERANCE) for number in (case.rtol, case.atol))
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, err_msg=argument)


def _floats(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_leaves_is_named(name: str) -> None:
    tool("bishengir-opt")
    with pytest.raises(
        CompileError, match=rf"test_aarch64.py:\d+: the vendor's compiler left {REFUSED[name]} as it was"
    ):
        _run(CASES[name](), is_950=False)
