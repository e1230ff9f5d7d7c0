"""Devices that are not there, to test with: drivers that behave as a vendor's, over the kernels of the CPU compiler.

Nothing in the product imports this package. A simulated device says so in its name.
"""

from __future__ import annotations

from .cuda import Simulation, from_text, library_path, simulate

__all__ = ["Simulation", "from_text", "library_path", "simulate"]
