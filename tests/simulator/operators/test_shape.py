"""Elements moved and repeated, against torch and Python's own slices on the CPU."""

from __future__ import annotations

from collections.abc import Callable

from .test_reduction import SAME


def test_types_strides_and_nothing(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
import torch.nn.functional as F
x = torch.arange(48.0).view(2, 4, 6)
for each in (x, x.long(), x > 20, x.half(), x.transpose(0, 2), x[:, 1::2], x[:, :0]):
    same(lambda x: torch.cat([x, x[:, :1], x], 1), each)
    same(lambda x: torch.stack([x, x + x], -1), each)
    same(lambda x: x.roll((1, -2), (0, 2)), each)
    same(lambda x: x.flip(0, 2), each)
    same(lambda x: x.repeat(2, 1, 3), each)
    same(lambda x: F.pad(x, (1, -1, 0, 2), value=1), each)
same(lambda x, y: torch.cat([x, y]), x, x.int())
same(lambda x, y: torch.cat([x, y], 1), torch.zeros(0), x)
same(lambda x, n: x.repeat_interleave(n, 1), x, torch.tensor([0, 2, 1, 3]))
same(lambda x, n: x.repeat_interleave(n), x, torch.tensor([2]))
same(lambda n: torch.repeat_interleave(n), torch.tensor([0, 2, 1, 3]))
same(lambda x: x.renorm(2, 1, 5.0), x)
for mode in ("reflect", "replicate"):
    same(lambda x: F.pad(x[None], (2, 1, 0, 3), mode=mode), x)
outs = [torch.empty(2, 1, 6).npu(), torch.empty(2, 3, 6).npu()]
torch.split_with_sizes_copy(x.npu(), [1, 3], 1, out=outs)
torch.testing.assert_close([each.cpu() for each in outs], list(x.split([1, 3], 1)))
"""
    )


def test_slices_are_those_of_python(run: Callable[..., str]) -> None:
    """Of torch_npu, only Ascend950's calls the operator."""
    run(
        """
x = torch.arange(210).view(5, 6, 7)
for first, last, step in ((1, 5, 2), (0, 5, 3), (4, 5, 1)):
    found = torch_npu.npu_indexing(x.npu(), [first, 0, 1], [last, 6, 7], [step, 5, 1], 0, 0, 0, 0, 0)
    assert torch.equal(found.cpu(), x[first:last:step, ::5, 1:])
""",
        UNIFY_SIMULATE="ascend:950x1,1g",
    )


def test_caches_are_updated_in_place(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
cache, updates = torch.zeros(2, 6, 3), torch.ones(2, 2, 3)
found = torch_npu.scatter_update(cache.npu(), torch.tensor([1, 4]).npu(), updates.npu(), 1).cpu()
cache[0, 1:3] = cache[1, 4:6] = 1
assert torch.equal(found, cache)
memory = torch.zeros(4, 3).npu()
torch_npu.npu_scatter_nd_update_(memory, torch.tensor([[3], [0]]).npu(), torch.tensor([[1.0, 2, 3], [4, 5, 6]]).npu())
assert memory.cpu().tolist() == [[4, 5, 6], [0, 0, 0], [0, 0, 0], [1, 2, 3]]
"""
    )
