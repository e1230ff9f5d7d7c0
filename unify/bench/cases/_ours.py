"""Unify's side: what every case does the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Setup, Side


def tensor(setup: Setup, array: Any, dtype: str = "fp32") -> Any:
    """A NumPy array on the case's device, as the dtype of that short name, in memory of our own.

    NumPy's begins 16 bytes into a cache line, so that each vector of 64 bytes would lie in two.
    """
    import unify

    dtypes = {"fp32": unify.float32, "bf16": unify.bfloat16, "int8": unify.int8}
    return unify.asarray(array, device=setup.device, copy=True).to(dtypes[dtype])


def side(setup: Setup, step: Callable[[], Any]) -> Side:
    """A side whose step returns a tensor, which is its result too; a sample ends when the device is done."""
    import unify

    device = unify.device(setup.device)
    return Side(step=step, finish=device.synchronize, result=lambda: step().to("cpu").to(unify.float32).numpy())
