"""What the tests of other libraries' kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import unify.triton


@pytest.fixture
def triton_on_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The CPU active in this process, a kernel cache for this run, the same numbers in each test."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    torch.manual_seed(0)
    unify.triton.activate()
    yield
    unify.triton.deactivate()
