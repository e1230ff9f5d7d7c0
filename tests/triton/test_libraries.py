"""Libraries of Triton kernels that are far from ours: fla-core and conch-triton-kernels as they come from PyPI, on CPU
tensors, against torch or against the library's own other algorithm. `make nightly` installs and runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("triton_on_cpu"),
    pytest.mark.filterwarnings("ignore"),  # the libraries' own, about devices
]
BATCH, TOKENS, HEADS, WIDTH = 2, 128, 2, 64


def heads(*, normal: bool = False) -> Tensor:
    x = torch.randn(BATCH, TOKENS, HEADS, WIDTH)
    return F.normalize(x, dim=-1) if normal else x


def decay(*shape: int) -> Tensor:
    return F.logsigmoid(torch.randn(*shape))


def compare(one: Callable[..., Any], other: Callable[..., Any], *inputs: Tensor, gradients: bool = True) -> None:
    """Results, and gradients of all inputs, of two algorithms."""
    found = []
    for function in (one, other):
        leaves = [x.detach().clone().requires_grad_(gradients) for x in inputs]
        result = function(*leaves)
        result = result[0] if isinstance(result, tuple) else result
        weight = torch.linspace(-1, 1, result.numel()).reshape(result.shape)
        found.append([result, *(torch.autograd.grad(result, leaves, weight) if gradients else ())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


# ---------------------------------------------------------------- flash-linear-attention: by chunks, and token by token


def test_gated_linear_attention() -> None:
    ops = pytest.importorskip("fla.ops.gla")
    inputs = (heads(), heads(), heads(), decay(BATCH, TOKENS, HEADS, WIDTH))
    compare(ops.chunk_gla, ops.fused_recurrent_gla, *inputs)


def test_simple_gated_linear_attention() -> None:
    ops = pytest.importorskip("fla.ops.simple_gla")
    inputs = (heads(), heads(), heads(), decay(BATCH, TOKENS, HEADS))
    compare(ops.chunk_simple_gla, ops.fused_recurrent_simple_gla, *inputs, gradients=False)
    compare(lambda q, k, v, g: ops.parallel_simple_gla(q, k, v, g=g), ops.chunk_simple_gla, *inputs, gradients=False)


def test_retention() -> None:
    ops = pytest.importorskip("fla.ops.retention")
    compare(ops.chunk_retention, ops.fused_recurrent_retention, heads(), heads(), heads())


def test_gated_delta_rule() -> None:
    ops = pytest.importorskip("fla.ops.gated_delta_rule")
    naive = pytest.importorskip("fla.ops.gated_delta_rule.naive")
    inputs = (heads(), heads(normal=True), heads(), decay(BATCH, TOKENS, HEADS), torch.rand(BATCH, TOKENS, HEADS))

    def in_torch(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Any:
        return naive.naive_recurrent_gated_delta_rule(q, k, v, beta, g)

    compare(ops.chunk_gated_delta_rule, in_torch, *inputs)
    recurrent = ops.fused_recurrent_gated_delta_rule
    compare(lambda q, k, v, g, b: recurrent(q, k, v, g=g, beta=b), in_torch, *inputs, gradients=False)


def test_attention_of_another_library() -> None:
    ops = pytest.importorskip("fla.ops.attn")

    def by_torch(*qkv: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in qkv), is_causal=True).transpose(1, 2)

    compare(ops.parallel_attn, by_torch, heads(), heads(), heads())


def test_convolution_along_tokens() -> None:
    convolution = pytest.importorskip("fla.modules.convolution")
    module = convolution.ShortConvolution(WIDTH, 4, activation="silu")

    def by_torch(x: Tensor) -> Tensor:
        padded = F.pad(x.transpose(1, 2), (3, 0))
        return F.silu(F.conv1d(padded, module.weight, groups=WIDTH)).transpose(1, 2)

    compare(module, by_torch, torch.randn(BATCH, TOKENS, WIDTH))


# ---------------------------------------------------------------- conch: what a server of models needs


def test_paged_attention_of_another_library() -> None:
    ops = pytest.importorskip("conch.ops.attention.paged_attention")
    keys, values = torch.randn(2, 20, 32, 2, 64)
    table = torch.randperm(20)[:12].view(3, 4).int()
    lengths = torch.tensor([100, 33, 128], dtype=torch.int32)
    query = torch.randn(3, 8, 64)
    found = ops.paged_attention(query, keys, values, table, lengths)
    for row, length in enumerate(lengths.tolist()):
        k, v = (cache[table[row].long()].flatten(0, 1)[:length].transpose(0, 1) for cache in (keys, values))
        wanted = F.scaled_dot_product_attention(query[row][:, None], k, v, enable_gqa=True)[:, 0]
        torch.testing.assert_close(found[row], wanted, rtol=1e-4, atol=1e-5)


def test_scaled_product_of_bytes() -> None:
    ops = pytest.importorskip("conch.ops.quantization.gemm")
    a, b = torch.randint(-100, 100, (64, 128)).char(), torch.randint(-100, 100, (128, 96)).char()
    scale_a, scale_b = torch.rand(64, 1), torch.rand(96, 1)
    found = ops.scaled_gemm(a, b, scale_a, scale_b, torch.float32)
    torch.testing.assert_close(found, (a.float() @ b.float()) * scale_a * scale_b.T, rtol=1e-5, atol=1e-2)


def test_boxes_that_overlap_are_dropped() -> None:
    ops = pytest.importorskip("conch.ops.vision.nms")
    corner = torch.rand(100, 2) * 50
    boxes, scores = torch.cat([corner, corner + 1 + torch.rand(100, 2) * 50], 1), torch.rand(100)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        low, high = boxes[:, None, :2].maximum(boxes[None, :, :2]), boxes[:, None, 2:].minimum(boxes[None, :, 2:])
        common, area = (high - low).clamp_min(0).prod(-1), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        union = area[:, None] + area[None] - common
        if all(common[i, j] / union[i, j] <= 0.5 for j in kept):
            kept.append(i)
    assert ops.nms(boxes, scores, 0.5).tolist() == kept
