"""The cases, by name. A module holds one subject: what both sides do, and what one call is worth."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from unify._errors import InvalidArgument

from ..case import Case
from . import (
    attention,
    experts,
    generate,
    latent,
    launch,
    matmul,
    moe,
    quantized,
    rows,
    serving,
    start,
    streaming,
    weights,
)

_MODULES = (
    start, launch, rows, streaming, matmul, quantized, weights, attention, serving, latent, experts, moe, generate,
)  # fmt: skip

CASES: dict[str, Case] = {case.name: case for module in _MODULES for case in module.cases()}

# Words that stand for several others. cpu: how fast kernels run on the CPU target.
SUITES = {"cpu": ("gemm", "gemm-tutorial", "gemm-int8", "flash", "experts", "16mb", "256mb")}

__all__ = ["CASES", "SUITES", "case_of", "find_cases", "load_cases"]


def load_cases(file: str) -> list[Case]:
    """The cases of a Python file of the user's own: what its `cases()` returns, a list of Case.

    Raises InvalidArgument if there is no such file, or if it has no such function.
    """
    path = Path(file).absolute()
    if not path.is_file():
        raise InvalidArgument(f"bench: there is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"unify_bench_{path.stem}", path)
    assert spec is not None, "a name that ends in .py has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and kernels in it look their module up
    spec.loader.exec_module(module)
    if not callable(getattr(module, "cases", None)):
        raise InvalidArgument(f"bench: {path} has no function cases() that returns a list of unify.bench.Case.")
    return [replace(case, file=str(path)) for case in module.cases()]


def case_of(name: str, file: str) -> Case:
    """One case by its exact name, of `file` or of unify's own: how a worker finds what its parent speaks of."""
    return {case.name: case for case in load_cases(file)}[name] if file else CASES[name]


def find_cases(words: Sequence[str]) -> list[Case]:
    """The cases that any of `words` names: by name, by subject ("gemm"), or by a part of the name ("decode").

    A word of SUITES stands for its words; one that ends in .py is a file with cases of its own. No words: all cases.
    Raises InvalidArgument for a word that names none, with the nearest ones that exist.
    """
    if not words:
        return list(CASES.values())
    return list({case.name: case for word in words for case in _named(word)}.values())


def _named(word: str) -> list[Case]:
    if word.endswith(".py"):
        return load_cases(word)
    plain = _plain(word)
    if plain in SUITES:
        return find_cases(SUITES[plain])
    by_name = [case for case in CASES.values() if plain in map(_plain, (case.name, *case.aliases))]
    by_subject = [case for case in CASES.values() if plain == _plain(case.subject)]
    by_part = [case for case in CASES.values() if f"-{plain}-" in f"-{_plain(case.name)}-"]
    if found := by_name or by_subject or by_part:
        return found
    known = sorted({case.subject for case in CASES.values()} | set(CASES) | set(SUITES))
    close = get_close_matches(word, known, n=3, cutoff=0.4)
    suggestion = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise InvalidArgument(f"bench: no case {word!r}.{suggestion} `unify bench --list` shows them all.")


def _plain(word: str) -> str:
    return re.sub(r"[\s_-]+", "-", word.strip().lower())
