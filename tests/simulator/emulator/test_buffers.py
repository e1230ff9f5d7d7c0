"""Layouts and maps of buffers."""

from __future__ import annotations

import pytest

from unify.compiler import mlir
from unify.compiler.cpu.codegen.values import Unsupported
from unify.simulator.emulator.buffers import Linear, affine_map, bytes_of, whole


@pytest.mark.parametrize(
    ("text", "count", "results"),
    [
        ("affine_map<(d0, d1) -> (d1, d0)>", 2, [Linear({1: 1}), Linear({0: 1})]),
        ("affine_map<() -> ()>", 0, []),
        ("affine_map<(d0) -> (0, d0)>", 1, [Linear({}, 0), Linear({0: 1})]),
        ("affine_map<(d0, d1)[s0] -> (d0 * 4 + d1 - s0 + 3)>", 3, [Linear({0: 4, 1: 1, 2: -1}, 3)]),
        ("affine_map<(d0) -> (-d0 + 7)>", 1, [Linear({0: -1}, 7)]),
    ],
)
def test_maps(text: str, count: int, results: list[Linear]) -> None:
    assert affine_map(text) == (count, results)


def test_a_map_that_divides_is_refused() -> None:
    with pytest.raises(Unsupported, match="the index d0 floordiv 2"):
        affine_map("affine_map<(d0) -> (d0 floordiv 2)>")


def test_a_temporary_is_row_major() -> None:
    type_ = mlir.Buffer((3, 4, 5), mlir.Scalar("f16"))
    assert whole("%p", type_).strides == (20, 5, 1)
    assert bytes_of(type_) == 120
    with pytest.raises(Unsupported, match=r"unknown size, memref<\?x4xi1>"):
        bytes_of(mlir.Buffer((mlir.DYNAMIC, 4), mlir.Scalar("i1")))
