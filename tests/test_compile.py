"""unify.compile: types from annotations and from what is given, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl

import unify as un
from unify import compiler
from unify._config import settings


@un.jit
def shift(x: "*fp32", y, n: tl.int32, BLOCK: tl.constexpr = 64):  # noqa: F722
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


def machine_of(image: bytes) -> int:
    found: tuple[int] = struct.unpack_from("<H", image, 18)  # e_machine
    return found[0]


def test_types_come_from_annotations_and_from_what_is_given() -> None:
    binary = un.compile(shift, types={"y": "*fp16:16"}, stages=("ttir",))
    assert [(p.name, p.type, p.is_written) for p in binary.parameters] == [
        ("x", "*fp32", False), ("y", "*fp16", True), ("n", "i32", False),
    ]  # fmt: skip
    assert binary.stages["ttir"].count("tt.divisibility = 16") == 1


def test_what_is_given_goes_before_an_annotation_and_a_default() -> None:
    binary = un.compile(shift, types={"x": "*bf16", "y": "*fp32"}, constants={"BLOCK": 128, "n": 100}, stages=("ttir",))
    assert [(p.name, p.type) for p in binary.parameters] == [("x", "*bf16"), ("y", "*fp32")]
    assert "tensor<128x" in binary.stages["ttir"]


def test_another_processor_than_this_one() -> None:
    assert machine_of(un.compile(shift, "cpu:x86-64-v4", {"y": "*fp32"}).image) == 62
    assert machine_of(un.compile(shift, "cpu:kunpeng920", {"y": "*fp32"}).image) == 183


def test_this_machine_with_changes_is_kept_apart_from_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with settings.override(cache_dir=tmp_path, no_cache=False, dump=()):
        for machine in ("one", "another"):
            monkeypatch.setattr(compiler, "machine", lambda machine=machine: machine)
            un.compile(shift, "cpu:-sse4a", {"y": "*fp32"})
    assert len(list((tmp_path / "kernels").iterdir())) == 2


def test_a_kernel_of_triton_itself() -> None:
    assert un.compile(triton.jit(shift.fn), types={"y": "*fp32"}).name == "shift"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "parameter 'y' has no type"),
        ({"types": {"y": "*fp32", "z": "i32"}}, "no parameter z. It has x, y, n, BLOCK"),
        ({"types": {"y": "*fp33"}}, r"parameter 'y' cannot be '\*fp33'. Types: .*fp32"),
        ({"types": {"y": "tensordesc<"}}, r"parameter 'y' cannot be 'tensordesc<'.*'tensordesc<fp32\[16, 16\]>'"),
        ({"types": {"y": "*fp32"}, "warps": 3}, "no option warps. There are num_warps"),
    ],
)
def test_what_is_missing_or_strange_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=message):
        un.compile(shift, **arguments)


def test_a_constexpr_needs_a_value() -> None:
    @un.jit
    def fill(x: "*i32", SIZE: tl.constexpr):  # noqa: F722
        tl.store(x + tl.arange(0, SIZE), 1)

    with pytest.raises(un.errors.InvalidArgument, match="'SIZE' is a constexpr without a default"):
        un.compile(fill)
    assert un.compile(fill, constants={"SIZE": 8}).name == "fill"


def test_what_is_no_kernel() -> None:
    with pytest.raises(un.errors.InvalidArgument, match="a function under unify.jit is needed, not a function"):
        un.compile(machine_of)  # type: ignore[arg-type]
