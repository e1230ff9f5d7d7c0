"""Fused operators of one kind of network each, against the vendor's formulas written out in torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .test_attention_950 import ON_950
from .test_reduction import SAME


def test_a_vocabulary_that_is_divided(run: Callable[..., str]) -> None:
    """Two devices' parts put together are cross entropy of the whole vocabulary, and so are the gradients."""
    run(
        """
torch.manual_seed(0)
tokens, size, vocabulary = 11, 6, 20
hidden, weight = torch.randn(tokens, size), torch.randn(vocabulary, size)
target, scale = torch.randint(0, vocabulary, (tokens,)), torch.rand(tokens)
first, second = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
expected = torch.nn.functional.cross_entropy(first @ second.t(), target, reduction="none")
(expected * scale).sum().backward()

begins = (0, 8)
parts = [weight[:8].npu(), weight[8:].npu()]
found = [
    torch_npu.npu_fused_linear_online_max_sum(hidden.npu(), part, target.npu(), begin, begin + len(part) - 1, True)
    for part, begin in zip(parts, begins)
]
largest = torch.maximum(found[0][0], found[1][0])
sums = sum(each[1] * torch.exp(each[0] - largest) for each in found)
here = [(target >= 0) & (target < 8), target >= 8]
predicted = sum((each[2] + each[0] - largest) * own.npu() for each, own in zip(found, here))
grads = []
for part, each in zip(parts, found):
    loss, softmax = torch_npu.npu_fused_cross_entropy_loss_with_max_sum(
        largest, sums, predicted, vocab_parallel_logits=each[5]
    )
    torch.testing.assert_close(loss.cpu(), expected.detach())
    backward = torch_npu.npu_fused_linear_cross_entropy_loss_with_max_sum_backward
    kept = backward(scale.npu(), hidden.npu(), part, each[3], each[4], 0.0, softmax=softmax)
    again = backward(scale.npu(), hidden.npu(), part, each[3], each[4], 0.0, logits_max=largest, sum_exp_logits=sums)
    torch.testing.assert_close(kept, again)
    grads.append(kept)
torch.testing.assert_close((grads[0][0] + grads[1][0]).cpu(), first.grad)
torch.testing.assert_close(torch.cat([each[1] for each in grads]).cpu(), second.grad)
"""
    )


def test_parts_of_transformers(run: Callable[..., str]) -> None:
    run(
        SAME
        + """
import torch.nn.functional as F
qkv, bias = torch.randn(2, 5, 24), torch.randn(24)
same(lambda qkv, bias: torch._transform_bias_rescale_qkv(qkv, bias, 4), qkv, bias)

windows, mask, bias = torch.randn(6, 4, 5, 5), torch.randn(3, 1, 5, 5), torch.randn(4, 5, 5)
found = torch_npu.npu_masked_softmax_with_rel_pos_bias(windows.npu(), mask.npu(), bias.npu()[None], 0.5)
expected = torch.softmax(windows.view(2, 3, 4, 5, 5) * 0.5 + mask + bias, -1).view_as(windows)
torch.testing.assert_close(found.cpu(), expected)

given = [torch.randn(3, 4, 8), torch.randn(3, 4, 8), torch.randn(8), torch.randn(8)]
def grads(device, work):
    leaves = [each.to(device).requires_grad_() for each in given]
    (work(*leaves) * torch.arange(96.0, device=device).view(3, 4, 8)).sum().backward()
    return [each.grad.cpu() for each in leaves]
ours = grads("npu", lambda x, gx, beta, gamma: torch_npu.npu_deep_norm(x, gx, beta, gamma, 0.3, 1e-6)[2])
theirs = grads("cpu", lambda x, gx, beta, gamma: F.layer_norm(0.3 * x + gx, (8,), gamma, beta, 1e-6))
torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)

places, values = torch.tensor([[1, 0, 1, 1], [2, 2, 2, 0]]), torch.randn(4, 3)
def coalesced(places, values):
    one = torch.sparse_coo_tensor(places, values, (2, 3, 3)).coalesce()
    return one.indices(), one.values()
same(coalesced, places, values)
"""
    )


def test_what_a_divided_vocabulary_does_not_take_is_refused_by_name(run: Callable[..., str]) -> None:
    told = run(
        """
os.dup2(1, 2)  # torch_npu writes the vendor's words there
hidden, weight, target = torch.randn(3, 4).npu(), torch.randn(8, 4).npu(), torch.zeros(3, dtype=torch.long).npu()
print(raised(lambda: torch_npu.npu_fused_linear_online_max_sum(hidden, weight, target, 4, 3)))
sums = [torch.rand(3).npu() for _ in range(3)]
print(raised(lambda: torch_npu.npu_fused_cross_entropy_loss_with_max_sum(*sums, input=hidden)))
"""
    )
    assert "vocabStartIndex is 4, vocabEndIndex 3." in told
    assert "input and weight are not supported by the chip yet." in told


BOXES = """
torch.manual_seed(0)
corner, size = torch.rand(2, 7) * 40, torch.rand(2, 7) * 40 + 20
one = torch.cat([corner, corner + size])
other = one + torch.randn(4, 7)
def parts(a, b):
    "The documented terms, of boxes [4, ...]: overlap, union, the box around both, and the centres' distance in it."
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    common = (high - low).clamp(min=0).prod(0)
    both = (a[2:] - a[:2]).prod(0) + (b[2:] - b[:2]).prod(0) - common
    whole = torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])
    apart = (((a[:2] + a[2:] - b[:2] - b[2:]) / 2) ** 2).sum(0) / (whole**2).sum(0)
    return common / both, both, whole.prod(0), apart
def tall(a):
    return torch.atan((a[2] - a[0]) / (a[3] - a[1]))
iou, both, whole, apart = parts(one, other)
shape = 4 / torch.pi**2 * (tall(other) - tall(one)) ** 2
ciou = iou - apart - shape**2 / (1 - iou + shape)
def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found.cpu().flatten(), expected.flatten(), rtol=tolerance, atol=tolerance)
count = 1024 if "950" in torch.npu.get_device_name() else 1  # a 950 takes multiples of it
close(torch_npu.npu_ciou(one.repeat(1, count).npu(), other.repeat(1, count).npu(), False, False), ciou.repeat(count))
crossed = parts(one[:, None, :], other[:, :3, None])[0]
close(torch_npu.npu_iou(one.t().npu(), other.t()[:3].npu()), crossed, 5e-3)
"""


def test_boxes_on_a_910b(run: Callable[..., str]) -> None:
    run(
        BOXES
        + """
def centred(a):
    return torch.cat([(a[:2] + a[2:]) / 2, a[2:] - a[:2]])
close(torch_npu.npu_giou(centred(one).npu(), centred(other).npu(), True), iou - (whole - both) / whole)
close(torch_npu.npu_diou(one.npu(), other.npu(), False, False), iou - apart)
"""
    )


def test_boxes_on_a_950(run: Callable[..., str]) -> None:
    told = run(
        BOXES
        + """
os.dup2(1, 2)  # torch_npu writes the vendor's words there
print(raised(lambda: torch_npu.npu_ciou(one.npu(), other.npu(), False, False)))
print(raised(lambda: torch_npu.npu_ciou(one.npu(), other.npu(), False, True)))
""",
        UNIFY_SIMULATE=ON_950,
    )
    assert "bBoxes are 7, which is no multiple of 1024." in told
    assert "isCross is not supported by the chip." in told


# What the vendor's own tests of torch_npu expect of a 910B and of a 950. Only the 950 adds eps to what boxes have in
# common: one box with itself overlaps in all of it.
@pytest.mark.parametrize(
    ("chips", "iof", "iou"),
    [
        ("ascend:910B3,1g", [0.4990, 0.0, 0.9980], [0.4985, 0.0, 0.9961]),
        (ON_950, [0.5005, 0.0005, 1.0], [0.5005, 0.0003, 1.0]),
    ],
)
def test_overlaps_of_small_boxes(run: Callable[..., str], chips: str, iof: list[float], iou: list[float]) -> None:
    run(
        f"""
one = torch.tensor([[0, 0, 10, 10], [10, 10, 20, 20.0]]).half().npu()
other = torch.tensor([[0, 0, 10, 20], [10, 10, 20, 20.0]]).half().npu()
for mode, expected in enumerate(({iou}, {iof})):
    found = torch_npu.npu_iou(one, other, mode).cpu()
    torch.testing.assert_close(found[[0, 0, 1], [0, 1, 1]].tolist(), expected, rtol=0, atol=6e-4)
""",
        UNIFY_SIMULATE=chips,
    )


def test_dropout_of_a_graph_and_a_wait_on_a_950(run: Callable[..., str]) -> None:
    run(
        """
import time
x = torch.ones(64, 64).npu()
graph = torch.npu.NPUGraph()
with torch.npu.graph(graph):
    out = torch.nn.functional.dropout(x, 0.25)
results = []
for _ in range(2):
    graph.replay()
    results.append(out.cpu())
assert not torch.equal(*results)
for result in results:
    assert set(result.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs((result == 0).float().mean() - 0.25) < 0.05
torch.npu.synchronize()
begin = time.perf_counter()
torch.npu._sleep(165_000_000)  # 0.1 s at 1.65 GHz
torch.npu.synchronize()
assert time.perf_counter() - begin >= 0.1
""",
        UNIFY_SIMULATE=ON_950,
    )
