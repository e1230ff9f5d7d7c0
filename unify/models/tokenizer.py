"""Text to tokens and back, by the vocabulary and chat template in the model's file."""

from __future__ import annotations

import codecs
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from unify._errors import InvalidArgument, ModelFileError

from .template import render
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from .weights import ModelFile

_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}  # GGUF's, templates'
_ENDS = ("eos", "eot", "eom")  # GGUF's roles: the ends of a text, of a turn, and of a message to a tool


class Tokenizer:
    """A vocabulary with the model's own special tokens and its chat template.

    ends: the tokens any of which ends an answer; bos: the one that begins a text, or None.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, ends: frozenset[int], bos: int | None, chat_template: str,
        names: dict[str, str],
    ) -> None:  # fmt: skip
        self._vocabulary = vocabulary
        # Longest first. An empty alternative would match everywhere.
        written = sorted(filter(None, vocabulary.control), key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, written)) or "(?!)")
        self._template = chat_template
        self._names = names
        self.ends = ends  # any of them ends an answer
        self.bos = bos

    @staticmethod
    def from_file(file: ModelFile) -> Tokenizer:
        """Builds the tokenizer of a GGUF file. Raises ModelFileError for kinds that are not known."""
        vocabulary = Vocabulary.from_file(file)
        tokens = vocabulary.tokens
        told = {role: file.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in _ROLES}
        ids = {role: index for role, index in told.items() if isinstance(index, int) and 0 <= index < len(tokens)}
        adds_bos = file.require("tokenizer.ggml.add_bos_token", bool, vocabulary.adds_bos)
        return Tokenizer(
            vocabulary,
            ends=_ends(file, len(tokens)),
            bos=ids.get("bos") if adds_bos else None,
            chat_template=file.require("tokenizer.chat_template", str, ""),
            names={_ROLES[role]: tokens[index] for role, index in ids.items()},
        )

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Tokens of a text. control: a control token written in it counts as such; else it is text like other text."""
        return [*([] if self.bos is None else [self.bos]), *self._ids(self._parts(text) if control else [text])]

    def _parts(self, text: str) -> Iterator[str | int]:
        """A text's control tokens as ids, and what is between them."""
        at = 0
        for found in self._control_text.finditer(text):
            yield text[at : found.start()]
            yield self._vocabulary.control[found[0]]
            at = found.end()
        yield text[at:]

    def _ids(self, parts: Iterable[str | int]) -> list[int]:
        """Texts that follow each other are one: their tokens do not end where a part does."""
        ids: list[int] = []
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
            else:
                ids += [*self._encode(text), part]
                text = ""
        return ids + self._encode(text)

    def _encode(self, text: str) -> list[int]:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidArgument(
                    f"the text is no Unicode: a lone surrogate at character {error.start}, which stands for a byte "
                    "that is no UTF-8. Convert it."
                ) from None
        return list(self._vocabulary.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, control tokens left out; bytes that are no UTF-8 become U+FFFD.

        A vocabulary that puts a space before a text gives it back with that space.
        """
        return b"".join(map(self._bytes, ids)).decode(errors="replace")

    def stream(self) -> TextStream:
        """A decoder for tokens that come one by one."""
        return TextStream(self._bytes)

    def _bytes(self, token: int) -> bytes:
        # A model may have more rows than the vocabulary has tokens.
        return self._vocabulary.to_bytes(token) if 0 <= token < len(self._vocabulary.tokens) else b""

    def chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Tokens of a conversation by the file's chat template, ready for the assistant's answer.

        messages: {"role": "system" | "user" | "assistant", "content": text}. A control token written in a message is
        text: nobody can end their turn and speak as another. Raises ModelFileError for a template that is absent, does
        not work, or takes more than a template needs; it runs in a sandbox, since it came with the file.
        """
        if not self._template:
            self._encode("")  # without a vocabulary, that is what is said
            raise ModelFileError("this model's file has no chat template; use `unify generate` with a plain prompt.")
        hidden: list[str] = []
        mark = f"\ue000{secrets.token_hex(8)}:"  # nobody can guess it

        def hide(found: re.Match[str]) -> str:
            hidden.append(found[0])
            return f"{mark}{len(hidden) - 1}\ue001"

        shown = [{**message, "content": self._control_text.sub(hide, message["content"])} for message in messages]
        text = render(self._template, shown, **self._names)
        parts: list[str | int] = []
        for index, part in enumerate(re.split(f"{mark}(\\d+)\ue001", text)):  # text, a number, text, …
            parts += [hidden[int(part)]] if index % 2 else self._parts(part)
        ids = self._ids(parts)
        # Some templates write the begin token themselves.
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]


def _ends(file: ModelFile, tokens: int) -> frozenset[int]:
    """The tokens that end an answer; every file has the first, chat models some of the others."""
    keys = [f"tokenizer.ggml.{role}_token_id" for role in _ENDS]
    ends = {key: file.require(key, int) for key in keys if key == keys[0] or key in file.metadata}
    for key, token in ends.items():
        if not 0 <= token < tokens:
            raise ModelFileError(
                f"{file.path}: the metadata '{key}' is {token}, outside its {tokens} tokens. Convert the model anew."
            )
    return frozenset(ends.values())


class TextStream:
    """Turns tokens into text piece by piece; holds back bytes until they make whole characters."""

    def __init__(self, to_bytes: Callable[[int], bytes]) -> None:
        self._to_bytes = to_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The text that this token completes, often empty."""
        return self._decoder.decode(self._to_bytes(token))

    def finish(self) -> str:
        """What is held back at the end: U+FFFD for a character that was not completed."""
        return self._decoder.decode(b"", final=True)
