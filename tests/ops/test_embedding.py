"""Embedding against indexing."""

from __future__ import annotations

import pytest
import torch

import unify as un


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [16, 72, 576])
def test_takes_rows(width: int, dtype: torch.dtype) -> None:
    table = torch.randn(20, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    ids = torch.tensor([19, 0, 7, 7], dtype=torch.int32)
    assert torch.equal(un.ops.embedding(ids, table), table[ids.long()].float())


def test_no_ids_are_no_rows() -> None:
    assert un.ops.embedding(torch.empty(0, dtype=torch.int32), torch.ones(4, 16)).shape == (0, 16)


def test_ids_must_be_int32() -> None:
    with pytest.raises(un.errors.DTypeError, match="ids"):
        un.ops.embedding(torch.zeros(1), torch.ones(4, 16))
