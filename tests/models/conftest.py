"""A model small enough to be written, loaded and run in a test: two layers, random weights, a tokenizer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from unify import models

WIDTH, FEED_FORWARD, HEADS, KV_HEADS, LAYERS, CONTEXT = 64, 128, 4, 2, 2, 512
KV_WIDTH = WIDTH // HEADS * KV_HEADS

# Writes <|im_start|>role\ncontent<|im_end|>, as SmolLM2's own does.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MERGES = ("h e", "t he", "Ġ t", "Ġt he", "a n", "i n", "Ġ a", "e r", "l l", "o u", "Ã ©", "ð Ł")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_letters() -> list[str]:
    """The printable letter that byte-level BPE writes for each byte (Radford et al. 2019, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


TOKENS = [*SPECIAL, *byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]

SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (len(TOKENS), WIDTH),
    "output_norm.weight": (WIDTH,),
    "output.weight": (len(TOKENS), WIDTH),
}
for _layer in range(LAYERS):
    SHAPES |= {
        f"blk.{_layer}.attn_norm.weight": (WIDTH,),
        f"blk.{_layer}.attn_q.weight": (WIDTH, WIDTH),
        f"blk.{_layer}.attn_k.weight": (KV_WIDTH, WIDTH),
        f"blk.{_layer}.attn_v.weight": (KV_WIDTH, WIDTH),
        f"blk.{_layer}.attn_output.weight": (WIDTH, WIDTH),
        f"blk.{_layer}.ffn_norm.weight": (WIDTH,),
        f"blk.{_layer}.ffn_gate.weight": (FEED_FORWARD, WIDTH),
        f"blk.{_layer}.ffn_up.weight": (FEED_FORWARD, WIDTH),
        f"blk.{_layer}.ffn_down.weight": (WIDTH, FEED_FORWARD),
    }

METADATA: dict[str, Any] = {
    "llama.block_count": LAYERS,
    "llama.context_length": CONTEXT,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": FEED_FORWARD,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": WIDTH // HEADS,
    "llama.rope.freq_base": 10000.0,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)),
    "tokenizer.ggml.merges": list(MERGES),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": CHAT_TEMPLATE,
}


def write_gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, tuple[np.ndarray, Kind]]) -> Path:
    """Writes a file by the gguf package: values as they are, a tensor's floats in the kind that stands beside them."""
    writer = gguf.GGUFWriter(path, metadata.get("general.architecture", "llama"))
    for key, value in metadata.items():
        if key == "general.architecture":
            continue  # the writer's own
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(
    path: Path,
    kind: Kind = Kind.F32,
    *,
    changes: dict[str, Any] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
    kinds: dict[str, Kind] | None = None,
    vectors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Writes the tiny model: matrices of one kind apart from `kinds`, metadata and shapes with `changes` (None takes an
    entry away), and further `vectors`."""
    rng = np.random.default_rng(7)
    tensors = {name: (values.astype(np.float32), Kind.F32) for name, values in (vectors or {}).items()}
    for name, shape in {**SHAPES, **(shapes or {})}.items():
        if shape is None:
            continue
        is_vector = len(shape) == 1
        values = rng.normal(1.0 if is_vector else 0.0, 0.2 if is_vector else 2.0 * shape[-1] ** -0.5, shape)
        if name == "output.weight":
            values[METADATA["tokenizer.ggml.eos_token_id"]] = (
                0.0  # an average token, so that text does not end by itself
            )
        tensors[name] = (values.astype(np.float32), Kind.F32 if is_vector else (kinds or {}).get(name, kind))
    metadata = {key: value for key, value in {**METADATA, **(changes or {})}.items() if value is not None}
    return write_gguf(path, metadata, tensors)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with float32 weights."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> tuple[models.Llama, models.Tokenizer]:
    """The tiny model and its tokenizer, loaded once."""
    return models.load(str(tiny_path))
