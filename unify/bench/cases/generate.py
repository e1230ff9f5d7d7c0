"""A model end to end: the prompt's tokens a second, the answer's tokens a second, and the most memory it took."""

from __future__ import annotations

from typing import Any

from unify._process import peak_memory_bytes

from ..case import MEGABYTES, TOKENS_A_SECOND, Case, Setup, Side

PROMPT_TOKENS = 512
ANSWER_TOKENS = 128
CONTEXT = 1024
# llama-bench's "tg" starts from an empty context; a few tokens before it keep every step a decoding one.
SHORT_PROMPT = 16
VOCABULARY = 40_000  # below that of the model, so that every token exists
FORCED_TOKENS = 8  # the same for both sides: what each would write itself differs after the first near tie
# ggml rounds activations to 8 bits in each of 30 blocks, which moves the logits of a prompt by 0.021 of the largest.
TOLERANCE = 0.04


def cases() -> list[Case]:
    """Prefill, decoding early and late in the context, and memory."""
    return [
        _prefill(),
        _decode("generate-decode", SHORT_PROMPT, ("decode",)),
        _decode("generate-decode-late", PROMPT_TOKENS, ()),
        _memory(),
    ]


def prompt(tokens: int) -> Any:
    """Token ids, the same for both sides."""
    import numpy as np

    return np.random.default_rng(tokens).integers(1000, VOCABULARY, tokens).astype(np.int32)


def _session(side: str, setup: Setup) -> Any:
    """A model with room for a prompt and its answer, on either side."""
    from ._sessions import LlamaCpp, Unify

    assert setup.model is not None, "the command line sees to it for a case with needs_model"
    return (Unify if side == "ours" else LlamaCpp)(setup.model, setup.threads, setup.device, CONTEXT)


def _case(name: str, about: str, build: Any, **fields: Any) -> Case:
    return Case(
        name=name,
        subject="generate",
        about=about,
        ours=lambda setup: build("ours", setup),
        peers={"llama.cpp": lambda setup: build("llama.cpp", setup)},
        needs_model=True,
        **fields,
    )


def _prefill() -> Case:
    def build(side: str, setup: Setup) -> Side:
        session, ids = _session(side, setup), prompt(PROMPT_TOKENS)
        return Side(step=lambda: session.prefill(ids), result=lambda: session.logits(ids))

    return _case(
        "generate-prefill",
        f"a prompt of {PROMPT_TOKENS} tokens until its next token is known",
        build,
        unit=TOKENS_A_SECOND,
        work=PROMPT_TOKENS,
        calls=1,
        repeats=9,
        tolerance=TOLERANCE,
        aliases=("prefill",),
    )


def _decode(name: str, before: int, aliases: tuple[str, ...]) -> Case:
    def build(side: str, setup: Setup) -> Side:
        session, ids = _session(side, setup), prompt(before)
        forced = prompt(before + FORCED_TOKENS)[:FORCED_TOKENS]
        return Side(
            cost=lambda tokens: session.decode_seconds(ids, tokens),
            result=lambda: session.decode_logits(ids, forced),
        )

    return _case(
        name,
        f"{ANSWER_TOKENS} tokens, greedy, one at a time after a prompt of {before}",
        build,
        unit=TOKENS_A_SECOND,
        work=1,
        calls=ANSWER_TOKENS,
        repeats=9,
        tolerance=TOLERANCE,
        aliases=aliases,
    )


def _memory() -> Case:
    def build(side: str, setup: Setup) -> Side:
        def peak(_: int) -> float:
            _session(side, setup).decode_seconds(prompt(PROMPT_TOKENS), ANSWER_TOKENS // 4)
            return float(peak_memory_bytes())

        return Side(cost=peak)

    return _case(
        "generate-memory",
        "the most memory a process held that loaded the model, read a prompt of 512 and wrote 32 tokens",
        build,
        unit=MEGABYTES,
        repeats=3,
        is_fresh=True,
        aliases=("memory",),
    )
