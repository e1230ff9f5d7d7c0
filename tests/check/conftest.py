"""What is checked is what the real compile halves make, whatever chips another test of this process simulates."""

from __future__ import annotations

import pytest

from unify.compiler import target


@pytest.fixture(autouse=True)
def real_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cuda", "ascend"):
        monkeypatch.setitem(target._COMPILERS, kind, target._built_in(kind))
