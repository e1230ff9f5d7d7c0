"""The kinds of layers that people compile, as torch modules of any size: for tests and benchmarks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal, of [batch, heads, tokens, head]; back to [batch, tokens, width]."""
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2).flatten(2)


class GPTBlock(nn.Module):  # type: ignore[misc, unused-ignore]
    """Layer norm, attention, and a GELU network (Radford et al. 2019). x: [batch, tokens, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(_attention(q, k, v))
        return x + self.feed_forward(self.norms[1](x))


class LlamaLayer(nn.Module):  # type: ignore[misc, unused-ignore]
    """RMS norm, rotated grouped-query attention, and SwiGLU (Touvron et al. 2023). x: [batch, tokens, width]."""

    def __init__(self, width: int, heads: int, kv_heads: int, inner: int) -> None:
        super().__init__()
        self.head = width // heads
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.q, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(width, kv_heads * self.head, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def rotated(self, x: Tensor) -> Tensor:
        frequencies = 10000.0 ** (-torch.arange(0, self.head, 2) / self.head)
        angles = (torch.arange(x.shape[2])[:, None] * frequencies).repeat(1, 2)
        first, second = x.chunk(2, -1)
        return x * angles.cos().to(x.dtype) + torch.cat((-second, first), -1) * angles.sin().to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        q, k, v = (project(y).unflatten(-1, (-1, self.head)).transpose(1, 2) for project in (self.q, self.k, self.v))
        x = x + self.out(_attention(self.rotated(q), self.rotated(k), v))
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class ResidualBlock(nn.Module):  # type: ignore[misc, unused-ignore]
    """Convolutions, batch norms and pooling, then a classifier (He et al. 2016). x: [batch, 3, height, width]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.classify = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norms[0](self.stem(x))), 3, 2, 1)
        x = F.relu(x + self.norms[1](self.conv(x)))
        return self.classify(F.adaptive_avg_pool2d(x, 1).flatten(1))


class MixtureOfExperts(nn.Module):  # type: ignore[misc, unused-ignore]
    """The best `chosen` of `experts` SwiGLU networks for each token, all of them computed. x: [tokens, width]."""

    def __init__(self, width: int, experts: int, inner: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.route = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * inner) / width**0.5)
        self.down = nn.Parameter(torch.randn(experts, inner, width) / inner**0.5)

    def forward(self, x: Tensor) -> Tensor:
        best, experts = self.route(x).softmax(-1).topk(self.chosen, -1)
        shares = x.new_zeros(x.shape[0], self.up.shape[0]).scatter(1, experts, best / best.sum(-1, keepdim=True))
        gate, value = (x @ self.up).chunk(2, -1)
        return ((F.silu(gate) * value) @ self.down * shares.T[..., None]).sum(0)
