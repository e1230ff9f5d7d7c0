"""What an op must compute and move at least, from its sizes: what the share of a chip's limit is taken of.

Counted as papers do: a multiplication with its addition is two operations, and each array is moved once. Exponentials,
rotations and sums count as nothing. itemsize: bytes of an element of activations and caches; weight_bytes: of a weight,
with its part of the scales.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of one call; costs of several calls are added."""

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.bytes * times)

    @property
    def intensity(self) -> float:
        """Operations a byte (Williams et al. 2009): below a chip's own ratio of the two, memory is the limit."""
        return self.flops / self.bytes if self.bytes else float("inf")

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The least time of a call on a chip that does so much a second."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)


def elementwise(read: float, written: float, *, itemsize: float = 2) -> Cost:
    """Of ops that compute next to nothing: rms_norm, rope, swiglu, embedding, kv_write, combine. In elements."""
    return Cost(0.0, itemsize * (read + written))


def linear(m: int, n: int, k: int, *, weight_bytes: float = 2, itemsize: float = 2) -> Cost:
    """x [m, k] · weight [n, k]ᵀ."""
    return Cost(2.0 * m * n * k, itemsize * (m * k + m * n) + weight_bytes * n * k)


def attention(
    queries: int, keys: int, *, heads: int, kv_heads: int, width: int, value_width: int | None = None,
    causal: bool = True, itemsize: float = 2,
) -> Cost:  # fmt: skip
    """Of one sequence; of a causal one what the mask leaves. width: of a head's query and key."""
    value_width = width if value_width is None else value_width
    visible = queries * keys - (queries * (queries - 1) / 2 if causal else 0)
    moved = (queries * heads + keys * kv_heads) * (width + value_width)
    return Cost(2.0 * heads * visible * (width + value_width), itemsize * moved)


def paged_attention(sequences: int, keys: int, *, heads: int, kv_heads: int, width: int, itemsize: float = 2) -> Cost:
    """One new query of each sequence over its `keys` cached ones."""
    one = attention(1, keys, heads=heads, kv_heads=kv_heads, width=width, causal=False, itemsize=itemsize)
    return one * sequences


def mla_attention(sequences: int, keys: int, *, heads: int, rank: int, rope: int, itemsize: float = 2) -> Cost:
    """One new query of each sequence in the absorbed form: a cached row [rank + rope] serves all heads, as key and as
    value (DeepSeek-V2, section 2.1)."""
    flops = 2.0 * heads * keys * (2 * rank + rope)
    moved = keys * (rank + rope) + heads * (2 * rank + rope)
    return Cost(flops, itemsize * moved) * sequences


def experts_hit(tokens: int, experts: int, top_k: int) -> float:
    """How many experts get a token, on average, where each token takes top_k at random."""
    return experts * (1.0 - (1.0 - top_k / experts) ** tokens)


def route(tokens: int, experts: int, top_k: int, *, itemsize: float = 4) -> Cost:
    """Logits to weights and ids."""
    return Cost(0.0, tokens * (itemsize * experts + 8 * top_k))


def moe(
    tokens: int, *, experts: int, top_k: int, width: int, expert_width: int, weight_bytes: float = 2,
    itemsize: float = 2, hit: float | None = None,
) -> Cost:  # fmt: skip
    """Gate, up and down of the experts that are chosen. hit: how many get a token, at random if it is not given."""
    hit = experts_hit(tokens, experts, top_k) if hit is None else hit
    size = 3.0 * width * expert_width
    return Cost(2.0 * tokens * top_k * size, weight_bytes * hit * size + 2 * itemsize * tokens * width)
