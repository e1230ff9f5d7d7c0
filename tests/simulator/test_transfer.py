"""What transfer_to_npu changes in a program for CUDA, told line by line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


def test_each_change_is_told_with_its_line(run: Callable[..., str], tmp_path: Path) -> None:
    run(
        """
from torch_npu.contrib import transfer_to_npu

@torch.jit.script  # line 4
def double(x):
    return x + x

for _ in range(3):
    wide = torch.cuda.DoubleTensor([1.0, 2.0])  # line 9
assert wide.dtype == torch.float32 and isinstance(wide, torch.cuda.DoubleTensor)
x = torch.ones(3).to(1)  # line 11
assert x.device == torch.device("npu:1") and torch.ones(3).to("cuda:0").device == torch.device("npu:0")
assert torch.equal(double(x).cpu(), torch.full((3,), 2.0))
layer = torch.nn.Linear(2, 2).to(0)  # line 14
assert not torch.utils._triton.has_triton()  # line 15
assert torch.zeros(3, device=0).device == x.new_zeros(2, device=0).device == torch.device("npu:0")  # line 16: twice
""",
        start="import torch, torch_npu",
        UNIFY_SIMULATED_REPORT=str(tmp_path),
    )
    (file,) = tmp_path.glob("*.transfer")
    rows = json.loads(file.read_text())
    assert {Path(row["file"]).name for row in rows} == {"program.py"}
    assert [(row["line"], row["count"], row["what"].partition(" ")[0]) for row in rows] == [
        (4, 1, "torch.jit.script"), (9, 3, "torch.cuda.DoubleTensor"), (11, 1, "a"), (14, 1, "a"),
        (15, 1, "has_triton()"), (16, 2, "a"),
    ]  # fmt: skip
