"""The vendor's operators that serving and training of large language models call, by torch_npu's own functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("name", "chip"),
    [(name, chip) for chip in ("910B3", "950") for name in ("quantized", "experts", "caches", "nz")],
)
def test_results_agree_with_the_vendors_formulas(run: Callable[..., str], name: str, chip: str) -> None:
    printed = run(Path(__file__).with_name(f"{name}.py").read_text(), timeout=600, UNIFY_SIMULATE=f"ascend:{chip}x1,1g")
    assert json.loads(printed.splitlines()[-1]) == {}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("npu_grouped_matmul([x], [w], group_list=ends, group_type=0, split_item=3, act_type=3)", "actType 3 is not"),
        ("npu_moe_gating_top_k(x, 2, renorm=1)", "renorm 1 is not simulated"),
        ("npu_grouped_matmul([x], [w], group_list=ends + 1, group_type=0, split_item=3)", "ends at row 5 of 4"),
        ("npu_attention_update([x[:, 0].float()] * 2, [x], 0)", "2 lse for 1 localOut."),
        ('npu_fusion_attention(x[None], x[None], x[None], 16, "BSH")', "[1, 4, 8] in layout BSH for 16 heads."),
        (
            'npu_fusion_attention(x[None], x[None, :, :2], x[None, :, :2], 2, "BSH")',
            "[1, 4, 2] in layout BSH for 0 heads",
        ),
    ],
)
def test_what_is_not_served_is_refused_by_name(run: Callable[..., str], call: str, words: str) -> None:
    told = run(
        f"""
os.dup2(1, 2)  # torch_npu writes the vendor's words there
x, w, ends = torch.ones(4, 8).half().npu(), torch.ones(2, 8, 6).half().npu(), torch.tensor([1, 4]).npu()
print(raised(lambda: torch_npu.{call}[0].cpu()))
"""
    )
    assert words in told
