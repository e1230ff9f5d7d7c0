"""Operators: each takes any array that speaks DLPack, runs where its data is, and returns its caller's kind."""

from .activation import swiglu
from .attention import attention
from .embedding import embedding
from .grouped_linear import grouped_linear
from .kv_write import kv_write
from .linear import linear, matmul
from .merge_states import merge_states
from .mla_attention import latent_read, latent_write, mla_attention
from .moe import combine, moe
from .norm import rms_norm
from .paged_attention import paged_attention, paged_prefill
from .penalties import count_tokens, logit_bias, penalize
from .rope import rope, yarn_frequencies
from .routing import Permutation, expert_load, permute, route
from .sampling import sample
from .tuning import tune

__all__ = [
    "Permutation",
    "attention",
    "combine",
    "count_tokens",
    "embedding",
    "expert_load",
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
    "rms_norm",
    "rope",
    "route",
    "sample",
    "swiglu",
    "tune",
    "yarn_frequencies",
]
