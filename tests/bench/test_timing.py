"""Pairing and statistics: with clocks wound by hand, and against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from unify._errors import InvalidArgument
from unify.bench.timing import Pair, alternate, calls_for, quantile, ratio_of, timed, warm_calls_for

costs = st.floats(min_value=1e-9, max_value=1e3)


class Clock:
    """Stands still until somebody moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds


class Scripted:
    """A side whose cost follows a function of the number of samples that anyone has taken."""

    def __init__(self, name: str, cost: float, taken: list[tuple[str, int, int]], drift: float = 0.0) -> None:
        self.name, self.cost, self.taken, self.drift = name, cost, taken, drift

    def sample(self, calls: int, warm_calls: int) -> float:
        self.taken.append((self.name, calls, warm_calls))
        return self.cost * (1 + self.drift * len(self.taken))


def test_a_call_costs_the_time_of_all_calls_and_of_finishing_divided_by_their_number() -> None:
    clock = Clock()
    seconds = timed(lambda: clock.pass_seconds(2.0), lambda: clock.pass_seconds(5.0), 10, clock)
    assert seconds == pytest.approx((10 * 2.0 + 5.0) / 10)


def test_sides_take_turns_and_swap_who_is_first() -> None:
    taken: list[tuple[str, int, int]] = []
    alternate(Scripted("ours", 1, taken), Scripted("peer", 2, taken), 3, (10, 20))
    assert [name for name, _, _ in taken] == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert {(name, calls) for name, calls, _ in taken} == {("ours", 10), ("peer", 20)}


def test_steady_drift_favours_neither_side() -> None:
    taken: list[tuple[str, int, int]] = []
    pairs = alternate(Scripted("ours", 1, taken, 0.02), Scripted("peer", 1, taken, 0.02), 40, (1, 1))
    assert ratio_of(pairs).median == pytest.approx(1.0, abs=2e-3)
    # The pairs where one side is always the later one do lean, which is what alternating is for.
    assert np.median([pair.ratio for pair in pairs[::2]]) > 1.005


def test_ratio_is_speed_so_above_one_means_ours_takes_less_time() -> None:
    assert Pair(ours=2.0, peer=3.0).ratio == 1.5


@given(st.lists(st.tuples(costs, costs), min_size=1, max_size=50))
def test_summary_is_numpys_of_the_paired_ratios(measured: list[tuple[float, float]]) -> None:
    ratio = ratio_of([Pair(ours, peer) for ours, peer in measured])
    expected = np.array([peer / ours for ours, peer in measured])
    assert ratio.median == pytest.approx(np.median(expected))
    assert (ratio.low, ratio.high) == (expected.min(), expected.max())
    assert (ratio.first_quartile, ratio.third_quartile) == pytest.approx(tuple(np.quantile(expected, [0.25, 0.75])))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(0, 1))
def test_quantile_is_numpys(values: list[float], fraction: float) -> None:
    assert quantile(values, fraction) == pytest.approx(np.quantile(values, fraction), rel=1e-9, abs=1e-6)


def test_median_ratio_ignores_a_neighbour_who_disturbs_one_sample() -> None:
    quiet = [Pair(1.0, 1.2) for _ in range(9)]
    assert ratio_of([*quiet, Pair(50.0, 1.2)]).median == pytest.approx(1.2)
    assert ratio_of([*quiet, Pair(50.0, 1.2)]).low == pytest.approx(0.024)  # and is told all the same


@pytest.mark.parametrize(
    ("ratios", "noisy"),
    [
        ([1.0, 1.0, 1.02, 1.03], False), ([0.8, 0.9, 1.1, 1.2], True), ([1.0, 1.0, 1.0, 1.0, 790.0], False),
        ([790.0], True), ([1.0, 1.0], True),
    ],
)  # fmt: skip
def test_spread_of_the_middle_half_and_the_number_of_pairs_decide_what_is_called_noisy(
    ratios: list[float], noisy: bool
) -> None:
    assert ratio_of([Pair(1.0, ratio) for ratio in ratios]).is_noisy is noisy


def test_calls_are_chosen_to_fill_the_sample_however_slow_the_first_ones_were() -> None:
    class Compiling:
        first = True

        def sample(self, calls: int, warm_calls: int) -> float:
            cost = 1e-3 + (3.0 if self.first else 0.0)
            self.first = False
            return cost

    assert calls_for(Compiling(), 0.05) == 50


def test_a_stall_while_calls_are_counted_does_not_leave_too_few() -> None:
    class Stalling:
        samples = 0

        def sample(self, calls: int, warm_calls: int) -> float:
            self.samples += 1
            return 1e-3 + (0.8 / calls if self.samples == 4 else 0.0)

    assert calls_for(Stalling(), 0.05) == 50


def test_a_call_longer_than_the_sample_is_made_once_and_without_warming() -> None:
    taken: list[tuple[str, int, int]] = []
    assert calls_for(Scripted("slow", 3.0, taken), 0.05) == 1
    assert warm_calls_for(1) == 0
    assert warm_calls_for(1000) == 100


@pytest.mark.parametrize(("seconds", "pairs"), [(10.0, 5), (25.0, 9), (1e9, 15)])
def test_slow_work_is_repeated_until_its_time_is_over_but_often_enough(seconds: float, pairs: int) -> None:
    taken: list[tuple[str, int, int]] = []
    sides = Scripted("a", 1, taken), Scripted("b", 1, taken)
    found = alternate(*sides, 15, (1, 1), seconds=seconds, clock=lambda: 1.5 * len(taken))
    assert len(found) == pairs


def test_free_calls_do_not_loop_for_ever() -> None:
    assert calls_for(Scripted("free", 0.0, []), 0.05, most=1024) == 1024


def test_no_repeats_and_no_values_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="repeats must be at least 1; it is 0"):
        alternate(Scripted("a", 1, []), Scripted("b", 1, []), 0, (1, 1))
    with pytest.raises(InvalidArgument, match="no values"):
        quantile([], 0.5)
