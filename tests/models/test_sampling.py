"""Settings of a request: what is refused, and that it is named."""

from __future__ import annotations

from typing import Any

import pytest

import unify as un
from unify.models import Sampling

NAN, INF = float("nan"), float("inf")
WRONG: dict[str, list[Any]] = {
    "temperature": [-1.0, NAN, INF, "1"],
    "top_k": [-1, 2**31, 1.5],
    "top_p": [0.0, 1.5, NAN],
    "min_p": [-0.1, 2.0, NAN],
    "repetition_penalty": [0.0, -1.0, INF, NAN, None, 1e-45, 1e39],  # the last two are 0 and infinite in float32
    "frequency_penalty": [INF, -INF, NAN, "x", 1e39],
    "presence_penalty": [INF, -INF, NAN, None],
    "logit_bias": [[1, 2], {"5": 1.0}, {-1: 1.0}, {5: NAN}, {5: INF}, {5: "x"}, {5: 1e39}, {1: 0.0, 5.0: 0.0}],
    "seed": [2**63, 0.5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_setting_out_of_its_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=f"^Sampling: {name} must "):
        Sampling(**{name: value})


def test_the_ends_of_the_ranges_are_settings() -> None:
    for settings in (
        {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "seed": -(2**63)},
        {"top_k": 2**31 - 1, "min_p": 1, "seed": 2**63 - 1, "frequency_penalty": -2, "presence_penalty": 2.0},
        {"repetition_penalty": 0.5, "logit_bias": {0: -INF, 7: 100}},
    ):
        assert {name: getattr(Sampling(**settings), name) for name in settings} == settings


def test_what_was_checked_stays() -> None:
    bias = {5: 1.0}
    sampling = Sampling(logit_bias=bias)
    bias[5] = NAN
    assert sampling == Sampling(logit_bias={5: 1.0})
    assert hash(sampling) == hash(Sampling(logit_bias={5: 1.0}))


def test_a_bias_needs_its_token() -> None:
    Sampling(logit_bias={96: 1.0}).check(97)
    with pytest.raises(un.errors.InvalidArgument, match="logit_bias has token 97, outside the vocabulary of 97"):
        Sampling(logit_bias={3: 1.0, 97: 1.0}).check(97)
