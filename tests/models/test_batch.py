"""Several texts at once: each is what it would be alone, whoever comes and goes beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import unify as un
from unify.models import Generator, Sampling
from unify.models.architectures import load_directory
from unify.models.batch import Batch
from unify.models.checkpoint import Checkpoint
from unify.models.decoder import Decoder
from unify.models.directory_tokenizer import directory_tokenizer
from unify.models.kv_cache import BLOCK_SIZE

from .tiny_models import CONTEXT, VOCABULARY, prompt, write_tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("m"), "Llama")


@pytest.fixture(scope="module")
def model(path: Path) -> Decoder:
    return load_directory(Checkpoint(path))


def alone(model: Decoder, ids: list[int], tokens: int) -> list[int]:
    """Greedy tokens by single steps over a cache of one sequence."""
    cache = model.cache(CONTEXT)
    logits = model.prefill(un.asarray(ids, dtype=un.int32), cache)
    found: list[int] = []
    while True:
        found.append(int(logits.numpy()[0].argmax()))
        if len(found) == tokens:
            return found
        at = cache.grow(1)
        token, position, keys = (un.asarray([n], dtype=un.int32) for n in (found[-1], at, at + 1))
        logits = model.decode(token, position, keys, cache)


WANTED = [(5, 20), (130, 3), (1, 90), (64, 64), (65, 1), (300, 10), (2, 2), (40, 30), (7, 70), (128, 5)]


@pytest.mark.parametrize(("rows", "blocks"), [(1, None), (3, None), (4, 6)])
def test_requests_that_come_and_go_write_what_each_writes_alone(model: Decoder, rows: int, blocks: int | None) -> None:
    batch = Batch(model, rows=rows, max_context=CONTEXT, blocks=blocks)
    requests = []
    for length, tokens in WANTED:  # some are queued at once, others while texts are written
        requests.append(batch.submit(prompt(length), tokens))
        batch.step()
    batch.run()
    for request, (length, tokens) in zip(requests, WANTED, strict=True):
        assert request.is_done
        assert request.token_ids == alone(model, prompt(length), tokens)
    assert batch.cache.free_blocks == batch.cache.blocks
    assert not batch.step()


def test_a_prompt_longer_than_a_pass_is_the_prompt_in_one(tmp_path: Path) -> None:
    model = load_directory(Checkpoint(write_tiny(tmp_path / "m", "Llama", max_position_embeddings=2048)))
    batch = Batch(model, rows=2, max_context=1500)
    ids = prompt(1300)
    first, second = batch.submit(ids, 4), batch.submit(prompt(20), 4)
    batch.run()
    full = model.prefill(un.asarray(ids + first.token_ids, dtype=un.int32), model.cache(1304), all_logits=True).numpy()
    assert first.token_ids == full[1299:-1].argmax(-1).tolist()
    assert second.token_ids == alone(model, prompt(20), 4)


def test_an_end_token_ends_its_text_only(model: Decoder) -> None:
    expected = [alone(model, prompt(length), 30) for length in (3, 9)]
    end = expected[0][7]
    batch = Batch(model, rows=2, max_context=CONTEXT, ends=frozenset({end}))
    requests = [batch.submit(prompt(length), 30) for length in (3, 9)]
    batch.run()
    for request, tokens in zip(requests, expected, strict=True):
        assert request.token_ids == (tokens[: tokens.index(end)] if end in tokens else tokens)


def test_a_draw_depends_on_the_requests_own_seed_and_settings(model: Decoder) -> None:
    settings = [
        Sampling(), Sampling(temperature=1.0, seed=1), Sampling(temperature=1.0, seed=2),
        Sampling(temperature=3.0, top_k=1, seed=3), Sampling(temperature=2.0, top_p=0.9, seed=2**40 + 1),
        Sampling(temperature=3.0, min_p=1.0), Sampling(temperature=1.0, seed=1),
    ]  # fmt: skip

    def run(rows: int) -> list[list[int]]:
        batch = Batch(model, rows=rows, max_context=CONTEXT)
        requests = [batch.submit(prompt(20), 12, sampling) for sampling in settings]
        batch.run()
        return [request.token_ids for request in requests]

    texts = run(3)
    assert texts == run(1) == run(7)
    assert texts[0] == texts[3] == texts[5] == alone(model, prompt(20), 12)  # these leave one token to choose from
    assert texts[1] == texts[6]
    assert len({tuple(text) for text in texts}) == 4


PENALISED = [
    Sampling(repetition_penalty=3.0), Sampling(), Sampling(frequency_penalty=2.0, presence_penalty=1.0),
    Sampling(logit_bias={5: 4.0, 11: -float("inf")}), Sampling(presence_penalty=5.0, repetition_penalty=1.5),
    Sampling(temperature=1.0, seed=4, frequency_penalty=1.5, logit_bias=dict.fromkeys(range(70), 1.0)),
    Sampling(temperature=1.0, seed=4),
]  # fmt: skip


def penalised(model: Decoder, prompt_: list[int], tokens: int, sampling: Sampling) -> list[int]:
    """Greedy tokens of full passes, one for each, changed by the rules in NumPy."""
    ids = list(prompt_)
    while len(ids) < len(prompt_) + tokens:
        logits = model.prefill(un.asarray(ids, dtype=un.int32), model.cache(CONTEXT)).numpy()[0].astype(np.float64)
        for token, bias in sampling.logit_bias.items():
            logits[token] += bias
        seen, written = np.unique(ids), np.bincount(ids[len(prompt_) :], minlength=VOCABULARY)
        factor = sampling.repetition_penalty
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * factor, logits[seen] / factor)
        logits -= written * sampling.frequency_penalty + (written > 0) * sampling.presence_penalty
        ids.append(int(logits.argmax()))
    return ids[len(prompt_) :]


def test_requests_side_by_side_have_penalties_and_biases_of_their_own(path: Path, model: Decoder) -> None:
    def run(rows: int) -> list[list[int]]:
        batch = Batch(model, rows=rows, max_context=CONTEXT)
        requests = []
        for i, sampling in enumerate(PENALISED):
            requests.append(batch.submit(prompt(20 + i), 12 + 3 * i, sampling))
            batch.step()  # so that some begin while others are written
        batch.run()
        return [request.token_ids for request in requests]

    texts = run(3)
    assert texts == run(1) == run(7)
    tokenizer = directory_tokenizer(Checkpoint(path))
    tokenizer.ends = frozenset()
    for i, (text, sampling) in enumerate(zip(texts, PENALISED, strict=True)):
        generator = Generator(model, tokenizer, sampling, max_context=CONTEXT)
        assert text == generator.generate(prompt(20 + i), len(text)).token_ids
        if not sampling.temperature:
            assert text == penalised(model, prompt(20 + i), len(text), sampling), sampling
            assert (text == alone(model, prompt(20 + i), len(text))) == (sampling == Sampling())


def test_a_long_prompt_counts_whole_where_it_is_run_in_parts(tmp_path: Path) -> None:
    model = load_directory(Checkpoint(write_tiny(tmp_path / "m", "Llama", max_position_embeddings=1024)))
    batch = Batch(model, rows=2, max_context=800)
    sampling = Sampling(repetition_penalty=1.5)
    ids = [1] * 400 + [2] * 300 + prompt(9)  # 1 is in the first part only
    first, second = (batch.submit(ids[i:], 5, sampling) for i in (0, 1))
    batch.run()
    full = model.prefill(un.asarray(ids, dtype=un.int32), model.cache(800)).numpy()
    processor = transformers.RepetitionPenaltyLogitsProcessor(1.5)
    scores = processor(torch.tensor([ids]), torch.from_numpy(full.copy()))
    assert first.token_ids[0] == scores.argmax().item()
    assert second.is_done


def test_a_bias_of_no_token_is_refused(model: Decoder) -> None:
    batch = Batch(model, rows=1, max_context=CONTEXT)
    with pytest.raises(un.errors.InvalidArgument, match=f"logit_bias has token {VOCABULARY}, outside"):
        batch.submit([1], 1, Sampling(logit_bias={VOCABULARY: 1.0}))
    assert not batch.step()


@pytest.mark.parametrize(
    ("ids", "tokens", "told"),
    [
        ([], 1, "the prompt has no tokens"),
        ([VOCABULARY], 1, f"the token {VOCABULARY}, outside the vocabulary"),
        ([-1], 1, "the token -1"),
        ([1], 0, "at least one token is written"),
        ([1] * 100, 2 * BLOCK_SIZE - 99, "do not fit into a context of 128"),
        ("1,2", 1, "a token of the prompt must be a whole number; it is '1'"),
        ([2, 1.5], 1, "a token of the prompt must be a whole number; it is 1.5"),
        ([1], 2.5, "max_tokens must be a whole number; it is 2.5"),
    ],
)
def test_what_can_never_run_is_refused_at_once(model: Decoder, ids: Any, tokens: Any, told: str) -> None:
    batch = Batch(model, rows=2, max_context=CONTEXT, blocks=2)
    with pytest.raises(un.errors.InvalidArgument, match=told):
        batch.submit(ids, tokens)
    assert not batch.step()


def test_a_context_above_the_models_own_is_refused(model: Decoder) -> None:
    told = rf"Batch: max_context={CONTEXT + 1} is more than the {CONTEXT} tokens of this model"
    with pytest.raises(un.errors.InvalidArgument, match=told):
        Batch(model, rows=1, max_context=CONTEXT + 1)
    assert Batch(model, rows=1).cache.capacity == CONTEXT


def test_tokens_come_as_any_whole_numbers(model: Decoder) -> None:
    batch = Batch(model, rows=3, max_context=CONTEXT)
    prompts = ([5, 6, 7], np.array([5, 6, 7]), torch.tensor([5, 6, 7]))
    requests = [batch.submit(ids, 4) for ids in prompts]  # type: ignore[arg-type]
    batch.run()
    assert requests[0].token_ids == requests[1].token_ids == requests[2].token_ids
    with pytest.raises(un.errors.InvalidArgument, match="sampling must be a Sampling"):
        batch.submit([1], 1, {"temperature": 1.0})  # type: ignore[arg-type]
