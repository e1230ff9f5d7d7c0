"""What a launch costs: a compiled kernel of eight arguments on an idle stream."""

from __future__ import annotations

from ..case import MICROSECONDS, Case, Setup, Side
from . import _torch


def cases() -> list[Case]:
    """One case: the floor of everything that is launched from Python."""
    return [
        Case(
            name="launch",
            subject="launch",
            about="launch a compiled kernel with 8 arguments on an idle stream, and wait for the last of many",
            unit=MICROSECONDS,
            ours=_unify,
            peers={"triton": _triton, "torch": _torch_add, "numpy": _numpy_add},
        )
    ]


def _unify(setup: Setup) -> Side:
    import unify

    from ._kernels import nothing_kernel

    device = unify.device(setup.device)
    kernel = unify.jit(nothing_kernel)
    a, b, c, out = (unify.zeros(64, unify.float32, device=device) for _ in range(4))
    return Side(step=lambda: kernel[(1,)](a, b, c, out, 64, 32, 16, 0.5), finish=device.synchronize)


def _triton(setup: Setup) -> Side:
    import triton

    from ._kernels import nothing_kernel
    from ._null_driver import NullDriver, Pointer

    triton.runtime.driver.set_active(NullDriver())
    a, b, c, out = (Pointer(address << 12) for address in range(1, 5))
    return Side(step=lambda: nothing_kernel[(1,)](a, b, c, out, 64, 32, 16, 0.5))


def _torch_add(setup: Setup) -> Side:
    torch = _torch.load(setup)
    a, b, out = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    return Side(step=lambda: torch.add(a, b, out=out))


def _numpy_add(setup: Setup) -> Side:
    import numpy as np

    a, b, out = (np.zeros(1, np.float32) for _ in range(3))
    return Side(step=lambda: np.add(a, b, out=out))
