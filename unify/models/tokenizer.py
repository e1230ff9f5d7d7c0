"""Text to tokens and back, by the vocabulary and chat template in the model's file."""

from __future__ import annotations

import codecs
import re
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from unify._errors import InvalidArgument, ModelFileError

if TYPE_CHECKING:
    from .weights import ModelFile

_CONTROL, _USER_DEFINED = 3, 4  # token types of GGUF


class Tokenizer:
    """A byte-level BPE tokenizer with the model's own special tokens."""

    def __init__(
        self,
        backend: Any,
        *,
        eos: int,
        bos: int | None,
        chat_template: str,
        names: dict[str, str],
        control: Sequence[str],
    ) -> None:
        self._backend = backend
        self._control = frozenset(backend.token_to_id(token) for token in control)
        # Longest first, as the tokenizer takes them. An empty alternative would match everywhere.
        written = sorted(filter(None, control), key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, written)) or "(?!)")
        self._bytes_of = {letter: byte for byte, letter in enumerate(_byte_letters())}
        self._template = chat_template
        self._names = names
        self.eos = eos
        self.bos = bos

    @staticmethod
    def from_file(file: ModelFile) -> Tokenizer:
        """Builds the tokenizer of a GGUF file. Raises ModelFileError for kinds that are not known."""
        from tokenizers import AddedToken, Tokenizer as Backend, models, pre_tokenizers

        model = file.require("tokenizer.ggml.model", str)
        pre = file.require("tokenizer.ggml.pre", str, "gpt-2")
        if model != "gpt2" or pre not in _PRE_TOKENIZERS:
            raise ModelFileError(
                f"{file.path}: a tokenizer of kind {model!r:.80}, {pre!r:.80} (tokenizer.ggml.model, .pre); known: "
                f"'gpt2' with {', '.join(map(repr, _PRE_TOKENIZERS))}. Take another model."
            )
        tokens = file.texts("tokenizer.ggml.tokens")
        types = file.require("tokenizer.ggml.token_type", list, [1] * len(tokens))
        merges = [merge.partition(" ")[::2] for merge in file.texts("tokenizer.ggml.merges")]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        if len(types) != len(tokens) or len(vocabulary) != len(tokens) or not all(map(all, merges)):
            raise ModelFileError(
                f"{file.path}: its {len(tokens)} tokens ({len(vocabulary)} different), {len(types)} token types and "
                "merges do not fit each other. Convert the model anew."
            )
        try:
            backend = Backend(models.BPE(vocabulary, merges))
        except Exception as error:  # the library raises bare Exception
            raise ModelFileError(f"{file.path}: its vocabulary cannot be used: {error}.") from None
        backend.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[pre](pre_tokenizers))
        control = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
        own = [token for token, kind in zip(tokens, types, strict=True) if kind == _USER_DEFINED]
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
        backend.add_tokens([AddedToken(token, normalized=False) for token in own])
        names = {}
        for role in ("bos", "eos", "unknown", "padding"):
            index = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
            if isinstance(index, int) and 0 <= index < len(tokens):
                names[role] = tokens[index]
        eos = file.require("tokenizer.ggml.eos_token_id", int)
        if not 0 <= eos < len(tokens):
            raise ModelFileError(
                f"{file.path}: the metadata 'tokenizer.ggml.eos_token_id' is {eos}, outside its {len(tokens)} tokens. "
                "Convert the model anew."
            )
        adds_bos = file.require("tokenizer.ggml.add_bos_token", bool, False)
        bos = vocabulary[names["bos"]] if adds_bos and "bos" in names else None
        template = file.require("tokenizer.chat_template", str, "")
        return Tokenizer(backend, eos=eos, bos=bos, chat_template=template, names=names, control=control)

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Tokens of a text. control: a control token written in it counts as such; else it is text like other text."""
        return [*([] if self.bos is None else [self.bos]), *self._encode(text, control=control)]

    def _encode(self, text: str, *, control: bool) -> list[int]:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidArgument(
                    f"the text is no Unicode: a lone surrogate at character {error.start}, which stands for a byte "
                    "that is no UTF-8. Convert it."
                ) from None
        self._backend.encode_special_tokens = not control
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, control tokens left out; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self._bytes, ids)).decode(errors="replace")

    def stream(self) -> TextStream:
        """A decoder for tokens that come one by one."""
        return TextStream(self._bytes)

    def _bytes(self, token: int) -> bytes:
        text = self._backend.id_to_token(token)
        if text is None or token in self._control:
            return b""
        try:
            return bytes(self._bytes_of[letter] for letter in text)
        except KeyError:  # a token of the user's own stands for itself
            return str(text).encode()

    def chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Tokens of a conversation by the file's chat template, ready for the assistant's answer.

        messages: {"role": "system" | "user" | "assistant", "content": text}. A control token written in a message is
        text: nobody can end their turn and speak as another. Raises ModelFileError for a template that is absent or
        does not work; it runs in a sandbox, since it came with the file.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if not self._template:
            raise ModelFileError("this model's file has no chat template; use `unify generate` with a plain prompt.")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_template_error
        tokens = {f"{role}_token": token for role, token in self._names.items()}
        hidden: list[str] = []
        mark = f"\ue000{secrets.token_hex(8)}:"  # nobody can guess it

        def hide(found: re.Match[str]) -> str:
            hidden.append(found[0])
            return f"{mark}{len(hidden) - 1}\ue001"

        shown = [{**message, "content": self._control_text.sub(hide, message["content"])} for message in messages]
        try:
            text = environment.from_string(self._template).render(messages=shown, add_generation_prompt=True, **tokens)
        except (
            TemplateError,
            ArithmeticError,
            LookupError,
            MemoryError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise ModelFileError(
                f"the chat template of this model's file does not work: {error}. Use `unify generate`, a plain prompt."
            ) from None
        ids: list[int] = []
        for index, part in enumerate(re.split(f"{mark}(\\d+)\ue001", text)):  # text, a number, text, …
            ids += self._encode(hidden[int(part)], control=False) if index % 2 else self._encode(part, control=True)
        return ids


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


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in a byte-level vocabulary (Radford et al. 2019, encoder.py)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _raise_template_error(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


# How text is cut before merging, by llama.cpp's names.
_PRE_TOKENIZERS: dict[str, Any] = {
    "gpt-2": lambda p: [p.ByteLevel(add_prefix_space=False)],
    "smollm": lambda p: [p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)],
}
