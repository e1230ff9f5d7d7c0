"""Vocabularies: text cut as SentencePiece, transformers and Llama 3's own tokenizer would, on small ones."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import example, given, settings, strategies as st

from unify import models
from unify._errors import ModelFileError
from unify.models.vocabulary import Vocabulary

from .conftest import MERGES, SPECIAL, TOKENS, byte_letters, write_gguf

NORMAL, UNKNOWN, CONTROL, OWN, BYTE = 1, 2, 3, 4, 6  # gguf.TokenType

WORDS = [
    *("▁▁", "▁t", "he", "▁the", "in", "▁a", "er", "re", "▁▁▁▁", "ing", "▁w", "ou", "ll", "or", "▁wor", "ld", "▁world"),
    *("hell", "▁hell", "▁hello", "aa", "aaa", "é▁", "漢字", "▁漢", "ab", "abc", "bcd", "▁▁▁", "er▁"),
]
LETTERS = sorted({*"".join(WORDS), *"abcdefghijklmnopqrstuvwxyz.,!<>/0x"})
PIECES = [*WORDS, *LETTERS]  # best first, as SentencePiece writes them
SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, "<tool>"]
SPM: dict[str, Any] = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": SPM_TOKENS,
    "tokenizer.ggml.scores": [*[0.0] * 259, *(-float(rank) for rank in range(len(PIECES))), 0.0],
    "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(PIECES), OWN],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.chat_template": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
}
BEGIN, END, TOOL = 1, 2, len(SPM_TOKENS) - 1

TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(" abcdehilotw\n", max_size=40),
    st.lists(st.sampled_from(["<s>", "</s>", "<unk>", "<0x0A>", " ", "the", "hello", "world", "\n", "é"]), max_size=12)
    .map("".join),
)  # fmt: skip


def load(path: Path, metadata: dict[str, Any], **changes: Any) -> models.Tokenizer:
    """The tokenizer of a file with this metadata and `changes`, where None takes an entry away."""
    told = {**metadata, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()}}
    write_gguf(path / "v.gguf", {key: value for key, value in told.items() if value is not None}, {})
    return models.Tokenizer.from_file(models.ModelFile(path / "v.gguf"))


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> models.Tokenizer:
    return load(tmp_path_factory.mktemp("spm"), SPM)


def sentencepiece(text: str) -> list[int]:
    """BPE as SentencePiece describes it (bpe_model.cc): while two neighbours make a piece, those with the best score
    are joined, the leftmost of equals; what is no piece becomes the bytes of its letters."""
    rank = {piece: index for index, piece in enumerate(PIECES)}
    symbols = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        joined = [(rank[a + b], at) for at, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in rank]
        if not joined:
            break
        at = min(joined)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    cut = ([259 + rank[s]] if s in rank else [3 + byte for byte in s.encode()] for s in symbols)
    return [token for tokens in cut for token in tokens]


@settings(max_examples=500, deadline=None)
@given(text=TEXTS.filter(lambda text: "<tool>" not in text))
@example(text="hello world")
@example(text="  the    world\n\tin 漢字 🎉 é é  ")
@example(text="</s><s><unk><0x0A>")
@example(text="aaaaaaa abcd")
def test_text_is_cut_as_sentencepiece_cuts_it(spm: models.Tokenizer, text: str) -> None:
    assert spm.encode(text) == [BEGIN, *sentencepiece(text)]


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_bytes_come_back_with_the_space_that_was_added(spm: models.Tokenizer, text: str) -> None:
    ids = spm.encode(text)
    # The letter that stands for a space stands for one in a text as well.
    assert spm.decode(ids) == (" " + text if text else "").replace("▁", " ")
    stream = spm.stream()
    assert "".join(map(stream.add, ids)) + stream.finish() == spm.decode(ids)


@pytest.fixture(scope="module")
def spm_peer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = write_gguf(tmp_path_factory.mktemp("peer") / "v.gguf", SPM, {})
    return transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


@settings(max_examples=200, deadline=None)
@given(text=st.text("abcdehilotw é漢\n🎉.", min_size=1, max_size=40).filter(lambda text: text[0] != " "))
@example(text="hello world, the 漢字 🎉")
def test_sentencepiece_text_is_cut_as_transformers_cuts_it(spm: models.Tokenizer, spm_peer: Any, text: str) -> None:
    # Transformers adds no space before one that is there; SentencePiece and llama.cpp do.
    assert spm.encode(text) == spm_peer(text).input_ids


def test_a_space_is_added_after_a_control_token_and_a_users_own(spm: models.Tokenizer) -> None:
    expected = [BEGIN, *sentencepiece("the"), END, *sentencepiece("world"), TOOL, *sentencepiece(" in")]
    assert spm.encode("the</s>world<tool> in", control=True) == expected
    assert spm.decode(expected) == " the world<tool>  in"


def test_no_space_and_no_begin_token_where_the_file_says_so(tmp_path: Path) -> None:
    plain = load(tmp_path, SPM, add_space_prefix=False, add_bos_token=False)
    assert plain.decode(plain.encode("the world")) == "the world"
    assert plain.encode(" the")[0] == 259 + PIECES.index("▁the")


def test_a_letter_without_a_token_and_without_bytes_is_unknown(tmp_path: Path) -> None:
    keep = [i for i, token in enumerate(SPM_TOKENS) if not token.startswith("<0x")]
    changes = {key: [SPM[f"tokenizer.ggml.{key}"][i] for i in keep] for key in ("tokens", "scores", "token_type")}
    ids = load(tmp_path, SPM, **changes).encode("a🎉b")
    assert ids[2] == 0
    assert len(ids) == 4


def test_a_conversation_is_cut_as_the_template_writes_it(spm: models.Tokenizer) -> None:
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "world"},
        {"role": "user", "content": "the</s>er"},  # text: the user cannot end the turn
    ]
    first, second = sentencepiece("[INST] hello [/INST]world"), sentencepiece("[INST] the</s>er [/INST]")
    assert spm.chat(messages) == [BEGIN, *first, END, BEGIN, *second]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scores": None}, "'tokenizer.ggml.scores' is absent"),
        ({"scores": [0.5]}, f"is no array of {len(SPM_TOKENS)} numbers"),
        ({"scores": [float("nan")] * len(SPM_TOKENS)}, "is no array of"),
        ({"tokens": [*SPM_TOKENS[:5], "<0xG1>", *SPM_TOKENS[6:]]}, "'<0xG1>' is no byte"),
        ({"tokens": [*SPM_TOKENS[:-2], "x" * 257, "<tool>"]}, f"token {TOOL - 1} has 257 letters"),
        ({"token_type": [NORMAL]}, "1 token types"),
    ],
)
def test_a_sentencepiece_vocabulary_that_does_not_hold_together_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelFileError) as refused:
        load(tmp_path, SPM, **changes)
    assert told in str(refused.value)


# Byte-level vocabularies, as Llama 3 has one.

WHOLE = "Ġwhole"  # a token that no merges lead to
LLAMA3_TOKENS = [*TOKENS, WHOLE, "123", "Ã©e"]
LLAMA3: dict[str, Any] = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.tokens": LLAMA3_TOKENS,
    "tokenizer.ggml.token_type": [CONTROL] * len(SPECIAL) + [NORMAL] * (len(LLAMA3_TOKENS) - len(SPECIAL)),
    "tokenizer.ggml.merges": list(MERGES),
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 2,
}


@pytest.fixture(scope="module")
def llama3_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[models.Tokenizer, Any]:
    """Ours and transformers', of a vocabulary in which each word that is a token comes by merges too."""
    folder = tmp_path_factory.mktemp("llama3")
    count = len(TOKENS)
    told = {**LLAMA3, "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.add_bos_token": False}
    told["tokenizer.ggml.merges"] = sorted(MERGES, key=lambda merge: merge != "Ġ t")
    told["tokenizer.ggml.token_type"] = LLAMA3["tokenizer.ggml.token_type"][:count]
    return load(folder, told), transformers.AutoTokenizer.from_pretrained(str(folder), gguf_file="v.gguf")


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.text("aeht'SLl12345 \r\n\t.,!é漢", max_size=40)))
@example(text="I'LL say the 1234567 words,\r\n\r\n  and    an\tée 漢字🎉 the.\n\n")
def test_text_is_cut_as_llama_3_cuts_it(llama3_pair: tuple[models.Tokenizer, Any], text: str) -> None:
    ours, peer = llama3_pair
    assert ours.encode(text) == peer(text, add_special_tokens=False).input_ids
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "llama-v3"])
def test_llama_3_begins_with_its_begin_token_and_takes_whole_words(tmp_path: Path, pre: str) -> None:
    # tokenizer.json of Llama 3: "ignore_merges": true. Digits come in threes, a word with what is before it.
    ids = load(tmp_path, LLAMA3, pre=pre).encode("a whole 1234éee")
    letters = {letter: len(SPECIAL) + byte for byte, letter in enumerate(byte_letters())}
    place = LLAMA3_TOKENS.index
    expected = [0, letters["a"], place(WHOLE), letters["Ġ"], place("123"), letters["4"]]
    assert ids[:6] == expected


def test_text_never_becomes_a_control_token_by_its_merges(tmp_path: Path) -> None:
    types = [CONTROL if token in (*SPECIAL, "the") else NORMAL for token in TOKENS]
    told = {**LLAMA3, "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": types}
    for pre in ("smollm", "llama-bpe"):
        tokenizer = load(tmp_path, told, pre=pre)
        ids = tokenizer.encode("the")
        assert TOKENS.index("the") not in ids
        assert tokenizer.decode(ids) == "the"
        assert TOKENS.index("the") in tokenizer.encode("the", control=True)


def test_a_vocabulary_tells_the_bytes_of_each_token(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "v.gguf", SPM, {})
    vocabulary = Vocabulary.from_file(models.ModelFile(path))
    told = {
        token: vocabulary.to_bytes(SPM_TOKENS.index(token)) for token in ("<s>", "<0xE6>", "▁the", "漢字", "<tool>")
    }
    assert told == {"<s>": b"", "<0xE6>": b"\xe6", "▁the": b" the", "漢字": "漢字".encode(), "<tool>": b"<tool>"}
