"""Which kernels of a file are checked, and for which types and constants."""

from __future__ import annotations

from pathlib import Path

import pytest

import unify as un
from unify.check import collect
from unify.check.subject import Outcome

SOURCE = """
import triton
import triton.language as tl
import unify as un

@un.jit
def helper(x):
    return x + 1

@un.jit
def add(x: "*fp32", y: "*fp32:16", n: "i32", BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, helper(tl.load(x + i, mask=i < n)), mask=i < n)

@triton.autotune([triton.Config({"SIZE": 8}), triton.Config({"SIZE": 16}, num_warps=8)], key=[])
@triton.heuristics({"TWICE": lambda args: args["SIZE"] * 2, "FROM_DATA": lambda args: args["x"].numel()})
@triton.jit
def fill(x: "*i32", SIZE: tl.constexpr, TWICE: tl.constexpr, FROM_DATA: tl.constexpr = 1):
    tl.store(x + tl.arange(0, SIZE), TWICE)

tuned = un.jit(fill)

@un.jit
def wrong(x: "*fp32"):
    tl.store(x, tl.load(x + "one"))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kernels_to_collect.py"
    path.write_text(SOURCE)
    return path


def test_kernels_with_types_are_taken_and_the_others_named(file: Path) -> None:
    kernels, left_out = collect.of_file(str(file), {}, {})
    assert [kernel.name for kernel in kernels] == ["add", "fill", "wrong"]
    assert list(left_out) == ["helper"]
    assert "parameter 'x' has no type" in left_out["helper"]
    assert kernels[0].variants[0].constants == {"BLOCK": "64"}
    assert Path(kernels[0].file) == file


def test_a_kernel_with_two_names_is_one(tmp_path: Path) -> None:
    path = tmp_path / "kernels_with_names.py"
    path.write_text(
        SOURCE + "\nother = add\nbare = fill.fn.fn\n"
        "again = triton.autotune([triton.Config({'SIZE': 32, 'TWICE': 1})], key=[])(fill.fn.fn)\n"
    )
    kernels, _ = collect.of_file(str(path), {}, {})
    assert [(kernel.name, len(kernel.variants)) for kernel in kernels] == [
        ("add", 1), ("fill", 2), ("wrong", 1), ("fill", 1),
    ]  # fmt: skip
    assert collect.of_file(f"{path}:other", {}, {})[0][0].name == "add"


def test_files_are_told_apart_and_what_nobody_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "kernels.py").write_text(SOURCE)
    files = ["a/kernels.py", "b/kernels.py"]
    kernels, left_out = collect.of_files(files, {"n": "i64"}, {"SIZE": 4})
    assert [kernel.file for kernel in kernels[:1]] == [str(tmp_path / "a" / "kernels.py")]
    assert list(left_out) == ["a/kernels.py:helper", "b/kernels.py:helper"]
    assert "Give it, say --type x=*fp32, or annotate it" in left_out["a/kernels.py:helper"]
    with pytest.raises(un.errors.InvalidArgument, match="check: --constant BLOK: no kernel of .* Did you mean BLOCK?"):
        collect.of_files(files, {}, {"BLOK": 4})
    with pytest.raises(un.errors.InvalidArgument, match="check: --type zz: no kernel of a/kernels.py:add has such"):
        collect.of_files(["a/kernels.py:add"], {"zz": "i32"}, {})


def test_one_kernel_with_what_is_given_for_it(file: Path) -> None:
    (kernel,), left_out = collect.of_file(f"{file}:add", {"x": "*fp16", "z": "i32"}, {"BLOCK": 256})
    text = kernel.variants[0].ttir("cpu")
    assert isinstance(text, str)
    assert "tensor<256x" in text
    assert "!tt.ptr<f16>" in text
    assert text.count("tt.divisibility = 16") == 1
    assert left_out == {}


@pytest.mark.parametrize("name", ["fill", "tuned"])
def test_each_configuration_of_a_tuner_is_a_variant(file: Path, name: str) -> None:
    (kernel,), _ = collect.of_file(f"{file}:{name}", {}, {})
    assert not kernel.needs_all
    assert [variant.constants for variant in kernel.variants] == [
        {"SIZE": "8", "TWICE": "16"}, {"SIZE": "16", "TWICE": "32"},
    ]  # fmt: skip
    assert [variant.options["num_warps"] for variant in kernel.variants] == [4, 8]


def test_what_is_no_kernel_of_the_file(file: Path) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="has no kernel 'nothing'. It has helper, add"):
        collect.of_file(f"{file}:nothing", {}, {})
    with pytest.raises(un.errors.InvalidArgument, match="parameter 'x' has no type"):
        collect.of_file(f"{file}:helper", {}, {})


def test_what_the_front_end_refuses_is_an_outcome(file: Path) -> None:
    (kernel,), _ = collect.of_file(f"{file}:wrong", {}, {})
    outcome = kernel.variants[0].ttir("ascend:910B3")
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.line) == ("failed", SOURCE[: SOURCE.index('x + "one"')].count("\n") + 1)


def test_targets_with_one_front_end_share_the_text(file: Path) -> None:
    (kernel,), _ = collect.of_file(f"{file}:add", {}, {})
    ttir = kernel.variants[0].ttir
    assert ttir("cpu") is ttir("ascend:950")
    assert ttir("cuda:90") is not ttir("cpu")


def test_shipped_kernels_stand_for_a_target_each() -> None:
    kernels = collect.shipped(["cpu", "ascend:910B3"])
    assert {kernel.targets for kernel in kernels} == {("cpu",), ("ascend:910B3",)}
    assert {"rms_norm_kernel", "attention_kernel"} <= {kernel.name for kernel in kernels}
