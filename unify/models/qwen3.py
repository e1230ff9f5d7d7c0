"""Qwen3 (Yang et al. 2025): Llama's layers with norms of each head's queries and keys."""

from __future__ import annotations

from .decoder import Decoder
from .huggingface import GROUPED, WINDOWS, build, gated_unit, grouped_attention, read_config, windows
from .loader import Loader


def load(loader: Loader) -> Decoder:
    """Reads the model. Raises ModelFileError for what is absent, and for what would change the result."""
    config = read_config(loader.checkpoint, GROUPED | WINDOWS)
    inner = loader.checkpoint.require("intermediate_size", int)
    seen = windows(loader.checkpoint, config, is_used=False)
    return build(
        loader,
        config,
        grouped_attention(loader, config, head_norms=True, windows=seen),
        lambda _, layer: gated_unit(loader, f"{layer}mlp.", config.width, inner),
    )
