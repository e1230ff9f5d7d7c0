"""Biases and penalties by row, against transformers' processors and OpenAI's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unify as un
from unify.models import Sampling
from unify.models.penalties import Penalties

transformers = pytest.importorskip("transformers", reason="the peer of these tests; in the dev extra")
VOCABULARY = 300


def changed(logits: np.ndarray, sampling: Sampling, prompt: list[int], written: list[int]) -> np.ndarray:
    """One row's logits: a bias, then the repetition penalty, both by transformers, then OpenAI's penalties."""
    scores, ids = torch.from_numpy(logits)[None].clone(), torch.tensor([[*prompt, *written]])
    if sampling.logit_bias:
        pairs = [[[token], float(bias)] for token, bias in sampling.logit_bias.items()]
        scores = transformers.SequenceBiasLogitsProcessor(pairs)(ids, scores)
    scores = transformers.RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))(ids, scores)
    counts = np.bincount(written, minlength=len(logits))
    found = scores[0].numpy().astype(np.float64)
    return found - counts * sampling.frequency_penalty - (counts > 0) * sampling.presence_penalty


SETTINGS = [
    Sampling(repetition_penalty=1.3),
    Sampling(frequency_penalty=0.7, presence_penalty=-1.5),
    Sampling(),
    Sampling(logit_bias={7: 5.0, 0: -float("inf"), 299: -2.5}),
    Sampling(repetition_penalty=0.8, presence_penalty=0.5, logit_bias={i: i / 10 for i in range(70)}),
]


def rows_of(seed: int) -> tuple[np.ndarray, list[list[int]]]:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((len(SETTINGS), VOCABULARY)).astype(np.float32)
    return logits, [rng.integers(0, VOCABULARY, length).tolist() for length in (40, 1, 9, 100, 300)]


def test_each_row_changes_as_its_request_wants_and_as_it_is_written() -> None:
    logits, prompts = rows_of(0)
    penalties = Penalties(len(SETTINGS), VOCABULARY, un.device("cpu"))
    for row, (sampling, prompt) in enumerate(zip(SETTINGS, prompts, strict=True)):
        penalties.set(row, sampling, prompt)
    written: list[list[int]] = [[] for _ in SETTINGS]
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = penalties.apply(un.asarray(logits)).numpy()
        expected = [changed(*row) for row in zip(logits, SETTINGS, prompts, written, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found[2], logits[2])
        tokens = rng.integers(0, 9, len(SETTINGS)).astype(np.int32)  # so that they come again
        penalties.count(un.asarray(tokens))
        for text, token in zip(written, tokens.tolist(), strict=True):
            text.append(token)


def test_a_row_forgets_the_request_before() -> None:
    logits, prompts = rows_of(1)
    penalties = Penalties(2, VOCABULARY, un.device("cpu"))
    assert penalties.form == (False, 0)
    for sampling in (SETTINGS[4], SETTINGS[1], SETTINGS[3], SETTINGS[0]):
        penalties.set(0, sampling, prompts[0], prompts[1])
        penalties.count(un.asarray([3, 3], dtype=un.int32))
        found = penalties.apply(un.asarray(logits[:2])).numpy()
        written = [*prompts[1], 3] if sampling.has_penalties else []
        np.testing.assert_allclose(found[0], changed(logits[0], sampling, prompts[0], written), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found[1], logits[1])
        penalties.clear(0)
        assert penalties.form == (False, 0)
        np.testing.assert_array_equal(penalties.apply(un.asarray(logits[:2])).numpy(), logits[:2])


def test_what_nobody_asks_for_takes_no_memory() -> None:
    before = un.memory_statistics("cpu").allocated_bytes
    penalties = Penalties(64, 1 << 17, un.device("cpu"))
    penalties.set(0, Sampling(temperature=1.0), [1, 2, 3])
    assert un.memory_statistics("cpu").allocated_bytes - before < 1 << 12
    penalties.set(0, Sampling(presence_penalty=1.0), [1, 2, 3])
    assert un.memory_statistics("cpu").allocated_bytes - before >= 8 * 64 << 17
