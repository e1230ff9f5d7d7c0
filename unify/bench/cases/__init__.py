"""The cases, by name. A module holds one subject: what both sides do, and what one call is worth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from unify._errors import InvalidArgument

from ..case import Case
from . import attention, generate, launch, matmul, quantized, rows, start

CASES: dict[str, Case] = {
    case.name: case
    for module in (start, launch, rows, matmul, quantized, attention, generate)
    for case in module.cases()
}

__all__ = ["CASES", "find_cases"]


def find_cases(words: Sequence[str]) -> list[Case]:
    """The cases that any of `words` names: by name, by subject ("gemm"), or by a part of the name ("decode").

    No words: all cases. Raises InvalidArgument for a word that names none, with the nearest ones that exist.
    """
    if not words:
        return list(CASES.values())
    return list({case.name: case for word in words for case in _named(word)}.values())


def _named(word: str) -> list[Case]:
    plain = _plain(word)
    by_name = [case for case in CASES.values() if plain in map(_plain, (case.name, *case.aliases))]
    by_subject = [case for case in CASES.values() if plain == _plain(case.subject)]
    by_part = [case for case in CASES.values() if f"-{plain}-" in f"-{_plain(case.name)}-"]
    if found := by_name or by_subject or by_part:
        return found
    known = sorted({case.subject for case in CASES.values()} | set(CASES))
    close = get_close_matches(word, known, n=3, cutoff=0.4)
    suggestion = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise InvalidArgument(f"bench: no case {word!r}.{suggestion} `unify bench --list` shows them all.")


def _plain(word: str) -> str:
    return re.sub(r"[\s_-]+", "-", word.strip().lower())
