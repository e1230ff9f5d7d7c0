"""What the models of Hugging Face directories have in common: entries of the config, and the frame around layers."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unify._errors import ModelFileError

from .checkpoint import Checkpoint
from .decoder import Attention, Decoder, FeedForward, Layer, Predictor
from .feed_forward import Experts, GatedUnit
from .grouped_attention import GroupedAttention
from .loader import Loader
from .rotation import Rotation


@dataclass(frozen=True)
class Config:
    """The sizes of a model; `width` is d_model."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    norm_eps: float


# Entries that change no result: of training, of how the model was saved, of other programs.
_IGNORED = {
    *("_name_or_path", "architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "initializer_range", "attention_dropout"),
    *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "pretraining_tp"),
    *("aux_loss_alpha", "seq_aux", "ep_size", "id2label", "label2id", "unsloth_version", "unsloth_fixed"),
}
_SIZES = {
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"),
    *("rms_norm_eps", "tie_word_embeddings", "rope_parameters", "rope_scaling", "rope_theta", "intermediate_size"),
}
GROUPED = {"num_key_value_heads", "head_dim"}
WINDOWS = {"sliding_window", "use_sliding_window", "layer_types", "max_window_layers"}
_NEUTRAL = {"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1,), "is_decoder": (True, False)}


def read_config(checkpoint: Checkpoint, read: set[str], neutral: Mapping[str, tuple[Any, ...]] | None = None) -> Config:
    """The sizes that every model has. read: entries that the model's file reads; neutral: values that change nothing.

    Raises ModelFileError for sizes that do not fit, and for entries that would change the result and are not used.
    """
    file = checkpoint.path / "config.json"
    known = {**_NEUTRAL, **(neutral or {})}
    for key, value in checkpoint.config.items():
        if key in _IGNORED or key in _SIZES or key in read or not value or value in known.get(key, ()):
            continue
        raise ModelFileError(
            f"{file}: '{key:.80}' is {reprlib.repr(value)}, which is not computed here: the text would be wrong. Take "
            "another model."
        )
    config = Config(
        layers=checkpoint.require("num_hidden_layers", int),
        width=checkpoint.require("hidden_size", int),
        heads=checkpoint.require("num_attention_heads", int),
        vocabulary=checkpoint.require("vocab_size", int),
        context=checkpoint.require("max_position_embeddings", int),
        norm_eps=checkpoint.require("rms_norm_eps", float, 1e-6),
    )
    sizes = (config.layers, config.width, config.heads, config.vocabulary, config.context)
    if not 1 <= min(sizes) <= max(sizes) < 1 << 31 or not 0.0 <= config.norm_eps < 1.0 or config.layers > 1 << 12:
        raise ModelFileError(f"{file}: its sizes do not fit each other: {config}. Fetch it again.")
    return config


def build(
    loader: Loader, config: Config, attention: Callable[[int, str], Attention],
    feed_forward: Callable[[int, str], FeedForward], *, predicts: bool = False,
) -> Decoder:  # fmt: skip
    """Reads a decoder with the usual frame, layer by layer. The callables make the parts of one by number and prefix.
    predicts: whether a layer behind the others predicts a token more.

    Raises ModelFileError for tensors that are absent, of another shape, or that nothing used.
    """
    frame = (config.vocabulary, config.width)
    embedding = loader.matrix(["model.embed_tokens.weight"], [frame])[0]

    def layer(i: int) -> Layer:
        prefix = f"model.layers.{i}."
        return Layer(
            loader.vector(f"{prefix}input_layernorm.weight", config.width),
            attention(i, prefix),
            loader.vector(f"{prefix}post_attention_layernorm.weight", config.width),
            feed_forward(i, prefix),
        )

    layers = [layer(i) for i in range(config.layers)]
    norm = loader.vector("model.norm.weight", config.width)
    if loader.checkpoint.require("tie_word_embeddings", bool, False):
        loader.skip("lm_head.weight")
        head = [embedding]
    else:
        head = loader.matrix(["lm_head.weight"], [frame])
    predictor = _predictor(loader, config, layer) if predicts else None
    loader.finish()
    return Decoder(config, embedding, layers, norm, head, loader.dtype, predictor)


def _predictor(loader: Loader, config: Config, layer: Callable[[int], Layer]) -> Predictor:
    """The layer after the last one; its embedding and head are the model's own, and only stored once more."""
    prefix, d = f"model.layers.{config.layers}.", config.width
    loader.skip(f"{prefix}embed_tokens.weight")
    loader.skip(f"{prefix}shared_head.head.weight")
    return Predictor(
        embedding_norm=loader.vector(f"{prefix}enorm.weight", d),
        hidden_norm=loader.vector(f"{prefix}hnorm.weight", d),
        join=loader.matrix([f"{prefix}eh_proj.weight"], [(d, 2 * d)]),
        layer=layer(config.layers),
        norm=loader.vector(f"{prefix}shared_head.norm.weight", d),
    )


def grouped_attention(
    loader: Loader, config: Config, *, head_norms: bool = False, windows: Sequence[int | None] = ()
) -> Callable[[int, str], Attention]:
    """Makes a layer's attention by the names that most models share.

    head_norms: of queries and keys, as Qwen3 has; windows: how many tokens each layer sees.
    """
    checkpoint, d = loader.checkpoint, config.width
    kv_heads: int = checkpoint.require("num_key_value_heads", int, config.heads)
    width: int = checkpoint.require("head_dim", int, d // config.heads)
    if not 1 <= kv_heads <= config.heads or config.heads % kv_heads or not 2 <= width <= 1 << 16 or width % 2:
        raise ModelFileError(
            f"{checkpoint.path / 'config.json'}: {config.heads} heads, {kv_heads} of keys, of width {width} do not fit "
            "each other. Fetch it again."
        )
    seen = windows or [None] * config.layers
    rotation = Rotation(checkpoint, width)
    frequencies = loader.constant(rotation.frequencies)

    def make(i: int, layer: str) -> Attention:
        prefix = f"{layer}self_attn."
        q, kv = config.heads * width, kv_heads * width
        norms = {}
        if head_norms:
            norms["query_norm"] = loader.vector(f"{prefix}q_norm.weight", width)
            norms["key_norm"] = loader.vector(f"{prefix}k_norm.weight", width)
        return GroupedAttention(
            heads=config.heads,
            kv_heads=kv_heads,
            width=width,
            qkv=loader.matrix([f"{prefix}{part}_proj.weight" for part in "qkv"], [(q, d), (kv, d), (kv, d)]),
            output=loader.matrix([f"{prefix}o_proj.weight"], [(d, q)]),
            frequencies=frequencies,
            interleaved=False,
            norm_eps=config.norm_eps,
            scale=rotation.magnitude**2 * width**-0.5,
            window=seen[i],
            **norms,
        )

    return make


def windows(checkpoint: Checkpoint, config: Config, *, is_used: bool = True) -> list[int | None]:
    """How many tokens each layer sees, None for all. is_used: whether the window counts where the config does not say.

    Raises ModelFileError for other kinds of attention.
    """
    window = checkpoint.require("sliding_window", int, 0)
    if not checkpoint.require("use_sliding_window", bool, is_used) or not 0 < window < config.context:
        window = 0
    first = checkpoint.require("max_window_layers", int, 0)
    kinds = checkpoint.require("layer_types", list, [])
    if not kinds:
        kinds = ["full_attention" if i < first else "sliding_attention" for i in range(config.layers)]
    if len(kinds) < config.layers or not all(kind in ("full_attention", "sliding_attention") for kind in kinds):
        raise ModelFileError(
            f"{checkpoint.path / 'config.json'}: 'layer_types' is {reprlib.repr(kinds)} for {config.layers} layers, "
            "which is not computed here: the text would be wrong. Take another model."
        )
    return [window if window and kind == "sliding_attention" else None for kind in kinds]


def gated_unit(loader: Loader, prefix: str, width: int, inner: int) -> GatedUnit:
    """A dense feed-forward network by the names that most models share."""
    names = [f"{prefix}gate_proj.weight", f"{prefix}up_proj.weight"]
    gate_up = loader.matrix(names, [(inner, width)] * 2)
    return GatedUnit(inner, gate_up, loader.matrix([f"{prefix}down_proj.weight"], [(width, inner)]))


def experts(
    loader: Loader, prefix: str, width: int, inner: int, count: int, top_k: int, *,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"), **routing: Any,
) -> Experts:  # fmt: skip
    """A layer's experts, whose matrices stand under numbers. names: of gate, up and down; routing: see `Experts`."""
    if not 1 <= top_k <= count <= 1 << 16 or inner < 1:
        raise ModelFileError(
            f"{loader.checkpoint.path / 'config.json'}: {top_k} of {count} experts of width {inner} are none. Fetch it "
            "again."
        )
    gate, up, down = ([f"{prefix}experts.{i}.{name}.weight" for i in range(count)] for name in names)
    return Experts(
        router=loader.float32(f"{prefix}gate.weight", (count, width)),
        gate_up=loader.experts(list(zip(gate, up, strict=True)), (inner, width)),
        down=loader.experts([[name] for name in down], (width, inner)),
        top_k=top_k,
        **routing,
    )
