"""Runs one case: ours against one peer, paired, and says how far the figure can be trusted."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from unify._errors import Error, UnsupportedError

from .case import Case, Setup
from .peers import Peer
from .process import NeighbourLoad, Worker
from .roofline import Roofline
from .timing import CASE_SECONDS, Pair, Sampler, alternate, calls_for, quantile, ratio_of

# Others' use of our cores from which a figure is called disturbed.
DISTURBED_CORES = 0.10
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Comparison:
    """One row of the report, and one object of --json.

    ours, peer: medians in `unit`; ratio: the median of the paired ratios, as speed (above 1: ours is faster);
    ratio_min, ratio_max: the smallest and largest pair; ratio_q1, ratio_q3: the quartiles. limit_fraction: our speed
    over the machine's limit for this work. neighbour_cores: cores that other programs took meanwhile. simulated: our
    device is none, so that our speed is that of this machine.
    """

    case: str
    ours: float
    peer: float
    unit: str
    ratio: float
    ratio_min: float
    ratio_max: float
    ratio_q1: float
    ratio_q3: float
    peer_name: str
    peer_version: str
    threads: int
    device: str
    repeats: int
    is_noisy: bool
    neighbour_cores: float
    limit_fraction: float | None
    largest_difference: float | None
    simulated: bool = False

    @property
    def label(self) -> str:
        """The case as reports name it."""
        return f"{self.case} (simulated)" if self.simulated else self.case

    def as_dict(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return asdict(self)


def compare_case(
    case: Case,
    peer: Peer,
    setup: Setup,
    cpus: Sequence[int],
    *,
    repeats: int | None = None,
    limits: Roofline | None = None,
    progress: Progress = lambda _: None,
) -> Comparison:
    """Measures `case` on both sides in turn.

    Raises UnsupportedError if the case has no such peer, Error if a side fails or the two results differ.
    """
    if peer.name not in case.peers:
        raise UnsupportedError(
            f"bench: {case.name} has no peer {peer.name}. It can be compared with {', '.join(case.peers)}."
        )
    measure = _fresh_pairs if case.is_fresh else _pairs
    taken = measure(case, peer, setup, cpus, repeats, progress)
    return _summary(case, peer, setup, taken, limits)


@dataclass(frozen=True)
class _Taken:
    pairs: list[Pair]
    neighbour_cores: float
    difference: float | None


def _open(stack: ExitStack, case: Case, side: str, setup: Setup, cpus: Sequence[int]) -> Worker:
    worker = stack.enter_context(Worker(f"bench: {case.name}, {side}", setup.threads))
    worker.build(case, side, setup, cpus)
    return worker


def _pairs(
    case: Case, peer: Peer, setup: Setup, cpus: Sequence[int], repeats: int | None, progress: Progress
) -> _Taken:
    with ExitStack() as stack:
        progress("building")
        ours = _open(stack, case, "ours", setup, cpus)
        theirs = _open(stack, case, peer.name, setup, cpus)
        difference = difference_of(case, ours.result(), theirs.result())
        progress("warming up")
        calls = (_calls(case, ours), _calls(case, theirs))
        load = NeighbourLoad(cpus, (ours, theirs))
        pairs = _alternate(case, ours, theirs, calls, repeats, progress)
        return _Taken(pairs, load.cores(), difference)


def _calls(case: Case, side: Worker) -> int:
    """Calls of one sample; whatever is slow only once is behind the side when this returns."""
    if case.calls is None:
        return calls_for(side)
    side.sample(case.calls, 0)
    return case.calls


class _FreshSampler:
    """A side that starts in a new process for each sample: for what only grows, such as peak memory."""

    def __init__(self, case: Case, side: str, setup: Setup, cpus: Sequence[int]) -> None:
        self._case, self._side, self._setup, self._cpus = case, side, setup, cpus

    def sample(self, calls: int, warm_calls: int) -> float:
        with ExitStack() as stack:
            return _open(stack, self._case, self._side, self._setup, self._cpus).sample(calls, warm_calls)


def _fresh_pairs(
    case: Case, peer: Peer, setup: Setup, cpus: Sequence[int], repeats: int | None, progress: Progress
) -> _Taken:
    ours, theirs = (_FreshSampler(case, side, setup, cpus) for side in ("ours", peer.name))
    pairs = _alternate(case, ours, theirs, (1, 1), repeats, progress)
    return _Taken(pairs, 0.0, None)


def _alternate(
    case: Case, ours: Sampler, theirs: Sampler, calls: tuple[int, int], repeats: int | None, progress: Progress
) -> list[Pair]:
    """As many pairs as were asked for; where none were, as the case says unless that takes too long."""
    count, seconds = (case.repeats, CASE_SECONDS) if repeats is None else (repeats, math.inf)
    return alternate(ours, theirs, count, calls, lambda n: progress(f"pair {n} of {count}"), seconds=seconds)


def difference_of(case: Case, ours: dict[str, Any], peer: dict[str, Any]) -> float | None:
    """The largest difference of the results, relative to the largest value. Raises Error if it exceeds the tolerance.

    A comparison of speed between two programs that compute different things says nothing, so it is not made.
    """
    if case.tolerance is None or ours["shape"] is None or peer["shape"] is None:
        return None
    if ours["shape"] != peer["shape"]:
        raise Error(
            f"bench: {case.name}: the sides' results differ in shape: ours {ours['shape']}, peer {peer['shape']}."
        )
    largest = max((abs(value) for value in peer["values"]), default=0.0)
    gap = max((abs(a - b) for a, b in zip(ours["values"], peer["values"], strict=True)), default=0.0)
    difference = gap / largest if largest else gap
    if not difference <= case.tolerance:  # also true of NaN
        raise Error(
            f"bench: {case.name}: the sides compute different things: largest difference {difference:.2g} of the "
            f"largest value, {case.tolerance:.2g} allowed. Speed was not measured; check the op's tests first."
        )
    return difference


def _summary(case: Case, peer: Peer, setup: Setup, taken: _Taken, limits: Roofline | None) -> Comparison:
    ratio = ratio_of(taken.pairs)
    ours = quantile([pair.ours for pair in taken.pairs], 0.5)
    least = case.limit(limits) if limits else None
    return Comparison(
        case=case.name,
        ours=case.unit.of(ours, case.work),
        peer=case.unit.of(quantile([pair.peer for pair in taken.pairs], 0.5), case.work),
        unit=case.unit.name,
        ratio=ratio.median,
        ratio_min=ratio.low,
        ratio_max=ratio.high,
        ratio_q1=ratio.first_quartile,
        ratio_q3=ratio.third_quartile,
        peer_name=peer.name,
        peer_version=peer.version,
        threads=setup.threads,
        device=setup.device,
        repeats=len(taken.pairs),
        is_noisy=ratio.is_noisy or taken.neighbour_cores > DISTURBED_CORES,
        neighbour_cores=taken.neighbour_cores,
        limit_fraction=None if least is None else least / ours,
        largest_difference=taken.difference,
        simulated=is_simulated(setup.device),
    )


@functools.cache
def is_simulated(device: str) -> bool:
    """Whether a device is simulated, asked in a process of its own: this one opens none."""
    if device.partition(":")[0] == "cpu":
        return False
    with Worker(f"bench: {device}", 1) as worker:
        return worker.is_simulated(device)


def measure_limits(threads: int, cpus: Sequence[int]) -> Roofline:
    """The machine's limits, in a process of its own on the same cores."""
    with Worker("limits", threads) as worker:
        return Roofline(**worker.limits(threads, cpus))
