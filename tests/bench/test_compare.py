"""A comparison from end to end, with real worker processes and costs that are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unify._errors import Error, InvalidArgument, UnsupportedError
from unify.bench import Comparison, Setup, compare_case
from unify.bench.cases import load_cases
from unify.bench.peers import PEERS, Peer
from unify.bench.process import Worker, busy_seconds, choose_cpus, physical_cpus


def run(case_file: Path, name: str, peer: Peer = PEERS["numpy"], threads: int = 1) -> Comparison:
    case = {case.name: case for case in load_cases(str(case_file))}[name]
    return compare_case(case, peer, Setup(threads=threads), choose_cpus(threads))


def test_half_the_time_is_twice_the_speed(case_file: Path) -> None:
    row = run(case_file, "twice")
    assert (row.ours, row.peer, row.unit) == (pytest.approx(1.0), pytest.approx(2.0), "µs")
    assert row.ratio == row.ratio_min == row.ratio_max == pytest.approx(2.0)
    assert row.repeats == 4
    assert row.largest_difference == 0.0


def test_a_rate_is_work_over_time_and_its_ratio_is_still_speed(case_file: Path) -> None:
    row = run(case_file, "rate")
    assert (row.ours, row.peer) == (pytest.approx(3.0), pytest.approx(6.0))
    assert row.ratio == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["other", "not-a-number"])
def test_sides_that_compute_different_things_are_not_compared(case_file: Path, name: str) -> None:
    with pytest.raises(Error, match=rf"{name}: the sides compute different things: largest difference"):
        run(case_file, name)


def test_results_of_different_shape_name_both(case_file: Path) -> None:
    with pytest.raises(Error, match=r"shape: ours \[2\], peer \[1\]"):
        run(case_file, "shapes")


def test_what_a_side_raises_names_case_and_side(case_file: Path) -> None:
    with pytest.raises(Error, match="fails, ours: ValueError: no such weights"):
        run(case_file, "fails")


def test_a_side_that_dies_leaves_its_status_and_last_words(case_file: Path) -> None:
    with pytest.raises(Error, match=r"dies, numpy: its process ended with status 3.\n(.*\n)*last words"):
        run(case_file, "dies")


def test_both_sides_are_held_to_the_threads_that_were_asked(case_file: Path) -> None:
    case = {case.name: case for case in load_cases(str(case_file))}["threads"]
    with Worker("threads", 1) as worker:
        worker.build(case, "ours", Setup(threads=1), choose_cpus(1))
        assert worker.result()["values"] == [1, 1, 1, 1]


def test_a_side_is_stopped_when_it_is_not_its_turn(case_file: Path) -> None:
    case = load_cases(str(case_file))[0]
    with Worker("twice", 1) as worker:
        worker.build(case, "ours", Setup(threads=1), choose_cpus(1))
        _, status = os.waitpid(worker.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert worker.sample(1, 0) == 1e-6  # and goes on when it is


def test_samples_in_fresh_processes_are_paired_too(case_file: Path) -> None:
    assert run(case_file, "fresh").ratio == pytest.approx(2.0)


def test_a_peer_that_the_case_does_not_have_names_those_it_has(case_file: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"twice has no peer torch\. It can be compared with numpy"):
        run(case_file, "twice", PEERS["torch"])


def test_more_threads_than_cores_are_refused_with_both_numbers() -> None:
    cores = len(physical_cpus())
    with pytest.raises(InvalidArgument, match=f"{cores + 1} threads asked, this process may use {cores} cores"):
        choose_cpus(cores + 1)
    assert len(choose_cpus(0)) == cores


def test_busy_time_counts_only_the_cores_asked_and_leaves_out_idle_and_waiting() -> None:
    #        user nice system idle iowait irq softirq steal guest guest_nice
    stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 20 30 400 50 6 7 8 9 0\ncpu1 1 1 1 1 1 1 1 1 1 1\nctxt 5\n"
    hertz = os.sysconf("SC_CLK_TCK")
    assert busy_seconds(stat, [0]) == (81 / hertz, 531 / hertz)
    assert busy_seconds(stat, [0, 1]) == (87 / hertz, 539 / hertz)


def test_a_row_says_that_its_device_is_simulated(case_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFY_SIMULATE", "cuda:90")
    assert not run(case_file, "twice").as_dict()["simulated"]
    case = {case.name: case for case in load_cases(str(case_file))}["fresh"]
    row = compare_case(case, PEERS["numpy"], Setup(threads=1, device="cuda:0"), choose_cpus(1))
    assert row.as_dict()["simulated"]
