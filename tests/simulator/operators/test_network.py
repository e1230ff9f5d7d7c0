"""Operators of neural networks: what torch's samples do not reach, and the vendor's fused ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


def test_results_and_gradients_agree_with_torch_on_the_cpu(run: Callable[..., str]) -> None:
    printed = run(Path(__file__).with_name("network.py").read_text(), timeout=600)
    assert json.loads(printed.splitlines()[-1]) == {}
