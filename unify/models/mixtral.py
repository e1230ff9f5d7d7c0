"""Mixtral (Jiang et al. 2024): Mistral's layers with two of several experts for each token."""

from __future__ import annotations

from .decoder import Decoder
from .feed_forward import Experts
from .huggingface import GROUPED, WINDOWS, build, experts, grouped_attention, read_config, windows
from .loader import Loader


def load(loader: Loader) -> Decoder:
    """Reads the model. Raises ModelFileError for what is absent, and for what would change the result."""
    require = loader.checkpoint.require
    config = read_config(loader.checkpoint, GROUPED | WINDOWS | {"num_local_experts", "num_experts_per_tok"})
    count, inner = require("num_local_experts", int), require("intermediate_size", int)
    top_k = require("num_experts_per_tok", int, 2)

    def feed_forward(_: int, layer: str) -> Experts:
        prefix = f"{layer}block_sparse_moe."
        return experts(loader, prefix, config.width, inner, count, top_k, names=("w1", "w3", "w2"))

    seen = windows(loader.checkpoint, config)
    return build(loader, config, grouped_attention(loader, config, windows=seen), feed_forward)
