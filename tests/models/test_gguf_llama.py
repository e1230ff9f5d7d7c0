"""The demo model against Hugging Face transformers loading the same file."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

import unify as un
from unify import models
from unify._errors import ModelFileError

TEXT = (
    "The capital of France is Paris, a city on the Seine. It has been a centre of finance, fashion and the arts "
    "since the seventeenth century. In 1889 the Eiffel Tower was built for the World's Fair, and 1,665 steps "
    "lead to its top. def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2). Water boils "
    "at 100 degrees Celsius at sea level, and freezes at 0. Once upon a time there was a king who had three "
    "daughters, and each was more beautiful than the other. The mitochondrion is the powerhouse of the cell. To "
    "be, or not to be, that is the question: whether it is nobler in the mind to suffer the slings and arrows of "
    "outrageous fortune, or to take arms against them. SELECT name FROM users WHERE age > 30 ORDER BY name; the query "
    "returns every row that fits."
)
POSITIONS, GREEDY_TOKENS = 200, 32


@pytest.fixture(scope="module")
def file() -> models.ModelFile:
    return models.ModelFile(models.model_path("smollm2-135m"))


@pytest.fixture(scope="module")
def tokenizer(file: models.ModelFile) -> models.Tokenizer:
    return models.Tokenizer.from_file(file)


@pytest.fixture(scope="module")
def peer(file: models.ModelFile) -> torch.nn.Module:
    with pytest.MonkeyPatch.context() as patched:
        # transformers reads the file for the config and for the weights, and maps all names anew for each module.
        for name in ("GGUFReader", "get_tensor_name_map"):
            patched.setattr(gguf, name, functools.cache(getattr(gguf, name)))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.path.parent), gguf_file=file.path.name, dtype=torch.float32
        )
    return model.eval()


def logits(model: models.Llama, ids: list[int]) -> torch.Tensor:
    tokens = un.asarray(ids, dtype=un.int32)
    return torch.from_numpy(model.prefill(tokens, model.cache(len(ids)), all_logits=True).numpy().copy())


def test_float32_logits_and_greedy_text_agree_with_transformers(
    file: models.ModelFile, tokenizer: models.Tokenizer, peer: torch.nn.Module
) -> None:
    model = models.Llama.load(file, dtype="float32")
    ids = tokenizer.encode("Once upon a time, in a village by the sea, there lived")
    text = models.Generator(model, tokenizer, max_context=128).generate(ids, GREEDY_TOKENS).token_ids
    with torch.no_grad():
        expected = peer(torch.tensor([ids + text])).logits[0]
    difference = (logits(model, ids) - expected[: len(ids)]).abs().max() / expected[: len(ids)].abs().max()
    assert difference <= 1e-3
    assert len(text) == GREEDY_TOKENS  # no end came, else less is compared than it seems
    # A token is the peer's own next one after those before it; so are then all of them.
    assert text == expected[len(ids) - 1 : -1].argmax(-1).tolist()


def test_quantized_top_tokens_agree_with_transformers(
    file: models.ModelFile, tokenizer: models.Tokenizer, peer: torch.nn.Module
) -> None:
    ids = tokenizer.encode(TEXT)[:POSITIONS]
    assert len(ids) == POSITIONS
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits[0].argmax(-1)
    ours = logits(models.Llama.load(file), ids).argmax(-1)
    assert ours.shape == expected.shape == (POSITIONS,)
    assert (ours == expected).double().mean() >= 0.95


def test_a_recorded_decode_step_gives_what_a_prefill_gives(file: models.ModelFile, tokenizer: models.Tokenizer) -> None:
    model = models.Llama.load(file)
    ids = tokenizer.encode("Once upon a time")
    answer = models.Generator(model, tokenizer, max_context=128).generate(ids, 12)
    again = logits(model, ids + answer.token_ids).argmax(-1)[len(ids) - 1 : -1]
    assert again.tolist() == answer.token_ids


def test_the_next_turn_runs_only_what_is_new(file: models.ModelFile, tokenizer: models.Tokenizer) -> None:
    model = models.Llama.load(file)
    generator = models.Generator(model, tokenizer, max_context=128)
    ids = tokenizer.encode("Once upon a time")
    first = generator.generate(ids, 8)
    longer = [*ids, *first.token_ids, *tokenizer.encode(" and then")]
    second = generator.generate(longer, 8)
    assert second.reused_tokens >= len(ids) + 7
    fresh = models.Generator(model, tokenizer, max_context=128).generate(longer, 8)
    assert second.token_ids == fresh.token_ids


def test_a_context_too_small_is_refused(file: models.ModelFile, tokenizer: models.Tokenizer) -> None:
    generator = models.Generator(models.Llama.load(file), tokenizer, max_context=64)
    with pytest.raises(un.errors.InvalidArgument, match="do not fit"):
        generator.generate([1] * 60, 20)


@pytest.mark.parametrize("fraction", [0.0, 0.00001, 0.001, 0.02, 0.03, 0.5, 0.999])
def test_a_truncated_file_is_refused(file: models.ModelFile, tmp_path, fraction: float) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(file.path.read_bytes()[: int(file.path.stat().st_size * fraction)])
    with pytest.raises(ModelFileError, match="short.gguf"):
        models.ModelFile(short)


_HEAD = 4096  # metadata with lengths and types, and the first of the vocabulary


@pytest.fixture(scope="module")
def copy(file: models.ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The whole file, to be damaged in place."""
    path = tmp_path_factory.mktemp("damaged") / "damaged.gguf"
    path.write_bytes(file.path.read_bytes())
    yield path
    path.unlink()


def read_with(copy: Path, at: int, value: bytes) -> models.ModelFile:
    """Reads the file with other bytes at this place, and puts back what was there."""
    with copy.open("r+b", buffering=0) as opened:
        opened.seek(at)
        before = opened.read(len(value))
        opened.seek(at)
        opened.write(value)
        try:
            return models.ModelFile(copy)
        finally:
            opened.seek(at)
            opened.write(before)


def test_a_damaged_header_is_refused_or_read_as_it_is_written(file: models.ModelFile, copy: Path) -> None:
    rng = np.random.default_rng(0)
    size = copy.stat().st_size
    refused = 0
    for at in rng.integers(4, _HEAD, 60):
        try:
            read = read_with(copy, int(at), rng.bytes(1))
        except ModelFileError as error:
            assert "damaged.gguf" in str(error)  # noqa: PT017 - being read is as good
            refused += 1
            continue
        # A letter or a number is another; everything else is where it was.
        assert list(read.tensors.values()) == list(file.tensors.values())
        assert all(info.offset + info.nbytes <= size for info in read.tensors.values())
        pairs = itertools.zip_longest(read.metadata.items(), file.metadata.items())
        assert sum(ours != whole for ours, whole in pairs) <= 1
    assert 0 < refused < 60  # both happen


@pytest.mark.parametrize(
    ("at", "what"), [(4, "version"), (8, "tensors"), (16, "metadata entries"), (24, "bytes of text")]
)
def test_a_damaged_length_is_refused_by_what_it_counts(copy: Path, at: int, what: str) -> None:
    with pytest.raises(ModelFileError, match=f"damaged.gguf: .*{what}"):
        read_with(copy, at, b"\xff" * (4 if at == 4 else 8))


def test_an_unknown_name_suggests_a_known_one() -> None:
    with pytest.raises(un.errors.InvalidArgument, match="Did you mean 'smollm2-135m'"):
        models.model_path("smollm-135m")
