"""Operators: each takes any array that speaks DLPack, runs where its data is, and returns its caller's kind."""

from .activation import swiglu
from .attention import attention
from .embedding import embedding
from .linear import linear, matmul
from .norm import rms_norm
from .paged_attention import kv_write, paged_attention, paged_prefill
from .rope import rope
from .sampling import repetition_penalty, sample
from .tuning import tune

__all__ = [
    "attention",
    "embedding",
    "kv_write",
    "linear",
    "matmul",
    "paged_attention",
    "paged_prefill",
    "repetition_penalty",
    "rms_norm",
    "rope",
    "sample",
    "swiglu",
    "tune",
]
