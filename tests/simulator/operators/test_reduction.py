"""Reductions, orders and searches that torch's own samples do not reach, against torch on the CPU."""

from __future__ import annotations

from collections.abc import Callable

SAME = """
def same(work, *given):
    expected, found = work(*given), work(*(each.npu() for each in given))
    for one, other in zip(*((each,) if torch.is_tensor(each) else each for each in (found, expected)), strict=True):
        torch.testing.assert_close(one.cpu(), other, equal_nan=True)
torch.manual_seed(0)
"""


def test_what_a_shape_depends_on(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
values = torch.tensor([[3, 1, 3], [2, 1, 1]])
same(lambda x: torch.unique(x), values)
same(lambda x: torch.unique(x, return_inverse=True), values)
same(lambda x: torch.unique(x, return_inverse=True, return_counts=True), values)
same(lambda x: torch.unique(x, return_counts=True), values.T)
same(lambda x: torch.unique(x, dim=0, return_inverse=True, return_counts=True), torch.tensor([[1, 2], [0, 5], [1, 2]]))
same(lambda x: torch.unique_consecutive(x, return_inverse=True, return_counts=True), values)
same(lambda x: torch.unique_consecutive(x, dim=1, return_counts=True), values)
same(torch.unique, torch.zeros(0))
same(lambda x: torch.bincount(x), torch.tensor([4, 0, 4, 1]))
same(lambda x, w: torch.bincount(x, w, minlength=7), torch.tensor([4, 0, 4, 1]), torch.rand(4))
"""
    )


def test_types_dimensions_and_strides(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
ints, floats = torch.randint(-9, 9, (3, 4, 5)), torch.randn(3, 4, 5)
for x in (ints, ints.int(), floats, floats.bfloat16(), floats.transpose(0, 2), floats[:, ::2]):
    same(lambda x: x.sum(), x)
    same(lambda x: x.sum((0, -1), keepdim=True, dtype=torch.float32), x)
    same(lambda x: x.prod(1), x)
    same(lambda x: x.cumsum(-1), x)
    same(lambda x: x.max(1), x)
    same(lambda x: x.max(), x)
    same(lambda x: x.amin((0, 2)), x)
    same(lambda x: x.argmax(), x)
    same(lambda x: x.argmin(1, keepdim=True), x)
    same(lambda x: x.sort(dim=1, descending=True, stable=True), x)
    same(lambda x: x.topk(2, dim=0, largest=False)[0], x)
    same(lambda x: (x > 0).all(), x)
    same(lambda x: (x > 0).any(1), x)
    same(lambda x: (x != 0).all((0, 1)), x)
for x in (torch.tensor([1.0, float("nan"), -2.0]), torch.tensor(4.0)):
    same(lambda x: (x.max(), x.min(), x.sum(), x.mean(), x.median(), x.nanmedian(), x.nansum(), x.amax(0)), x)
for empty in (torch.zeros(0, 3), torch.zeros(3, 0)):
    same(lambda x: (x.sum(), x.mean(), x.prod(), x.all(), x.any(), x.sum(0), x.cumsum(1), x.logsumexp(0)), empty)
same(lambda x: x.var((0, 2), correction=0), floats)
same(lambda x: torch.std_mean(x, correction=2), floats)
same(lambda x: torch.linalg.vector_norm(x, 1, (0, 1), dtype=torch.float32), floats.half())
same(lambda x: torch.norm(x, float("inf"), dim=1), floats)
same(lambda x: torch.histc(x, 4, min=-1, max=1), floats)
same(lambda x, y: torch.searchsorted(x, y, right=True, out_int32=True), torch.arange(5.0), floats)
same(lambda x: torch.searchsorted(x, 2.0), torch.arange(5.0))
same(lambda x, y: torch.bucketize(y, x), torch.arange(5.0), floats.transpose(0, 1))
"""
    )


def test_results_go_where_the_caller_says(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
x = torch.randn(4, 6)
for cut in (slice(None), slice(None, None, 2)):
    memory = torch.full((12,), -1.0)
    def summed(x, memory):
        torch.sum(x, 1, out=memory[:8:2])
        torch.max(x, 0, out=(memory[6:], torch.empty(6, dtype=torch.long, device=x.device)))
        return memory
    same(summed, x[:, cut] if cut.step is None else x, memory)
same(lambda x: torch.cumsum(x, 0, out=torch.empty(6, 4, device=x.device).T), x)
values, places = torch.empty(4, 2).npu(), torch.empty(4, 2, dtype=torch.long).npu()
torch.topk(x.npu(), 2, out=(values, places))
torch.testing.assert_close((values.cpu(), places.cpu()), tuple(x.topk(2)))
"""
    )
