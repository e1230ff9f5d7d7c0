"""Emulated kernels for aarch64 give what they give on this machine: cross-compiled, and run in qemu.

Needs Debian's g++-aarch64-linux-gnu and qemu-user. What this machine gives is compared with NumPy in the other files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unify.compiler.cpu.link import features
from unify.simulator import emulator

from ...compiler.cpu import emulator as qemu
from ...compiler.cpu.harness import Compiled, Fault, compile_kernel
from .cases import CASES, Case
from .harness import Emulated, linalg, pack, tool

pytestmark = pytest.mark.skipif(
    features("").triple.startswith("aarch64"), reason="this machine runs them without an emulator"
)


class _Image:
    """A host object with its pointers, as tests/compiler/cpu/emulator.py takes the CPU target's images."""

    def __init__(self, compiled: Compiled, arch: str) -> None:
        self.kernel = emulator.build(linalg(compiled.ttir), tool("bishengir-opt"), arch=arch)
        self.name, self.object, self.scratch_bytes = self.kernel.name, self.kernel.object, self.kernel.scratch_bytes
        names = [name for name, _, _ in compiled.image.parameters]
        own = [(name, type_, offset) for name, (type_, offset) in zip(names, self.kernel.parameters, strict=True)]
        self.parameters = [*own, ("workspace", "*i8", 8), ("workspace", "*i8", 16)]


def _run(compiled: Compiled, arch: str, grid: tuple[int, ...], arguments: dict[str, Any]) -> None:
    image: Any = _Image(compiled, arch)
    full, workspace = (*grid, 1, 1, 1)[:3], np.zeros(4096, np.uint8)
    packed = pack(image.kernel, full, [arguments[name] for name, _, _ in compiled.image.parameters], workspace)
    everything = {**arguments, "workspace": workspace}
    blocks = (int(np.prod(full)), 1, 1)  # the simulated device knows no other grid
    assert qemu.run(image, features(arch), blocks, packed, everything, Fault()) == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__[1:])
def test_an_emulated_kernel_gives_what_it_gives_here(case: Callable[[], Case]) -> None:
    qemu.program()
    fn, grid, arguments, constants, tolerance = case()
    compiled = compile_kernel(fn, arguments, constants)
    there = {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in arguments.items()}
    Emulated(compiled).launch(grid, arguments)
    _run(compiled, "aarch64", grid, there)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(there[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
