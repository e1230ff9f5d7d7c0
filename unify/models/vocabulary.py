"""Vocabularies of GGUF files: how text is cut into tokens, and which bytes a token stands for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from unify._errors import ModelFileError

if TYPE_CHECKING:
    from .weights import ModelFile

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # token types (gguf.TokenType); the others are pieces of text
_LONGEST = 256  # letters of a SentencePiece token; those of Llama 2 have 16 at most
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece writes a space as this


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model.

    backend: cuts plain text, in which no control token counts; control: the ids of control tokens by their text;
    to_bytes: what a token stands for, nothing for a control token; adds_bos: whether a text begins with the begin token
    where the file does not say.
    """

    tokens: list[str]
    backend: Any
    control: dict[str, int]
    to_bytes: Callable[[int], bytes]
    adds_bos: bool

    @staticmethod
    def from_file(file: ModelFile) -> Vocabulary:
        """Reads the vocabulary of a GGUF file. Raises ModelFileError for kinds that are not known."""
        model = file.require("tokenizer.ggml.model", str)
        pre = file.require("tokenizer.ggml.pre", str, "gpt-2")
        tokens = file.texts("tokenizer.ggml.tokens")
        types = file.require("tokenizer.ggml.token_type", list, [1] * len(tokens))
        if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
            raise ModelFileError(
                f"{file.path}: its {len(tokens)} tokens ({len(set(tokens))} different) and {len(types)} token types "
                "do not fit each other. Convert the model anew."
            )
        if model == "llama":
            return _sentencepiece(file, tokens, types)
        if model == "gpt2" and pre in _CUTS:
            return _byte_level(file, tokens, types, _CUTS[pre])
        raise ModelFileError(
            f"{file.path}: a tokenizer of kind {model!r:.80}, {pre!r:.80} (tokenizer.ggml.model, .pre); known: "
            f"'llama', and 'gpt2' with {', '.join(map(repr, _CUTS))}. Take another model."
        )


def _byte_level(file: ModelFile, tokens: list[str], types: Sequence[int], cut: _Cut) -> Vocabulary:
    """Byte-level BPE (Radford et al. 2019): a printable letter for each byte, merges in order."""
    from tokenizers import pre_tokenizers

    control = _of_type(tokens, types, _CONTROL, _UNKNOWN)
    pieces = {token: index for index, token in enumerate(tokens) if token not in control}
    merges = [merge.partition(" ")[::2] for merge in file.texts("tokenizer.ggml.merges")]
    if not all(map(all, merges)):
        raise ModelFileError(
            f"{file.path}: some of its {len(merges)} merges do not fit: two tokens are needed. Convert the model anew."
        )
    # A text that merges into a control token would speak as another.
    merges = [(left, right) for left, right in merges if left + right not in control]
    own = _of_type(tokens, types, _USER_DEFINED)
    backend = _backend(file, pieces, merges, own, ignore_merges=cut.takes_whole_words)
    backend.pre_tokenizer = pre_tokenizers.Sequence(cut.steps(pre_tokenizers))
    bytes_of = {letter: byte for byte, letter in enumerate(byte_letters())}

    def to_bytes(token: int) -> bytes:
        text = tokens[token]
        if text in control:
            return b""
        try:
            return text.encode() if text in own else bytes(bytes_of[letter] for letter in text)
        except KeyError:  # no byte-level token, whatever the file says: it stands for itself
            return text.encode()

    return Vocabulary(tokens, backend, control, to_bytes, cut.adds_bos)


def _sentencepiece(file: ModelFile, tokens: list[str], types: Sequence[int]) -> Vocabulary:
    """SentencePiece's BPE (Kudo & Richardson 2018): the neighbours whose union has the best score are joined first.

    A letter without a token becomes the tokens of its bytes. A text, also one after a control token, begins with a
    space unless the file says otherwise, as in llama.cpp.
    """
    from tokenizers import normalizers

    scores = file.require("tokenizer.ggml.scores", list)
    if len(scores) != len(tokens) or not all(type(score) is float and math.isfinite(score) for score in scores):
        raise ModelFileError(
            f"{file.path}: the metadata 'tokenizer.ggml.scores' is no array of {len(tokens)} numbers, one for each "
            "token. Convert the model anew."
        )
    control = _of_type(tokens, types, _CONTROL, _UNKNOWN)
    unknown = next(iter(_of_type(tokens, types, _UNKNOWN)), None)
    bytes_of = {index: _byte(file, token) for token, index in _of_type(tokens, types, _BYTE).items()}
    own = _of_type(tokens, types, _USER_DEFINED)
    pieces = {token: index for index, token in enumerate(tokens) if token not in control and index not in bytes_of}
    merges = _merges(file, pieces, scores)
    kept = {tokens[index]: index for index in bytes_of} | ({} if unknown is None else {unknown: control[unknown]})
    backend = _backend(file, pieces | kept, merges, own, byte_fallback=True, fuse_unk=True, unk_token=unknown)
    prefix = file.require("tokenizer.ggml.add_space_prefix", bool, True)
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])

    def to_bytes(token: int) -> bytes:
        text = tokens[token]
        if token in bytes_of:
            return bytes([bytes_of[token]])
        return b"" if text in control else (text if text in own else text.replace(SPACE, " ")).encode()

    return Vocabulary(tokens, backend, control, to_bytes, adds_bos=True)


def _merges(file: ModelFile, pieces: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The two halves of each token, in each way that both are tokens, best score first.

    Where one token has several pairs of halves, SentencePiece takes the leftmost in the text, whichever it is. A rank
    cannot say that; the longer left half first is the same wherever text is joined from the left.
    """
    found = []
    for token, index in pieces.items():
        if len(token) > _LONGEST:
            raise ModelFileError(
                f"{file.path}: token {index} has {len(token)} letters, at most {_LONGEST} are believable. Fetch the "
                "file again, or check where it is from."
            )
        for at in range(len(token) - 1, 0, -1):
            left, right = token[:at], token[at:]
            if left in pieces and right in pieces:
                found.append((-scores[index], index, -at, left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _backend(
    file: ModelFile, pieces: dict[str, int], merges: list[tuple[str, str]], own: dict[str, int], **options: Any
) -> Any:
    from tokenizers import AddedToken, Tokenizer, models

    try:
        backend = Tokenizer(models.BPE(pieces, merges, **options))
    except Exception as error:  # the library raises bare Exception
        raise ModelFileError(f"{file.path}: its vocabulary cannot be used: {error}. Convert the model anew.") from None
    backend.add_tokens([AddedToken(token, normalized=False) for token in own])
    return backend


def _of_type(tokens: list[str], types: Sequence[int], *wanted: int) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens) if types[index] in wanted}


def _byte(file: ModelFile, token: str) -> int:
    if not re.fullmatch("<0x[0-9A-F]{2}>", token):
        raise ModelFileError(f"{file.path}: {token!r:.80} is no byte like '<0x0A>'. Convert the model anew.")
    return int(token[3:5], 16)


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in a byte-level vocabulary (Radford et al. 2019, encoder.py)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


class _Cut(NamedTuple):
    """How text is cut before merging. takes_whole_words: a piece that is a token as it stands needs no merges."""

    steps: Callable[[Any], list[Any]]
    takes_whole_words: bool = False
    adds_bos: bool = False


# The pattern of Llama 3 (llama-models, tokenizer.py): contractions, words with the sign before them, up to three
# digits, signs, line ends, spaces.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _by_pattern(pattern: str) -> Callable[[Any], list[Any]]:
    def steps(pre: Any) -> list[Any]:
        from tokenizers import Regex

        return [pre.Split(Regex(pattern), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]

    return steps


# By llama.cpp's names.
_LLAMA3_CUT = _Cut(_by_pattern(_LLAMA3), takes_whole_words=True, adds_bos=True)
_CUTS = {
    "gpt-2": _Cut(lambda pre: [pre.ByteLevel(add_prefix_space=False)]),
    "smollm": _Cut(lambda pre: [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA3_CUT),
}
