"""Devices that are not there, to test with: drivers that behave as a vendor's, over kernels that the CPU runs.

Nothing in the product imports this package. A simulated device says so in its name. A name is loaded from its module
at its first use: pytest imports this package for its plugin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cuda import library_path as library_path
    from .kinds import from_text as from_text, simulate as simulate
    from .simulation import Simulation as Simulation

_HOME = {"Simulation": "simulation", "from_text": "kinds", "library_path": "cuda", "simulate": "kinds"}

__all__ = ["Simulation", "from_text", "library_path", "simulate"]


def __getattr__(name: str) -> Any:
    """Loads a public name's module at the name's first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'unify.simulator' has no attribute {name!r}")
    return getattr(importlib.import_module(f"unify.simulator.{_HOME[name]}"), name)
