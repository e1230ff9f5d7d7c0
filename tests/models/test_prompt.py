"""Prompts are whole numbers that a model knows, and a context no longer than it can do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unify.errors import InvalidArgument
from unify.models.prompt import DEFAULT_CONTEXT, checked_prompt, context_of


@pytest.mark.parametrize("given", [[5, 6], (5, 6), np.array([5, 6], np.uint16), torch.tensor([5, 6]), range(5, 7)])
def test_any_whole_numbers_are_tokens(given: Any) -> None:
    ids, tokens = checked_prompt("f", given, np.int64(3), vocabulary=7, room=5)
    assert (ids, tokens) == ([5, 6], 3)
    assert {type(number) for number in (*ids, tokens)} == {int}


@pytest.mark.parametrize(
    ("ids", "tokens", "told"),
    [
        ([5, 1.5], 1, "f: a token of the prompt must be a whole number; it is 1.5"),
        (np.array([2.0]), 1, r"a whole number; it is .*2\.0"),
        ("1,2", 1, "it is '1'"),
        (None, 1, "f: the prompt must be a list of tokens; it is None"),
        ([[1, 2]], 1, r"it is \[1, 2\]"),
        ([1], 2.5, "f: max_tokens must be a whole number; it is 2.5"),
        ([], 1, "the prompt has no tokens"),
        ([7], 1, "the token 7, outside the vocabulary of 7"),
        ([-1], 1, "the token -1"),
        ([1], 0, "at least one token is written"),
        ([1, 2, 3], 3, "3 prompt tokens and max_tokens=3 do not fit into a context of 5"),
    ],
)
def test_what_cannot_be_run_is_named(ids: Any, tokens: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        checked_prompt("f", ids, tokens, vocabulary=7, room=5)


def test_a_context_is_what_is_asked_for_or_an_error_with_both_numbers() -> None:
    assert [context_of("f", asked, 512) for asked in (None, 1, 512)] == [512, 1, 512]
    assert context_of("f", None, 1 << 20) == DEFAULT_CONTEXT
    with pytest.raises(InvalidArgument, match="f: max_context=513 is more than the 512 tokens of this model"):
        context_of("f", 513, 512)
    for wrong in (2.5, "a", [1]):
        with pytest.raises(InvalidArgument, match="f: max_context must be a whole number"):
            context_of("f", wrong, 512)
