"""Operators that torch_npu computes on the host, told line by line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from unify.simulator import report

PROGRAM = """
x = torch.arange(6.0).npu().requires_grad_()
for _ in range(3):
    y = torch.special.i1(x)  # line 4
y.sum().backward()
expected = torch.arange(6.0).requires_grad_()
torch.special.i1(expected).sum().backward()
torch.testing.assert_close(y.cpu(), torch.special.i1(expected))
torch.testing.assert_close(x.grad.cpu(), expected.grad)
(x + x).sum().item()  # the chip's
"""


def test_each_is_told_with_its_line_and_counted(
    run: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(PROGRAM, start="import torch, torch_npu", UNIFY_SIMULATED_REPORT=str(tmp_path))
    merged = json.loads(report.as_json(report.merge(tmp_path)))
    forward = [one for one in merged["on_host"] if one["file"]]
    assert [(Path(one["file"]).name, one["line"], one["count"], one["what"]) for one in forward] == [
        ("program.py", 4, 3, "y = torch.special.i1(x)  # line 4")
    ]
    (backward,) = (one for one in merged["on_host"] if not one["file"])
    assert backward["count"] > 0
    assert backward["what"] == "in a backward pass"
    report.show(merged)
    shown = capsys.readouterr().err
    assert "operators that torch_npu computed on the host" in shown
    assert "torch.special.i1(x)" in shown  # a long path takes several lines of the table
    assert merged["changes"] == []
