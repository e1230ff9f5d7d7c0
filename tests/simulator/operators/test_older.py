"""The vendor's older operators, which torch_npu's own functions call, against torch on the CPU."""

from __future__ import annotations

from collections.abc import Callable

from .test_reduction import SAME

BOTH = (
    SAME
    + """
import torch.nn.functional as F

def like(ours, torchs, *given):
    "What torch_npu's function gives, against torch's on the CPU."
    same(lambda *each: (ours if each[0].device.type == "npu" else torchs)(*each), *given)

def gradient(work):
    def of(first, *others):
        first = first.detach().requires_grad_()
        out = work(first, *others)
        (out * torch.arange(1.0, 1 + out.numel(), device=out.device).view(out.shape)).sum().backward()
        return first.grad
    return of
"""
)


def test_arithmetic(run: Callable[..., str]) -> None:
    run(
        BOTH
        + """
x, labels = torch.randn(3, 4, 5), torch.softmax(torch.randn(4, 5), 1)
for ours, torchs in ((torch_npu.npu_mish, F.mish), (torch_npu.npu_silu, F.silu)):
    like(ours, torchs, x)
    like(gradient(ours), gradient(torchs), x)
same(gradient(lambda x: torch_npu.npu_max(x, 1)[0] if x.device.type == "npu" else x.max(1)[0]), x)
for ours, torchs in ((torch_npu.npu_max, torch.max), (torch_npu.npu_min, torch.min)):
    like(lambda x: ours(x, 1, True), lambda x: (torchs(x, 1, True)[0], torchs(x, 1, True)[1].int()), x)
like(lambda a, b: torch_npu.npu_bmmV2(a, b.transpose(1, 2), []), lambda a, b: a @ b.transpose(1, 2), x, x.flip(0))
entropy = torch_npu.npu_softmax_cross_entropy_with_logits
expected = lambda x, labels: F.cross_entropy(x, labels, reduction="none")
like(entropy, expected, x[0], labels)
like(gradient(entropy), gradient(expected), x[0], labels)
for p in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, float("inf")):
    same(gradient(lambda a, b: torch.cdist(a, b, p=p)), torch.randn(2, 4, 5), torch.randn(2, 3, 5))
"""
    )


def test_convolutions(run: Callable[..., str]) -> None:
    run(
        BOTH
        + """
def close(ours, torchs, *given):
    found = ours(*(each.npu() for each in given)).cpu()
    torch.testing.assert_close(found, torchs(*given), rtol=1e-4, atol=1e-4)

bias, x, weight = torch.randn(6), torch.randn(2, 4, 9, 9), torch.randn(6, 4, 3, 3)
close(
    lambda *given: torch_npu.npu_conv2d(*given, [2, 1], [1, 2], [1, 1], 1),
    lambda *given: F.conv2d(*given, (2, 1), (1, 2)), x, weight, bias,
)
x, weight = torch.randn(2, 4, 5, 6, 7), torch.randn(6, 2, 3, 3, 3)
close(
    lambda *given: torch_npu.npu_conv3d(*given, [2, 1, 1], [1, 0, 1], [1, 1, 1], 2),
    lambda *given: F.conv3d(*given, (2, 1, 1), (1, 0, 1), groups=2), x, weight, bias,
)
slow = torch.ops.aten.slow_conv3d_forward
close(lambda x, w: slow(x, w, [2, 2, 2], None, [1, 1, 1], [0, 0, 0]), F.conv3d, x, torch.randn(3, 4, 2, 2, 2))
"""
    )


def test_moves_whose_sizes_are_memory_of_the_host(run: Callable[..., str]) -> None:
    run(
        BOTH
        + """
x = torch.randn(3, 4, 5)
like(torch_npu.npu_sort_v2, lambda x: x.sort()[0], x)
like(lambda x: torch_npu.npu_sort_v2(x, 0, True), lambda x: x.sort(0, descending=True)[0], x)
like(lambda x: torch_npu.npu_broadcast(x, [2, 3, 4, 5]), lambda x: x.expand(2, 3, 4, 5), x[:, :1])
like(lambda x: torch_npu.npu_transpose(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1), x)
like(lambda x: torch_npu.npu_pad(x, [1, 2, 0, 3]), lambda x: F.pad(x, (0, 3, 1, 2)), x[0])
like(lambda x: torch_npu.npu_slice(x, [0, 1, 2], [3, 2, 2]), lambda x: x[:, 1:3, 2:4], x)
"""
    )


def test_signs_in_bits(run: Callable[..., str]) -> None:
    """The example of npu_sign_bits_pack in the vendor's documentation."""
    run(
        """
given = torch.tensor([5.0, 4, 3, 2, 0, -1, -2, 4, 3, 2, 1, 0, -1, -2]).npu()
packed = torch_npu.npu_sign_bits_pack(given, 2)
assert packed.cpu().tolist() == [[159], [15]]
signs = torch_npu.npu_sign_bits_unpack(packed.flatten(), 2, torch.float16).cpu().tolist()
assert signs == [[1, 1, 1, 1, 1, -1, -1, 1], [1, 1, 1, 1, -1, -1, -1, -1]]
"""
    )


def test_a_matrix_in_another_format_is_the_same_matrix(run: Callable[..., str]) -> None:
    run(
        """
torch_npu.npu.config.allow_internal_format = True
for dtype, stored in ((torch.float32, 32 * 48), (torch.int8, 32 * 64)):
    matrix = torch.randn(20, 40).mul(9).to(dtype)
    other = torch_npu.npu_format_cast(matrix.npu(), 29)  # FRACTAL_NZ
    assert (torch_npu.get_npu_format(other), torch_npu.get_storage_size(other)) == (29, stored)
    assert torch.equal(other.cpu(), matrix)
    assert torch.equal((other + other).cpu(), matrix + matrix)
"""
    )


def test_a_mode_in_which_each_operator_is_compiled(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
torch.npu.set_compile_mode(jit_compile=True)
x, y = torch.rand(3, 5) + 0.5, torch.rand(3, 5) + 0.5
for name in (
    "abs ceil cos erf exp floor log log10 log1p log2 neg reciprocal relu rsqrt sigmoid sign sin sqrt square tanh"
).split():
    same(getattr(torch, name), x - 0.1)
for name in "add div eq ge gt le lt maximum minimum mul ne pow sub".split():
    same(getattr(torch, name), x, y)
for work in (torch.add, torch.gt, torch.mul, torch.div):
    same(lambda x: work(x, 2.0), x)
same(lambda x, y: torch.logical_and(x > y, y > 1), x, y)
same(lambda x, y: torch.logical_or(~(x > y), y > 1), x, y)
same(lambda x, y: (x > y).nonzero(), x, y)  # its size is known when it has run
same(lambda x, y: torch.masked_select(x, x > y), x, y)
same(lambda x, y: x @ y.t(), x, y)
same(lambda x: x.sum(1), x)
same(lambda x: x.mean(0, keepdim=True), x)
same(lambda x: x.softmax(0), x)
same(lambda x: x.t().contiguous(), x)
"""
    )
