"""What is asked of each question about GPUs, and what the chips could do at most."""

from __future__ import annotations

import re
from typing import Any

from unify.bench import Case

# Our speed over the peer's. A launch may cost 1.25 times the C++ loop's.
GOALS = {
    ("launch", "c++"): 0.8,
    ("attention", "torch-flash"): 0.9,
    ("attention", "torch-cudnn"): 0.9,
    ("matmul", "torch"): 0.85,
    ("rms_norm", "torch"): 1.0,
    ("softmax", "torch"): 1.0,
    ("moe", "torch"): 1.0,
    ("paged-decode", "torch"): 1.0,
    ("mla-decode", "torch"): 1.5,
}
# Dense bfloat16 with sums in float32, in TFLOP/s: NVIDIA's data sheets. The first pattern that the name has counts.
BF16_TFLOPS = {
    r"B200": 2250.0,
    r"H100 PCIe": 756.0,
    r"H100 NVL": 835.0,
    r"H100|H200|GH200": 989.0,
    r"A100|A800": 312.0,
    r"L40S": 362.0,
    r"L4\b": 121.0,
    r"A10\b": 125.0,
    r"RTX 5090": 209.5,
    r"RTX 4090": 165.2,
    r"RTX 3090": 71.0,
}


def goal_of(case: Case, peer: str) -> float | None:
    return GOALS.get((case.subject, peer))


def limit_s(case: Case, device: Any) -> float | None:
    """The least seconds that the chip could need, None where that is not known."""
    name, bandwidth = device.properties["name"], device.properties.get("bandwidth_bytes_s")
    peak = next((value * 1e12 for pattern, value in BF16_TFLOPS.items() if re.search(pattern, name)), None)
    arithmetic = case.flops / peak if peak else 0.0
    memory = case.bytes / bandwidth if bandwidth else 0.0
    return max(arithmetic, memory) or None
