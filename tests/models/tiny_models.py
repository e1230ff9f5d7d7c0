"""Small models with random weights, written by transformers as it publishes them, and what it computes with them."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

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
    "DeepseekV3": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 24,
    },
}


def write_tiny(
    path: Path, name: str, *, dtype: torch.dtype = torch.float32, shard: str = "100KB", **changes: Any
) -> Path:
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
    model.to(dtype).save_pretrained(path, max_shard_size=shard)
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


def make_fp8(path: Path) -> dict[str, torch.Tensor]:
    """Turns a written model's matrices into float8_e4m3 with a scale for each block of 128 × 128, as DeepSeek-V3 is
    published: everything else in bfloat16, a matrix and its scales in different shards. Returns the values that all
    tensors have now."""
    stored: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    for shard in path.glob("*.safetensors"):
        for key, tensor in load_file(shard).items():
            if tensor.ndim != 2 or re.search(r"embed_tokens|lm_head|mlp\.gate\.", key):
                is_kept = "e_score_correction_bias" in key
                stored[key] = tensor if is_kept else tensor.bfloat16()
                values[key] = stored[key].float()
                continue
            rows, columns = tensor.shape
            padded = torch.zeros(-(-rows // 128) * 128, -(-columns // 128) * 128)
            padded[:rows, :columns] = tensor
            blocks = padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128))
            scales = blocks.abs().amax((1, 3)) / 448
            codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
            stored[key] = codes.flatten(2).flatten(0, 1)[:rows, :columns].contiguous()
            stored[f"{key}_scale_inv"] = scales
            values[key] = (codes.float() * scales[:, None, :, None]).flatten(2).flatten(0, 1)[:rows, :columns]
        shard.unlink()
    shards: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for i, (key, tensor) in enumerate(stored.items()):
        shards[2 if key.endswith("_scale_inv") else i % 2][key] = tensor
    index = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, path / name)
        index |= dict.fromkeys(shard, name)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return values


def peer_with(path: Path, values: dict[str, torch.Tensor]) -> Any:
    """transformers' model of a directory's config with these values of its published tensors, in float32."""
    plain = path.parent / f"{path.name}-plain"
    plain.mkdir()
    config = json.loads((path / "config.json").read_text())
    config.pop("quantization_config", None)
    (plain / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in values.items()}, plain / "model.safetensors", {"format": "pt"})
    return peer_of(plain)
