"""How long from starting a process to its first token? Loading included, everything compiled and cached before."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from unify.bench import Case, Setup, Side
from unify.bench.case import MILLISECONDS

PROMPT = "The capital of France is"
LLAMA = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_threads=int(sys.argv[2]), n_threads_batch=int(sys.argv[2]), n_ctx=1024, verbose=False)
model.create_completion(sys.argv[3], max_tokens=1, temperature=0)
"""


def cases() -> list[Case]:
    """One case: whole processes."""
    return [
        Case(
            name="first-token",
            subject="first-token",
            about="a process that loads the model and writes one token, from its start to its end",
            unit=MILLISECONDS,
            ours=_process(_ours),
            peers={"llama.cpp": _process(_llama)},
            calls=1,
            repeats=7,
            needs_model=True,
        )
    ]


def _ours(setup: Setup) -> Sequence[str]:
    options = ["--model", str(setup.model), "--threads", str(setup.threads), "--device", setup.device]
    return [sys.executable, "-m", "unify", "generate", *options, "--prompt", PROMPT, "--max-tokens", "1", "--greedy"]


def _llama(setup: Setup) -> Sequence[str]:
    return [sys.executable, "-c", LLAMA, str(setup.model), str(setup.threads), PROMPT]


def _process(command: Callable[[Setup], Sequence[str]]) -> Callable[[Setup], Side]:
    def build(setup: Setup) -> Side:
        def seconds(calls: int) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                subprocess.run(command(setup), check=True, capture_output=True)
            return (time.perf_counter() - start) / calls

        seconds(1)  # fills the caches of kernels and of files
        return Side(cost=seconds)

    return build
