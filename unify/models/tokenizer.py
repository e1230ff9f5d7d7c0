"""Text to tokens and back, by the vocabulary and chat template in the model's file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unify._errors import ModelFileError

if TYPE_CHECKING:
    from .weights import ModelFile

_CONTROL, _USER_DEFINED = 3, 4  # token types of GGUF


class Tokenizer:
    """A byte-level BPE tokenizer with the model's own special tokens."""

    def __init__(self, backend: Any, *, eos: int, bos: int | None, chat_template: str, names: dict[str, str]) -> None:
        self._backend = backend
        self._template = chat_template
        self._names = names
        self.eos = eos
        self.bos = bos

    @staticmethod
    def from_file(file: ModelFile) -> Tokenizer:
        """Builds the tokenizer of a GGUF file. Raises ModelFileError for kinds that are not known."""
        from tokenizers import AddedToken, Tokenizer as Backend, decoders, models, pre_tokenizers

        model = file.require("tokenizer.ggml.model", str)
        pre = file.require("tokenizer.ggml.pre", str, "gpt-2")
        if model != "gpt2" or pre not in _PRE_TOKENIZERS:
            raise ModelFileError(
                f"{file.path}: a tokenizer of kind {model!r:.80}, {pre!r:.80} (tokenizer.ggml.model, .pre); known: "
                f"'gpt2' with {', '.join(map(repr, _PRE_TOKENIZERS))}. Take another model."
            )
        tokens = file.texts("tokenizer.ggml.tokens")
        types = file.require("tokenizer.ggml.token_type", list, [1] * len(tokens))
        merges = [tuple(merge.split(" ", 1)) for merge in file.texts("tokenizer.ggml.merges")]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        if len(types) != len(tokens) or len(vocabulary) != len(tokens) or any(len(merge) != 2 for merge in merges):
            raise ModelFileError(
                f"{file.path}: its {len(tokens)} tokens ({len(vocabulary)} different), {len(types)} token types and "
                "merges do not fit each other. Convert the model anew."
            )
        try:
            backend = Backend(models.BPE(vocabulary, merges))
        except Exception as error:  # the library raises bare Exception
            raise ModelFileError(f"{file.path}: its vocabulary cannot be used: {error}.") from None
        backend.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[pre](pre_tokenizers))
        backend.decoder = decoders.ByteLevel()
        special = [t for t, kind in zip(tokens, types, strict=True) if kind in (_CONTROL, _USER_DEFINED)]
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
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
        return Tokenizer(
            backend, eos=eos, bos=bos, chat_template=file.require("tokenizer.chat_template", str, ""), names=names
        )

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; special tokens written in it count as such."""
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return [*([] if self.bos is None else [self.bos]), *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A decoder for tokens that come one by one."""
        return TextStream(self._backend)

    def chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Tokens of a conversation by the file's chat template, ready for the assistant's answer.

        messages: {"role": "system" | "user" | "assistant", "content": text}. Raises ModelFileError for a template that
        is absent or does not work; it runs in a sandbox, since it came with the file.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if not self._template:
            raise ModelFileError("this model's file has no chat template; use `unify generate` with a plain prompt.")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_template_error
        tokens = {f"{role}_token": token for role, token in self._names.items()}
        try:
            text = environment.from_string(self._template).render(
                messages=list(messages), add_generation_prompt=True, **tokens
            )
        except (TemplateError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ModelFileError(f"the chat template of this model's file does not work: {error}.") from None
        return list(self._backend.encode(text, add_special_tokens=False).ids)


class TextStream:
    """Turns tokens into text piece by piece; holds back bytes until they make whole characters."""

    def __init__(self, backend: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = backend
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        """The text that this token completes, often empty."""
        return self._stream.step(self._backend, token) or ""


def _raise_template_error(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


# How text is cut before merging, by llama.cpp's names.
_PRE_TOKENIZERS: dict[str, Any] = {
    "gpt-2": lambda p: [p.ByteLevel(add_prefix_space=False)],
    "smollm": lambda p: [p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)],
}
