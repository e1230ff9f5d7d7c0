"""Several texts at once: each is what it would be alone, whoever comes and goes beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

import unify as un
from unify.models.architectures import load_directory
from unify.models.batch import Batch
from unify.models.checkpoint import Checkpoint
from unify.models.decoder import Decoder
from unify.models.generate import Sampling
from unify.models.kv_cache import BLOCK_SIZE

from .tiny_models import CONTEXT, VOCABULARY, prompt, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load_directory(Checkpoint(write_tiny(tmp_path_factory.mktemp("m"), "Llama")))


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


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_k": -1},
        {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": -0.1}, {"min_p": 2.0}, {"seed": 2**63}, {"repetition_penalty": 1.1},
    ],
)  # fmt: skip
def test_sampling_that_cannot_be_is_refused(model: Decoder, settings: dict[str, float]) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="submit: "):
        Batch(model, rows=1, max_context=CONTEXT).submit([1], 1, Sampling(**settings))


@pytest.mark.parametrize(
    ("ids", "tokens", "told"),
    [
        ([], 1, "the prompt has no tokens"),
        ([VOCABULARY], 1, f"the token {VOCABULARY}, outside the vocabulary"),
        ([-1], 1, "the token -1"),
        ([1], 0, "at least one token is written"),
        ([1] * 100, 2 * BLOCK_SIZE - 99, "do not fit into a context of 128"),
    ],
)
def test_what_can_never_run_is_refused_at_once(model: Decoder, ids: list[int], tokens: int, told: str) -> None:
    batch = Batch(model, rows=2, max_context=CONTEXT, blocks=2)
    with pytest.raises(un.errors.InvalidArgument, match=told):
        batch.submit(ids, tokens)
    assert not batch.step()
