"""What an op must compute and move at least, from its sizes, by a function of the op's name: see unify._cost."""

from __future__ import annotations

from unify import _cost
from unify._cost import *  # noqa: F403 - as this module is the one that users know

__all__ = _cost.__all__
