"""Operators that torch_npu computes on the host, noted at the program's lines.

torch_npu has torch's own fallback for what it has no operator for: `at::native::cpu_fallback` takes the tensors to the
host by `aten::_to_cpu`, which nothing else calls. What runs on the device is not looked at, and costs nothing more.
"""

from __future__ import annotations

from typing import Any

from unify._config import environment

from .lines import Lines

BACKWARD = "in a backward pass"
_kept: list[Any] = []  # torch takes what was registered back with the object


def watch() -> None:
    """Notes such operators from now on, if a report is asked for; torch_npu has been imported."""
    if not environment().get("UNIFY_SIMULATED_REPORT"):
        return
    import torch

    lines = Lines("fallback")

    def to_cpu(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        lines.note("", elsewhere=BACKWARD)
        return [each.cpu() for each in tensors]

    library = torch.library.Library("aten", "IMPL")
    library.impl("_to_cpu", to_cpu, "PrivateUse1")
    _kept.append(library)
