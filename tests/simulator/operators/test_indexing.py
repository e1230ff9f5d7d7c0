"""Reads and writes at places that other tensors name, against torch on the CPU."""

from __future__ import annotations

from collections.abc import Callable

from .test_reduction import SAME


def test_masks_choose_as_many_as_they_have(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
x = torch.randn(4, 5, 3)
for mask in (x > 0, x.transpose(0, 1).contiguous().transpose(0, 1) > 2, torch.zeros(4, 5, 3, dtype=torch.bool)):
    same(lambda x, m: x[m], x, mask)
    same(torch.masked_select, x, mask)
    same(lambda x, m: m.nonzero(), x, mask)
    same(lambda x, m: torch.nonzero(m, as_tuple=True), x, mask)
    same(lambda x, m: x[m[:, :, 0]], x, mask)
    same(lambda x, m: x[:, m[0, :, 0], 1:], x, mask)
    same(lambda x, m: torch.masked_select(x, m[0]), x, mask)
same(torch.nonzero, torch.tensor(3))
same(torch.nonzero, torch.zeros(0, 2))
out = torch.empty(60, dtype=torch.float32).npu()
assert torch.masked_select(x.npu(), (x > 0).npu(), out=out).shape == (int((x > 0).sum()),)
"""
    )


def test_indices_repeat_count_from_the_end_and_may_be_none(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
def put(place, accumulate=False):
    def work(x, values, *indices):
        x = x.clone()
        view = place(x)
        view.index_put_(indices, values, accumulate=accumulate)
        return x
    return work

x, longs = torch.randn(5, 6), torch.arange(30).view(5, 6)
twice, columns = torch.tensor([4, -5, 4, 1]), torch.tensor([0, 5, 0, -1])
for each in (x, x.bfloat16(), longs, x.T, x[:, ::2]):
    same(lambda x, i: x[i], each, twice)
    same(lambda x, i, j: x[i % x.shape[0], j % x.shape[1]], each, twice, columns)
    same(put(lambda x: x, True), each.contiguous(), each[:4], twice)
same(put(lambda x: x.T, True), x, torch.ones(4), columns, twice)
same(put(lambda x: x[:, 1::2]), x, torch.ones(3), torch.tensor([2]))
same(put(lambda x: x), longs, torch.tensor(7), torch.zeros(0, dtype=torch.long))
same(put(lambda x: x), longs, torch.zeros(5, 6, dtype=torch.long), torch.arange(5).flip(0))
same(lambda x, i: x[:, i], longs, torch.zeros(0, dtype=torch.long))
same(lambda x, i: x[:, None, i], x, columns)
same(lambda x, i: x.index_add(1, i, torch.ones(5, 4, device=x.device), alpha=2), x, columns % 6)
same(lambda x, i: x.index_fill(0, i, -3.0), x, twice % 5)
same(lambda x, i: x.index_copy(0, i, x[:2]), x, torch.tensor([4, 0]))
same(lambda x, i: x.scatter(1, i, 2.5), x, torch.tensor([[0, 5], [1, 1]]))
same(lambda x, i: x.scatter(1, i, x + 1), x, torch.tensor([[0, 5], [2, 1]]))
same(lambda x, i: x.scatter_add(0, i, x), x, torch.tensor([[0, 0, 0], [0, 4, 1]]))
same(lambda x, i: x.gather(1, i), x.T, torch.tensor([[4, 4, 0]]))
same(lambda x, i: x.take(i), x.T, torch.tensor([29, -1, 7]))
same(lambda x, i: x.put(i, torch.ones(3, device=x.device), accumulate=True), x, torch.tensor([3, 3, -1]))
"""
    )


def test_embeddings(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
import torch.nn.functional as F
weight, ids = torch.randn(7, 4), torch.tensor([[6, 1, 1], [0, 2, 6]])
same(F.embedding, ids, weight)
same(F.embedding, ids.int(), weight[:, ::2])
same(F.embedding, ids[:0], weight)

def gradient(padding, scaled):
    def work(ids, weight):
        weight = weight.clone().requires_grad_()
        loss = F.embedding(ids, weight, padding_idx=padding, scale_grad_by_freq=scaled)
        loss.mul(torch.arange(24.0).view(2, 3, 4).to(loss.device)).sum().backward()
        return weight.grad
    return work

for padding in (None, 1):
    for scaled in (False, True):
        same(gradient(padding, scaled), ids, weight)
offsets = torch.tensor([0, 2, 2])
for mode in ("sum", "mean", "max"):
    for last in (False, True):
        same(lambda w, i, o: F.embedding_bag(i, w, o, mode=mode, include_last_offset=last), weight, ids[0], offsets)
same(lambda w, i: F.embedding_bag(i, w, mode="sum", padding_idx=1), weight, ids)
same(lambda i: F.one_hot(i, 9), ids)
same(lambda i: F.one_hot(i), ids)
"""
    )


def test_a_place_outside_fails_by_the_operator_s_name(run: Callable[..., str]) -> None:
    told = run(
        """
os.dup2(1, 2)  # torch_npu writes the vendor's words there
x = torch.zeros(3).npu()
print(raised(lambda: torch.index_select(x, 0, torch.tensor([3]).npu()).cpu()))
"""
    )
    assert "507015" in told
    assert "aclnnIndexSelect" in told
