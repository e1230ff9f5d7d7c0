"""One model with one cache, as either side has it: the same four verbs over each program's own interface."""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from typing import Any


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

    def reset(self) -> None:
        """Forgets every token."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)

    def prefill(self, ids: Any) -> int:
        """Reads tokens and returns the likeliest next one."""
        tokens = (ctypes.c_int32 * len(ids))(*ids.tolist())
        return self._evaluate(tokens)

    def decode(self, token: int) -> int:
        """Reads one token and returns the likeliest next one."""
        return self._evaluate((ctypes.c_int32 * 1)(token))

    def _evaluate(self, tokens: Any) -> int:
        status = self._api.llama_decode(self._context, self._api.llama_batch_get_one(tokens, len(tokens)))
        if status:
            raise RuntimeError(f"llama_decode returned {status} for {len(tokens)} tokens")
        return int(self._view().argmax())

    def _view(self) -> Any:
        import numpy as np

        return np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, -1), (self._vocabulary,))

    def logits(self) -> Any:
        """The last position's logits."""
        return self._view().copy()
