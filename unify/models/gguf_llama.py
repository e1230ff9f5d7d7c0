"""Decoders of the Llama family (Touvron et al. 2023), as GGUF files describe them."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import unify
from unify._errors import InvalidArgument, ModelFileError
from unify.ops.quant import FORMATS, from_gguf

from .decoder import Decoder, Layer
from .feed_forward import GatedUnit
from .grouped_attention import GroupedAttention

if TYPE_CHECKING:
    from .weights import ModelFile, TensorInfo


@dataclass(frozen=True)
class Config:
    """The sizes of a model. `width` is d_model, `head_width` that of one head; `rope_factor` divides positions."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int
    rope_base: float
    rope_factor: float
    norm_eps: float

    @staticmethod
    def from_file(file: ModelFile) -> Config:
        """Reads the sizes from the metadata. Raises ModelFileError for another architecture or odd sizes."""
        architecture = file.require("general.architecture", str)
        if architecture != "llama":
            raise ModelFileError(
                f"{file.path}: the metadata 'general.architecture' is {architecture!r}; only 'llama' can be run "
                "(SmolLM, Llama, TinyLlama, Mistral 7B and their like). Take another model."
            )
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise ModelFileError(
                f"{file.path}: no [vocabulary, width] tensor 'token_embd.weight'. Is it a whole llama?"
            )
        _refuse_what_is_not_computed(file)
        heads = file.require("llama.attention.head_count", int)
        width = file.require("llama.embedding_length", int)
        config = Config(
            layers=file.require("llama.block_count", int),
            width=width,
            feed_forward=file.require("llama.feed_forward_length", int),
            heads=heads,
            kv_heads=file.require("llama.attention.head_count_kv", int, heads),
            head_width=_head_width(file, width // max(heads, 1)),
            vocabulary=embedding.shape[0],
            context=file.require("llama.context_length", int),
            rope_base=file.require("llama.rope.freq_base", float, 10000.0),
            rope_factor=_rope_factor(file),
            norm_eps=file.require("llama.attention.layer_norm_rms_epsilon", float),
        )
        if not config.fits(embedding.shape):
            raise ModelFileError(
                f"{file.path}: its sizes do not fit each other: {config}, token_embd.weight {list(embedding.shape)}. "
                "Convert the model anew, or take the file from someone else."
            )
        return config

    def fits(self, embedding: tuple[int, ...]) -> bool:
        """Whether the sizes fit each other and this shape of the embedding."""
        sizes = (self.layers, self.width, self.feed_forward, self.heads, self.kv_heads, self.head_width, self.context)
        return (
            min(sizes) >= 1
            and self.heads % self.kv_heads == 0
            and self.head_width % 2 == 0  # positions rotate pairs
            and embedding == (self.vocabulary, self.width)
            # A base below 1 would turn faster with each pair; NaN compares as false.
            and 1.0 <= self.rope_base < 1e30
            and 1e-30 < self.rope_factor < 1e30
            and 0.0 <= self.norm_eps < 1.0
        )


def _head_width(file: ModelFile, default: int) -> int:
    """The width of a head: of its keys and values, all of it rotated by the position."""
    rotated: int = file.require("llama.rope.dimension_count", int, default)
    for key in ("llama.attention.key_length", "llama.attention.value_length"):
        width = file.require(key, int, rotated)
        if width != rotated:
            raise ModelFileError(
                f"{file.path}: the metadata '{key}' is {width}, and {rotated} of a head's features are rotated by the "
                "position; only equal widths can be run. Take another model."
            )
    return rotated


def _rope_factor(file: ModelFile) -> float:
    """What positions are divided by. A factor without a type of scaling is a linear one, and 0 is none."""
    if file.require("llama.rope.scaling.type", str, "linear") == "none":
        return 1.0
    older: float = file.require("llama.rope.scale_linear", float, 0.0)
    return file.require("llama.rope.scaling.factor", float, 0.0) or older or 1.0


# What the metadata may say under "llama.": sizes that are read above, and what changes no result.
_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "rope.freq_base"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "rope.dimension_count"),
    *("vocab_size", "tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
    *("rope.scaling.factor", "rope.scale_linear"),
}
# Values of other entries that change nothing, or that are computed.
_OFF = (0, "")
_NEUTRAL = {
    "rope.scaling.type": ("none", "linear"),
    "rope.scaling.attn_factor": (0, 1),
    "attention.causal": (True,),
}
_ROPE_FACTORS = "rope_freqs.weight"
_TENSORS = {"token_embd.weight", "output_norm.weight", "output.weight", _ROPE_FACTORS}
_LAYER_TENSORS = {
    *("attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"),
    *("ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"),
}


def _refuse_what_is_not_computed(file: ModelFile) -> None:
    """Raises ModelFileError for metadata and tensors that would change the result and are not used here."""
    for name, value in file.metadata.items():
        architecture, _, key = name.partition(".")
        if architecture != "llama" or key in _READ or value in _NEUTRAL.get(key, _OFF):
            continue
        raise ModelFileError(
            f"{file.path}: the metadata '{name:.80}' is {value!r:.80}, which is not computed here: the text would be "
            "wrong. Take another model."
        )
    layers = file.require("llama.block_count", int)
    for name in file.tensors:
        layer = re.fullmatch(r"blk\.(\d{1,9})\.(.+)", name)
        known = name in _TENSORS if layer is None else layer[2] in _LAYER_TENSORS and int(layer[1]) < layers
        if not known:
            raise ModelFileError(
                f"{file.path}: the tensor '{name:.80}' has no place in a llama of {layers} layers as it is computed "
                "here: the text would be wrong without it. Take another model."
            )


class Llama(Decoder):
    """A Llama-family decoder of a GGUF file. Make it by `Llama.load`."""

    @staticmethod
    def load(
        file: ModelFile,
        *,
        device: Any = None,
        dtype: str = "quantized",
        progress: Callable[[int, int], None] | None = None,
    ) -> Llama:
        """Reads the weights onto a device, one tensor at a time.

        dtype: "quantized" keeps matrices in the file's format where `ops.linear` has it (q4_0, q4_1, q8_0) and warns of
        others, which become float32; "float32" dequantises all. progress is called with the bytes read so far and in
        all. Raises ModelFileError for tensors that are absent, of the wrong shape, or not used.
        """
        config = Config.from_file(file)
        loader = _Loader(file, device, dtype, progress)
        d, q, kv = config.width, config.heads * config.head_width, config.kv_heads * config.head_width
        (embedding,) = loader.matrix(["token_embd.weight"], [(config.vocabulary, d)])
        frequencies = loader.frequencies(config)
        layers = []
        for i in range(config.layers):
            p = f"blk.{i}."
            names = [f"{p}attn_q.weight", f"{p}attn_k.weight", f"{p}attn_v.weight"]
            attention_norm = loader.vector(f"{p}attn_norm.weight", d)
            attention = GroupedAttention(
                heads=config.heads,
                kv_heads=config.kv_heads,
                width=config.head_width,
                qkv=loader.matrix(names, [(q, d), (kv, d), (kv, d)]),
                output=loader.matrix([f"{p}attn_output.weight"], [(d, q)]),
                frequencies=frequencies,
                interleaved=True,
            )
            feed_forward_norm = loader.vector(f"{p}ffn_norm.weight", d)
            names = [f"{p}ffn_gate.weight", f"{p}ffn_up.weight"]
            feed_forward = GatedUnit(
                width=config.feed_forward,
                gate_up=loader.matrix(names, [(config.feed_forward, d)] * 2),
                down=loader.matrix([f"{p}ffn_down.weight"], [(d, config.feed_forward)]),
            )
            layers.append(Layer(attention_norm, attention, feed_forward_norm, feed_forward))
        head = [embedding]
        if "output.weight" in file.tensors:
            head = loader.matrix(["output.weight"], [(config.vocabulary, d)])
        return Llama(config, embedding, layers, loader.vector("output_norm.weight", d), head, unify.float32)


class _Loader:
    """Reads tensors, checks their shapes, and brings them to the device."""

    def __init__(self, file: ModelFile, device: Any, dtype: str, progress: Callable[[int, int], None] | None) -> None:
        if dtype not in ("quantized", "float32"):
            raise InvalidArgument(f"Llama.load: dtype must be 'quantized' or 'float32', not {dtype!r}.")
        self._file, self._device, self._dtype, self._progress = file, device, dtype, progress
        self._done, self._all = 0, sum(info.nbytes for info in file.tensors.values())
        if dtype == "quantized":
            _warn_of_dense(file)

    def vector(self, name: str, length: int) -> Any:
        return unify.asarray(self._dense(name, (length,)), device=self._device, copy=True)

    def frequencies(self, config: Config) -> Any:
        """The angles by which one position turns each pair; Llama 3.1 and later have a tensor that divides them."""
        import numpy as np

        pairs = config.head_width // 2
        angles = config.rope_base ** (-np.arange(pairs) / pairs) / config.rope_factor
        if _ROPE_FACTORS in self._file.tensors:
            factors = self._dense(_ROPE_FACTORS, (pairs,)).astype(np.float64)
            if not ((factors > 1e-30) & (factors < 1e30)).all():
                raise ModelFileError(
                    f"{self._file.path}: the tensor '{_ROPE_FACTORS}' must have finite numbers above 0; it has "
                    f"{factors.min()} to {factors.max()}. Convert the model anew."
                )
            angles /= factors
        return unify.asarray(angles.astype(np.float32), device=self._device, copy=True)

    def matrix(self, names: list[str], shapes: list[tuple[int, int]]) -> list[Any]:
        """Tensors on top of each other, as few matrices as their formats allow."""
        infos = [self._check(name, shape) for name, shape in zip(names, shapes, strict=True)]
        return [self._join(kind, list(same)) for kind, same in itertools.groupby(infos, self._kept_kind)]

    def _kept_kind(self, info: TensorInfo) -> str:
        return info.kind if self._dtype == "quantized" and info.kind in FORMATS else "f32"

    def _join(self, kind: str, infos: list[TensorInfo]) -> Any:
        import numpy as np

        if kind in FORMATS:
            return from_gguf(kind, np.concatenate([self._read(info.name) for info in infos]), device=self._device)
        dense = np.concatenate([self._dense(info.name, info.shape) for info in infos])
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

    def _check(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
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


def _warn_of_dense(file: ModelFile) -> None:
    """Says which matrices become float32, since that takes memory that the file's size does not tell of."""
    dense = [i for i in file.tensors.values() if len(i.shape) == 2 and i.kind not in FORMATS and i.kind != "f32"]
    if not dense:
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(info.kind for info in dense).items()))
    before, after = (sum(sizes) for sizes in zip(*((i.nbytes, 4 * math.prod(i.shape)) for i in dense), strict=True))
    warnings.warn(
        f"{file.path}: {len(dense)} matrices ({kinds}) become float32 in memory: {after / 1e6:.1f} MB for "
        f"{before / 1e6:.1f} MB of the file. Only {', '.join(FORMATS)} are multiplied as they are; quantise the model "
        "to one of them to save memory and time.",
        RuntimeWarning,
        stacklevel=4,
    )
