"""Simulated chips of any vendor, by the name of their kind."""

from __future__ import annotations

from unify._errors import InvalidArgument

from . import ascend, cuda
from .simulation import GIB, Simulation


def simulate(target: str = "cuda:90", count: int = 1, memory_bytes: int = GIB, name: str | None = None) -> Simulation:
    """Makes this process see `count` simulated chips: of CUDA by their compute capability, of Ascend by their model.

    target: "cuda:80", 86, 89, 90, 100 or 120; "ascend:910B1", 910B2, 910B3, 910B4, 910C or 950. memory_bytes: of each.
    name: what a CUDA device is called in place of its chip's name. Before the first device of the kind is opened;
    chips of both kinds may be there at a time. Kernels compiled for the kind run on them from then on.
    Raises InvalidArgument.
    """
    if target.partition(":")[0] != "ascend":
        return cuda.simulate(target, count, memory_bytes, name)
    if name is not None:
        raise InvalidArgument("simulate: an Ascend device is always called by its chip.")
    return ascend.simulate(target, count, memory_bytes)


def from_text(text: str) -> Simulation:
    """Reads what UNIFY_SIMULATE holds: chips of one kind, or of both kinds with ";" in between.

    "cuda:90", "cuda:90x2" for two of them, "cuda:90x2,4g" for 4 GiB of memory each; "ascend:910B3x2,8g" in the same
    way. Returns the last of them. Raises InvalidArgument.
    """
    for part in text.split(";"):
        simulation = ascend.from_text(part) if part.startswith("ascend") else cuda.from_text(part)
    return simulation
