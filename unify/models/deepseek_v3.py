"""DeepSeek-V3 (2024) and R1: latent attention, dense layers first, then experts chosen in groups by sigmoid scores."""

from __future__ import annotations

from typing import Any

from unify._errors import ModelFileError
from unify.ops.rope import yarn_mscale

from .decoder import Decoder, FeedForward
from .huggingface import Config, build, experts, gated_unit, read_config
from .latent_attention import LatentAttention
from .loader import Loader
from .rotation import Rotation

_READ = {
    *("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rope_interleave"),
    *("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group", "topk_group", "moe_intermediate_size"),
    *("first_k_dense_replace", "norm_topk_prob", "routed_scaling_factor", "num_nextn_predict_layers"),
    *("head_dim", "qk_head_dim", "num_key_value_heads"),  # said by the others
    "quantization_config",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
}
_FP8 = {
    "fmt": ("e4m3",),
    "quant_method": ("fp8",),
    "weight_block_size": ([128, 128],),
    "activation_scheme": ("dynamic",),
}


def load(loader: Loader) -> Decoder:
    """Reads the model, and of the layers that predict further tokens the first one, which `--speculate` guesses by.

    Raises ModelFileError for what is absent, and for what would change the result.
    """
    checkpoint, require = loader.checkpoint, loader.checkpoint.require
    config = read_config(checkpoint, _READ, _NEUTRAL)
    _check_quantization(loader)
    count, inner = require("n_routed_experts", int), require("moe_intermediate_size", int)
    shared, dense = require("n_shared_experts", int), require("first_k_dense_replace", int)
    routing = {
        "score": "sigmoid",
        "groups": require("n_group", int, 1),
        "top_groups": require("topk_group", int, 1),
        "normalize": require("norm_topk_prob", bool),
        "scale": require("routed_scaling_factor", float),
    }
    top_k = require("num_experts_per_tok", int)
    groups, top_groups = routing["groups"], routing["top_groups"]
    if (
        groups < 1
        or shared < 0
        or count % groups
        or not 1 <= top_groups <= groups
        or top_k > count // groups * top_groups
    ):
        raise ModelFileError(
            f"{checkpoint.path / 'config.json'}: {top_k} of {count} experts in {top_groups} of {groups} groups, "
            f"{shared} shared, are none. Fetch it again."
        )

    def feed_forward(i: int, layer: str) -> FeedForward:
        prefix = f"{layer}mlp."
        if i < dense:
            return gated_unit(loader, prefix, config.width, require("intermediate_size", int))
        own: dict[str, Any] = {"bias": loader.vector(f"{prefix}gate.e_score_correction_bias", count), **routing}
        if shared:
            own["shared"] = gated_unit(loader, f"{prefix}shared_experts.", config.width, inner * shared)
        return experts(loader, prefix, config.width, inner, count, top_k, **own)

    # Layers after the last one predict further tokens. The published model has one, and a copy may have left it out; of
    # several, each guesses a token further, and one guess a step is what is checked.
    for i in range(1, min(require("num_nextn_predict_layers", int, 0), 16)):
        loader.skip(f"model.layers.{config.layers + i}.")
    predicts = f"model.layers.{config.layers}.eh_proj.weight" in checkpoint.tensors
    return build(loader, config, _attention(loader, config), feed_forward, predicts=predicts)


def _attention(loader: Loader, config: Config) -> Any:
    require, d, heads = loader.checkpoint.require, config.width, config.heads
    rank, rope, nope = (require(key, int) for key in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"))
    value, query_rank = require("v_head_dim", int), require("q_lora_rank", int, 0)
    if not 1 <= min(rank, rope, nope, value) <= max(rank, rope, nope, value) <= 1 << 16 or rope % 2 or query_rank < 0:
        raise ModelFileError(
            f"{loader.checkpoint.path / 'config.json'}: heads of {nope} + {rope} and {value} features over a rank of "
            f"{rank} (queries: {query_rank}) do not fit each other. Fetch it again."
        )
    rotation = Rotation(loader.checkpoint, rope)
    # Beside the magnitude of what is turned, the whole score is multiplied, once for the query and once for the key.
    everywhere = rotation.parameters.get("mscale_all_dim")
    sharper = yarn_mscale(float(rotation.parameters["factor"]), float(everywhere)) if everywhere else 1.0
    frequencies = loader.constant(rotation.frequencies)

    def make(_: int, layer: str) -> LatentAttention:
        prefix = f"{layer}self_attn."
        down = norm = None
        queries = (heads * (nope + rope), query_rank or d)
        if query_rank:
            down = loader.matrix([f"{prefix}q_a_proj.weight"], [(query_rank, d)])
            norm = loader.vector(f"{prefix}q_a_layernorm.weight", query_rank)
        return LatentAttention(
            heads=heads, rank=rank, nope=nope, rope=rope, value=value,
            query_down=down,
            query_norm=norm,
            query_up=loader.matrix([f"{prefix}q_b_proj.weight" if query_rank else f"{prefix}q_proj.weight"], [queries]),
            latent=loader.matrix([f"{prefix}kv_a_proj_with_mqa.weight"], [(rank + rope, d)]),
            latent_norm=loader.vector(f"{prefix}kv_a_layernorm.weight", rank),
            expand=loader.dense(f"{prefix}kv_b_proj.weight", (heads * (nope + value), rank)),
            output=loader.matrix([f"{prefix}o_proj.weight"], [(d, heads * value)]),
            frequencies=frequencies,
            interleaved=require("rope_interleave", bool, True),
            magnitude=rotation.magnitude,
            norm_eps=config.norm_eps,
            scale=sharper**2 * (nope + rope) ** -0.5,
        )  # fmt: skip

    return make


def _check_quantization(loader: Loader) -> None:
    """Raises ModelFileError for another format than the fp8 that DeepSeek publishes."""
    for key, value in loader.checkpoint.require("quantization_config", dict, {}).items():
        if value not in _FP8.get(key, ()):
            raise ModelFileError(
                f"{loader.checkpoint.path / 'config.json'}: 'quantization_config' has '{key:.80}' as {value!r:.80}, "
                "which is not computed here. Take another model."
            )
