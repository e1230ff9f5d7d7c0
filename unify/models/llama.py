"""Decoders of the Llama family (Touvron et al. 2023), as GGUF files describe them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import unify
from unify import ops
from unify._errors import InvalidArgument, ModelFileError
from unify.ops.quant import FORMATS, QuantizedMatrix, from_gguf

from .kv_cache import KVCache

if TYPE_CHECKING:
    from .weights import ModelFile


@dataclass(frozen=True)
class Config:
    """The sizes of a model. `width` is d_model, `head_width` that of one head."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int
    rope_base: float
    norm_eps: float

    @staticmethod
    def from_file(file: ModelFile) -> Config:
        """Reads the sizes from the metadata. Raises ModelFileError for another architecture or odd sizes."""
        architecture = file.require("general.architecture", str)
        if architecture != "llama":
            raise ModelFileError(
                f"{file.path}: the metadata 'general.architecture' is {architecture!r}; only 'llama' can be run "
                "(Llama, SmolLM, TinyLlama, Mistral and their like). Take another model."
            )
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise ModelFileError(
                f"{file.path}: no [vocabulary, width] tensor 'token_embd.weight'. Is it a whole llama?"
            )
        heads = file.require("llama.attention.head_count", int)
        kv_heads = file.require("llama.attention.head_count_kv", int, heads)
        width = file.require("llama.embedding_length", int)
        config = Config(
            layers=file.require("llama.block_count", int),
            width=width,
            feed_forward=file.require("llama.feed_forward_length", int),
            heads=heads,
            kv_heads=kv_heads,
            head_width=file.require("llama.rope.dimension_count", int, width // max(heads, 1)),
            vocabulary=embedding.shape[0],
            context=file.require("llama.context_length", int),
            rope_base=file.require("llama.rope.freq_base", float, 10000.0),
            norm_eps=file.require("llama.attention.layer_norm_rms_epsilon", float),
        )
        positive = (config.layers, width, config.feed_forward, heads, kv_heads, config.head_width, config.context)
        fits = min(positive) >= 1 and heads % kv_heads == 0 and heads * config.head_width == width
        # A base below 1 would turn faster with each pair; NaN compares as false.
        if not (
            fits and embedding.shape[1] == width and 1.0 <= config.rope_base < 1e30 and 0.0 <= config.norm_eps < 1.0
        ):
            raise ModelFileError(
                f"{file.path}: its sizes do not fit each other: {config}, token_embd.weight {list(embedding.shape)}. "
                "Convert the model anew, or take the file from someone else."
            )
        return config


@dataclass(frozen=True)
class _Layer:
    attention_norm: Any
    qkv: Any
    output: Any
    feed_forward_norm: Any
    gate_up: Any
    down: Any


class Llama:
    """A Llama-family decoder on one device. Make it by `Llama.load`."""

    def __init__(self, config: Config, embedding: Any, layers: list[_Layer], norm: Any, head: Any) -> None:
        self.config = config
        self.device = norm.device
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head

    @staticmethod
    def load(
        file: ModelFile,
        *,
        device: Any = None,
        dtype: str = "quantized",
        progress: Callable[[int, int], None] | None = None,
    ) -> Llama:
        """Reads the weights onto a device, one tensor at a time.

        dtype: "quantized" keeps matrices in the file's format, "float32" dequantises them. progress is called with the
        bytes read so far and in all. Raises ModelFileError for tensors that are absent or of the wrong shape.
        """
        config = Config.from_file(file)
        loader = _Loader(file, device, dtype, progress)
        d, kv = config.width, config.kv_heads * config.head_width
        embedding = loader.matrix(["token_embd.weight"], [(config.vocabulary, d)])
        layers = []
        for i in range(config.layers):
            p = f"blk.{i}."
            qkv = [f"{p}attn_q.weight", f"{p}attn_k.weight", f"{p}attn_v.weight"]
            gate_up = [f"{p}ffn_gate.weight", f"{p}ffn_up.weight"]
            layers.append(
                _Layer(
                    loader.vector(f"{p}attn_norm.weight", d),
                    loader.matrix(qkv, [(d, d), (kv, d), (kv, d)]),
                    loader.matrix([f"{p}attn_output.weight"], [(d, d)]),
                    loader.vector(f"{p}ffn_norm.weight", d),
                    loader.matrix(gate_up, [(config.feed_forward, d)] * 2),
                    loader.matrix([f"{p}ffn_down.weight"], [(d, config.feed_forward)]),
                )
            )
        head = embedding
        if "output.weight" in file.tensors:
            head = loader.matrix(["output.weight"], [(config.vocabulary, d)])
        return Llama(config, embedding, layers, loader.vector("output_norm.weight", d), head)

    def cache(self, capacity: int) -> KVCache:
        """A cache for one sequence of at most `capacity` tokens."""
        c = self.config
        return KVCache(
            layers=c.layers, kv_heads=c.kv_heads, width=c.head_width, capacity=capacity, dtype=unify.float32,
            device=self.device,
        )  # fmt: skip

    def prefill(self, ids: Any, cache: KVCache, *, all_logits: bool = False) -> Any:
        """Runs new tokens of a sequence through the model and keeps their keys and values.

        ids: [t] int32 on the model's device. Returns float32 logits [1, vocabulary] of the last token, or [t,
        vocabulary], enqueued on the device's current stream. Raises InvalidArgument when the cache is full.
        """
        tokens = ids.shape[0]
        before = cache.grow(tokens)
        # One sequence, whose blocks are handed out in order: a token's slot is its position.
        positions = unify.arange(before, before + tokens, dtype=unify.int32, device=self.device)

        def attend(layer: int, q: Any) -> Any:
            return ops.paged_prefill(q, cache.keys[layer], cache.values[layer], cache.block_table[0], before)

        hidden = self._hidden(ids, positions, positions, cache, attend)
        return self._logits(hidden if all_logits else hidden[tokens - 1 :])

    def decode(self, ids: Any, positions: Any, context_lens: Any, cache: KVCache) -> Any:
        """Runs one new token through the model; everything that changes from step to step lies on the device.

        ids, positions, context_lens: [1] int32: the token, its position, and position + 1. The caller grows the cache.
        Returns float32 logits [1, vocabulary]; enqueued on the device's current stream, so that a graph can record it.
        """

        def attend(layer: int, q: Any) -> Any:
            return ops.paged_attention(q, cache.keys[layer], cache.values[layer], cache.block_table, context_lens)

        return self._logits(self._hidden(ids, positions, positions, cache, attend))

    def _hidden(self, ids: Any, positions: Any, slots: Any, cache: KVCache, attend: Callable[[int, Any], Any]) -> Any:
        c = self.config
        tokens = ids.shape[0]
        rotated = c.heads + c.kv_heads
        hidden = ops.embedding(ids, self._embedding)
        for index, layer in enumerate(self._layers):
            normed = ops.rms_norm(hidden, layer.attention_norm, eps=c.norm_eps)
            qkv = ops.linear(normed, layer.qkv).reshape(tokens, rotated + c.kv_heads, c.head_width)
            qk = ops.rope(qkv[:, :rotated], positions, base=c.rope_base)
            ops.kv_write(qk[:, c.heads :], qkv[:, rotated:], cache.keys[index], cache.values[index], slots)
            attended = attend(index, qk[:, : c.heads]).reshape(tokens, c.width)
            hidden = ops.linear(attended, layer.output, residual=hidden)
            normed = ops.rms_norm(hidden, layer.feed_forward_norm, eps=c.norm_eps)
            gate_up = ops.linear(normed, layer.gate_up)
            active = ops.swiglu(gate_up[:, : c.feed_forward], gate_up[:, c.feed_forward :])
            hidden = ops.linear(active, layer.down, residual=hidden)
        return hidden

    def _logits(self, hidden: Any) -> Any:
        return ops.linear(ops.rms_norm(hidden, self._norm, eps=self.config.norm_eps), self._head)


class _Loader:
    """Reads tensors, checks their shapes, and brings them to the device."""

    def __init__(self, file: ModelFile, device: Any, dtype: str, progress: Callable[[int, int], None] | None) -> None:
        if dtype not in ("quantized", "float32"):
            raise InvalidArgument(f"Llama.load: dtype must be 'quantized' or 'float32', not {dtype!r}.")
        self._file, self._device, self._dtype, self._progress = file, device, dtype, progress
        self._done, self._all = 0, sum(info.nbytes for info in file.tensors.values())

    def vector(self, name: str, length: int) -> Any:
        return unify.asarray(self._dense(name, (length,)), device=self._device, copy=True)

    def matrix(self, names: list[str], shapes: list[tuple[int, int]]) -> Any:
        """One matrix of several tensors on top of each other."""
        import numpy as np

        kinds = {self._check(name, shape).kind for name, shape in zip(names, shapes, strict=True)}
        if self._dtype == "quantized" and len(kinds) == 1 and (kind := kinds.copy().pop()) in FORMATS:
            raw = np.concatenate([self._read(name) for name in names])
            matrix: QuantizedMatrix = from_gguf(kind, raw, device=self._device)
            return matrix
        dense = np.concatenate([self._dense(name, shape) for name, shape in zip(names, shapes, strict=True)])
        return unify.asarray(dense, device=self._device, copy=True)

    def _dense(self, name: str, shape: tuple[int, ...]) -> Any:
        import gguf
        import numpy as np

        info = self._check(name, shape)
        raw = self._read(name)
        if info.kind == "f32":
            return raw
        try:
            values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[info.kind.upper()])
        except (NotImplementedError, ValueError, KeyError) as error:
            raise ModelFileError(
                f"{self._file.path}: tensor '{name}' of type {info.kind} cannot be used: {error}. Quantise the "
                "model to q8_0 or q4_1."
            ) from None
        return np.ascontiguousarray(values, np.float32).reshape(shape)

    def _check(self, name: str, shape: tuple[int, ...]) -> Any:
        info = self._file.tensors.get(name)
        if info is None or info.shape != shape:
            have = "is absent" if info is None else f"is {list(info.shape)}"
            raise ModelFileError(
                f"{self._file.path}: tensor '{name}' {have}; {list(shape)} is needed. Is it a whole llama?"
            )
        return info

    def _read(self, name: str) -> Any:
        data = self._file.read(name)
        self._done += data.nbytes
        if self._progress is not None:
            self._progress(self._done, self._all)
        return data
