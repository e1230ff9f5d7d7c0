"""Products on the cube unit: their types, and float32 as HF32."""

from __future__ import annotations

from collections.abc import Callable

from .test_reduction import SAME


def test_layouts_and_what_is_added(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
a, b, batch = torch.randn(4, 6), torch.randn(6, 5), torch.randn(3, 6, 5)
for change in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
    x, y, z = change(a), change(b), change(batch)
    same(torch.mm, x, y)
    same(lambda x, y: y.T @ x.T, x, y)
    same(lambda x, y: x[::2, ::3] @ y[::3], x, y)
    same(torch.matmul, x, z)
    same(torch.bmm, z.transpose(1, 2), z)
    same(torch.mv, x, y[:, 1])
    same(lambda x, y: torch.addmm(y[0], x, y, beta=0.5, alpha=2), x, y)
    same(lambda x, y: torch.ones(4, 5, dtype=x.dtype, device=x.device).addmm_(x, y, beta=-1), x, y)
    same(lambda z: torch.baddbmm(z[:, :1, :1], z.mT, z, beta=3), z)
same(torch.mm, torch.zeros(3, 0), torch.zeros(0, 2))
"""
    )


def test_hf32_keeps_eleven_bits_of_a_factor(run: Callable[..., str]) -> None:
    run(
        """
torch.npu.matmul.allow_hf32 = True
given = torch.tensor([1 + 2**-12 + 2**-20, 1 + 2**-12, 1 + 3 * 2**-12, -1 - 2**-13, 2**-100, float("inf"), 3.0, 2**-11])
found = (given.view(8, 1).npu() @ torch.ones(1, 1).npu()).cpu().view(-1)
assert found.tolist() == [1 + 2**-11, 1.0, 1 + 2**-10, -1.0, 2**-100, float("inf"), 3.0, 2**-11]
torch.npu.matmul.allow_hf32 = False
assert (given.view(8, 1).npu() @ torch.ones(1, 1).npu()).cpu().view(-1).tolist() == given.tolist()
"""
    )
