"""Sampling against the distribution it should draw from."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import unify as un


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    logits[4] = 0.0
    assert un.ops.sample(logits).tolist() == logits.argmax(-1).tolist()


def test_a_nan_is_never_chosen() -> None:
    logits = torch.tensor([[1.0, float("nan"), 2.0, float("-inf")]])
    assert un.ops.sample(logits).tolist() == [2]
    assert un.ops.sample(logits, temperature=0.1).tolist() in ([0], [2])


def frequencies(logits: torch.Tensor, rows: int, **options: float) -> torch.Tensor:
    drawn = un.ops.sample(logits.expand(rows, -1).contiguous(), **options)
    return torch.bincount(drawn.long(), minlength=logits.shape[0]).double() / rows


def assert_drawn_from(frequency: torch.Tensor, probability: torch.Tensor, rows: int) -> None:
    # Five standard deviations of a binomial: a false alarm in some 10^6 runs, and the seed is fixed.
    bound = 5 * (probability * (1 - probability) / rows).sqrt()
    assert ((frequency - probability).abs() <= bound).all(), (frequency, probability)


LOGITS = torch.tensor([1.0, 5.0, 4.0, 3.0, -1.0, 2.0, 0.0, -2.0])
ROWS = 4000


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_scales_the_softmax(temperature: float) -> None:
    frequency = frequencies(LOGITS, ROWS, temperature=temperature, seed=1)
    assert_drawn_from(frequency, torch.softmax(LOGITS.double() / temperature, -1), ROWS)


def test_top_k_keeps_the_k_largest() -> None:
    frequency = frequencies(LOGITS, ROWS, temperature=1.0, top_k=3, seed=2)
    kept = torch.full_like(LOGITS, float("-inf")).index_copy(0, torch.tensor([1, 2, 3]), LOGITS[1:4])
    assert_drawn_from(frequency, torch.softmax(kept.double(), -1), ROWS)


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    # softmax: .63, .23, .086, …: two reach 0.7
    frequency = frequencies(LOGITS, ROWS, temperature=1.0, top_p=0.7, seed=3)
    kept = torch.full_like(LOGITS, float("-inf")).index_copy(0, torch.tensor([1, 2]), LOGITS[1:3])
    assert_drawn_from(frequency, torch.softmax(kept.double(), -1), ROWS)


def test_top_p_applies_to_what_top_k_left() -> None:
    # Of the two largest, .73 and .27 after renormalising, the first alone reaches 0.7.
    frequency = frequencies(LOGITS, 200, temperature=1.0, top_k=2, top_p=0.7, seed=4)
    assert frequency[1] == 1.0


def test_a_seed_and_a_step_repeat_the_draw_and_others_change_it() -> None:
    logits = torch.zeros(1, 5000)
    draws = {(seed, step): un.ops.sample(logits, temperature=1.0, seed=seed, step=step).item()
             for seed in range(4) for step in range(4)}  # fmt: skip
    again = un.ops.sample(logits, temperature=1.0, seed=2, step=3).item()
    assert again == draws[2, 3]
    assert len(set(draws.values())) >= 14


def test_the_step_may_live_on_the_device() -> None:
    logits = torch.zeros(1, 5000)
    on_device = un.ops.sample(logits, temperature=1.0, seed=5, step=torch.tensor([9]))
    assert on_device.item() == un.ops.sample(logits, temperature=1.0, seed=5, step=9).item()


UNIFORM = torch.zeros(ROWS, 4)


@pytest.mark.parametrize(
    ("seed", "step", "rows"),
    # Sums of seed, step and row, however each is weighted, meet in one of these.
    [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0), (1_000_003, 0, -1), (1_000_003 * ROWS, -1, 0), (0, 1, -ROWS + 1),
     (1 << 32, 0, 0), (0, 1 << 32, 0)],
)  # fmt: skip
def test_draws_of_another_seed_step_or_row_are_independent(seed: int, step: int, rows: int) -> None:
    draws = un.ops.sample(UNIFORM, temperature=1.0, seed=7, step=3)
    others = un.ops.sample(UNIFORM, temperature=1.0, seed=7 + seed, step=3 + step)
    pairs = 4 * draws.roll(rows) + others
    frequency = torch.bincount(pairs.long(), minlength=16).double() / ROWS
    assert_drawn_from(frequency, torch.full((16,), 1 / 16).double(), ROWS)


def test_a_row_draws_the_same_in_any_batch() -> None:
    draws = un.ops.sample(UNIFORM, temperature=1.0, seed=7, step=3)
    assert torch.equal(un.ops.sample(UNIFORM[:9], temperature=1.0, seed=7, step=3), draws[:9])


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.int32])
def test_numbers_may_be_numpys(number: type) -> None:
    logits = torch.zeros(1, 5000)
    ours = un.ops.sample(logits, temperature=1.0, seed=5, step=9, top_k=99)
    theirs = un.ops.sample(logits, temperature=1.0, seed=number(5), step=number(9), top_k=number(99))
    assert theirs.item() == ours.item()


@pytest.mark.parametrize("step", [torch.tensor([9]), torch.zeros(3, 1, dtype=torch.int64), torch.tensor(9)])
def test_a_step_that_is_not_one_for_each_row_is_refused(step: torch.Tensor) -> None:
    with pytest.raises(un.errors.ShapeError, match=r"step.*\[3\]"):
        un.ops.sample(torch.zeros(3, 50), temperature=1.0, step=step)


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-38])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0], [2.0, 5.0, 7.0]])
    assert un.ops.sample(logits, temperature=temperature).tolist() == [1, 2]


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}, {"top_k": 2, "top_p": 0.5}])
def test_infinite_logits_share_the_draws(options: dict[str, float]) -> None:
    logits = torch.tensor([1.0, float("inf"), float("-inf"), float("inf"), 3.0])
    frequency = frequencies(logits, 400, temperature=1.0, seed=8, **options)
    assert_drawn_from(frequency, torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]).double(), 400)


def test_a_nan_leaves_top_p_to_the_others() -> None:
    frequency = frequencies(torch.tensor([float("nan"), 5.0, 1.0, 0.0]), 200, temperature=1.0, top_p=0.7, seed=9)
    assert frequency.tolist() == [0.0, 1.0, 0.0, 0.0]  # softmax: .98


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("inf")}, {"temperature": float("nan")}, {"top_p": 0.0},
              {"top_p": 1.5}, {"top_k": -1}]
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="sample"):
        un.ops.sample(torch.zeros(1, 4), **{"temperature": 1.0, **wrong})


def kept_by_transformers(logits: torch.Tensor, **options: float) -> torch.Tensor:
    """The probabilities of what their processors leave of a row, in the order in which generate() applies them."""
    transformers = pytest.importorskip("transformers", reason="the peer of this test; in the dev extra")
    scores = logits[None] / options["temperature"]
    for warper, name, off in (
        (transformers.TopKLogitsWarper, "top_k", 0),
        (transformers.TopPLogitsWarper, "top_p", 1.0),
        (transformers.MinPLogitsWarper, "min_p", 0.0),
    ):
        if options.get(name, off) != off:
            scores = warper(options[name])(torch.empty(1, 0, dtype=torch.int64), scores)
    return torch.softmax(scores[0].double(), -1)


SETTINGS = [
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 2.0, "min_p": 0.3},
    {"temperature": 0.7, "top_k": 4, "min_p": 0.05},
    {"temperature": 1.5, "top_k": 5, "top_p": 0.8, "min_p": 0.2},
    {"temperature": 1.0, "top_p": 0.95},
    {"temperature": 1.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_min_p_and_the_other_cuts_leave_what_transformers_leave(settings: dict[str, float]) -> None:
    expected = kept_by_transformers(LOGITS, **settings)
    assert_drawn_from(frequencies(LOGITS, ROWS, **settings, seed=11), expected, ROWS)


def test_min_p_of_one_leaves_the_likeliest_alone() -> None:
    assert frequencies(LOGITS, 200, temperature=3.0, min_p=1.0, seed=1)[1] == 1.0


DTYPES = {"temperature": torch.float32, "top_k": torch.int32, "top_p": torch.float32, "min_p": torch.float32}
OFF = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def arrays(rows: list[dict[str, float]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row.get(name, off) for row in rows], dtype=DTYPES[name]) for name, off in OFF.items()}


def test_each_row_of_a_batch_has_its_own_settings() -> None:
    rows = 1000
    requests = [settings for settings in [*SETTINGS, {}] for _ in range(rows)]
    seeds = torch.arange(len(requests))
    drawn = un.ops.sample(LOGITS.repeat(len(requests), 1), **arrays(requests), seed=seeds).reshape(-1, rows)
    for settings, part in zip(SETTINGS, drawn[:-1], strict=True):
        frequency = torch.bincount(part.long(), minlength=8).double() / rows
        assert_drawn_from(frequency, kept_by_transformers(LOGITS, **settings), rows)
    assert (drawn[-1] == 1).all()  # temperature 0


def test_a_requests_draw_depends_on_neither_its_row_nor_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(7, 900, generator=generator) * 0.1
    requests = [*SETTINGS, {}]
    settings = arrays(requests) | {"seed": torch.tensor([3, 3, 9, -4, 1 << 40, 0, 1]), "step": torch.arange(7) * 5}
    drawn = un.ops.sample(logits, **settings)
    order = torch.randperm(7, generator=generator)
    assert torch.equal(un.ops.sample(logits[order], **{k: v[order] for k, v in settings.items()}), drawn[order])
    for row in range(7):
        alone = un.ops.sample(logits[row : row + 1], **{k: v[row : row + 1] for k, v in settings.items()})
        assert alone.item() == drawn[row].item()
        if row < 6:  # and it is that of the numbers, of the first row
            numbers = requests[row] | {"seed": settings["seed"][row].item(), "step": settings["step"][row].item()}
            assert un.ops.sample(logits[row : row + 1], **numbers).item() == drawn[row].item()


def test_rows_with_settings_of_their_own_and_one_seed_draw_independently() -> None:
    temperature = torch.ones(ROWS)
    draws = un.ops.sample(UNIFORM, temperature=temperature, seed=7, step=3)
    assert torch.equal(draws, un.ops.sample(UNIFORM, temperature=1.0, seed=7, step=3))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_draws_of_neighbouring_seeds_are_independent(dtype: torch.dtype) -> None:
    draws = [un.ops.sample(UNIFORM, temperature=1.0, seed=torch.arange(ROWS, dtype=dtype) + i) for i in (0, 1, 99)]
    for others in (draws[1], draws[2], draws[0].roll(1)):
        frequency = torch.bincount((4 * draws[0] + others).long(), minlength=16).double() / ROWS
        assert_drawn_from(frequency, torch.full((16,), 1 / 16).double(), ROWS)


def test_settings_on_the_device_that_are_out_of_range_count_as_the_nearest() -> None:
    nan, inf = float("nan"), float("inf")
    logits = LOGITS.repeat(6, 1)
    temperature = torch.tensor([-1.0, nan, 1e-42, inf, 1.0, 1.0])
    top_k = torch.tensor([-5, 0, 0, 99, 1, 2**31 - 1], dtype=torch.int32)
    top_p = torch.tensor([0.5, 0.5, 0.5, 7.0, 2.0, -1.0])
    min_p = torch.tensor([-1.0, 0.0, 0.0, -1.0, 0.0, 0.0])
    seed = torch.arange(6)
    drawn = un.ops.sample(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed).tolist()
    assert [*drawn[:3], *drawn[4:]] == [1, 1, 1, 1, 1]
    assert un.ops.sample(logits[:1], temperature=1.0, min_p=torch.tensor([9.0])).item() == 1
    assert 0 <= drawn[3] < 8


@pytest.mark.parametrize("name", [*OFF, "seed"])
def test_a_setting_that_is_not_one_for_each_row_is_refused(name: str) -> None:
    wrong = torch.ones(2, dtype=DTYPES.get(name, torch.int64))
    with pytest.raises(un.errors.ShapeError, match=rf"{name} must be a number or \[3\].*it is \[2\]"):
        un.ops.sample(torch.zeros(3, 50), **{"temperature": 1.0, name: wrong})
    with pytest.raises(un.errors.DTypeError, match=name):
        un.ops.sample(torch.zeros(3, 50), **{"temperature": 1.0, name: torch.ones(3, dtype=torch.float64)})


@pytest.mark.parametrize("min_p", [-0.1, 1.1, float("nan")])
def test_a_min_p_out_of_range_is_refused(min_p: float) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="0 <= min_p <= 1"):
        un.ops.sample(torch.zeros(1, 4), temperature=1.0, min_p=min_p)


def test_no_rows_have_no_draws() -> None:
    empty = torch.empty(0, 8)
    assert un.ops.sample(empty, temperature=torch.empty(0), seed=torch.empty(0, dtype=torch.int64)).shape == (0,)


STRANGE = st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0, 1.0, 3e38, -3e38])


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(STRANGE, min_size=5, max_size=5), st.booleans())
def test_any_logits_lead_to_a_token_that_is_a_number_if_there_is_one(row: list[float], cut: bool) -> None:
    logits = torch.tensor([row, [0.0, 0.0, 9.0, 0.0, 0.0]]).repeat(1, 120)
    options = {"top_k": 600, "top_p": 0.9, "min_p": 0.2} if cut else {}
    for token, beside in (un.ops.sample(logits).tolist(), un.ops.sample(logits, temperature=0.1, **options).tolist()):
        assert 0 <= token < 600
        assert not logits[0, token].isnan() or logits[0].isnan().all()
        assert beside % 5 == 2
