"""What unify's conformance suite must know: kernels in OpenCL C, and what a device of OpenCL cannot do."""

from __future__ import annotations

from pathlib import Path

from unify import Device
from unify.testing import Kernel, Spec

_THREADS = 64
_SOURCE = Path(__file__).with_name("kernels.cl")

_SIGNATURES = {
    "fill": "*i32, i32, i32",
    "copy": "*i32, *i32, i32",
    "affine": "*i32, i32, i32, i32",
    "add": "*fp32, *fp32, *fp32, i32",
    "place": "*i32",
    "numbers": "*i64, i8, i64, i16, i32, *fp64, fp32, fp64, i8",
    "count": "*i32",
    "spin": "*i32, i32",
    "block": "*i32",
}


def kernels(device: Device, name: str) -> Kernel | None:
    """One program of 64 threads handles 64 elements. No `fault`: OpenCL promises nothing of a wild address, and PoCL's
    CPU runs kernels in this very process, which would end."""
    if name not in _SIGNATURES:
        return None
    return Kernel(_SOURCE.read_bytes(), name, _SIGNATURES[name], threads=_THREADS, elements=_THREADS)


spec = Spec(
    kernels=kernels,
    unsupported={
        "launch::*": "Triton kernels: this backend has no compile half",
        "module::test_a_truncated_image_is_refused_at_every_length": "images are text: a part of a program may be one",
        "module::test_a_damaged_image_is_refused_or_loaded_and_never_worse": "images are text, and are compiled: slow",
    },
)
