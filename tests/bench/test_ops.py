"""`unify ops`: what it prints, what it returns, what it says when the question makes no sense."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from unify import ops
from unify._errors import InvalidArgument, TargetError
from unify.bench import limits
from unify.bench.ops import calls, run

SIZES = dict.fromkeys(("target", "batch", "context", "tokens", "weights", "plot"))


def arguments(**asked: object) -> argparse.Namespace:
    target = {"target": "ascend:910C"} if "roofline" in asked else {}
    return argparse.Namespace(**{"op": None, "roofline": False, "json": False, **SIZES, **target, **asked})


def test_every_op_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments()) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"attention", "linear", "sample"} < set(shown) < set(ops.__all__)
    assert "tune" not in shown  # which is none


def test_one_op_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(op="rms_norm")) == 0
    said = capsys.readouterr().out
    assert said.startswith("rms_norm(x, weight, *, residual=None, eps=1e-06")
    assert "Raises ShapeError" in said


def test_a_name_that_is_no_op_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidArgument, match=r"Did you mean rms_norm\?"):
        run(arguments(op="rms_nrom"))


@pytest.mark.parametrize("option", sorted(SIZES))
def test_a_size_is_one_of_the_rooflines(option: str) -> None:
    with pytest.raises(InvalidArgument, match=f"ops: --{option}: only with --roofline"):
        run(arguments(**{option: 3}))


def test_json_has_what_the_table_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(roofline=True, json=True)) == 0
    rows = json.loads(capsys.readouterr().out)
    moe = {row["phase"]: row for row in rows if row["op"] == "moe"}
    assert moe["prefill"]["bound"] == "compute"
    assert moe["decode"]["bound"] == "memory"
    assert {row["op"] for row in rows} >= {"attention", "mla_attention", "route", "linear", "sample"}
    assert run(arguments(roofline=True)) == 0
    assert "FLOP a byte" in capsys.readouterr().out


def test_a_token_reads_as_much_as_deepseek_says_that_it_activates() -> None:
    """37 thousand million parameters of 61 layers, three of them without experts (DeepSeek-V3, section 1)."""
    one = [c for c in calls(batch=1, context=1, tokens=1, weights="fp8") if c.phase == "decode"]
    layer = sum(c.cost.bytes for c in one if c.op in ("linear", "moe") and "logits" not in c.about)
    logits = next(c.cost.bytes for c in one if "logits" in c.about)
    assert (61 * layer + logits / 2) / 1e9 == pytest.approx(37, rel=0.05)


def test_every_op_has_a_place_under_the_roof(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(json=True)) == 0
    known = {row["op"] for row in json.loads(capsys.readouterr().out)}
    found = calls(batch=64, context=8192, tokens=4096, weights="fp8")
    assert {call.op for call in found} == known | {"quantize", "quantize_weight"}
    assert len({(call.phase, call.op, call.about) for call in found}) == len(found)
    assert all(call.cost.bytes > 0 for call in found)
    products = {"linear", "matmul", "grouped_linear", "moe"}
    attentions = {"attention", "paged_attention", "paged_prefill", "mla_attention"}
    assert {call.op for call in found if call.cost.flops} == products | attentions


def test_the_parts_of_experts_compute_what_the_layer_does() -> None:
    found = calls(batch=64, context=8192, tokens=4096, weights="int4")
    for phase in ("prefill", "decode"):
        parts = [c.cost for c in found if c.phase == phase and c.about.startswith("moe's")]
        (layer,) = (c.cost for c in found if c.phase == phase and c.op == "moe")
        assert sum(part.flops for part in parts) == layer.flops
        assert sum(part.bytes for part in parts) > layer.bytes


def test_weights_that_are_not_quantised_have_no_such_call() -> None:
    assert all(call.op != "quantize_weight" for call in calls(batch=1, context=9, tokens=9, weights="bf16"))


def test_smaller_weights_move_less_and_compute_the_same() -> None:
    fp8, int4 = (calls(batch=64, context=8192, tokens=4096, weights=w) for w in ("fp8", "int4"))
    for wide, narrow in zip(fp8, int4, strict=True):
        assert narrow.cost.flops == wide.cost.flops
        assert narrow.cost.bytes <= wide.cost.bytes


def test_a_chip_that_is_not_known_is_refused() -> None:
    with pytest.raises(TargetError) as refused:
        run(arguments(roofline=True, target="ascend:310P"))
    assert refused.value.is_unknown
    assert all(name in str(refused.value) for name in limits.known())


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with `make bench`")
    path = tmp_path / "roof.svg"
    assert run(arguments(roofline=True, plot=str(path))) == 0
    assert "<svg" in path.read_text()
    with pytest.raises(InvalidArgument, match=r"\.svg"):
        run(arguments(roofline=True, plot=str(tmp_path / "roof.txt")))
