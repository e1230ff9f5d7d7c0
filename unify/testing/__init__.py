"""For those who test what they build on unify: arrays, injected faults, and the conformance suite of backends."""

from .spec import Kernel, Spec

__all__ = ["Kernel", "Spec"]
