"""What does each argument add to a launch? Kernels of 0, 4, 8 and 19 arguments on an idle stream, against Triton.

Triton's own launcher publishes 0 and 19 arguments; half of ours are tensors, half numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from unify.bench import Case, Setup, Side
from unify.bench.case import MICROSECONDS

# A kernel of each length is written out: Triton reads the source, so it cannot be made from a template.


@triton.jit
def kernel_0():
    tl.program_id(0)


@triton.jit
def kernel_4(a, b, c, d):
    if tl.program_id(0) > c:
        tl.store(a, tl.load(b) + d)


@triton.jit
def kernel_8(a, b, c, d, e, f, g, h):
    if tl.program_id(0) > e:
        tl.store(a, tl.load(b) + tl.load(c) + tl.load(d) + f + g + h)


@triton.jit
def kernel_19(a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, r, s, t):
    if tl.program_id(0) > j:
        total = tl.load(b) + tl.load(c) + tl.load(d) + tl.load(e) + tl.load(f) + tl.load(g) + tl.load(h) + tl.load(i)
        tl.store(a, total + k + m + n + o + p + q + r + s + t)


KERNELS = {0: kernel_0, 4: kernel_4, 8: kernel_8, 19: kernel_19}


def cases() -> list[Case]:
    """One case for each number of arguments."""
    return [
        Case(
            name=f"launch-{count}",
            subject="launch",
            about=f"launch a compiled kernel with {count} arguments on an idle stream",
            unit=MICROSECONDS,
            ours=_unify(count, kernel),
            peers={"triton": _triton(count, kernel)},
        )
        for count, kernel in KERNELS.items()
    ]


def _numbers(count: int) -> list[int]:
    return [16 * place for place in range(4, 4 + count - count // 2)]


def _unify(count: int, kernel: Any) -> Callable[[Setup], Side]:
    def build(setup: Setup) -> Side:
        import unify

        device = unify.device(setup.device)
        launch = unify.jit(kernel)
        arguments = [unify.zeros(64, unify.float32, device=device) for _ in range(count // 2)] + _numbers(count)
        return Side(step=lambda: launch[(1,)](*arguments), finish=device.synchronize)

    return build


def _triton(count: int, kernel: Any) -> Callable[[Setup], Side]:
    def build(_: Setup) -> Side:
        from unify.bench.cases._null_driver import NullDriver, Pointer

        triton.runtime.driver.set_active(NullDriver())
        arguments = [Pointer(address << 12) for address in range(1, 1 + count // 2)] + _numbers(count)
        return Side(step=lambda: kernel[(1,)](*arguments))

    return build
