"""The tokenizer of a Hugging Face directory: tokenizer.json by the `tokenizers` package, numbers where it has none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unify._errors import InvalidArgument, ModelFileError

from .checkpoint import Checkpoint, read_object, read_text
from .tokenizer import Tokenizer
from .vocabulary import SPACE, Vocabulary, byte_letters

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


def directory_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Builds the tokenizer of a directory; without a tokenizer.json one that writes numbers and reads no text.

    Raises ModelFileError for kinds that are not known.
    """
    settings = _optional(checkpoint.path / "tokenizer_config.json")
    generation = _optional(checkpoint.path / "generation_config.json")
    if not (checkpoint.path / "tokenizer.json").exists():
        vocabulary = _numbers(checkpoint)
    else:
        vocabulary = _vocabulary(checkpoint.path / "tokenizer.json")
    names = {role: _text_of(settings[role]) for role in _ROLES if _text_of(settings.get(role))}
    return Tokenizer(
        vocabulary,
        ends=_ends(checkpoint, generation),
        bos=_bos(checkpoint, vocabulary, settings),
        chat_template=_template(checkpoint.path, settings),
        names=names,
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _text_of(value: Any) -> str:
    """A token's text, which stands for itself or in an object."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else ""


class _NoText:
    """Stands where a directory has no tokenizer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def encode(self, text: str, **_: Any) -> Any:
        raise InvalidArgument(
            f"{self._path} has no tokenizer.json, so that no text can be read. Give it numbers: "
            "`unify generate --prompt-ids 1,2,3`."
        )


def _numbers(checkpoint: Checkpoint) -> Vocabulary:
    """Tokens as their numbers, a space before each."""
    size = checkpoint.require("vocab_size", int)
    if not 1 <= size <= 1 << 24:
        raise ModelFileError(f"{checkpoint.path / 'config.json'}: 'vocab_size' is {size}. Fetch it again.")
    tokens = [str(number) for number in range(size)]
    return Vocabulary(tokens, _NoText(checkpoint.path), {}, lambda token: f" {token}".encode(), adds_bos=False)


def _vocabulary(path: Path) -> Vocabulary:
    from tokenizers import Tokenizer as Backend

    description = read_object(path)
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelFileError(f"{path}: cannot be used: {error!s:.200}. Fetch it again.") from None
    backend.no_truncation()
    backend.no_padding()
    begin = backend.encode("").ids  # what a text has before it
    backend.encode_special_tokens = True  # their names in a text are text
    added = backend.get_added_tokens_decoder()
    control = {token.content: index for index, token in added.items() if token.special}
    size = max([*backend.get_vocab().values(), -1]) + 1
    if not 1 <= size <= 1 << 24:
        raise ModelFileError(f"{path}: its tokens have the numbers up to {size - 1}. Fetch it again.")
    tokens = [backend.id_to_token(index) or "" for index in range(size)]
    own = {token.content for token in added.values() if not token.special}
    to_bytes = _to_bytes(path, description, tokens, control, own)
    return Vocabulary(tokens, backend, control, to_bytes, adds_bos=bool(begin))


def _to_bytes(
    path: Path, description: dict[str, Any], tokens: list[str], control: dict[str, int], own: set[str]
) -> Callable[[int], bytes]:
    """Which bytes a token stands for: letters are bytes, or a sign is a space and "<0x0A>" a byte."""
    decoder, model = description.get("decoder"), description.get("model")
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    kinds = [step.get("type") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    if "ByteLevel" in kinds:
        bytes_of = {letter: bytes([byte]) for byte, letter in enumerate(byte_letters())}

        def from_letters(token: int) -> bytes:
            text = tokens[token]
            if text in control:
                return b""
            if text in own or not all(letter in bytes_of for letter in text):
                return text.encode()
            return b"".join(bytes_of[letter] for letter in text)

        return from_letters
    if isinstance(model, dict) and model.get("byte_fallback") is True:

        def from_pieces(token: int) -> bytes:
            text = tokens[token]
            if text in control:
                return b""
            byte = re.fullmatch("<0x([0-9A-F]{2})>", text)
            return bytes([int(byte[1], 16)]) if byte else (text if text in own else text.replace(SPACE, " ")).encode()

        return from_pieces
    raise ModelFileError(
        f"{path}: its tokens are neither byte-level nor SentencePiece's with bytes (decoders {kinds!s:.80}). Take "
        "another model, or give --prompt-ids and move the file away."
    )


def _ends(checkpoint: Checkpoint, generation: dict[str, Any]) -> frozenset[int]:
    """The tokens that end an answer: generation_config.json knows more of them than the config."""
    told = generation.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    ends = told if isinstance(told, list) else [] if told is None else [told]
    for end in ends:
        if type(end) is not int or end < 0:
            raise ModelFileError(
                f"{checkpoint.path}: 'eos_token_id' is {told!r:.80}, which are no tokens. Fetch the config again."
            )
    return frozenset(ends)


def _bos(checkpoint: Checkpoint, vocabulary: Vocabulary, settings: dict[str, Any]) -> int | None:
    adds = settings.get("add_bos_token")
    bos = checkpoint.config.get("bos_token_id")
    is_added = adds if isinstance(adds, bool) else vocabulary.adds_bos
    return bos if is_added and type(bos) is int and 0 <= bos < len(vocabulary.tokens) else None


def _template(path: Path, settings: dict[str, Any]) -> str:
    """The chat template: in the settings, or in a file of its own."""
    told = settings.get("chat_template")
    file = path / "chat_template.jinja"
    if told is None and file.exists():
        return read_text(file)
    return told if isinstance(told, str) else ""
