"""Each operation that a small language model runs, at its shapes: `python -m … OUT` runs them emulated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import gguf
import numpy as np
import torch

import unify as un
from unify.ops import quant

# SmolLM2-135M: features, heads, heads for keys, their width, features inside, and a part of the vocabulary.
H, HEADS, KV, D, INNER, VOCABULARY = 576, 9, 3, 64, 1536, 4096
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Case = Callable[[torch.dtype], Any]


def _random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) * 0.5).to(dtype)


def _ids(*shape: int, below: int) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(1), dtype=torch.int32)


def _quantised(kind: str, n: int, k: int) -> Any:
    weight = np.random.default_rng(n).standard_normal((n, k)).astype(np.float32)
    return quant.from_gguf(kind, gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind.upper()]).view(np.uint8))


def _cache(dtype: torch.dtype, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    keys = torch.zeros(16, KV, D, 16, dtype=dtype).permute(0, 3, 1, 2)
    values, slots = torch.zeros(16, 16, KV, D, dtype=dtype), torch.arange(tokens, dtype=torch.int32)
    un.ops.kv_write(_random(tokens, KV, D, dtype=dtype), _random(tokens, KV, D, dtype=dtype), keys, values, slots)
    return keys, values, torch.arange(16, dtype=torch.int32)[None]


def _paged(dtype: torch.dtype, splits: int) -> Any:
    keys, values, table = _cache(dtype, 200)
    lengths = torch.tensor([200], dtype=torch.int32)
    return un.ops.paged_attention(_random(1, HEADS, D, dtype=dtype), keys, values, table, lengths, splits=splits)


def _paged_prefill(dtype: torch.dtype) -> Any:
    keys, values, table = _cache(dtype, 100)
    return un.ops.paged_prefill(_random(40, HEADS, D, dtype=dtype), keys, values, table[0], 60)


def _sample(dtype: torch.dtype, temperature: float) -> Any:
    return un.ops.sample(_random(3, VOCABULARY, dtype=dtype), temperature=temperature, top_k=1, top_p=0.9, seed=4)


def _attention(dtype: torch.dtype) -> Any:
    shapes = ((1, 70, HEADS, D), (1, 90, KV, D), (1, 90, KV, D))
    return un.ops.attention(*(_random(*shape, dtype=dtype) for shape in shapes))


def _floats(dtype: torch.dtype) -> Any:
    """As on a CPU without products of bytes."""
    with mock.patch("unify.ops.quantized_linear._has_byte_products", return_value=False):
        return un.ops.linear(_random(40, H, dtype=dtype), _quantised("q4_0", 100, H))


CASES: dict[str, Case] = {
    "swiglu": lambda t: un.ops.swiglu(_random(5, INNER, dtype=t), _random(5, INNER, dtype=t)),
    "rms_norm": lambda t: un.ops.rms_norm(_random(5, H, dtype=t), _random(H, dtype=t)),
    "rope": lambda t: un.ops.rope(_random(20, HEADS, D, dtype=t), torch.arange(20, dtype=torch.int32)),
    "rope halves": lambda t: un.ops.rope(
        _random(20, HEADS, D, dtype=t), torch.arange(20, dtype=torch.int32), interleaved=False
    ),
    "embedding": lambda t: un.ops.embedding(_ids(7, below=300), _random(300, H, dtype=t)),
    "embedding q4_0": lambda t: un.ops.embedding(_ids(7, below=64), _quantised("q4_0", 64, H)),
    "embedding q8_0": lambda t: un.ops.embedding(_ids(7, below=64), _quantised("q8_0", 64, H)),
    "matmul": lambda t: un.ops.linear(_random(40, H, dtype=t), _random(200, H, dtype=t)),
    "few rows": lambda t: un.ops.linear(
        _random(1, H, dtype=t), _random(200, H, dtype=t), residual=_random(1, 200, dtype=t)
    ),
    "q4_0": lambda t: un.ops.linear(_random(5, H, dtype=t), _quantised("q4_0", 100, H)),
    "q4_1": lambda t: un.ops.linear(_random(5, H, dtype=t), _quantised("q4_1", 100, H)),
    "q8_0": lambda t: un.ops.linear(_random(1, H, dtype=t), _quantised("q8_0", 100, H)),
    "q4_0 as floats": _floats,
    "attention": _attention,
    "paged": lambda t: _paged(t, 1),
    "paged and merged": lambda t: _paged(t, 4),
    "paged prefill": _paged_prefill,
    "greedy": lambda t: _sample(t, 0.0),
    "sample": lambda t: _sample(t, 0.8),
    "repetition": lambda t: un.ops.repetition_penalty(_random(3, 999, dtype=t), _ids(3, 50, below=999), 1.3),
}
KERNELS = {
    "swiglu_kernel", "rms_norm_kernel", "rope_kernel", "embedding_kernel", "quantized_embedding_kernel",
    "quantize_kernel", "matmul_kernel", "few_rows_kernel", "quantized_linear_kernel", "attention_kernel",
    "paged_attention_kernel", "merge_kernel", "paged_prefill_kernel", "kv_write_kernel", "greedy_kernel",
    "sample_kernel", "dequantized_linear_kernel", "repetition_penalty_kernel",
}  # fmt: skip


def results() -> dict[str, np.ndarray]:
    found = {}
    for name, case in CASES.items():
        for dtype in DTYPES:
            found[f"{name} {dtype}"] = case(DTYPES[dtype]).double().numpy()
    return found


if __name__ == "__main__":
    from . import host

    host.register()
    np.savez(sys.argv[1], **results())
