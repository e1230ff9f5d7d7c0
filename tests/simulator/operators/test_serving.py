"""The vendor's operators that serving and training of large language models call, by torch_npu's own functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["quantized", "experts", "caches"])
def test_results_agree_with_the_vendors_formulas(run: Callable[..., str], name: str) -> None:
    printed = run(Path(__file__).with_name(f"{name}.py").read_text(), timeout=600)
    assert json.loads(printed.splitlines()[-1]) == {}
