"""From a prompt to text: prefill, then a decode step for each token, recorded once and replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import unify
from unify import ops
from unify._kernel import Kernel

from .decoder import Decoder
from .penalties import Penalties
from .prompt import checked_prompt, context_of
from .sampling import Sampling
from .tokenizer import Tokenizer

PREFILL_CHUNK = 512  # tokens: bounds the activations' memory, and how long Ctrl-C waits


@dataclass
class Answer:
    """What was generated, and how long it took (seconds; tokens per second as properties).

    No time contains the compiling or loading of kernels. Where the prompt needed some, prefill_s is of a second pass
    over its last prefill_tokens: all of them, or from 512 to 1023.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens that were run (not reused from the turn before), by the time that took."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Decode steps by the time they took; the first token comes from the prefill and does not count."""
        return self.decode_steps / self.decode_s if self.decode_s else 0.0


class Generator:
    """Writes text with a model, over one cache that is kept from call to call.

    A prompt that begins like what is in the cache (the next turn of a conversation) runs only its new part.
    max_context: tokens of prompt and answer that there is room for, by default 2048 or the model's own if those are
    less. Raises InvalidArgument for more than the model's own.
    """

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, sampling: Sampling | None = None, *, max_context: int | None = None
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.sampling = sampling or Sampling()
        self.sampling.check(model.config.vocabulary)
        self.cache = model.cache(context_of("Generator", max_context, model.config.context))
        self._ids: list[int] = []  # the tokens in the cache
        # token, position, keys to see, number of the draw: what a recorded step reads from the device
        self._state = unify.zeros((4,), dtype=unify.int32, device=model.device)
        self._penalties = Penalties(1, model.config.vocabulary, model.device)
        self._graph: Any = None
        self._next: Any = None

    def generate(self, prompt: Sequence[int], max_tokens: int, on_text: Callable[[str], None] | None = None) -> Answer:
        """Continues a prompt (token ids) until one of the end tokens, or for max_tokens.

        on_text gets each piece of text as it is complete. KeyboardInterrupt passes through, and the generator can be
        used again. Raises InvalidArgument when prompt and answer do not fit into the context.
        """
        ids, max_tokens = self.check(prompt, max_tokens)
        answer = Answer(prompt_tokens=len(ids), reused_tokens=self._reuse(ids))
        stream = self.tokenizer.stream()
        self._penalties.set(0, self.sampling, ids)
        kernels = Kernel.compiled
        token = self._time_prefill(answer, ids[answer.reused_tokens :])
        has_compiled = Kernel.compiled != kernels

        def write(piece: str) -> None:
            answer.text += piece
            if piece and on_text is not None:
                on_text(piece)

        while token not in self.tokenizer.ends:
            answer.token_ids.append(token)
            write(stream.add(token))
            if len(answer.token_ids) == max_tokens:
                break
            if self._graph is None:
                self._record(token)
                self._penalties.set(0, self.sampling, ids, answer.token_ids[:-1])  # recording counted the token
            begin = time.perf_counter()
            token = self._decode(token)
            answer.decode_s += time.perf_counter() - begin
            answer.decode_steps += 1
        write(stream.finish())
        if has_compiled:
            self._time_prefill_again(answer, ids)
        return answer

    def check(self, prompt: Sequence[int], max_tokens: int) -> tuple[list[int], int]:
        """Returns both as `generate` takes them. Raises InvalidArgument for a prompt that is empty, has no such tokens,
        or leaves no room for max_tokens."""
        vocabulary, room = self.model.config.vocabulary, self.cache.capacity
        return checked_prompt("generate", prompt, max_tokens, vocabulary=vocabulary, room=room)

    def _reuse(self, ids: list[int]) -> int:
        """Keeps what the cache has of the prompt; at least its last token is run, for its logits."""
        common = 0
        for ours, theirs in zip(self._ids, ids[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        self._forget(common)
        return common

    def _forget(self, start: int) -> None:
        del self._ids[start:]  # first: an interrupt between may leave the cache with more than is known of it, not less
        self.cache.truncate(start)

    def _time_prefill(self, answer: Answer, ids: list[int]) -> int:
        begin = time.perf_counter()
        token = self._prefill(ids)
        answer.prefill_s, answer.prefill_tokens = time.perf_counter() - begin, len(ids)
        return token

    def _time_prefill_again(self, answer: Answer, ids: list[int]) -> None:
        """Times the prompt's end when the text is written, so that no token waits; the cache gets what it had."""
        # From the last whole chunk on, in the same chunks: what is written is then the same to the last bit.
        start = answer.reused_tokens + max(0, answer.prefill_tokens // PREFILL_CHUNK - 1) * PREFILL_CHUNK
        written = self._ids[len(ids) :]
        self._forget(start)
        self._time_prefill(answer, ids[start:])
        self.cache.grow(len(written))
        self._ids += written

    def _prefill(self, ids: list[int]) -> int:
        logits = None
        for start in range(0, len(ids), PREFILL_CHUNK):
            chunk = ids[start : start + PREFILL_CHUNK]
            tokens = unify.asarray(chunk, dtype=unify.int32, device=self.model.device)
            logits = self.model.prefill(tokens, self.cache)
            self._ids += chunk
        return int(self._sample(self._penalties.apply(logits), len(self._ids)).item())

    def _record(self, token: int) -> None:
        """Compiles a step by running it, and records it. What it writes to the cache, the next one writes again."""
        self._set_state(token, self.cache.length)
        self._step()
        with unify.Graph.capture(device=self.model.device) as graph:
            self._next = self._step()
        self._graph = graph

    def _decode(self, token: int) -> int:
        self._set_state(token, self.cache.grow(1))
        self._graph.launch()
        self._ids.append(token)  # only now: an interrupt before would leave a token without its keys
        return int(self._next.item())

    def _set_state(self, token: int, position: int) -> None:
        state = [token, position, position + 1, position + 1]
        self._state.copy_(unify.asarray(state, dtype=unify.int32, device="cpu"))

    def _step(self) -> Any:
        ids, positions, keys, draw = (self._state[i : i + 1] for i in range(4))
        logits = self.model.decode(ids, positions, keys, self.cache)
        self._penalties.count(ids)
        return self._sample(self._penalties.apply(logits), draw)

    def _sample(self, logits: Any, step: Any) -> Any:
        s = self.sampling
        return ops.sample(
            logits, temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, min_p=s.min_p, seed=s.seed, step=step
        )
