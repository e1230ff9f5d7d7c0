"""Launches of a program that runs on the CPU: of unify's kernels, Triton's own, tuned ones, and with torch."""

from __future__ import annotations

from pathlib import Path

import pytest

import unify as un
from unify.check import record
from unify.check.subject import Kernel

PROGRAM = """
import sys
import numpy as np
import torch
import triton
import triton.language as tl
import unify as un

@triton.jit
def plain(x, y, n, scale, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if scale is not None:
        tl.store(y + i, tl.load(x + i, mask=i < n) * scale, mask=i < n)

@un.jit
def ours(x, BLOCK: tl.constexpr = 16):
    tl.store(x + tl.arange(0, BLOCK), 1)

@triton.autotune([triton.Config({"SIZE": 8}), triton.Config({"SIZE": 16})], key=[])
@triton.jit
def tuned(x, SIZE: tl.constexpr):
    tl.store(x + tl.arange(0, SIZE), 2)

@triton.jit
def warmed(x, SIZE: tl.constexpr):
    tl.store(x + tl.arange(0, SIZE), 3)

@triton.jit
def with_tuple(pair):
    tl.store(pair[0], pair[1])

print("arguments", sys.argv[1:])
x, y = torch.randn(1000), torch.empty(1000)
for size in (96, 100, 1000):  # the last two are of one kind
    plain[lambda meta: (triton.cdiv(size, meta["BLOCK"]),)](x, y, size, 2.0, BLOCK=64)
plain[(1, 300)](x, y, 1000, 2.0, BLOCK=64)  # fewer programs, more along an axis
plain[(1000,)](x, y, 1000, 2.0, BLOCK=64)
plain[(1, 2)](x.half(), y.half(), 7, None, BLOCK=64, num_warps=8)
assert torch.equal(y, x * 2)
ours[1](np.zeros(16, np.float32))
ours[(1,)](un.zeros(16))
tuned[(1,)](torch.zeros(16))
compiled = warmed.warmup(torch.zeros(16), SIZE=16, grid=(1,))
with_tuple[(1,)]((torch.zeros(1), 1.0))
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Kernel], dict[str, str], Path]:
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    kernels, left_out = record.of_program([str(path), "one", "--two"], ["cpu", "ascend:910B3", "cuda:90"])
    return {kernel.name: kernel for kernel in kernels}, left_out, path


def test_each_kind_of_launch_is_a_variant(recorded: tuple[dict[str, Kernel], dict[str, str], Path]) -> None:
    kernels, _, path = recorded
    plain = kernels["plain"]
    assert (plain.file, plain.line) == (str(path), PROGRAM[: PROGRAM.index("@triton.jit\ndef plain")].count("\n") + 1)
    assert plain.needs_all
    assert [variant.grids for variant in plain.variants] == [
        ((2, 1, 1),),
        ((1000, 1, 1), (1, 300, 1)),
        ((1, 2, 1),),
    ]  # fmt: skip
    assert [variant.constants for variant in plain.variants] == [
        {"BLOCK": "64", "x": "*fp32:16", "y": "*fp32:16", "n": "i32:16", "scale": "fp32"},
        {"BLOCK": "64", "x": "*fp32:16", "y": "*fp32:16", "n": "i32", "scale": "fp32"},
        {"BLOCK": "64", "x": "*fp16:16", "y": "*fp16:16", "n": "i32", "scale": "None", "num_warps": "8"},
    ]
    assert plain.variants[2].options == {"num_warps": 8}
    first, third = plain.variants[0].ttir("ascend:910B3"), plain.variants[2].ttir("ascend:910B3")
    assert isinstance(first, str)
    assert isinstance(third, str)
    assert "!tt.ptr<f32>" in first
    assert "tt.divisibility = 16" in first
    assert "!tt.ptr<f16>" in third
    assert first != plain.variants[1].ttir("cpu")  # 96 is a multiple of 16


def test_kernels_of_every_kind(recorded: tuple[dict[str, Kernel], dict[str, str], Path]) -> None:
    kernels, left_out, _ = recorded
    assert set(kernels) == {"plain", "ours", "tuned", "warmed"}
    assert not kernels["tuned"].needs_all
    assert [variant.constants for variant in kernels["tuned"].variants] == [{"SIZE": "8"}, {"SIZE": "16"}]
    assert kernels["ours"].variants[0].constants == {"BLOCK": "16"}
    assert kernels["warmed"].variants[0].grids == ()
    assert list(left_out) == ["with_tuple"]
    assert "'pair' is a tuple" in left_out["with_tuple"]


def test_a_program_that_fails_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fails.py"
    path.write_text("print('hello')\nraise SystemExit(3)\n")
    with pytest.raises(un.errors.InvalidArgument, match=r"fails.py ended with status 3, on the CPU"):
        record.of_program([str(path)], ["cpu"])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err
    with pytest.raises(un.errors.InvalidArgument, match="no program"):
        record.of_program([str(tmp_path / "none.py")], ["cpu"])
