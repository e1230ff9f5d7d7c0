"""What the sides of `generate` do besides being timed: their results tell a wrong model from a right one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unify import models
from unify.bench.cases import CASES
from unify.bench.cases._sessions import Unify

from ..models.conftest import TOKENS, write_model

IDS = np.arange(5, 75, dtype=np.int32)
FORCED = np.array([9, 200, 17, 42], np.int32)


@pytest.fixture
def session(tmp_path: Path) -> Unify:
    return Unify(write_model(tmp_path / "tiny.gguf"), 1, "cpu", 256)


@pytest.mark.parametrize("name", ["generate-prefill", "generate-decode", "generate-decode-late"])
def test_speed_is_not_reported_for_what_is_not_compared(name: str) -> None:
    assert CASES[name].tolerance is not None
    assert CASES[name].tolerance <= 0.05


def test_logits_after_forced_tokens_are_those_of_the_whole_text(session: Unify) -> None:
    expected = session.logits(np.concatenate([IDS, FORCED]))
    ours = session.decode_logits(IDS, FORCED)
    assert ours.shape == (len(TOKENS),)
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


def test_a_decode_that_writes_something_else_is_found(session: Unify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.Generator, "generate", lambda *_: models.Answer(token_ids=[7, 7, 7, 7]))
    with pytest.raises(RuntimeError, match=r"token \d of the answer is 7, but a pass over the whole text prefers"):
        session.decode_logits(IDS, FORCED)


def test_the_timed_verbs_read_and_write(session: Unify) -> None:
    # A prompt's first token is changed from time to time, so that nothing of it is in the cache.
    prompts = [IDS, IDS + (np.arange(len(IDS)) == 0).astype(np.int32)]
    assert session.prefill(IDS) in [session.logits(ids).argmax() for ids in prompts]
    assert session.decode_seconds(IDS, 3) > 0
