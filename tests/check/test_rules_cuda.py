"""Rules for Nvidia: by the layouts that Triton gives to tiles, and by what ptxas counts."""

from __future__ import annotations

import triton.language as tl

import unify as un
from unify.check import rules
from unify.check.subject import Subject

from .kernels import findings_of, line_of, outcome_of


@un.jit
def add(x, y, n, N: tl.constexpr = 4096):
    i = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + i)  # here
    tl.store(y + i, value + n)


def test_accesses_of_two_bytes() -> None:
    def found(suffix: str) -> list[int]:
        types = {"x": f"*fp16{suffix}", "y": f"*fp16{suffix}", "n": "fp32"}
        return [finding.line for finding in findings_of(add, "cuda:90", types).get("narrow-access", [])]

    assert found("") == [line_of(add), line_of(add) + 1]
    assert found(":16") == []
    types = {"x": "*fp16", "y": "*fp16", "n": "fp32"}
    assert "narrow-access" not in findings_of(add, "cuda:90", types, N=128)  # an element a thread: nothing to widen


@un.jit
def heavy(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    tl.store(y + tl.arange(0, N), tl.load(y + i) + value)


def test_spills_are_told() -> None:
    types = {"x": "*fp32:16", "y": "*fp32:16"}
    found = findings_of(heavy, "cuda:90", types, N=65536)["spills"]
    assert int(found[0].text.split()[0]) == outcome_of(heavy, "cuda:90", types, N=65536).memory["spill_bytes"] > 0
    assert "spills" not in findings_of(heavy, "cuda:90", types, N=1024)


def test_more_shared_memory_than_the_gpu_has() -> None:
    ttir = outcome_text()
    found = rules.findings(Subject(ttir, "cuda:120", {"shared_bytes": 100 * 1024}))
    assert [finding.rule for finding in found] == ["shared-memory"]
    assert "100 KiB of shared memory; the GPU has 99" in found[0].text
    assert rules.findings(Subject(ttir, "cuda:90", {"shared_bytes": 100 * 1024})) == ()


def outcome_text() -> str:
    return un.compile(add, "cpu", {"x": "*fp32", "y": "*fp32", "n": "fp32"}, stages=("ttir",)).stages["ttir"]
