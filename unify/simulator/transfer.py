"""What torch_npu's transfer_to_npu changes in a program for CUDA without a word, line by line.

It is imported by the program and patches torch. This module looks at the patches that change what is computed, or how,
and notes the program's line whenever it meets one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .lines import Lines

JIT = "torch.jit.script does nothing here: the function runs as Python"
DOUBLE = "torch.cuda.DoubleTensor is torch.npu.FloatTensor: float64 becomes float32"
NUMBER = "a device number is npu's here: {0} is npu:{0}"
TRITON = "has_triton() says no: torch.compile generates no Triton kernels"

_lines = Lines("transfer")


def watch() -> None:
    """Notes changes from now on; transfer_to_npu has been imported. They are written when the process ends."""
    import torch

    torch.jit.script = _noting(torch.jit.script, JIT)
    torch.jit.script_method = _noting(torch.jit.script_method, JIT)
    torch.cuda.DoubleTensor = _Double(torch.cuda.DoubleTensor)
    patched = sys.modules["torch_npu.contrib.transfer_to_npu"]
    for owner, names in (
        (torch, patched.torch_fn_white_list),
        (torch.Tensor, patched.torch_tensor_fn_white_list),
        (torch.nn.Module, patched.torch_module_fn_white_list),
    ):
        for name in filter(owner.__dict__.__contains__, names):
            setattr(owner, name, _noting_numbers(getattr(owner, name), of_device=1 if name == "to" else None))
    for module in ("torch.utils._triton", "torch._dynamo.utils", "torch._inductor.compile_fx"):
        sys.modules[module].has_triton = _noting(sys.modules[module].has_triton, TRITON)  # type: ignore[attr-defined]


def _noting(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        _lines.note(what)
        return function(*args, **kwargs)

    return noted


def _noting_numbers(function: Callable[..., Any], of_device: int | None) -> Callable[..., Any]:
    """of_device: which argument is the device if no name says so."""

    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        device = args[of_device] if of_device is not None and len(args) > of_device else kwargs.get("device")
        if type(device) is int:
            _lines.note(NUMBER.format(device))
        return function(*args, **kwargs)

    return noted


class _Double:
    """In torch.cuda.DoubleTensor's place."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _lines.note(DOUBLE)
        return self._real(*args, **kwargs)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
