"""A case: one question, answered by one function for unify and one for each peer.

Each function builds its side in a process of its own: inputs from a seed, weights, warm caches. What it returns says
how to do the work once; it never measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .roofline import Roofline


# What one call moves and the next call moves again is taken for cached up to here: memory is no limit for it then.
CACHED_BYTES = 64 << 20


@dataclass(frozen=True)
class Setup:
    """What both sides are told: the same for either."""

    threads: int
    device: str = "cpu"
    model: Path | None = None


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Side:
    """How one side does the work of a case.

    step: does it once; finish: waits until all steps are done; before: brings the state back to its start, untimed;
    result: what the work gave, as a NumPy array, compared between the sides; cost: for what is not the time of a step,
    called instead of it with the number of calls, returns the cost of one.
    """

    step: Callable[[], object] = _nothing
    finish: Callable[[], object] = _nothing
    before: Callable[[], object] = _nothing
    result: Callable[[], Any] | None = None
    cost: Callable[[int], float] | None = None


@dataclass(frozen=True)
class Unit:
    """How a cost (seconds, or bytes) is shown. A rate shows work over cost, so more is better."""

    name: str
    scale: float
    is_rate: bool

    def of(self, cost: float, work: float) -> float:
        """Converts the cost of one call that did `work`."""
        return work / cost * self.scale if self.is_rate else cost * self.scale


MICROSECONDS = Unit("µs", 1e6, is_rate=False)
MILLISECONDS = Unit("ms", 1e3, is_rate=False)
MEGABYTES = Unit("MB", 1e-6, is_rate=False)
GFLOPS = Unit("GFLOP/s", 1e-9, is_rate=True)
GIGABYTES_A_SECOND = Unit("GB/s", 1e-9, is_rate=True)
TOKENS_A_SECOND = Unit("tokens/s", 1.0, is_rate=True)


@dataclass(frozen=True)
class Case:
    """One benchmark.

    work: what one call does, in the unit's terms (operations, bytes, tokens); flops and bytes: the least it must
    compute and move, for the machine's limit; dtype: which peak rate applies. tolerance: the largest difference between
    the sides' results, relative to the largest value, None where there is nothing to compare. calls: fixed calls of a
    sample, None to fit the sample's time; is_fresh: each sample in a new process; file: where it was loaded from, empty
    for one of unify's own.
    """

    name: str
    subject: str
    about: str
    unit: Unit
    ours: Callable[[Setup], Side]
    peers: Mapping[str, Callable[[Setup], Side]]
    work: float = 1.0
    flops: float = 0.0
    bytes: float = 0.0
    dtype: str = "fp32"
    tolerance: float | None = None
    calls: int | None = None
    repeats: int = 15
    is_fresh: bool = False
    needs_model: bool = False
    aliases: tuple[str, ...] = ()
    file: str = ""

    def side(self, name: str) -> Callable[[Setup], Side]:
        """The function that builds a side: "ours" or a peer's name."""
        return self.ours if name == "ours" else self.peers[name]

    def limit(self, roofline: Roofline) -> float | None:
        """The least seconds that the machine could need for one call, None where no limit is known."""
        peak = {"fp32": roofline.fp32_gflops, "bf16": roofline.bf16_gflops, "int8": roofline.int8_gops}[self.dtype]
        arithmetic = self.flops / peak if peak is not None else 0.0
        memory = self.bytes / roofline.read_gb_s if self.bytes > CACHED_BYTES else 0.0
        return max(arithmetic, memory) / 1e9 or None
