"""Embedding against indexing."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

import unify as un
from unify.ops import quant


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [16, 72, 576])
def test_takes_rows(width: int, dtype: torch.dtype) -> None:
    table = torch.randn(20, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    ids = torch.tensor([19, 0, 7, 7])
    for kind in (torch.int32, torch.int64):
        assert torch.equal(un.ops.embedding(ids.to(kind), table), table[ids].float())


def test_an_id_outside_of_the_table_gives_zeros() -> None:
    rows = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([3, 1, -1, 4, 2**31 - 1, -(2**31)], dtype=torch.int32)
    expected = torch.zeros(6, 32)
    expected[1] = rows[1]
    assert torch.equal(un.ops.embedding(ids, rows[:3]), expected)
    raw = gguf.quants.quantize(rows[:3].numpy(), gguf.GGMLQuantizationType.Q8_0).view(np.uint8)
    expected[1] = torch.from_numpy(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0))[1]
    assert torch.equal(un.ops.embedding(ids, quant.from_gguf("q8_0", raw)), expected)
    wide = torch.tensor([3, 1, -1, 4, 2**32 + 1, -(2**63)])  # the fifth is 1 in its lower half
    assert torch.equal(un.ops.embedding(wide, rows[:3])[[0, 2, 3, 4, 5]], torch.zeros(5, 32))
    assert torch.equal(un.ops.embedding(wide, quant.from_gguf("q8_0", raw)), expected)


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(un.errors.ShapeError, match="at least one row"):
        un.ops.embedding(torch.zeros(1, dtype=torch.int32), torch.ones(0, 16))


def test_no_ids_are_no_rows() -> None:
    assert un.ops.embedding(torch.empty(0, dtype=torch.int32), torch.ones(4, 16)).shape == (0, 16)


def test_ids_must_be_integers() -> None:
    with pytest.raises(un.errors.DTypeError, match="ids"):
        un.ops.embedding(torch.zeros(1), torch.ones(4, 16))


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("width", [32, 160, 576])
def test_takes_rows_of_a_quantised_table(kind: str, width: int) -> None:
    matrix = quant.quantize_weight(torch.randn(150, width, generator=torch.Generator().manual_seed(width)), kind)
    ids = torch.tensor([149, 0, 7, 7, 150, -1])
    rows = torch.from_numpy(matrix.dequantize().numpy())
    for dtype in (torch.int32, torch.int64):
        taken = un.ops.embedding(ids.to(dtype), matrix)
        assert torch.equal(taken[:4], rows[ids[:4]])
        assert torch.equal(taken[4:], torch.zeros(2, width))


def test_a_table_of_experts_is_refused() -> None:
    with pytest.raises(un.errors.ShapeError, match=r"\[n, d\].*\[2, 3, 64\]"):
        un.ops.embedding(torch.zeros(1, dtype=torch.int32), quant.quantize_weight(torch.ones(2, 3, 64), "fp8"))
