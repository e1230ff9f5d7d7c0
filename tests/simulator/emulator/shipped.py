"""Each operation that a small language model runs, at its shapes: `python -m … OUT WHERE DTYPE…` runs them emulated.

WHERE: "linalg" for what the vendor's adapter makes of the CPU device's kernels, or a chip to simulate, whose kernels
have tiles of their own, go through all of the vendor's compiler, and are persistent where their form allows it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import gguf
import numpy as np
import torch

import unify as un
from unify.compiler.target import Binary, CompileFunction, Options, Target, compiler_for, register_target
from unify.ops import quant
from unify.ops.quantized_linear import dequantized_linear_kernel, product_type

# SmolLM2-135M: features, heads, heads for keys, their width, features inside, and a part of the vocabulary.
H, HEADS, KV, D, INNER, VOCABULARY = 576, 9, 3, 64, 1536, 4096
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Inputs:
    """What a case takes: arrays of a dtype, on a device."""

    dtype: torch.dtype
    device: str = "cpu"
    page: int = 16  # tokens a block of the cache

    def on_device(self, tensor: torch.Tensor) -> Any:
        return tensor if self.device == "cpu" else un.asarray(tensor, device=self.device)

    def random(self, *shape: int) -> Any:
        generator = torch.Generator().manual_seed(sum(shape))
        return self.on_device((torch.randn(shape, generator=generator) * 0.5).to(self.dtype))

    def floats(self, *shape: int) -> Any:
        return self.on_device(torch.randn(shape, generator=torch.Generator().manual_seed(3)))

    def ids(self, *shape: int, below: int) -> Any:
        generator = torch.Generator().manual_seed(1)
        return self.on_device(torch.randint(0, below, shape, generator=generator, dtype=torch.int32))

    def count(self, n: int) -> Any:
        return self.on_device(torch.arange(n, dtype=torch.int32))

    def quantised(self, kind: str, n: int, k: int) -> Any:
        weight = np.random.default_rng(n).standard_normal((n, k)).astype(np.float32)
        raw = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind.upper()]).view(np.uint8)
        return quant.from_gguf(kind, raw, device=self.device)

    def weights(self, kind: str, *shape: int) -> Any:
        """Quantised on the device."""
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) / shape[-1] ** 0.5
        return quant.quantize_weight(self.on_device(weight.to(self.dtype)), kind)

    def cache(self, tokens: int) -> tuple[Any, Any, Any]:
        keys = self.on_device(torch.zeros(16, KV, D, self.page, dtype=self.dtype).permute(0, 3, 1, 2))
        values = self.on_device(torch.zeros(16, self.page, KV, D, dtype=self.dtype))
        un.ops.kv_write(self.random(tokens, KV, D), self.random(tokens, KV, D), keys, values, self.count(tokens))
        return keys, values, self.on_device(torch.arange(16, dtype=torch.int32)[None])


Case = Callable[[Inputs], Any]


def _paged(inputs: Inputs, splits: int) -> Any:
    keys, values, table = inputs.cache(200)
    lengths = inputs.on_device(torch.tensor([200], dtype=torch.int32))
    return un.ops.paged_attention(inputs.random(1, HEADS, D), keys, values, table, lengths, splits=splits)


def _paged_prefill(inputs: Inputs) -> Any:
    keys, values, table = inputs.cache(100)
    lengths, starts = (inputs.on_device(torch.tensor(x, dtype=torch.int32)) for x in ([100], [0, 40]))
    return un.ops.paged_prefill(inputs.random(40, HEADS, D), keys, values, table, lengths, starts)


def _sample(inputs: Inputs, temperature: float) -> Any:
    return un.ops.sample(inputs.random(3, VOCABULARY), temperature=temperature, top_k=1, top_p=0.9, seed=4)


def _requests(inputs: Inputs) -> Any:
    """One of them takes the likeliest token, the others have a single one left."""
    settings = {"temperature": [0.0, 0.8, 2.0], "top_p": [1.0, 1e-3, 1.0], "min_p": [0.0, 0.0, 1.0]}
    arrays = {name: inputs.on_device(torch.tensor(values)) for name, values in settings.items()}
    seeds, top_k = (inputs.on_device(torch.tensor([5, 6, 7], dtype=dtype)) for dtype in (torch.int64, torch.int32))
    return un.ops.sample(inputs.random(3, VOCABULARY), **arrays, top_k=top_k, seed=seeds)


def _attention(inputs: Inputs) -> Any:
    shapes = ((1, 70, HEADS, D), (1, 90, KV, D), (1, 90, KV, D))
    return un.ops.attention(*(inputs.random(*shape) for shape in shapes))


def _floats(inputs: Inputs) -> Any:
    """As the CPU does it that has no products of bytes. Elsewhere no operation launches this kernel for float32."""
    m, n = 70, 100
    x, weight = inputs.random(m, H), inputs.quantised("q4_0", n, H)
    if inputs.device == "cpu":
        with mock.patch("unify.ops.quantized_linear._has_byte_products", return_value=False):
            return un.ops.linear(x, weight)
    out, tile = un.empty((m, n), x.dtype, inputs.device), 64
    dequantized_linear_kernel[(-(-m // tile), -(-n // tile))](
        x, None, None, weight.codes, weight.scales, None, None, out, m, n, H, H, 0, n, M=tile, N=tile, K=64,
        COLUMNS=quant.COLUMNS, BITS=weight.format.bits, OFFSET=weight.format.offset,
        TYPE=product_type(un.empty((1, 1), x.dtype, "cpu")),  # the chip would round float16, too
    )  # fmt: skip
    return out


def _moe(inputs: Inputs, tokens: int, kind: str = "", activations: str | None = None) -> Any:
    """Eight experts, of which the tokens leave some without work. Routed by numbers that do not depend on the dtype.

    kind: what the experts are quantised to; activations: what is multiplied with them becomes.
    """
    d, f, experts = 96, 64, 8
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(tokens))
    bias = inputs.on_device(torch.linspace(0, 2, experts))
    weights, ids = un.ops.route(inputs.on_device(logits), 2, score="sigmoid", bias=bias, groups=4, top_groups=2)
    x, shapes = inputs.random(tokens, d), ((experts, 2 * f, d), (experts, d, f))
    gate_up, down = (inputs.weights(kind, *shape) if kind else inputs.random(*shape) for shape in shapes)
    residual = inputs.random(tokens, d)
    return un.ops.moe(x, weights, ids, gate_up, down, residual=residual, activations=activations)


def _groups(inputs: Inputs, kind: str, activations: str) -> Any:
    """Gated products of three groups, one of them of no rows, of rows in another order."""
    rows, k = 50, 160
    offsets = inputs.on_device(torch.tensor([0, 13, 13, rows], dtype=torch.int32))
    x, weight, gather = inputs.random(30, k), inputs.weights(kind, 3, 128, k), inputs.ids(rows, below=30)
    return un.ops.grouped_linear(x, weight, offsets, gather=gather, gated=True, activations=activations)


def _masked(inputs: Inputs, kind: str, activations: str) -> Any:
    """In tiles on the CPU as well."""
    counts = inputs.on_device(torch.tensor([20, 0, 7], dtype=torch.int32))
    x, weight = inputs.random(3, 20, 160), inputs.weights(kind, 3, 100, 160)
    return un.ops.grouped_linear(x, weight, counts=counts, activations=activations).reshape(60, 100)


def _values(made: quant.QuantizedActivations) -> Any:
    """What codes stand for; a scale for each row, or for parts of it."""
    codes, scales = (torch.from_dlpack(a.to("cpu").to(un.float32)) for a in (made.codes, made.scales))
    return (
        codes * scales.reshape(codes.shape[0], -1).repeat_interleave(128, 1)[:, : codes.shape[1]]
        if made.kind == "fp8"
        else codes * scales[:, None]
    )


def _turned(inputs: Inputs) -> Any:
    """By a kernel where the device has no call for it: not on the CPU."""
    return un.asarray(inputs.random(70, 90)).T.contiguous()


def _packed(inputs: Inputs) -> Any:
    starts, key_starts = (
        inputs.on_device(torch.tensor(x, dtype=torch.int32)) for x in ([0, 30, 30, 70], [0, 50, 60, 110])
    )
    return un.ops.attention(
        inputs.random(70, HEADS, 96), inputs.random(110, KV, 96), inputs.random(110, KV, D),
        cu_seqlens=starts, cu_seqlens_k=key_starts, **_options(inputs),
    )  # fmt: skip


def _options(inputs: Inputs) -> dict[str, Any]:
    slopes = torch.arange(HEADS) / 64
    sinks = (slopes * 30 - 2).to(inputs.dtype)
    return {"window": 21, "soft_cap": 3.0, "alibi": inputs.on_device(slopes), "sinks": inputs.on_device(sinks)}


def _merged(inputs: Inputs) -> Any:
    return un.ops.merge_states(
        inputs.random(3, 5, HEADS, D), inputs.on_device(torch.arange(3 * 5 * HEADS).reshape(3, 5, HEADS) % 7 / 3)
    )[0]


def _latent(inputs: Inputs) -> Any:
    cache = inputs.on_device(torch.zeros(8, 32, 96, dtype=inputs.dtype))
    un.ops.latent_write(inputs.random(100, 64), inputs.random(100, 32), cache, inputs.count(100))
    table, lengths = inputs.count(8).reshape(1, 8), inputs.on_device(torch.tensor([100], dtype=torch.int32))
    return un.ops.mla_attention(inputs.random(1, HEADS, 96), cache, table, lengths, rank=64, scale=0.2, splits=2)


def _fp8_scales(inputs: Inputs) -> Any:
    """Of codes as a checkpoint has them, one of which is no number: its block's comes out as 1."""
    codes = torch.randint(0, 0x7F, (2, 200, 300), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    codes[1, 150, 200] = 0xFF
    scales = torch.full((2, 2, 3), 0.5)
    made = quant.from_fp8_blocks(inputs.on_device(codes), inputs.on_device(scales))
    return torch.from_numpy(made.scales.numpy()).nan_to_num(nan=1.0)


def _latent_rows(inputs: Inputs) -> Any:
    table, starts = (inputs.on_device(torch.tensor(x, dtype=torch.int32)) for x in ([[1, 0], [2, 3]], [0, 20, 45]))
    return un.ops.latent_read(inputs.random(4, 16, 96), table, starts, 50)


CASES: dict[str, Case] = {
    "swiglu": lambda i: un.ops.swiglu(i.random(5, INNER), i.random(5, INNER)),
    "rms_norm": lambda i: un.ops.rms_norm(i.random(5, H), i.random(H)),
    "rms_norm of a sum": lambda i: un.ops.rms_norm(i.random(5, H), i.random(H), residual=i.random(5, 1, H)[:, 0])[0],
    "rms_norm to int8": lambda i: _values(un.ops.rms_norm(i.random(5, H), i.random(H), quantize="int8")),
    "to int8": lambda i: _values(quant.quantize(i.random(5, H), "int8")),
    "to fp8": lambda i: _values(quant.quantize(i.random(5, H), "fp8")),
    "rope": lambda i: un.ops.rope(i.random(20, HEADS, D), i.count(20)),
    "rope halves": lambda i: un.ops.rope(i.random(20, HEADS, D), i.count(20), interleaved=False, magnitude=1.25),
    "embedding": lambda i: un.ops.embedding(i.ids(7, below=300), i.random(300, H)),
    "embedding q4_0": lambda i: un.ops.embedding(i.ids(7, below=64), i.quantised("q4_0", 64, H)),
    "embedding q8_0": lambda i: un.ops.embedding(i.ids(7, below=64), i.quantised("q8_0", 64, H)),
    "matmul": lambda i: un.ops.linear(i.random(40, H), i.random(200, H)),
    "few rows": lambda i: un.ops.linear(i.random(1, H), i.random(200, H), residual=i.random(1, 200)),
    "q4_0": lambda i: un.ops.linear(i.random(5, H), i.quantised("q4_0", 100, H)),
    "q4_1": lambda i: un.ops.linear(i.random(5, H), i.quantised("q4_1", 100, H)),
    "q8_0": lambda i: un.ops.linear(i.random(1, H), i.quantised("q8_0", 100, H)),
    "q4_0 as floats": _floats,
    "int8": lambda i: un.ops.linear(i.random(3, H), i.weights("int8", 100, H)),
    "int8 of many rows": lambda i: un.ops.linear(i.random(70, H), i.weights("int8", 100, H)),
    "int4": lambda i: un.ops.linear(i.random(1, H), i.weights("int4", 100, H)),
    "fp8": lambda i: un.ops.linear(i.random(1, H), i.weights("fp8", 200, H)),
    "fp8 of experts": lambda i: un.ops.linear(i.random(3, 200), i.weights("fp8", 2, 200, 200)[1]),
    "fp8 of a checkpoint": _fp8_scales,
    "fp8 of many rows": lambda i: un.ops.linear(i.random(40, H), i.weights("fp8", 200, H)),
    "int8 by codes": lambda i: un.ops.linear(i.random(3, H), i.weights("int8", 100, H), activations="int8"),
    "int4 by many codes": lambda i: un.ops.linear(i.random(70, H), i.weights("int4", 100, H), activations="int8"),
    "fp8 by codes": lambda i: un.ops.linear(i.random(1, H), i.weights("fp8", 200, H), activations="fp8"),
    "fp8 by many codes": lambda i: un.ops.linear(i.random(40, H), i.weights("fp8", 200, H), activations="fp8"),
    "embedding fp8": lambda i: un.ops.embedding(i.ids(7, below=200), i.weights("fp8", 200, H)),
    "attention": _attention,
    "packed attention": _packed,
    "merged": _merged,
    "latent attention": _latent,
    "latent rows": _latent_rows,
    "matmul of a batch": lambda i: un.ops.matmul(i.random(3, 7, 64), i.random(3, 64, 80)),
    "paged": lambda i: _paged(i, 1),
    "paged and merged": lambda i: _paged(i, 4),
    "paged prefill": _paged_prefill,
    "greedy": lambda i: _sample(i, 0.0),
    "sample": lambda i: _sample(i, 0.8),
    "sample of requests": _requests,
    "penalize": lambda i: un.ops.penalize(
        i.random(3, 999),
        i.ids(3, 999, below=3),
        frequency=0.5,
        presence=0.25,
        repetition=1.25,
        prompt=i.ids(3, 999, below=2),
    ),
    "logit bias": lambda i: un.ops.logit_bias(i.random(3, 999), i.ids(3, 1, below=999), i.floats(3, 1)),
    "count tokens": lambda i: un.ops.count_tokens(i.ids(3, 150, below=40), 50),
    "one token's experts": lambda i: _moe(i, 1),
    "some tokens' experts": lambda i: _moe(i, 9),
    "many tokens' experts": lambda i: _moe(i, 70),
    "one token's experts in fp8": lambda i: _moe(i, 1, "fp8"),
    "some tokens' experts in int4": lambda i: _moe(i, 9, "int4"),
    "many tokens' experts in fp8": lambda i: _moe(i, 70, "fp8"),
    "one token's experts by codes of int8": lambda i: _moe(i, 1, "int8", "int8"),
    "one token's experts by codes of fp8": lambda i: _moe(i, 1, "fp8", "fp8"),
    "groups by codes of int8": lambda i: _groups(i, "int8", "int8"),
    "groups by codes of fp8": lambda i: _groups(i, "fp8", "fp8"),
    "masked groups by codes of int8": lambda i: _masked(i, "int4", "int8"),
    "masked groups by codes of fp8": lambda i: _masked(i, "fp8", "fp8"),
    "turned": _turned,
}


def results(dtypes: Iterable[str], device: str = "cpu", page: int = 16) -> dict[str, np.ndarray]:
    found = {}
    for name, case in CASES.items():
        for dtype in dtypes:
            found[f"{name} {dtype}"] = _numbers(case(Inputs(DTYPES[dtype], device, page)))
    return found


def _numbers(array: Any) -> np.ndarray:
    if isinstance(array, un.Tensor):
        array = torch.from_dlpack(array.to("cpu"))
    return array.double().numpy()


def noted(compile_: CompileFunction, seen: set[str]) -> CompileFunction:
    """As compile_, with the names of kernels put into `seen`."""

    def compile_and_note(ttir: str, target: Target, options: Options) -> Binary:
        binary = compile_(ttir, target, options)
        seen.add(binary.name.removesuffix(".cpu"))
        return binary

    return compile_and_note


def main(out: str, where: str, *dtypes: str) -> None:
    from . import host

    kernels = set[str]()
    if where == "linalg":
        register_target("cpu", noted(host.compile_emulated, kernels))
        found = results(dtypes)
    else:
        un.simulate(where)
        register_target("ascend", noted(compiler_for(Target.parse(where)), kernels))
        found = results(dtypes, "ascend:0", page=32 if where == "ascend:950" else 16)  # the 950's crashes at 16
    np.savez(out, **found, kernels=np.array(sorted(kernels)))


if __name__ == "__main__":
    main(*sys.argv[1:])
