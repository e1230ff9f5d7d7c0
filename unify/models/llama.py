"""Llama and Mistral (Touvron et al. 2023; Jiang et al. 2023), as Hugging Face directories describe them."""

from __future__ import annotations

from .decoder import Decoder
from .huggingface import GROUPED, WINDOWS, build, gated_unit, grouped_attention, read_config, windows
from .loader import Loader


def load(loader: Loader) -> Decoder:
    """Reads the model. Raises ModelFileError for what is absent, and for what would change the result."""
    is_mistral = loader.checkpoint.require("model_type", str) == "mistral"
    config = read_config(loader.checkpoint, GROUPED | WINDOWS if is_mistral else GROUPED)
    inner = loader.checkpoint.require("intermediate_size", int)
    loader.skip("model.rotary_emb.")  # frequencies, which the config gives too
    for i in range(config.layers):
        loader.skip(f"model.layers.{i}.self_attn.rotary_emb.")
    return build(
        loader,
        config,
        grouped_attention(loader, config, windows=windows(loader.checkpoint, config) if is_mistral else ()),
        lambda _, layer: gated_unit(loader, f"{layer}mlp.", config.width, inner),
    )
