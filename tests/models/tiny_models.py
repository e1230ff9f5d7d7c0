"""Small models with random weights, written by transformers as it publishes them, and what it computes with them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY, CONTEXT = 97, 512

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,  # so that neither attention nor the choice of a token is close to even
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"head_dim": 32, "sliding_window": None},
    "Qwen3": {"head_dim": 32},
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "num_hidden_layers": 3,
        "mlp_only_layers": [1],
    },
}


def write_tiny(path: Path, name: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Writes a model called as transformers calls it ("Llama") in many shards; `changes` to its config."""
    config = getattr(transformers, f"{name}Config")(**{**_COMMON, **_OWN[name], **changes})
    torch.manual_seed(len(name))
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in key:
                tensor.normal_(1.0, 0.2)
            elif "e_score_correction_bias" in key:
                tensor.normal_(0.0, 0.1)
    model.to(dtype).save_pretrained(path, max_shard_size="100KB")
    return path


def peer_of(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model as transformers loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


def peer_logits(peer: Any, ids: list[int]) -> np.ndarray:
    """Logits of each token, [t, vocabulary]."""
    with torch.no_grad():
        return peer(torch.tensor([ids])).logits[0].float().numpy()


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([seed, length]).integers(0, VOCABULARY, length).tolist()
