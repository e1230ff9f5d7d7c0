"""What torch_npu's transfer_to_npu changes in a program for CUDA without a word, line by line.

It is imported by the program and patches torch. This module looks at the patches that change what is computed, or how,
and notes the program's line whenever it meets one.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unify._config import environment

JIT = "torch.jit.script does nothing here: the function runs as Python"
DOUBLE = "torch.cuda.DoubleTensor is torch.npu.FloatTensor: float64 becomes float32"
NUMBER = "a device number is npu's here: {0} is npu:{0}"
TRITON = "has_triton() says no: torch.compile generates no Triton kernels"
_OWN = tuple(f"{os.sep}{name}{os.sep}" for name in ("torch", "torch_npu", "unify", "importlib"))

changes: Counter[tuple[str, int, str]] = Counter()  # how often: file, line, what is changed there


def watch() -> None:
    """Notes changes from now on; transfer_to_npu has been imported. They are written when the process ends."""
    import torch

    torch.jit.script = _noting(torch.jit.script, JIT)
    torch.jit.script_method = _noting(torch.jit.script_method, JIT)
    torch.cuda.DoubleTensor = _Double(torch.cuda.DoubleTensor)
    for owner, names in ((torch.Tensor, ("to",)), (torch.nn.Module, ("to", "to_empty"))):
        for name in names:
            setattr(owner, name, _noting_numbers(getattr(owner, name)))
    for module in ("torch.utils._triton", "torch._dynamo.utils", "torch._inductor.compile_fx"):
        sys.modules[module].has_triton = _noting(sys.modules[module].has_triton, TRITON)  # type: ignore[attr-defined]
    atexit.register(write)


def note(what: str) -> None:
    """Counts a change at the line of the program that runs."""
    frame: Any = sys._getframe(1)
    while frame is not None and any(part in frame.f_code.co_filename for part in _OWN):
        frame = frame.f_back
    if frame is not None:
        changes[frame.f_code.co_filename, frame.f_lineno, what] += 1


def write() -> None:
    """Writes what was noted into the report's folder, if there is one."""
    folder = environment().get("UNIFY_SIMULATED_REPORT")
    if not folder or not changes:
        return
    rows = [
        {"file": file, "line": line, "what": what, "count": count}
        for (file, line, what), count in sorted(changes.items())
    ]
    (Path(folder) / f"{os.getpid()}.transfer").write_text(json.dumps(rows))


def _noting(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        note(what)
        return function(*args, **kwargs)

    return noted


def _noting_numbers(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device", args[0] if args else None)
        if type(device) is int:
            note(NUMBER.format(device))
        return method(self, *args, **kwargs)

    return noted


class _Double:
    """In torch.cuda.DoubleTensor's place."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(DOUBLE)
        return self._real(*args, **kwargs)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
