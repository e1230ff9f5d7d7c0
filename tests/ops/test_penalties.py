"""Changed logits against the formula in float64, and against transformers' processors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(rows: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * vocabulary)
    logits = torch.randn(rows, vocabulary, generator=generator) * 4
    return logits, torch.randint(0, 4, (rows, vocabulary), generator=generator, dtype=torch.int32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 1), (3, 700), (2, 1024)])
def test_penalties_are_openais_formula(rows: int, vocabulary: int, dtype: torch.dtype) -> None:
    logits, counts = random(rows, vocabulary)
    logits = logits.to(dtype)
    before = logits.clone()
    ours = un.ops.penalize(logits, counts, frequency=0.3, presence=-1.1)
    expected = logits.double() - counts * 0.3 - (counts > 0) * -1.1
    torch.testing.assert_close(ours.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)
    assert ours.dtype == dtype
    assert torch.equal(logits, before)


def test_each_row_may_have_its_own_penalties() -> None:
    logits, counts = random(3, 700)
    frequency, presence = torch.tensor([0.0, 0.5, 2.0]), torch.tensor([1.0, 0.0, -2.0])
    repetition = torch.tensor([0.7, 1.0, 1.3])
    both = un.ops.penalize(logits, counts, frequency=frequency, presence=presence, repetition=repetition)
    one = un.ops.penalize(logits, counts, frequency=frequency, presence=0.25)
    for row in range(3):
        settings = {"frequency": frequency[row].item(), "presence": presence[row].item()}
        settings["repetition"] = repetition[row].item()
        alone = un.ops.penalize(logits[row : row + 1], counts[row : row + 1], **settings)
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-6, atol=1e-6)
    expected = logits.double() - counts * frequency[:, None] - (counts > 0) * 0.25
    torch.testing.assert_close(one.double(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_a_repetition_is_penalised_as_transformers_does(penalty: float, dtype: torch.dtype) -> None:
    transformers = pytest.importorskip("transformers", reason="the peer of this test; in the dev extra")
    logits = random(3, 700)[0].to(dtype)
    generator = torch.Generator().manual_seed(0)
    prompt, text = (torch.randint(0, 700, (3, length), generator=generator) for length in (90, 200))
    counted = [un.ops.count_tokens(ids.int(), 700) for ids in (text, prompt)]
    ours = un.ops.penalize(logits, counted[0], repetition=penalty, prompt=counted[1])
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.cat([prompt, text], 1), logits.float())
    torch.testing.assert_close(ours, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=0.0)
    without = un.ops.penalize(logits, counted[0], repetition=penalty)
    torch.testing.assert_close(
        without, processor(text, logits.float()).to(dtype), rtol=torch.finfo(dtype).eps, atol=0.0
    )
    # The prompt counts for nothing else, and penalties follow each other in this order.
    both = un.ops.penalize(logits.float(), *counted[:1], frequency=0.3, repetition=penalty, prompt=counted[1])
    torch.testing.assert_close(both, expected - 0.3 * counted[0], rtol=1e-6, atol=1e-5)


def test_settings_that_penalise_nothing_change_no_bit() -> None:
    logits, counts = random(2, 700)
    settings = {"frequency": torch.zeros(2), "presence": torch.zeros(2), "repetition": torch.ones(2)}
    assert torch.equal(un.ops.penalize(logits, counts, prompt=counts, **settings), logits)


def test_a_logit_that_is_no_number_or_infinite_stays_so() -> None:
    logits = torch.tensor([[float("nan"), float("inf"), float("-inf"), 1.0]])
    ours = un.ops.penalize(logits, torch.ones(1, 4, dtype=torch.int32), frequency=0.5)
    torch.testing.assert_close(ours, logits - 0.5, equal_nan=True, rtol=0.0, atol=0.0)


def test_penalties_that_do_not_fit_are_refused() -> None:
    logits, counts = random(3, 20)
    with pytest.raises(un.errors.ShapeError, match=r"\[3, 20\], \[2, 20\] and None"):
        un.ops.penalize(logits, counts[:2].contiguous())
    with pytest.raises(un.errors.ShapeError, match=r"\[3, 20\], \[3, 20\] and \[2, 20\]"):
        un.ops.penalize(logits, counts, prompt=counts[:2].contiguous())
    with pytest.raises(un.errors.DTypeError, match="counts"):
        un.ops.penalize(logits, counts.long())
    with pytest.raises(un.errors.ShapeError, match=r"frequency must be a number or \[3\].*\[2\]"):
        un.ops.penalize(logits, counts, frequency=torch.ones(2))
    with pytest.raises(un.errors.InvalidArgument, match="presence"):
        un.ops.penalize(logits, counts, presence=float("nan"))
    for repetition in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(un.errors.InvalidArgument, match="repetition above 0"):
            un.ops.penalize(logits, counts, repetition=repetition)


def test_a_bias_is_transformers_own() -> None:
    transformers = pytest.importorskip("transformers", reason="the peer of this test; in the dev extra")
    logits, _ = random(2, 500)
    wanted = {3: -2.5, 499: 4.0, 70: float("-inf")}
    processor = transformers.SequenceBiasLogitsProcessor([[[token], bias] for token, bias in wanted.items()])
    ids = torch.tensor([[*wanted, -1, 500, 2**31 - 1]] * 2, dtype=torch.int32)
    bias = torch.tensor([[*wanted.values(), 9.0, 9.0, 9.0]] * 2)
    before = logits.clone()
    assert torch.equal(un.ops.logit_bias(logits, ids, bias), processor(torch.zeros(2, 1, dtype=torch.int64), logits))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 64, 150])
def test_each_row_has_its_own_biases(count: int, dtype: torch.dtype) -> None:
    logits = random(3, 400)[0].to(dtype)
    generator = torch.Generator().manual_seed(count)
    ids = torch.stack([torch.randperm(400, generator=generator)[:count] for _ in range(3)])
    bias = torch.randn(3, count, generator=generator)
    expected = logits.double().scatter_add(1, ids, bias.double())
    ours = un.ops.logit_bias(logits, ids.int(), bias)
    torch.testing.assert_close(ours.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_biases_that_do_not_fit_are_refused() -> None:
    logits, ids = torch.zeros(2, 9), torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(un.errors.ShapeError, match=r"\[2, 9\], \[2, 3\] and \[2, 4\]"):
        un.ops.logit_bias(logits, ids, torch.zeros(2, 4))
    with pytest.raises(un.errors.DTypeError, match="bias"):
        un.ops.logit_bias(logits, ids, torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("count", [0, 1, 64, 1000])
def test_tokens_are_counted(count: int) -> None:
    ids = torch.randint(0, 50, (3, count), generator=torch.Generator().manual_seed(count), dtype=torch.int32)
    wanted = torch.stack([torch.bincount(row, minlength=70) for row in ids]).int()
    assert torch.equal(un.ops.count_tokens(ids, 70), wanted)
    assert un.ops.count_tokens(ids, 70, add_to=wanted) is wanted
    assert torch.equal(un.ops.count_tokens(ids, 70) * 2, wanted)


def test_tokens_outside_of_the_vocabulary_do_not_count() -> None:
    ids = torch.tensor([[-1, 3, 2, 2**31 - 1, -(2**31), 0]], dtype=torch.int32)
    assert un.ops.count_tokens(ids, 3).tolist() == [[1, 0, 1]]
    with pytest.raises(un.errors.ShapeError, match=r"\[6\]"):
        un.ops.count_tokens(ids[0], 3)
    with pytest.raises(un.errors.ShapeError, match=r"add_to must be \[1, 3\]; it is \[3\]"):
        un.ops.count_tokens(ids, 3, add_to=torch.zeros(3, dtype=torch.int32))


VOCABULARY = 70
IDS = st.lists(
    st.one_of(st.integers(-2, VOCABULARY + 1), st.sampled_from([-(2**31), 2**31 - 1])), max_size=12, unique=True
)
STRANGE = st.sampled_from([0.0, float("nan"), float("inf"), float("-inf"), 6e4])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.lists(IDS, max_size=3), again=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.float16]),
    frequency=st.floats(-2, 2, width=32), presence=st.floats(-2, 2, width=32), repeated=st.floats(0.5, 2, width=32),
    strange=STRANGE, bias=STRANGE,
)  # fmt: skip
def test_any_texts_and_penalties(
    rows: list[list[int]], again: int, dtype: torch.dtype, frequency: float, presence: float, repeated: float,
    strange: float, bias: float,
) -> None:  # fmt: skip
    # A text has each of its tokens `again` times; the logit of its first one is strange, and so is that one's bias.
    longest = max((len(row) for row in rows), default=0)
    ids = torch.tensor([row + [-1] * (longest - len(row)) for row in rows], dtype=torch.int32).reshape(
        len(rows), longest
    )
    logits = random(max(1, len(rows)), VOCABULARY)[0][: len(rows)].to(dtype)
    added = torch.randn(ids.shape, generator=torch.Generator().manual_seed(longest))
    counts = torch.zeros(len(rows), VOCABULARY, dtype=torch.int32)
    for row, own in enumerate(rows):
        inside = [token for token in own if 0 <= token < VOCABULARY]
        counts[row, inside] = again
        if own and own[0] in inside:
            logits[row, own[0]], added[row, 0] = strange, bias
    assert torch.equal(un.ops.count_tokens(ids.repeat(1, again), VOCABULARY), counts)

    def each(number: float) -> object:
        return torch.full((len(rows),), number) if dtype == torch.float16 else number

    exact = logits.double()
    biased = exact.clone()
    for row, own in enumerate(rows):
        for place, token in enumerate(own):
            if 0 <= token < VOCABULARY:
                biased[row, token] += added[row, place].double()
    penalised = exact - counts * frequency - (counts > 0) * presence
    shrunk = torch.where(counts > 0, torch.where(exact < 0, exact * repeated, exact / repeated), exact)
    largest = torch.finfo(dtype).max
    for ours, wanted in (
        (un.ops.penalize(logits, counts, frequency=each(frequency), presence=each(presence)), penalised),
        (un.ops.logit_bias(logits, ids, added), biased),
        (un.ops.penalize(logits, counts, repetition=each(repeated)), shrunk),
    ):
        assert ours.dtype == dtype
        wanted = torch.where(wanted.abs() > largest, torch.copysign(torch.tensor(torch.inf), wanted).double(), wanted)
        torch.testing.assert_close(ours.double(), wanted, rtol=torch.finfo(dtype).eps, atol=4e-6, equal_nan=True)
