"""Models from Hugging Face directories against transformers, which wrote them with random weights."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un
from unify._errors import ModelFileError
from unify.compiler import toolchain
from unify.models import huggingface
from unify.models.architectures import load_directory
from unify.models.batch import Batch
from unify.models.checkpoint import Checkpoint
from unify.models.decoder import Decoder

from ..conftest import Run
from .tiny_models import CONTEXT, peer_logits, peer_of, prompt, write_tiny

NAMES = ["Llama", "Mistral", "Qwen3", "Mixtral", "Qwen3Moe", "DeepseekV3"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes each model once."""
    paths: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in paths:
            paths[name] = write_tiny(tmp_path_factory.mktemp(name), name)
        return paths[name]

    return write


def logits(model: Decoder, ids: list[int]) -> np.ndarray:
    """Of a full forward pass, in one piece, with a cache of its own."""
    tokens = un.asarray(ids, dtype=un.int32, device=model.device)
    return model.prefill(tokens, model.cache(len(ids)), all_logits=True).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(written: Callable[[str], Path], name: str) -> None:
    path = written(name)
    assert len(list(path.glob("*.safetensors"))) > 2
    model, peer = load_directory(Checkpoint(path)), peer_of(path)
    for length in (1, 200):
        expected = peer_logits(peer, prompt(length))
        assert np.abs(logits(model, prompt(length)) - expected).max() <= 1e-4 * np.abs(expected).max()


LENGTHS = [1, 2, 63, 64, 65, 127, 33, 200]
STEPS = 64


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_writes_the_greedy_tokens_of_transformers(written: Callable[[str], Path], name: str) -> None:
    path = written(name)
    batch = Batch(load_directory(Checkpoint(path)), rows=8, max_context=CONTEXT)
    requests = [batch.submit(prompt(length), STEPS) for length in LENGTHS]
    batch.run()
    peer = peer_of(path)
    for request in requests:
        assert len(request.token_ids) == STEPS
        # A token is the peer's own next one after those before it; so are then all of them.
        expected = peer_logits(peer, [*request.prompt, *request.token_ids])[len(request.prompt) - 1 : -1]
        assert request.token_ids == expected.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_half_precision_stays_what_it_is_unless_float32_is_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write_tiny(tmp_path / "m", "Qwen3", dtype=dtype)
    expected = peer_logits(peer_of(path), prompt(100))
    exact = load_directory(Checkpoint(path), dtype="float32")
    assert exact.dtype == un.float32
    assert np.abs(logits(exact, prompt(100)) - expected).max() <= 1e-4 * np.abs(expected).max()
    model = load_directory(Checkpoint(path))
    assert model.dtype == {torch.bfloat16: un.bfloat16, torch.float16: un.float16}[dtype]
    # Each of two layers rounds some ten times to 8 or 11 bits.
    ours = np.abs(logits(model, prompt(100)) - expected).max() / np.abs(expected).max()
    theirs = np.abs(peer_logits(peer_of(path, dtype), prompt(100)) - expected).max() / np.abs(expected).max()
    assert 0 < ours <= 2 * theirs


LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    "rope", [LINEAR, LLAMA3, YARN, {**YARN, "beta_fast": 8, "beta_slow": 2, "attention_factor": 1.3},
     {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}],
)  # fmt: skip
def test_scaled_positions_give_what_transformers_gives(tmp_path: Path, rope: dict[str, Any]) -> None:
    path = write_tiny(tmp_path / "m", "Llama", rope_parameters={"rope_theta": 10000.0, **rope})
    expected = peer_logits(peer_of(path), prompt(200))
    found = logits(load_directory(Checkpoint(path)), prompt(200))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    config = json.loads((path / "config.json").read_text())
    older = {key: value for key, value in config["rope_parameters"].items() if key != "rope_theta"}
    older["type"] = older.pop("rope_type")
    config.update(rope_scaling=older, rope_theta=config.pop("rope_parameters")["rope_theta"])
    (path / "config.json").write_text(json.dumps(config))
    assert (logits(load_directory(Checkpoint(path)), prompt(200)) == found).all()


DEEPSEEK_YARN = {**YARN, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_theta": 10000.0, **DEEPSEEK_YARN}},
        {"rope_parameters": {"rope_theta": 10000.0, **DEEPSEEK_YARN, "factor": 40.0, "mscale": 2.5}},
        {"rope_parameters": {"rope_theta": 10000.0, **DEEPSEEK_YARN, "mscale": 0.2, "mscale_all_dim": 0.7}},
        {"rope_parameters": {"rope_theta": 10000.0, **YARN}},
        {"rope_parameters": {"rope_theta": 10000.0, **YARN, "attention_factor": 1.6}, "rope_interleave": False},
        {"q_lora_rank": None, "n_shared_experts": 2},
        {"rope_interleave": False, "norm_topk_prob": False, "n_group": 1, "topk_group": 1},
        {"first_k_dense_replace": 0, "v_head_dim": 40, "kv_lora_rank": 48},
    ],
    ids=[
        "yarn",
        "larger mscale",
        "smaller mscale",
        "no mscale",
        "attention factor",
        "no query latent",
        "halves, no groups",
        "experts only",
    ],
)
def test_what_a_deepseek_may_be_gives_what_transformers_gives(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write_tiny(tmp_path / "m", "DeepseekV3", **changes)
    peer, model = peer_of(path), load_directory(Checkpoint(path))
    expected = peer_logits(peer, prompt(150))
    assert np.abs(logits(model, prompt(150)) - expected).max() <= 1e-4 * np.abs(expected).max()
    batch = Batch(model, rows=2, max_context=CONTEXT)
    request = batch.submit(prompt(70), 20)  # by recorded steps over the latents
    batch.run()
    following = peer_logits(peer, [*request.prompt, *request.token_ids])[69:-1]
    assert request.token_ids == following.argmax(-1).tolist()


def test_a_deepseek_is_read_by_its_published_config(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m", "DeepseekV3", rope_parameters={"rope_theta": 10000.0, **DEEPSEEK_YARN})
    expected = logits(load_directory(Checkpoint(path)), prompt(100))
    scaling = {("type" if key == "rope_type" else key): value for key, value in DEEPSEEK_YARN.items()}
    published = {
        "aux_loss_alpha": 0.001, "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "ep_size": 1,
        "moe_layer_freq": 1, "pretraining_tp": 1, "rope_scaling": scaling, "rope_theta": 10000, "seq_aux": True,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
    }  # fmt: skip
    later = dict.fromkeys(("rope_parameters", "rope_interleave", "head_dim", "qk_head_dim", "dtype"), "absent")
    assert (logits(load_directory(Checkpoint(changed(path, **published, **later))), prompt(100)) == expected).all()
    for key, value in {"scoring_func": "softmax", "topk_method": "greedy", "moe_layer_freq": 2}.items():
        with pytest.raises(ModelFileError, match=f"'{key}' is {value!r}, which is not computed"):
            load_directory(Checkpoint(changed(path, **{**published, key: value})))
    for key, value in {"fmt": "e5m2", "weight_block_size": [64, 64], "new": True}.items():
        with pytest.raises(ModelFileError, match=f"'quantization_config' has '{key}' as "):
            load_directory(Checkpoint(changed(path, **published, quantization_config={key: value})))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Mistral", {"sliding_window": 40}),
        ("Mixtral", {"sliding_window": 70}),
        ("Qwen3", {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 1}),
        ("Qwen3Moe", {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 0}),
    ],
)
def test_a_sliding_window_hides_what_transformers_hides(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    path = write_tiny(tmp_path / "m", name, **changes)
    batch = Batch(load_directory(Checkpoint(path)), rows=2, max_context=CONTEXT)
    requests = [batch.submit(prompt(length), 20) for length in (30, 150)]
    batch.run()
    peer = peer_of(path)
    for request in requests:
        expected = peer_logits(peer, [*request.prompt, *request.token_ids])[len(request.prompt) - 1 : -1]
        assert request.token_ids == expected.argmax(-1).tolist()
    expected = peer_logits(peer, prompt(150))
    found = logits(batch.model, prompt(150))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    plain = logits(load_directory(Checkpoint(changed(path, sliding_window=None))), prompt(150))
    assert np.abs(found - plain).max() > 1e-2 * np.abs(expected).max()


def test_a_head_may_be_the_embedding(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m", "Llama", tie_word_embeddings=True)
    expected = peer_logits(peer_of(path), prompt(50))
    assert (
        np.abs(logits(load_directory(Checkpoint(path)), prompt(50)) - expected).max() <= 1e-4 * np.abs(expected).max()
    )


def changed(path: Path, **changes: Any) -> Path:
    config = json.loads((path / "config.json").read_text())
    config.update(changes)
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "mamba"}, "'model_type' is 'mamba', which cannot be run. Known: deepseek_v3, llama, "),
        ({"model_type": "absent"}, "'model_type' is absent; str"),
        ({"num_hidden_layers": "absent"}, "'num_hidden_layers' is absent; int"),
        ({"num_hidden_layers": 2.0}, "'num_hidden_layers' is 2.0; int"),
        ({"num_hidden_layers": 3}, "'model.layers.2.input_layernorm.weight' is absent; [64] is needed"),
        ({"num_hidden_layers": 1}, "the tensor 'model.layers.1.input_layernorm.weight' and 8 more has no place"),
        ({"num_hidden_layers": 0}, "sizes do not fit"),
        ({"num_hidden_layers": 2**40}, "sizes do not fit"),
        ({"hidden_size": 32}, "'model.embed_tokens.weight' is [97, 64]; [97, 32] is needed"),
        ({"vocab_size": 96}, "'model.embed_tokens.weight' is [97, 64]; [96, 64] is needed"),
        ({"num_attention_heads": 0}, "sizes do not fit"),
        ({"num_key_value_heads": 3}, "3 of keys"),
        ({"num_key_value_heads": 0}, "0 of keys"),
        ({"head_dim": 7}, "of width 7"),
        ({"head_dim": -16}, "of width -16"),
        ({"rms_norm_eps": float("1e9")}, "norm_eps=1000000000.0"),
        ({"intermediate_size": 100}, "'model.layers.0.mlp.gate_proj.weight' is [128, 64]; [100, 64] is needed"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu', which is not computed"),
        ({"attention_bias": True}, "'attention_bias' is True, which is not computed"),
        ({"sliding_window": 128}, "'sliding_window' is 128, which is not computed"),  # Llama has none
        ({"layer_types": ["sliding_attention", "full_attention"]}, "'layer_types' is ['sliding_attention', "),
        ({"model_type": "mistral", "layer_types": ["linear_attention"] * 2}, "'layer_types' is ['linear_attention', "),
        (
            {"model_type": "mistral", "layer_types": ["full_attention"]},
            "'layer_types' is ['full_attention'] for 2 layers",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, "'quantization_config' is {'quant_method': 'awq'}"),
        ({"a_new_idea": 1}, "'a_new_idea' is 1, which is not computed"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "positions are of kind 'dynamic'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "'factor' is 0; a number above 0"),
        ({"rope_parameters": {"rope_type": "linear"}}, "'factor' is None; a number above 0"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2, "new": 1}}, "with ['factor', 'new']"),
        ({"rope_parameters": {"rope_theta": 0.5}}, "'rope_theta' is 0.5"),
        ({"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "'high_freq_factor' is 1.0"),
        (
            {"rope_parameters": {**YARN, "original_max_position_embeddings": 0.5}},
            "'original_max_position_embeddings' is 0.5",
        ),
        ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": "64"}}, "_embeddings' is '64'; a number"),
        ({"rope_parameters": {**YARN, "factor": True}}, "'factor' is True; a number above 0"),
        ({"rope_parameters": {**YARN, "truncate": 0}}, "'truncate' is 0; true or false"),
        ({"rope_parameters": {**YARN, "mscale": ""}}, "'mscale' is ''; a number above 0"),
        ({"rope_parameters": 7}, "'rope_parameters' is 7; dict"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' is 'yes'; bool"),
    ],
)
def test_a_directory_that_cannot_be_computed_is_refused_by_name(tmp_path: Path, changes: Any, told: str) -> None:
    path = changed(write_tiny(tmp_path / "m", "Llama"), **changes)
    with pytest.raises(ModelFileError) as refused:
        load_directory(Checkpoint(path))
    assert str(path) in str(refused.value)
    assert told in str(refused.value)


# As JSON has them, or does not: 1e999 is infinite, and a number of 4,299 digits times ten could not be printed.
_HOSTILE = ["null", '""', '"x"', "0", "-1", "0.5", "1e30", "1e999", "NaN", "true", "false", "[]", "[null, 1]", "{}"]
_HOSTILE += [str(2**31), str(2**53), "9" * 4299]
_READ_SOMEWHERE = {
    *("sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "head_dim", "num_key_value_heads"),
    *("quantization_config", "num_nextn_predict_layers", "decoder_sparse_step", "partial_rotary_factor"),
}
_ALL_OF_YARN = {**YARN, "beta_fast": 8, "beta_slow": 2, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": True}
_ROPES = [{"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0}, LLAMA3]
_ROPES += [_ALL_OF_YARN, {**YARN, "attention_factor": 1.3}]
_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


def hostile_configs(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The name of each field that is read and the config's JSON with something hostile in its place."""

    def with_hostile(name: str, place: dict[str, Any], changed: dict[str, Any]) -> Iterator[tuple[str, str]]:
        given, place[name] = place.get(name), "HOSTILE"
        text = json.dumps(changed)
        place[name] = given
        yield from ((name, text.replace('"HOSTILE"', value)) for value in _HOSTILE)

    for name in sorted((config.keys() | _READ_SOMEWHERE) - huggingface._IGNORED):
        yield from with_hostile(name, own := dict(config), own)
    # The others read positions as Llama does, and none reads another quantisation.
    is_deepseek, is_llama = config["model_type"] == "deepseek_v3", config["model_type"] == "llama"
    for nested in _ROPES if is_llama else [_ALL_OF_YARN] if is_deepseek else []:
        for name in ("rope_theta", *nested):
            yield from with_hostile(name, rope := {"rope_theta": 1e4, **nested}, {**config, "rope_parameters": rope})
    for name in _FP8 if is_deepseek else {}:
        yield from with_hostile(name, fp8 := dict(_FP8), {**config, "quantization_config": fp8})


def loads_or_is_refused(path: Path) -> bool:
    """Whether the model loads; if not, that its file is named, and soon, in few words and in little memory."""
    told, begin = "", time.monotonic()
    tracemalloc.start()
    try:
        load_directory(Checkpoint(path))
    except ModelFileError as refused:
        told = str(refused)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20
    assert time.monotonic() - begin < 20
    assert not told or (str(path) in told and len(told) < len(str(path)) + 400)
    return not told


_FEW_EXPERTS: dict[str, dict[str, Any]] = {  # so that they load quickly
    "Qwen3Moe": {"num_hidden_layers": 2, "num_experts": 2, "num_experts_per_tok": 1},
    "Mixtral": {"num_local_experts": 2},
    "DeepseekV3": {
        "num_hidden_layers": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Writes each model once; its directory, and the config that it had."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def make(name: str) -> tuple[Path, dict[str, Any]]:
        if name not in made:
            path = write_tiny(tmp_path_factory.mktemp(f"odd-{name}"), name, **_FEW_EXPERTS.get(name, {}))
            made[name] = path, json.loads((path / "config.json").read_text())
        return made[name]

    return make


@pytest.mark.parametrize("name", NAMES)
def test_each_field_of_a_config_may_be_hostile(odd: Callable[[str], tuple[Path, dict[str, Any]]], name: str) -> None:
    path, config = odd(name)
    refused = set()
    for field, text in hostile_configs(config):
        (path / "config.json").write_text(text)
        if not loads_or_is_refused(path):
            refused.add(field)
    assert {"hidden_size", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"} <= refused


_ODD = st.one_of(
    st.sampled_from(
        [0, -1, 1, 2, 3, 7, 64, 128, 2**16, 2**31, 2**40, 2**63, 1e-9, 0.5, 1e308, "", "x", None, True, False]
    ),
    st.sampled_from(
        [[], [1], {}, {"rope_type": "yarn"}, {"factor": 2.0}, {"type": "linear", "factor": "x"}, [None] * 3]
    ),
    st.integers(-5, 200),
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["Mistral", "Qwen3Moe", "DeepseekV3"])
def test_whatever_several_fields_say_it_loads_or_is_refused(
    odd: Callable[[str], tuple[Path, dict[str, Any]]], name: str, data: st.DataObject
) -> None:
    path, config = odd(name)
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(config)), _ODD, min_size=2, max_size=4))
    (path / "config.json").write_text(json.dumps(config | changes))
    loads_or_is_refused(path)


SIMULATED = ("cuda:90", "ascend:910B3", "ascend:910C")


@pytest.mark.slow
@pytest.mark.parametrize("simulated", SIMULATED)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Qwen3", ""),
        ("Qwen3Moe", ""),
        ("DeepseekV3", ""),
        ("Qwen3Moe", "--weights int8 --activations int8"),
        ("Qwen3Moe", "--weights fp8 --activations fp8"),
    ],
)
def test_simulated_chips_write_the_same_tokens(
    written: Callable[[str], Path], python: Run, name: str, options: str, simulated: str
) -> None:
    device = f"{simulated.partition(':')[0]}:0"
    if device == "ascend:0" and not toolchain.is_installed("ascend"):
        pytest.skip("needs the vendor's compilers: unify toolchain install ascend")
    argv = [
        "generate",
        "--model",
        str(written(name)),
        "--prompt-ids",
        "5,9,33,70,2,61",
        "--max-tokens",
        "24",
        "--greedy",
        *options.split(),
    ]
    answers = []
    for where, chips in (("cpu", ""), (device, simulated)):
        environment = {**os.environ, "UNIFY_SIMULATE": chips}
        finished = python("-m", "unify", *argv, "--json", "--device", where, env=environment, timeout=1800)
        assert finished.returncode == 0, finished.stderr
        answers.append(json.loads(finished.stdout))
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert (answers[1]["device"], answers[1]["simulated"]) == (device, True)


def test_entries_that_change_nothing_are_no_reason_to_refuse(tmp_path: Path) -> None:
    path = changed(
        write_tiny(tmp_path / "m", "Mistral"), sliding_window=40, use_sliding_window=False, a_new_idea=False,
        mlp_bias=None, torch_dtype="float32", _name_or_path="x", rope_scaling=None,
    )  # fmt: skip
    load_directory(Checkpoint(path))


@pytest.mark.parametrize(("option", "value"), [("dtype", "int4"), ("weights", "q4_0"), ("activations", "int16")])
def test_an_option_that_is_none_is_the_callers_mistake(written: Callable[[str], Path], option: str, value: str) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=f"{option} must be .*{value}"):
        load_directory(Checkpoint(written("Llama")), **{option: value})
