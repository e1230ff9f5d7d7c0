"""Paired measurement: two sides take turns, and the ratio is taken within each pair.

Clocks drift, neighbours come and go. Both sides of a pair see nearly the same machine, so the ratio of a pair varies
far less than either time; the order within a pair alternates (ours first, peer first, …), so drift favours neither.
Nothing here touches a clock of its own: tests pass one that they wind by hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

from unify._errors import InvalidArgument

Clock = Callable[[], float]

# Long enough that reading the clock (50 ns) and waking a thread pool (50 µs) are lost in it.
SAMPLE_SECONDS = 0.05
# The first calls after the other side's turn find cold caches and sleeping threads: they are not timed.
WARM_FRACTION = 0.1
# Slow work is not repeated beyond this many seconds, once there are enough pairs for a median and its spread.
CASE_SECONDS, ENOUGH_PAIRS = 60.0, 5
# Quartiles further apart than this part of the median: the figure is called noisy wherever it is shown.
NOISY_SPREAD = 0.10
FEWEST_PAIRS = 3  # of fewer, the median is no protection from one that stalled


class Sampler(Protocol):
    """One side of a comparison."""

    def sample(self, calls: int, warm_calls: int) -> float:
        """Does `warm_calls` untimed calls, then `calls` timed ones; returns the cost of one (seconds, or bytes)."""
        ...


@dataclass(frozen=True)
class Pair:
    """The cost of one call on both sides, measured one after the other."""

    ours: float
    peer: float

    @property
    def ratio(self) -> float:
        """Ours over peer's as speed: above 1, ours is faster."""
        return self.peer / self.ours


@dataclass(frozen=True)
class Ratio:
    """The paired ratios in five numbers, and how many pairs there are."""

    pairs: int
    median: float
    low: float
    high: float
    first_quartile: float
    third_quartile: float

    @property
    def is_noisy(self) -> bool:
        """Whether the middle half of the pairs is spread over more than 10 % of the median, or there are too few."""
        return self.pairs < FEWEST_PAIRS or self.third_quartile - self.first_quartile > NOISY_SPREAD * self.median


def timed(
    step: Callable[[], object], finish: Callable[[], object], calls: int, clock: Clock = time.perf_counter
) -> float:
    """Seconds of one call of `step`, `finish` (waiting for a device, say) counted once among them."""
    start = clock()
    for _ in repeat(None, calls):
        step()
    finish()
    return (clock() - start) / calls


def calls_for(sampler: Sampler, seconds: float = SAMPLE_SECONDS, *, most: int = 1 << 22) -> int:
    """How many calls last `seconds`: doubled until they do, after a first one that may compile or read files."""
    sampler.sample(1, 0)
    calls = 1
    while True:
        cost = sampler.sample(calls, 0)
        if cost * calls >= seconds:  # or it stalled, and every sample would be of too few calls
            cost = min(cost, sampler.sample(calls, 0))
        if cost * calls >= seconds or calls >= most:
            return max(1, min(most, math.ceil(seconds / cost))) if cost > 0 else calls
        calls = min(most, calls * 2)


def warm_calls_for(calls: int) -> int:
    """Untimed calls before a sample. One call that fills a sample by itself needs none: it warms up within."""
    return 0 if calls <= 1 else max(1, round(calls * WARM_FRACTION))


def alternate(
    ours: Sampler,
    peer: Sampler,
    repeats: int,
    calls: tuple[int, int],
    on_pair: Callable[[int], object] = lambda _: None,
    *,
    seconds: float = math.inf,
    clock: Clock = time.perf_counter,
) -> list[Pair]:
    """Takes `repeats` pairs, or fewer but enough where they take longer than `seconds`.

    calls: of one sample, for ours and for the peer. `on_pair` hears the number taken.
    """
    if repeats < 1:
        raise InvalidArgument(f"bench: repeats must be at least 1; it is {repeats}.")
    pairs: list[Pair] = []
    start = clock()
    for index in range(repeats):
        if len(pairs) >= ENOUGH_PAIRS and clock() - start > seconds:
            break
        costs: dict[str, float] = {}
        sides = [("ours", ours, calls[0]), ("peer", peer, calls[1])]
        for name, side, count in sides if index % 2 == 0 else reversed(sides):
            costs[name] = side.sample(count, warm_calls_for(count))
        pairs.append(Pair(**costs))
        on_pair(index + 1)
    return pairs


def ratio_of(pairs: Sequence[Pair]) -> Ratio:
    """Summarises the pairs' ratios. `low` and `high` are the smallest and largest of them, nothing left out."""
    ratios = sorted(pair.ratio for pair in pairs)
    return Ratio(
        pairs=len(ratios),
        median=quantile(ratios, 0.5),
        low=ratios[0],
        high=ratios[-1],
        first_quartile=quantile(ratios, 0.25),
        third_quartile=quantile(ratios, 0.75),
    )


def quantile(values: Sequence[float], fraction: float) -> float:
    """The quantile by linear interpolation between neighbours (Hyndman & Fan 1996, type 7; NumPy's default)."""
    if not values:
        raise InvalidArgument("bench: no values to summarise.")
    ordered = sorted(values)
    place = (len(ordered) - 1) * fraction
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
