"""One model with one cache, as either side has it: the same three verbs over each program's own interface."""

from __future__ import annotations

import ctypes
import importlib
import time
from pathlib import Path
from typing import Any

# Two ways to the same logits round differently; of tokens as near as this, either may be the likeliest.
_TIE = 1e-3


class LlamaCpp:
    """llama.cpp through its C interface: the Python class around it copies logits and would only slow it down."""

    def __init__(self, path: Path, threads: int, device: str, context: int) -> None:
        self._api = importlib.import_module("llama_cpp")
        # Flash attention is the faster of the two here, for prompts and for single tokens.
        self._model = self._api.Llama(
            str(path), n_ctx=context, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads,
            n_gpu_layers=0, flash_attn=True, verbose=False,
        )  # fmt: skip
        self._context = self._model._ctx.ctx
        self._vocabulary = self._model.n_vocab()

    def prefill(self, ids: Any) -> int:
        """Reads a prompt from an empty cache and returns the likeliest next token."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)
        return self._evaluate((ctypes.c_int32 * len(ids))(*ids.tolist()))

    def decode_seconds(self, ids: Any, tokens: int) -> float:
        """Seconds of one decoding step, of `tokens` after the prompt."""
        token = self.prefill(ids)
        start = time.perf_counter()
        for _ in range(tokens):
            token = self._evaluate((ctypes.c_int32 * 1)(token))
        return (time.perf_counter() - start) / tokens

    def _evaluate(self, tokens: Any) -> int:
        status = self._api.llama_decode(self._context, self._api.llama_batch_get_one(tokens, len(tokens)))
        if status:
            raise RuntimeError(f"llama_decode returned {status} for {len(tokens)} tokens")
        return int(self._logits().argmax())

    def _logits(self) -> Any:
        import numpy as np

        return np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, -1), (self._vocabulary,))

    def logits(self, ids: Any) -> Any:
        """The logits after a prompt."""
        self.prefill(ids)
        return self._logits().copy()

    def decode_logits(self, ids: Any, forced: Any) -> Any:
        """The logits after a prompt and tokens that are given one at a time, whatever the model would have said."""
        self.prefill(ids)
        for token in forced.tolist():
            self._evaluate((ctypes.c_int32 * 1)(token))
        return self._logits().copy()


class Unify:
    """Our own Generator, with a tokenizer that writes no text: the peer is not asked for any either."""

    def __init__(self, path: Path, threads: int, device: str, context: int) -> None:
        from unify import models

        self._model, _ = models.load(str(path), device=device)
        self._clock = _Clock()
        self._generator: Any = models.Generator(self._model, self._clock, max_context=context)  # type: ignore[arg-type]
        self._prompts = 0

    def prefill(self, ids: Any) -> int:
        """Reads a prompt and returns the likeliest next token."""
        # A Generator keeps what a prompt has in common with the one before: another first token, and it is nothing.
        self._prompts += 1
        prompt = [int(ids[0]) + self._prompts % 2, *ids[1:].tolist()]
        return int(self._generator.generate(prompt, 1).token_ids[0])

    def decode_seconds(self, ids: Any, tokens: int) -> float:
        """Seconds of one decoding step, of `tokens` after the prompt."""
        self._clock.ticks.clear()
        self._generator.generate(ids.tolist(), tokens + 1)
        return (self._clock.ticks[-1] - self._clock.ticks[0]) / tokens

    def logits(self, ids: Any) -> Any:
        """The logits after a prompt."""
        import unify

        tokens = unify.asarray(ids, device=self._model.device)
        return self._host(self._model.prefill(tokens, self._model.cache(len(ids))))

    def decode_logits(self, ids: Any, forced: Any) -> Any:
        """The logits after a prompt and tokens that are given one at a time, whatever the model would have said.

        Raises RuntimeError if what the Generator writes, whose recorded step is the one that is timed, is not the
        likeliest by a pass over the whole text.
        """
        import unify

        self._check_recorded_step(ids.tolist(), len(forced))

        device = self._model.device
        cache = self._model.cache(len(ids) + len(forced))
        logits = self._model.prefill(unify.asarray(ids, device=device), cache)
        for token in forced.tolist():
            at = cache.grow(1)
            one, position, keys = (unify.asarray([n], dtype=unify.int32, device=device) for n in (token, at, at + 1))
            logits = self._model.decode(one, position, keys, cache)
        return self._host(logits)

    def _check_recorded_step(self, ids: list[int], tokens: int) -> None:
        import unify

        written = self._generator.generate(ids, tokens).token_ids
        text = unify.asarray(ids + written, dtype=unify.int32, device=self._model.device)
        logits = self._model.prefill(text, self._model.cache(len(text)), all_logits=True)
        rows = self._host(logits).reshape(len(text), -1)[len(ids) - 1 : -1]
        for at, (row, token) in enumerate(zip(rows, written, strict=True)):
            if not row.max() - row[token] <= _TIE * abs(row).max():  # also true of NaN
                raise RuntimeError(
                    f"decoding: token {at} of the answer is {token}, but a pass over the whole text prefers "
                    f"{row.argmax()}."
                )

    @staticmethod
    def _host(logits: Any) -> Any:
        import unify

        return logits.to("cpu").to(unify.float32).numpy().reshape(-1)


class _Clock:
    """Stands where a tokenizer does: it never ends a text, and notes when each token came."""

    ends: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def stream(self) -> _Clock:
        return self

    def add(self, token: int) -> str:
        self.ticks.append(time.perf_counter())
        return ""

    def finish(self) -> str:
        return ""
