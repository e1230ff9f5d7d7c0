"""Operators: each takes any array that speaks DLPack, runs where its data is, and returns its caller's kind."""

from .activation import swiglu
from .attention import attention
from .embedding import embedding
from .linear import linear, matmul
from .norm import rms_norm
from .paged_attention import kv_write, paged_attention, paged_prefill
from .penalties import count_tokens, logit_bias, penalize
from .rope import rope, yarn_frequencies
from .sampling import repetition_penalty, sample

__all__ = [
    "attention",
    "count_tokens",
    "embedding",
    "kv_write",
    "linear",
    "logit_bias",
    "matmul",
    "paged_attention",
    "paged_prefill",
    "penalize",
    "repetition_penalty",
    "rms_norm",
    "rope",
    "sample",
    "swiglu",
    "yarn_frequencies",
]
