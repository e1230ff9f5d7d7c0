"""The 950: its linalg comes from the same adapter with other flags, and runs the same way.

Its own bishengir-opt-a5 cannot prepare it: that one has no pass that brings the vendor's named operations to upstream
ones, so the 910's bishengir-opt does it for both.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import CASES, Case
from .harness import compare


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__[1:])
def test_kernels_lowered_for_the_950_agree_with_the_cpu_target(case: Callable[[], Case]) -> None:
    fn, grid, arguments, constants, tolerance = case()
    compare(fn, grid, arguments, rtol=tolerance, atol=tolerance, is_950=True, **constants)
