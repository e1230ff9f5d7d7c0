"""What the conformance suite must know of Ascend: its chips have no float64."""

from __future__ import annotations

from unify import Device

from .spec import Kernel, Spec, compiled

__all__ = ["spec"]


def _kernels(device: Device, name: str) -> Kernel | None:
    return None if name == "numbers" else compiled(device, name)  # it writes float64


_NO_FLOAT64 = "its compiler takes no float64 (Triton-Ascend, python-api outline)"
spec = Spec(
    kernels=_kernels,
    unsupported={"launch::test_arrays_of_each_dtype_arrive_whole[*float64]": _NO_FLOAT64},
)
