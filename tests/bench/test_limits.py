"""Chips by their makers' word."""

from __future__ import annotations

import pytest

from unify.bench import limits
from unify.bench.roofline import Roofline
from unify.errors import TargetError


@pytest.mark.parametrize("target", limits.known())
def test_each_chip_says_whose_figures_they_are(target: str) -> None:
    chip = limits.of_target(target)
    assert chip.source
    assert 100 < chip.peak("bf16") / chip.bytes < 1000  # the ridge of today's chips, operations a byte
    assert chip.peak("fp8") >= chip.peak("bf16")


def test_a_chip_without_fp8_computes_in_bf16() -> None:
    chip = limits.of_target("ascend:910C")
    assert chip.peak("fp8") == chip.peak("bf16") < chip.peak("int8")


def test_an_unknown_chip_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"'cuda:91'.*cuda:90.*cpu is measured"):
        limits.of_target("cuda:91")


def test_a_machine_without_bf16_computes_in_fp32() -> None:
    measured = Roofline(2, "a processor", 100.0, None, None, 20.0, 10.0, 0.1)
    chip = limits.of_machine(measured)
    assert (chip.peak("bf16"), chip.bytes) == (100e9, 20e9)
