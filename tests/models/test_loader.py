"""What loading a directory takes, and what it does with the dtypes that tensors have."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

import unify as un
from unify._errors import ModelFileError
from unify.models.architectures import load_directory
from unify.models.checkpoint import Checkpoint
from unify.models.decoder import Decoder
from unify.models.loader import Loader

from ..conftest import Run
from ..ops.plain_codes import coded
from .tiny_models import make_fp8, peer_logits, peer_of, peer_with, prompt, write_tiny

_LOAD = """
import sys
from unify._process import peak_memory_bytes
from unify.models.architectures import load_directory
from unify.models.checkpoint import Checkpoint
checkpoint = Checkpoint(sys.argv[1])
model = load_directory(checkpoint)
print(checkpoint.nbytes, peak_memory_bytes())
"""
LARGE = {
    "Llama": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "vocab_size": 32000},
    "Qwen3Moe": {"hidden_size": 512, "moe_intermediate_size": 1024, "num_experts": 32, "mlp_only_layers": []},
}  # fmt: skip


def assert_takes_little_more_than_the_weights(path: Path, python: Run) -> None:
    """That a process that loads a checkpoint, and finds no kernels, is never much larger than its weights."""
    environment = {**os.environ, "UNIFY_CACHE_DIR": str(path.with_name("cache"))}
    weights, peak = map(int, python("-c", _LOAD, str(path), env=environment).stdout.split())
    assert weights > 250e6  # beside which the rest is not much
    assert peak < 1.1 * weights + 200e6


@pytest.mark.parametrize("name", LARGE)
def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path, python: Run, name: str) -> None:
    path = write_tiny(tmp_path / "m", name, dtype=torch.bfloat16, shard="50MB", **LARGE[name])
    assert len(list(path.glob("*.safetensors"))) > 3
    assert_takes_little_more_than_the_weights(path, python)


def test_loading_fp8_takes_little_more_memory_than_the_weights(tmp_path: Path, python: Run) -> None:
    sizes = {**LARGE["Llama"], "num_hidden_layers": 4, "moe_intermediate_size": 1024, "q_lora_rank": 256}
    path = write_tiny(tmp_path / "m", "DeepseekV3", dtype=torch.bfloat16, shard="50MB", **sizes)
    make_fp8(path)
    assert_takes_little_more_than_the_weights(path, python)


@pytest.mark.parametrize("code", [0x7E, 0x7F, 0xFE, 0xFF])
def test_a_code_of_fp8_that_is_no_number_spoils_its_block(tmp_path: Path, code: int) -> None:
    codes = torch.randint(0, 0x7F, (300, 200), dtype=torch.uint8)
    codes[290, 130] = code
    scales = torch.rand(3, 2)
    tensors = {"a": codes.view(torch.float8_e4m3fn), "a_scale_inv": scales}
    save_file({"model.embed_tokens.weight": torch.zeros(1, 1), **tensors}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (matrix,) = Loader(Checkpoint(tmp_path)).matrix(["a"], [(300, 200)])
    expected = scales.clone()
    expected[2, 1] += 0 * tensors["a"][290, 130].float()
    np.testing.assert_array_equal(matrix.scales.numpy(), expected.numpy())


def test_all_codes_of_fp8_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).reshape(16, 16)
    tensors = {"model.embed_tokens.weight": torch.zeros(1, 1), "a": codes, "a_scale_inv": torch.full((1, 1), 0.75)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    found = torch.from_numpy(Loader(Checkpoint(tmp_path)).dense("a", (16, 16)).numpy())
    torch.testing.assert_close(found, codes.float() * 0.75, rtol=0.0, atol=0.0, equal_nan=True)


def logits(model: Decoder, ids: list[int]) -> np.ndarray:
    tokens = un.asarray(ids, dtype=un.int32)
    return model.prefill(tokens, model.cache(len(ids)), all_logits=True).numpy()


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# Gate and up meet at whole blocks of scales, or not.
@pytest.mark.parametrize("inner", [128, 96])
def test_fp8_with_block_scales_gives_what_its_values_give(tmp_path: Path, inner: int) -> None:
    sizes = {"moe_intermediate_size": inner, "hidden_size": 192, "intermediate_size": inner + 64}
    path = write_tiny(tmp_path / "m", "DeepseekV3", **sizes)
    expected = peer_logits(peer_with(path, make_fp8(path)), prompt(100))
    assert error(logits(load_directory(Checkpoint(path), dtype="float32"), prompt(100)), expected) <= 1e-4


@pytest.mark.parametrize("inner", [128, 160])
def test_fp8_is_multiplied_as_it_is(tmp_path: Path, inner: int) -> None:
    # Without experts, between which a token would be sent elsewhere for a rounding.
    path = write_tiny(tmp_path / "m", "DeepseekV3", hidden_size=192, intermediate_size=inner, first_k_dense_replace=3)
    values = make_fp8(path)
    expected = peer_logits(peer_with(path, values), prompt(100))
    model = load_directory(Checkpoint(path))
    assert model.dtype == un.bfloat16
    theirs = peer_logits(peer_of(tmp_path / "m-plain", torch.bfloat16), prompt(100))
    assert error(logits(model, prompt(100)), expected) <= 2 * error(theirs, expected)  # both round alike


def test_fp8_keeps_its_bytes_in_memory(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m", "DeepseekV3", hidden_size=1024, intermediate_size=2048, moe_intermediate_size=128)
    make_fp8(path)
    before = un.memory_statistics("cpu").allocated_bytes
    checkpoint = Checkpoint(path)
    model = load_directory(checkpoint)
    taken = un.memory_statistics("cpu").allocated_bytes - before
    assert taken < 1.1 * checkpoint.nbytes
    del model


def test_an_fp8_matrix_needs_its_scales(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m", "DeepseekV3")
    make_fp8(path)
    name, file = "model.layers.1.self_attn.o_proj.weight_scale_inv", path / "model-00003-of-00003.safetensors"
    tensors = load_file(file)
    save_file(tensors | {name: tensors[name].bfloat16()}, file)
    with pytest.raises(ModelFileError, match=f"'{name}' is of dtype bf16"):
        load_directory(Checkpoint(path))
    save_file(tensors | {name: tensors[name][:, :0]}, file)
    with pytest.raises(ModelFileError, match=rf"'{name}' is \[1, 0\]; \[1, 1\] is needed"):
        load_directory(Checkpoint(path))


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.float8_e5m2])
def test_a_matrix_of_a_dtype_that_is_no_weights_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write_tiny(tmp_path / "m", "Llama", shard="1GB")
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(dtype)}, path / "model.safetensors")
    with pytest.raises(ModelFileError, match=f"the tensor '{name}' is of dtype "):
        load_directory(Checkpoint(path))


def test_a_matrix_of_another_dtype_than_the_embedding_is_converted(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m", "Llama", shard="1GB")
    tensors = load_file(path / "model.safetensors")
    mixed = {name: tensor.half() if "mlp" in name else tensor for name, tensor in tensors.items()}
    save_file(mixed, path / "model.safetensors")
    expected = peer_logits(peer_with(path, {name: tensor.float() for name, tensor in mixed.items()}), prompt(50))
    assert error(logits(load_directory(Checkpoint(path)), prompt(50)), expected) <= 1e-4


# Sizes at which no block of scales reaches over two matrices that are joined.
WHOLE = {"Qwen3": {"hidden_size": 128, "head_dim": 64}}
WHOLE["Qwen3Moe"] = {**WHOLE["Qwen3"], "moe_intermediate_size": 128}
WHOLE |= {"Llama": WHOLE["Qwen3"], "Mixtral": WHOLE["Qwen3"]}
WHOLE["DeepseekV3"] = {"hidden_size": 128, "moe_intermediate_size": 128}


@pytest.mark.parametrize("weights", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("name", ["Qwen3", "Qwen3Moe"])
def test_weights_are_quantised_as_they_are_read(tmp_path: Path, name: str, weights: str) -> None:
    path = write_tiny(tmp_path / "m", name, shard="1GB", **WHOLE[name])
    tensors = load_file(path / "model.safetensors")
    rounded = {
        key: torch.from_numpy(un.ops.quant.quantize_weight(tensor, weights).dequantize().numpy())
        for key, tensor in tensors.items()
        if tensor.ndim == 2 and "mlp.gate." not in key
    }
    model = load_directory(Checkpoint(path), weights=weights)
    found, expected = logits(model, prompt(50)), peer_logits(peer_with(path, tensors | rounded), prompt(50))
    assert error(found, expected) <= 1e-3  # activations are rounded to 16 bits in a block
    assert error(found, peer_logits(peer_of(path), prompt(50))) > 5e-3


class CodesBeforeProducts(TorchFunctionMode):
    """Within it torch multiplies codes of what it is given, but with matrices that are `dense`."""

    def __init__(self, kind: str, dense: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._kind = kind
        self._dense = {matrix.data_ptr() for matrix in dense}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and args[1].data_ptr() not in self._dense:
            args = (coded(args[0], self._kind)[0].to(args[0].dtype), *args[1:])
        return func(*args, **(kwargs or {}))


def assert_codes_before_products(model: Decoder, peer: Any, activations: str, dense: str) -> None:
    """That the model gives transformers' logits with codes before each product but those with matrices `dense`."""
    peer.set_experts_implementation("eager")  # a product by torch's linear for each expert
    matrices = [matrix for name, matrix in peer.named_parameters() if re.search(dense, name)]
    ids = list(range(90))  # texts of one token, so that none moves another
    with torch.no_grad(), CodesBeforeProducts(activations, matrices):
        expected = peer(torch.tensor(ids)[:, None]).logits[:, 0].numpy()
    cache = model.cache(1, sequences=len(ids))
    found = model.prefill(un.asarray(ids, dtype=un.int32), cache, rows=ids, lengths=[1] * len(ids)).numpy()
    agree = np.abs(found - expected).max(1) <= 1e-5 * np.abs(expected).max()
    assert agree.mean() > 0.9  # in the others a number, or a token, went to the other one of two codes or experts
    assert error(found, expected) < 0.5


KINDS = [("int8", "int8"), ("int4", "int8"), ("fp8", "fp8")]
NOT_CODED = r"\.gate\.|kv_b_proj"  # the routers, and what latent attention absorbs


@pytest.mark.parametrize(("weights", "activations"), KINDS)
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Mixtral", "Qwen3Moe", "DeepseekV3"])
def test_activations_are_quantised_before_each_matrix(
    tmp_path: Path, name: str, weights: str, activations: str
) -> None:
    path = write_tiny(tmp_path / "m", name, shard="1GB", **WHOLE[name])
    tensors = load_file(path / "model.safetensors")
    rounded = {
        key: torch.from_numpy(un.ops.quant.quantize_weight(tensor, weights).dequantize().numpy())
        for key, tensor in tensors.items()
        if tensor.ndim == 2 and not re.search(NOT_CODED, key)
    }
    model = load_directory(Checkpoint(path), weights=weights, activations=activations)
    assert_codes_before_products(model, peer_with(path, tensors | rounded), activations, NOT_CODED)


def test_what_a_checkpoint_has_in_fp8_is_multiplied_with_codes(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m", "DeepseekV3", **WHOLE["DeepseekV3"])
    values = make_fp8(path)
    for shard in path.glob("*.safetensors"):  # computes in the embedding's dtype: bfloat16 would hide a wrong code
        tensors = load_file(shard)
        save_file({name: t.float() if "embed" in name else t for name, t in tensors.items()}, shard)
    model = load_directory(Checkpoint(path), activations="fp8")
    assert_codes_before_products(model, peer_with(path, values), "fp8", NOT_CODED + "|lm_head")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"activations": "int8"}, "activations in int8 go with weights in int8 or int4; they are not quantised"),
        ({"activations": "fp8"}, "activations in fp8 go with weights in fp8; none are kept in it"),
        ({"activations": "int8", "weights": "fp8"}, "activations in int8 .* they are in fp8"),
        ({"activations": "fp8", "weights": "int4"}, "activations in fp8 .* they are in int4"),
        ({"activations": "int4", "weights": "int4"}, "activations must be one of int8, fp8, or None; not 'int4'"),
    ],
)
def test_activations_that_go_with_no_weights_are_refused(tmp_path: Path, options: dict[str, str], told: str) -> None:
    checkpoint = Checkpoint(write_tiny(tmp_path / "m", "Llama"))
    with pytest.raises(un.errors.InvalidArgument, match=told):
        load_directory(checkpoint, **options)


def test_fp8_that_becomes_float32_has_no_codes_to_go_with(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m", "DeepseekV3")
    make_fp8(path)
    with pytest.raises(un.errors.InvalidArgument, match="activations in fp8 .* none are kept in it"):
        load_directory(Checkpoint(path), dtype="float32", activations="fp8")


def fp8_parts(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes and scales of 128 × 128, and the values that they stand for."""
    codes = (weight * 50).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-weight.shape[0] // 128), -(-weight.shape[1] // 128)) + 0.5
    factors = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return codes, scales, codes.float() * factors[: weight.shape[0], : weight.shape[1]]


@pytest.mark.parametrize("stored", ["bf16", "f32", "fp8"])
@pytest.mark.parametrize("weights", ["int8", "int4", "fp8"])
def test_a_matrix_in_parts_has_the_bytes_of_one_in_one(tmp_path: Path, weights: str, stored: str) -> None:
    torch.manual_seed(0)
    # Parts end inside of a matrix, inside of a block of scales, and with fewer rows than lie together.
    shapes = {"a": (2500, 1024), "b": (70, 1024), "c": (2330, 1024)}
    shapes |= {f"expert{i}": (33, 1024) for i in range(6)}
    tensors = {"model.embed_tokens.weight": torch.zeros(1, 1, dtype=torch.bfloat16)}
    values = {}
    for name, shape in shapes.items():
        values[name] = torch.randn(shape)
        if stored == "fp8":
            tensors[name], tensors[f"{name}_scale_inv"], values[name] = fp8_parts(values[name])
        else:
            tensors[name] = values[name].to(torch.bfloat16 if stored == "bf16" else torch.float32)
    (tmp_path / "config.json").write_text("{}")
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path, progress=lambda *told: progress.append(told))
    progress: list[tuple[str, int, int]] = []
    loader = Loader(checkpoint, weights=weights)
    experts = [(f"expert{2 * i}", f"expert{2 * i + 1}") for i in range(3)]
    found = [*loader.matrix("abc", [shapes[name] for name in "abc"]), loader.experts(experts, (33, 1024))]
    wanted = [
        torch.cat([values[name] for name in "abc"]),
        torch.stack([torch.cat([values[name] for name in pair]) for pair in experts]),
    ]
    if weights == stored == "fp8":  # as it is, where no scale would be of two; else quantised again
        assert [matrix.shape for matrix in found] == [*((shapes[name]) for name in "abc"), (3, 66, 1024)]
        found, wanted = found[3:], wanted[1:]
    for matrix, dense in zip(found, wanted, strict=True):
        whole = un.ops.quant.quantize_weight(dense.bfloat16(), weights)
        np.testing.assert_array_equal(matrix.codes.numpy(), whole.codes.numpy())
        np.testing.assert_array_equal(matrix.scales.numpy(), whole.scales.numpy())
    assert progress[-1][1] == progress[-1][2] - 2  # each byte is read once; nothing asked for the embedding


# What compiles kernels is in memory before the first mark; what comes between the two marks is the loading.
_LOAD_QUANTISED = """
import sys
import numpy as np
import unify as un
from unify._process import peak_memory_bytes
from unify.models.architectures import load_directory
from unify.models.checkpoint import Checkpoint
for kind in ("int8", "int4", "fp8"):
    weight = un.from_numpy(np.ones((256, 256), np.float32)).to(un.bfloat16)
    un.ops.quant.quantize_weight(weight, kind)
un.synchronize()
checkpoint = Checkpoint(sys.argv[1])
before = peak_memory_bytes()
model = load_directory(checkpoint, weights=sys.argv[2])
print(peak_memory_bytes() - before)
"""
# Bytes for a weight: int8 and int4 have a float16 scale for 32, fp8 has a float32 for 128 × 128.
BYTES = {"int8": 1 + 2 / 32, "int4": 0.5 + 2 / 32, "fp8": 1 + 4 / 128**2}


@pytest.mark.parametrize("name", LARGE)
def test_weights_are_never_dense_while_they_are_quantised(tmp_path: Path, python: Run, name: str) -> None:
    path = write_tiny(tmp_path / "m", name, dtype=torch.bfloat16, shard="50MB", **LARGE[name])
    tensors = Checkpoint(path).tensors.values()
    matrices = [tensor for tensor in tensors if len(tensor.shape) == 2 and "mlp.gate." not in tensor.name]
    weights = sum(tensor.nbytes // 2 for tensor in matrices)
    dense = 2 * sum(tensor.nbytes for tensor in tensors if tensor not in matrices)  # in float32
    for kind, size in BYTES.items():
        # Without the cache, in which some kernels may be and others not.
        finished = python("-c", _LOAD_QUANTISED, str(path), kind, env={**os.environ, "UNIFY_NO_CACHE": "1"})
        assert finished.returncode == 0, finished.stderr
        # The largest matrix alone, the embedding or a layer's experts, would be 64 MB and more.
        assert int(finished.stdout) < size * weights + dense + 32e6, kind


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_matrix_that_cannot_be_quantised_is_named(tmp_path: Path, weights: str) -> None:
    path = write_tiny(tmp_path / "m", "Llama", hidden_size=48, head_dim=12)
    with pytest.raises(
        un.errors.InvalidArgument, match=rf"'model\..*weight' is \[.*48\]; {weights} needs .* 32 inputs"
    ):
        load_directory(Checkpoint(path), weights=weights)


@pytest.mark.parametrize("weights", [None, "int8", "fp8"])
def test_a_matrix_without_weights_is_refused(tmp_path: Path, weights: str | None) -> None:
    path = write_tiny(tmp_path / "m", "Llama", shard="1GB")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 0}))
    tensors = load_file(path / "model.safetensors")
    cut = {name: t[:, :0] if "down_proj" in name else t[:0] if ".mlp." in name else t for name, t in tensors.items()}
    save_file({name: t.contiguous() for name, t in cut.items()}, path / "model.safetensors")
    with pytest.raises(ModelFileError, match="intermediate_size|it has no weights"):
        load_directory(Checkpoint(path), weights=weights)
