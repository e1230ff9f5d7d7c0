"""The demo model against Hugging Face transformers loading the same file."""

from __future__ import annotations

import pytest
import torch

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
    "outrageous fortune, or to take arms against them."
)


@pytest.fixture(scope="module")
def file() -> models.ModelFile:
    return models.ModelFile(models.model_path("smollm2-135m"))


@pytest.fixture(scope="module")
def tokenizer(file: models.ModelFile) -> models.Tokenizer:
    return models.Tokenizer.from_file(file)


@pytest.fixture(scope="module")
def peer(file: models.ModelFile) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers", reason="the peer of this test; in the dev extra")
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
    ids = tokenizer.encode("The capital of France is")
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits[0]
        text = peer.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False)[0, len(ids) :].tolist()
    difference = (logits(model, ids) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-3
    answer = models.Generator(model, tokenizer, max_context=128).generate(ids, 32)
    assert answer.token_ids == [token for token in text if token != tokenizer.eos]


def test_quantized_top_tokens_agree_with_transformers(
    file: models.ModelFile, tokenizer: models.Tokenizer, peer: torch.nn.Module
) -> None:
    ids = tokenizer.encode(TEXT)[:200]
    assert len(ids) >= 150
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits[0].argmax(-1)
    agreeing = (logits(models.Llama.load(file), ids).argmax(-1) == expected).double().mean()
    assert agreeing >= 0.95


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


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_header_is_refused_or_harmless(file: models.ModelFile, tmp_path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with file.path.open("rb") as source:
        head = bytearray(source.read(4096))
    for _ in range(8):
        at = int(torch.randint(4, len(head), (1,), generator=generator))
        head[at] = int(torch.randint(256, (1,), generator=generator))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(bytes(head))  # cut off besides: never valid
    with pytest.raises(ModelFileError):
        models.ModelFile(damaged)


def test_an_unknown_name_suggests_a_known_one() -> None:
    with pytest.raises(ModelFileError, match="Did you mean 'smollm2-135m'"):
        models.model_path("smollm-135m")
