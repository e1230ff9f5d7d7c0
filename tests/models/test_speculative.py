"""Speculative decoding: the text is the plain one, the guesses are those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

import unify as un
from unify.models.architectures import load_directory
from unify.models.checkpoint import Checkpoint
from unify.models.decoder import Decoder
from unify.models.directory_tokenizer import directory_tokenizer
from unify.models.generate import Generator
from unify.models.speculative import SpeculativeGenerator
from unify.models.step import prefill_step

from .tiny_models import CONTEXT, peer_of, prompt, write_tiny


def add_predictor(path: Path, seed: int = 0) -> Path:
    """Adds the layer behind the last one, as DeepSeek-V3 is published: a copy of the last one with parts of its own."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in path.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (path / "model.safetensors.index.json").unlink()
    layers, width = json.loads((path / "config.json").read_text())["num_hidden_layers"], 64
    prefix = f"model.layers.{layers}."
    last = f"model.layers.{layers - 1}."
    tensors |= {key.replace(last, prefix): value.clone() for key, value in tensors.items() if key.startswith(last)}
    generator = torch.Generator().manual_seed(seed)
    for name in ("enorm", "hnorm", "shared_head.norm"):
        tensors[f"{prefix}{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
    tensors[f"{prefix}eh_proj.weight"] = 0.1 * torch.randn(width, 2 * width, generator=generator)
    tensors[f"{prefix}embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors[f"{prefix}shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_predictor(write_tiny(tmp_path_factory.mktemp("m") / "m", "DeepseekV3"))


@pytest.fixture(scope="module")
def model(path: Path) -> Decoder:
    return load_directory(Checkpoint(path))


def generators(path: Path, model: Decoder, **options: Any) -> tuple[Generator, SpeculativeGenerator]:
    tokenizer = directory_tokenizer(Checkpoint(path))
    return Generator(model, tokenizer, **options), SpeculativeGenerator(model, tokenizer, **options)


def test_guesses_are_those_of_transformers(path: Path, model: Decoder) -> None:
    from transformers.cache_utils import MtpCache
    from transformers.modeling_layers import MtpModel

    peer = peer_of(path)
    peer._keys_to_ignore_on_load_unexpected = [r"model\.layers\.3.*"]  # the class knows the published model's 61
    theirs = MtpModel.from_pretrained(peer)
    ids, following = prompt(40), [*prompt(40)[1:], 7]
    with torch.no_grad():
        hidden = peer.model(torch.tensor([ids])).last_hidden_state
        positions = torch.arange(40)[None]
        cache = MtpCache(config=peer.config.get_mtp_config())
        _, expected, _ = theirs(torch.tensor([following]), hidden, None, positions, cache)
    cache = model.cache(CONTEXT)
    step = prefill_step(cache, (0,), (40,), model.device)
    ours = model.hidden(un.asarray(ids, dtype=un.int32), step, cache)
    found = model.logits(model.predict(un.asarray(following, dtype=un.int32), ours, step, cache)).numpy()[-1]
    expected = expected[0, -1].numpy()
    assert abs(found - expected).max() <= 1e-4 * abs(expected).max()


def favoured(path: Path, to: Path) -> Path:
    """The model with a head that prefers few tokens, so that guesses are sometimes right."""
    to.mkdir()
    for file in path.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    tensors = load_file(to / "model.safetensors")
    head = tensors["lm_head.weight"]
    head[4:] *= 0.3
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.fixture(scope="module")
def few(path: Path) -> Path:
    return favoured(path, path.with_name("few"))


@pytest.fixture(scope="module")
def pair(few: Path) -> tuple[Generator, SpeculativeGenerator]:
    return generators(few, load_directory(Checkpoint(few)), max_context=100)


def test_the_text_is_what_is_written_without_guesses(path: Path, few: Path) -> None:
    for place in (path, few):
        plain, speculative = generators(place, load_directory(Checkpoint(place)), max_context=CONTEXT)
        for length in (1, 2, 63, 64, 200):
            expected = plain.generate(prompt(length), 70)
            answer = speculative.generate(prompt(length), 70)
            assert (answer.token_ids, answer.text) == (expected.token_ids, expected.text)
    assert 0 < speculative.accepted < speculative.drafted  # both happen


def test_the_next_turn_and_the_last_place_are_right_too(path: Path, model: Decoder) -> None:
    plain, speculative = generators(path, model, max_context=100)
    ids = prompt(50)
    first = plain.generate(ids, 50)  # to the end of the context
    assert speculative.generate(ids, 50).token_ids == first.token_ids
    for following in ([*ids, *first.token_ids[:20], 5, 6], [*ids[:30], 1, 2], ids, ids[:49]):
        assert speculative.generate(following, 9).token_ids == plain.generate(following, 9).token_ids


def test_of_several_predictors_the_first_one_guesses(tmp_path: Path, path: Path) -> None:
    few = favoured(path, tmp_path / "few")
    several = favoured(path, tmp_path / "several")
    tensors = load_file(several / "model.safetensors")
    tensors |= {
        key.replace("layers.3.", "layers.4."): torch.zeros_like(value) if "eh_proj" in key else value.clone()
        for key, value in tensors.items()
        if "layers.3." in key
    }
    save_file(tensors, several / "model.safetensors", {"format": "pt"})
    config = json.loads((several / "config.json").read_text())
    (several / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 2}))
    written = []
    for place in (few, several):
        _, speculative = generators(place, load_directory(Checkpoint(place)), max_context=CONTEXT)
        written.append((speculative.generate(prompt(64), 70).token_ids, speculative.drafted, speculative.accepted))
    assert written[0] == written[1]
    assert written[0][2] > 0


# Each turn keeps so many tokens of the text so far, adds some, and writes some, up to the context's end.
@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    turns=st.lists(
        st.tuples(st.integers(0, 100), st.lists(st.integers(4, 96), max_size=3), st.integers(1, 40)),
        min_size=1, max_size=4,
    ),
    ends=st.sampled_from([frozenset[int](), frozenset({1, 2})]),
)  # fmt: skip
def test_any_turns(
    pair: tuple[Generator, SpeculativeGenerator], turns: list[tuple[int, list[int], int]], ends: frozenset[int]
) -> None:
    plain, speculative = pair
    plain.tokenizer.ends = speculative.tokenizer.ends = ends
    text = prompt(80)
    for kept, new, tokens in turns:
        ids = ([*text[:kept], *new] or [5])[: plain.cache.capacity - tokens]
        expected = plain.generate(ids, tokens)
        drafted, accepted = speculative.drafted, speculative.accepted
        answer = speculative.generate(ids, tokens)
        assert (answer.token_ids, answer.text) == (expected.token_ids, expected.text)
        # Each step writes a token, and one more where its guess was right, which may be left over; the last place has
        # no guess.
        written = speculative.drafted - drafted + speculative.accepted - accepted
        assert written - 1 <= answer.decode_steps <= written + 1
        text = ids + answer.token_ids


def test_guesses_after_a_text_that_is_kept_are_those_without_it(few: Path, pair: tuple[Any, Any]) -> None:
    # What is kept of the last token in common belongs to the one that came after it.
    _, kept = pair
    counts = []
    for end in range(20, 44):
        kept.generate(prompt(60), 1)
        following = [*prompt(60)[:end], 96 - prompt(60)[end], *prompt(60)[:2]]
        fresh = generators(few, kept.model, max_context=100)[1]
        kept.tokenizer.ends = fresh.tokenizer.ends = frozenset()
        for generator in (kept, fresh):
            before = generator.accepted
            answer = generator.generate(following, 12)
            counts.append((answer.token_ids, generator.accepted - before))
    assert counts[::2] == counts[1::2]


def test_a_model_without_a_predictor_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m", "Llama")
    with pytest.raises(un.errors.InvalidArgument, match="a layer that predicts a second token"):
        generators(path, load_directory(Checkpoint(path)))
