"""What is asked of a text before anything runs: its prompt, its length, and the context that it stands in."""

from __future__ import annotations

import operator
from typing import Any

from unify._errors import InvalidArgument

DEFAULT_CONTEXT = 2048  # tokens, where a model can do as many


def context_of(name: str, max_context: Any, most: int) -> int:
    """Tokens to make room for: what is asked for, or by default DEFAULT_CONTEXT, as far as the model has so many.

    Raises InvalidArgument for what is no number of tokens, and for more than the model can do.
    """
    if max_context is None:
        return min(DEFAULT_CONTEXT, most)
    tokens = _whole(f"{name}: max_context", max_context)
    if tokens > most:
        raise InvalidArgument(f"{name}: max_context={tokens} is more than the {most} tokens of this model.")
    return tokens


def checked_prompt(name: str, prompt: Any, max_tokens: Any, *, vocabulary: int, room: int) -> tuple[list[int], int]:
    """Token numbers and max_tokens as ints, where they can be run in `room` tokens. Raises InvalidArgument."""
    try:
        given = list(prompt)
    except TypeError:
        raise InvalidArgument(f"{name}: the prompt must be a list of tokens; it is {prompt!r:.80}.") from None
    ids = [_whole(f"{name}: a token of the prompt", token) for token in given]
    tokens = _whole(f"{name}: max_tokens", max_tokens)
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if not ids or wrong is not None:
        what = "no tokens" if not ids else f"the token {wrong}, outside the vocabulary of {vocabulary}"
        raise InvalidArgument(f"{name}: the prompt has {what}.")
    if tokens < 1 or len(ids) + tokens > room:
        raise InvalidArgument(
            f"{name}: {len(ids)} prompt tokens and max_tokens={tokens} do not fit into a context of {room} (at least "
            "one token is written)."
        )
    return ids, tokens


def _whole(what: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidArgument(f"{what} must be a whole number; it is {value!r:.80}.") from None
