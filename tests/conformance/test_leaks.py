"""The suite's cases of leaks, in a process of their own: they count the memory of the whole process."""

from __future__ import annotations

import os

import pytest

from tests.conftest import Run


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_nothing_is_left_behind(python: Run, name: str) -> None:
    environment = {**os.environ, "UNIFY_SIMULATE": "cuda:90x2,6g"}
    finished = python("-m", "unify", "test-backend", name, "-k", "leaks", env=environment)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
