"""What an op must compute and move at least, from its sizes: what the share of a chip's limit is taken of.

Counted as papers do: a multiplication with its addition is two operations, and each array is moved once, or the part of
it that is needed. Exponentials, rotations and sums count as nothing, and so do block tables, lengths, offsets, and what
each row or head has one number of. itemsize: bytes of an element of activations and caches; weight_bytes: of a weight,
with its part of the scales, as WEIGHT_BYTES has them.

Each function is named as its op, and public as unify.ops.cost. They stand here, as who lists benchmarks by them needs
no compiler, which unify.ops loads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "WEIGHT_BYTES",
    "Cost",
    "attention",
    "cache_bytes",
    "code_bytes",
    "combine",
    "count_tokens",
    "elementwise",
    "embedding",
    "expert_load",
    "experts_hit",
    "grouped_linear",
    "kv_write",
    "latent_read",
    "latent_write",
    "linear",
    "logit_bias",
    "matmul",
    "merge_states",
    "mla_attention",
    "moe",
    "paged_attention",
    "paged_prefill",
    "penalize",
    "permute",
    "quantize",
    "quantize_weight",
    "rms_norm",
    "rope",
    "route",
    "sample",
    "swiglu",
    "total",
]

# float32 for 128 × 128 weights, float16 for 32 of them, and in q4_1 a minimum beside it.
WEIGHT_BYTES = {
    "fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1 + 4 / 128**2, "int8": 1 + 2 / 32, "int4": 0.5 + 2 / 32,
    "q8_0": 1 + 2 / 32, "q4_0": 0.5 + 2 / 32, "q4_1": 0.5 + 4 / 32,
}  # fmt: skip
# Of activations as codes: float32 for 32 or 128 of them, and sums of 32 for integer products.
_CODE_BYTES = {"int16": 2 + 8 / 32, "int8": 1 + 4 / 32, "fp8": 1 + 4 / 128}
_INDEX = 4  # int32


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


def total(costs: Iterable[Cost]) -> Cost:
    """Of several calls, or of one call for sequences of different lengths."""
    return sum(costs, start=Cost(0.0, 0.0))


def elementwise(read: float, written: float, *, itemsize: float = 2) -> Cost:
    """Of what computes next to nothing. In elements."""
    return Cost(0.0, itemsize * (read + written))


# ---------------------------------------------------------------- rows


def rms_norm(
    rows: float, width: int, *, residual: bool = False, quantize: str | None = None, itemsize: float = 2
) -> Cost:  # fmt: skip
    """With a residual the sum is read and written too; quantize: the norm's codes are written in its place."""
    size = rows * width
    written = itemsize * size if quantize is None else code_bytes(rows, width, quantize)
    return Cost(0.0, itemsize * (size + width + 2 * size * residual) + written)


def rope(tokens: float, heads: int, width: int, *, itemsize: float = 2) -> Cost:
    """With a position of each token."""
    size = tokens * heads * width
    return elementwise(size, size, itemsize=itemsize) + _indices(tokens)


def swiglu(rows: float, width: int, *, itemsize: float = 2) -> Cost:
    """Gate and up, each [rows, width], to one."""
    return elementwise(2.0 * rows * width, rows * width, itemsize=itemsize)


def embedding(tokens: float, width: int, *, weight_bytes: float = 2, itemsize: float = 4) -> Cost:
    """The rows of the tokens, not the table. itemsize: of the result, which is float32."""
    return Cost(0.0, (weight_bytes + itemsize) * tokens * width) + _indices(tokens)


def code_bytes(rows: float, width: int, kind: str) -> float:
    """Bytes of activations as codes, with scales and sums: see `quant.quantize`."""
    return _CODE_BYTES[kind] * rows * width + (4.0 * rows if kind == "int8" else 0.0)


def quantize(rows: float, width: int, kind: str = "int16", *, itemsize: float = 2) -> Cost:
    """Activations to codes."""
    return Cost(0.0, itemsize * rows * width + code_bytes(rows, width, kind))


def quantize_weight(n: int, k: int, kind: str, *, experts: int = 1, itemsize: float = 2) -> Cost:
    """A dense weight to codes."""
    return Cost(0.0, (itemsize + WEIGHT_BYTES[kind]) * experts * n * k)


# ---------------------------------------------------------------- products


def linear(
    m: float, n: int, k: int, *, residual: bool = False, weight_bytes: float = 2, itemsize: float = 2
) -> Cost:  # fmt: skip
    """x [m, k] · weight [n, k]ᵀ."""
    return Cost(2.0 * m * n * k, itemsize * (m * k + m * n * (1 + residual)) + weight_bytes * n * k)


def matmul(
    m: float, n: int, k: int, *, batch: int = 1, itemsize: float = 2, out_itemsize: float | None = None
) -> Cost:  # fmt: skip
    """a [m, k] · b [k, n], or a batch of them. out_itemsize: bytes of an element of the result, if it is another."""
    written = itemsize if out_itemsize is None else out_itemsize
    return Cost(2.0 * m * n * k, itemsize * (m * k + k * n) + written * m * n) * batch


def grouped_linear(
    rows: float, n: int, k: int, *, groups: float, gated: bool = False, inputs: float | None = None,
    weight_bytes: float = 2, itemsize: float = 2,
) -> Cost:  # fmt: skip
    """Each row with its group's weight [n, k], or gated with both of its halves, [2n, k].

    groups: how many have rows, of routed tokens `experts_hit`; only their weights are read. inputs: rows of x where
    some are gathered more than once.
    """
    weights = (2.0 if gated else 1.0) * n * k
    read = rows if inputs is None else inputs
    return Cost(2.0 * rows * weights, itemsize * (read * k + rows * n) + weight_bytes * groups * weights)


# ---------------------------------------------------------------- attention


def cache_bytes(
    tokens: float, *, kv_heads: int, width: int, value_width: int | None = None, itemsize: float = 2
) -> float:  # fmt: skip
    """Of the keys and values of so many tokens. width: of a head's key, and of its value if nothing else is given."""
    return itemsize * tokens * kv_heads * (width + (width if value_width is None else value_width))


def attention(
    queries: float, keys: float, *, heads: int, kv_heads: int, width: int, value_width: int | None = None,
    causal: bool = True, itemsize: float = 2, cache_itemsize: float | None = None,
) -> Cost:  # fmt: skip
    """Of one sequence; of a causal one what the mask leaves, where the last query sees the last key, and queries before
    the first key see none. width: of a head's query and key; cache_itemsize: bytes of
    an element of keys and values, if it is another."""
    value_width = width if value_width is None else value_width
    seeing = min(queries, keys)
    visible = seeing * keys - seeing * (seeing - 1) / 2 if causal else queries * keys
    stored = itemsize if cache_itemsize is None else cache_itemsize
    cached = cache_bytes(keys, kv_heads=kv_heads, width=width, value_width=value_width, itemsize=stored)
    moved = itemsize * queries * heads * (width + value_width) + cached
    return Cost(2.0 * heads * visible * (width + value_width), moved)


def paged_attention(
    sequences: float, keys: float, *, heads: int, kv_heads: int, width: int, value_width: int | None = None,
    itemsize: float = 2, cache_itemsize: float | None = None,
) -> Cost:  # fmt: skip
    """One new query of each sequence over its `keys` cached ones."""
    one = attention(
        1, keys, heads=heads, kv_heads=kv_heads, width=width, value_width=value_width, causal=False, itemsize=itemsize,
        cache_itemsize=cache_itemsize,
    )  # fmt: skip
    return one * sequences


def paged_prefill(
    queries: float, keys: float, *, heads: int, kv_heads: int, width: int, value_width: int | None = None,
    itemsize: float = 2, cache_itemsize: float | None = None,
) -> Cost:  # fmt: skip
    """The last `queries` of one sequence over its `keys` cached ones, theirs among them."""
    return attention(
        queries, keys, heads=heads, kv_heads=kv_heads, width=width, value_width=value_width, itemsize=itemsize,
        cache_itemsize=cache_itemsize,
    )  # fmt: skip


def kv_write(
    tokens: float, *, kv_heads: int, width: int, value_width: int | None = None, itemsize: float = 2,
    cache_itemsize: float | None = None,
) -> Cost:  # fmt: skip
    """Keys and values to their slots."""
    sizes = (itemsize, itemsize if cache_itemsize is None else cache_itemsize)
    moved = [
        cache_bytes(tokens, kv_heads=kv_heads, width=width, value_width=value_width, itemsize=size) for size in sizes
    ]
    return Cost(0.0, sum(moved)) + _indices(tokens)


def merge_states(parts: int, tokens: float, *, heads: int, width: int, itemsize: float = 2) -> Cost:
    """Results of attention and their logarithms, float32, of each part and of all."""
    return Cost(0.0, (parts + 1) * tokens * heads * (itemsize * width + 4.0))


def mla_attention(
    sequences: float, keys: float, *, heads: int, rank: int, rope: int, itemsize: float = 2
) -> Cost:  # fmt: skip
    """One new query of each sequence in the absorbed form: a cached row [rank + rope] serves all heads, as key and as
    value (DeepSeek-V2, section 2.1)."""
    flops = 2.0 * heads * keys * (2 * rank + rope)
    moved = keys * (rank + rope) + heads * (2 * rank + rope)
    return Cost(flops, itemsize * moved) * sequences


def latent_write(tokens: float, *, rank: int, rope: int, itemsize: float = 2) -> Cost:
    """Rows to their slots."""
    size = tokens * (rank + rope)
    return elementwise(size, size, itemsize=itemsize) + _indices(tokens)


def latent_read(tokens: float, width: int, *, itemsize: float = 2) -> Cost:
    """Rows from their slots."""
    return elementwise(tokens * width, tokens * width, itemsize=itemsize)


# ---------------------------------------------------------------- experts


def experts_hit(tokens: float, experts: int, top_k: int) -> float:
    """How many experts get a token, on average, where each token takes top_k at random."""
    missed: float = (1.0 - top_k / experts) ** tokens
    return experts * (1.0 - missed)


def route(tokens: float, experts: int, top_k: int, *, itemsize: float = 4) -> Cost:
    """Logits to weights and ids."""
    return Cost(0.0, tokens * (itemsize * experts + 8 * top_k))


def permute(tokens: float, experts: int, top_k: int) -> Cost:
    """Ids to the tokens in order, the place of each, and where each expert begins."""
    return _indices(3 * tokens * top_k + experts + 1)


def expert_load(tokens: float, experts: int, top_k: int) -> Cost:
    """Ids to a number for each expert."""
    return _indices(tokens * top_k + experts)


def combine(tokens: float, width: int, *, top_k: int, residual: bool = False, itemsize: float = 2) -> Cost:
    """The rows of a token's experts, with places and weights, to one."""
    rows = elementwise(tokens * width * (top_k + residual), tokens * width, itemsize=itemsize)
    return rows + Cost(0.0, 8.0 * tokens * top_k)


def moe(
    tokens: float, *, experts: int, top_k: int, width: int, expert_width: int, residual: bool = False,
    weight_bytes: float = 2, itemsize: float = 2, hit: float | None = None,
) -> Cost:  # fmt: skip
    """Gate, up and down of the experts that are chosen. hit: how many get a token, at random if it is not given."""
    hit = experts_hit(tokens, experts, top_k) if hit is None else hit
    size = 3.0 * width * expert_width
    moved = weight_bytes * hit * size + (2 + residual) * itemsize * tokens * width
    return Cost(2.0 * tokens * top_k * size, moved)


# ---------------------------------------------------------------- the next token


def sample(rows: float, vocabulary: int, *, itemsize: float = 4) -> Cost:
    """Logits to a token each."""
    return elementwise(rows * vocabulary, 0, itemsize=itemsize) + _indices(rows)


def count_tokens(rows: float, tokens: float, vocabulary: int, *, added: bool = False) -> Cost:
    """`tokens` of each row. added: to counts that are there, of which only theirs are touched."""
    touched = 2 * rows * tokens if added else rows * vocabulary
    return _indices(rows * tokens + touched)


def penalize(rows: float, vocabulary: int, *, prompt: bool = False, itemsize: float = 4) -> Cost:
    """Logits and counts, with a prompt those of it too, to logits."""
    return _changed(rows, vocabulary, itemsize) + _indices(rows * vocabulary * (1 + prompt))


def logit_bias(rows: float, vocabulary: int, tokens: float, *, itemsize: float = 4) -> Cost:
    """Logits, and `tokens` ids of each row with a float32 each, to logits."""
    return _changed(rows, vocabulary, itemsize) + _indices(2 * rows * tokens)


def _changed(rows: float, vocabulary: int, itemsize: float) -> Cost:
    return elementwise(rows * vocabulary, rows * vocabulary, itemsize=itemsize)


def _indices(count: float) -> Cost:
    return Cost(0.0, float(_INDEX * count))
