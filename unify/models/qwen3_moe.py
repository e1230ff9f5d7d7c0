"""Qwen3's models with experts (Yang et al. 2025), in some or all layers."""

from __future__ import annotations

from .decoder import Decoder, FeedForward
from .huggingface import GROUPED, WINDOWS, build, experts, gated_unit, grouped_attention, read_config, windows
from .loader import Loader

_READ = {
    *("num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
    *("decoder_sparse_step", "mlp_only_layers"),
}


def load(loader: Loader) -> Decoder:
    """Reads the model. Raises ModelFileError for what is absent, and for what would change the result."""
    require = loader.checkpoint.require
    config = read_config(loader.checkpoint, GROUPED | WINDOWS | _READ)
    named = (
        "num_experts" if "num_experts" in loader.checkpoint.config else "num_local_experts"
    )  # as transformers 5 does
    count, inner = require(named, int), require("moe_intermediate_size", int)
    top_k, normalize = require("num_experts_per_tok", int), require("norm_topk_prob", bool, False)
    step, dense = require("decoder_sparse_step", int, 1), require("mlp_only_layers", list, [])

    def feed_forward(i: int, layer: str) -> FeedForward:
        if i in dense or step < 1 or (i + 1) % step:
            return gated_unit(loader, f"{layer}mlp.", config.width, require("intermediate_size", int))
        return experts(loader, f"{layer}mlp.", config.width, inner, count, top_k, normalize=normalize)

    seen = windows(loader.checkpoint, config, is_used=False)
    return build(loader, config, grouped_attention(loader, config, head_norms=True, windows=seen), feed_forward)
