"""Operators of neural networks: what torch's samples do not reach, and the vendor's fused ones."""

from __future__ import annotations

import json
from pathlib import Path


def test_results_and_gradients_agree_with_torch_on_the_cpu(run) -> None:
    assert json.loads(run(Path(__file__).with_name("network.py").read_text()).splitlines()[-1]) == {}
