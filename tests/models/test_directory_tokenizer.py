"""Tokenizers of directories, against the ones that transformers makes of the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from unify._errors import InvalidArgument, ModelFileError
from unify.models.checkpoint import Checkpoint
from unify.models.directory_tokenizer import directory_tokenizer
from unify.models.tokenizer import Tokenizer

from .conftest import CHAT_TEMPLATE, MERGES, SPECIAL, byte_letters

TEXTS = [
    "",
    "the hello",
    "  two  spaces",
    "grüß 漢字 🎉\n\ttab",
    "<|im_end|> in a text",
    "<think>I am</think>",
    "a" * 50,
]


def byte_level() -> tokenizers.Tokenizer:
    """As Llama 3, Qwen3 and DeepSeek-V3 have it."""
    pieces = [*byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]
    made = tokenizers.Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [tuple(merge.split()) for merge in MERGES])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """As Llama 2, Mistral and Mixtral have it."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁theloaI123", "th", "▁th", "▁the", "he"]
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("h", "e")]
    made = tokenizers.Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def write(
    path: Path, made: tokenizers.Tokenizer | None, *, begins: bool = False, settings: Any = None, **config: Any
) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"vocab_size": 400, **config}))
    save_file({"x": torch.zeros(1)}, path / "model.safetensors")
    if made is not None:
        made.add_special_tokens([*SPECIAL])
        made.add_tokens(["<think>", "</think>"])
        if begins:
            begin = made.token_to_id(SPECIAL[0])
            made.post_processor = processors.TemplateProcessing(
                single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], begin)]
            )
        made.save(str(path / "tokenizer.json"))
        (path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **(settings or {})})
        )
    return path


def read(path: Path) -> Tokenizer:
    return directory_tokenizer(Checkpoint(path))


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
@pytest.mark.parametrize("begins", [False, True])
def test_text_is_cut_and_put_together_as_transformers_does_it(tmp_path: Path, make: Any, begins: bool) -> None:
    made = make()
    path = write(tmp_path / "m", made, begins=begins, bos_token_id=made.get_vocab_size())
    ours, peer = read(path), transformers.AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        ids = peer(text).input_ids
        assert ours.encode(text, control=True) == ids
        told = ours.decode(ids)
        assert (told.removeprefix(" ") if make is sentencepiece else told) == peer.decode(ids, skip_special_tokens=True)
        stream = ours.stream()
        assert "".join([stream.add(token) for token in ids] + [stream.finish()]) == told


def test_a_control_token_in_a_text_is_text_where_it_is_not_asked_for(tmp_path: Path) -> None:
    ours = read(write(tmp_path / "m", byte_level()))
    assert ours.decode(ours.encode("a<|im_end|>b")) == "a<|im_end|>b"
    assert ours.decode(ours.encode("a<|im_end|>b", control=True)) == "ab"


def test_a_conversation_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    settings = {
        "chat_template": CHAT_TEMPLATE,
        "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"},
        "bos_token": SPECIAL[0],
    }
    path = write(tmp_path / "m", byte_level(), settings=settings)
    messages = [{"role": "user", "content": "hello, the llama"}, {"role": "assistant", "content": "é"}]
    peer = transformers.AutoTokenizer.from_pretrained(path)
    expected = peer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert read(path).chat(messages) == expected
    settings.pop("chat_template")
    other = write(tmp_path / "other", byte_level(), settings=settings)
    (other / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    assert read(other).chat(messages) == expected


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 5}, None, {5}),
        ({"eos_token_id": [5, 6]}, None, {5, 6}),
        ({"eos_token_id": 5}, {"eos_token_id": [5, 7]}, {5, 7}),
        ({"eos_token_id": 5}, {}, {5}),
        ({}, None, set()),
        ({"eos_token_id": None}, None, set()),
    ],
)
def test_ends_are_those_of_the_generation_config_else_of_the_config(
    tmp_path: Path, config: Any, generation: Any, expected: set[int]
) -> None:
    path = write(tmp_path / "m", byte_level(), **config)
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    assert read(path).ends == expected


def test_without_a_tokenizer_numbers_are_written_and_a_text_is_refused(tmp_path: Path) -> None:
    ours = read(write(tmp_path / "m", None, eos_token_id=2))
    assert ours.decode([3, 399, 400]) == " 3 399"
    assert ours.ends == {2}
    with pytest.raises(InvalidArgument, match=r"m has no tokenizer.json.*--prompt-ids"):
        ours.encode("hello")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "its JSON is no object"),
        ("{}", "tokenizer.json: cannot be used: "),
        ('{"version": "1.0", "model": {"type": "new"}}', "tokenizer.json: cannot be used: "),
        (None, "neither byte-level nor SentencePiece's"),
    ],
)
def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, content: str | None, told: str) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    path = write(tmp_path / "m", made)
    if content is not None:
        (path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelFileError, match=told):
        read(path)


@pytest.mark.parametrize("ends", [-1, "x", [1.0], [[1]], True])
def test_ends_that_are_no_tokens_are_refused(tmp_path: Path, ends: Any) -> None:
    with pytest.raises(ModelFileError, match="'eos_token_id' is"):
        read(write(tmp_path / "m", None, eos_token_id=ends))
