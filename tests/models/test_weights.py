"""Model files: what the gguf package reads from them, and what is refused."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings

import unify
from unify import models
from unify._errors import Error, ModelFileError

from .conftest import SHAPES, TOKENS, WIDTH, write_gguf, write_model
from .damage import Change, damaged, damages

WRITABLE = [
    Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.TQ1_0, Kind.TQ2_0,
]  # fmt: skip
OURS = [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0]  # stay quantised in memory


def peer_values(path: Path) -> dict[str, np.ndarray]:
    """Each tensor as the gguf package reads and dequantises it."""
    reader = gguf.GGUFReader(path)
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(tuple(reversed(t.shape.tolist())))
        for t in reader.tensors
    }


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name.lower())
def test_tensors_read_back_as_the_gguf_package_reads_them(tmp_path: Path, kind: Kind) -> None:
    values = np.random.default_rng(1).normal(size=(3, 512)).astype(np.float32)
    path = write_gguf(tmp_path / "one.gguf", {}, {"first": (values[:1], Kind.F32), "x": (values, kind)})
    file = models.ModelFile(path)
    info = file.tensors["x"]
    assert (info.shape, info.kind) == ((3, 512), kind.name.lower())
    read = file.read("x")
    ours = read if kind == Kind.F32 else gguf.quants.dequantize(read, kind)
    np.testing.assert_array_equal(ours.reshape(3, 512), peer_values(path)["x"])


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.name.lower())
def test_quantised_matrices_dequantise_as_the_gguf_package_does(tmp_path: Path, kind: Kind) -> None:
    path = write_model(tmp_path / "tiny.gguf", kind)
    matrix = unify.ops.quant.from_gguf(kind.name.lower(), models.ModelFile(path).read("output.weight"))
    np.testing.assert_array_equal(matrix.dequantize().numpy(), peer_values(path)["output.weight"])


def test_metadata_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written: dict[str, Any] = {
        "a.text": "grüß 漢字 🎉", "a.number": 2**32 - 1, "a.float": 0.5, "a.flag": True,
        "a.texts": ["", "x", "é"], "a.numbers": [-1, 0, 2**31 - 1], "a.floats": [0.25, -1.5],
    }  # fmt: skip
    read = models.ModelFile(write_gguf(tmp_path / "m.gguf", written, {})).metadata
    assert {key: read[key] for key in written} == written


@pytest.mark.parametrize(
    ("changes", "shapes", "told"),
    [
        ({"llama.block_count": None}, {}, "'llama.block_count' is absent; int"),
        ({"llama.block_count": "two"}, {}, "'llama.block_count' is 'two'; int"),
        ({"llama.rope.freq_base": 0.0}, {}, "rope_base=0.0"),
        ({"llama.rope.freq_base": float("nan")}, {}, "rope_base=nan"),
        ({"llama.attention.head_count": 0}, {}, "heads=0"),
        ({"llama.attention.head_count_kv": 3}, {}, "kv_heads=3"),
        ({"llama.attention.head_count_kv": [2, 2]}, {}, "'llama.attention.head_count_kv' is [2, 2]; int"),
        ({"llama.embedding_length": 128}, {}, "width=128"),
        ({"llama.block_count": 3}, {}, "'blk.2.attn_norm.weight' is absent; [64] is needed"),
        ({"general.architecture": "mamba"}, {}, "'general.architecture' is 'mamba'; only 'llama'"),
        ({"llama.rope.dimension_count": 1}, {"blk.0.attn_q.weight": (4, 64)}, "head_width=1"),
        ({"llama.attention.value_length": 32}, {}, "'llama.attention.value_length' is 32, and 16 of"),
        ({"llama.rope.scaling.factor": float("nan")}, {}, "rope_factor=nan"),
        ({"llama.rope.scale_linear": -4.0}, {}, "rope_factor=-4.0"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "'llama.rope.scaling.type' is 'yarn', which is not computed"),
        ({"llama.attention.sliding_window": 128}, {}, "'llama.attention.sliding_window' is 128"),
        ({"llama.attention.causal": False}, {}, "'llama.attention.causal' is False"),
        ({"llama.expert_count": 8}, {}, "'llama.expert_count' is 8"),
        ({"llama.new_idea": [1.5]}, {}, "'llama.new_idea' is [1.5]"),
        ({"llama.block_count": 1}, {}, "the tensor 'blk.1.attn_norm.weight' has no place in a llama of 1 layers"),
        ({}, {"rope_freqs.weight": (16,)}, "'rope_freqs.weight' is [16]; [8] is needed"),
        ({}, {"blk.0.attn_q.bias": (64,)}, "the tensor 'blk.0.attn_q.bias' has no place"),
        ({}, {"blk.0.ffn_gate_inp.weight": (8, 64)}, "the tensor 'blk.0.ffn_gate_inp.weight' has no place"),
        ({"tokenizer.ggml.model": "bert"}, {}, "a tokenizer of kind 'bert', 'smollm'"),
        ({"tokenizer.ggml.model": "llama"}, {}, "'tokenizer.ggml.scores' is absent"),
        ({"tokenizer.ggml.pre": "qwen2"}, {}, "a tokenizer of kind 'gpt2', 'qwen2'"),
        ({"tokenizer.ggml.tokens": [1, 2]}, {}, "'tokenizer.ggml.tokens' is no array of texts"),
        ({"tokenizer.ggml.tokens": ["a"] * len(TOKENS)}, {}, f"{len(TOKENS)} tokens (1 different)"),
        ({"tokenizer.ggml.token_type": [1]}, {}, "1 token types"),
        ({"tokenizer.ggml.merges": ["nothing"]}, {}, "merges do not fit"),
        ({"tokenizer.ggml.merges": ["zz zz"]}, {}, "vocabulary cannot be used"),
        ({"tokenizer.ggml.eos_token_id": None}, {}, "'tokenizer.ggml.eos_token_id' is absent"),
        ({"tokenizer.ggml.eos_token_id": len(TOKENS)}, {}, "'tokenizer.ggml.eos_token_id' is 271"),
        ({"tokenizer.ggml.eot_token_id": len(TOKENS)}, {}, "'tokenizer.ggml.eot_token_id' is 271"),
        ({"tokenizer.ggml.eom_token_id": "</s>"}, {}, "'tokenizer.ggml.eom_token_id' is '</s>'; int is needed"),
        ({"tokenizer.chat_template": 7}, {}, "'tokenizer.chat_template' is 7; str"),
        ({}, {"output_norm.weight": None}, "'output_norm.weight' is absent; [64] is needed"),
        ({}, {"token_embd.weight": None}, "'token_embd.weight'"),
        ({}, {"blk.1.ffn_down.weight": (64, 64)}, "'blk.1.ffn_down.weight' is [64, 64]; [64, 128] is needed"),
        ({}, {"blk.0.attn_norm.weight": (1, 64)}, "'blk.0.attn_norm.weight' is [1, 64]; [64] is needed"),
    ],
)
def test_a_model_that_does_not_hold_together_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], shapes: dict[str, Any], told: str
) -> None:
    path = write_model(tmp_path / "odd.gguf", changes=changes, shapes=shapes)
    with pytest.raises(ModelFileError) as refused:
        models.load(str(path))
    assert str(path) in str(refused.value)
    assert told in str(refused.value)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_of_positions_that_are_none_are_refused(tmp_path: Path, factor: float) -> None:
    path = write_model(tmp_path / "odd.gguf", vectors={"rope_freqs.weight": np.array([1.0] * 7 + [factor])})
    with pytest.raises(ModelFileError, match=r"odd.gguf: the tensor 'rope_freqs.weight'.*above 0"):
        models.load(str(path))


def test_metadata_that_changes_nothing_is_no_reason_to_refuse(tmp_path: Path) -> None:
    changes = {
        "llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 8.0, "llama.rope.scaling.finetuned": False,
        "llama.expert_count": 0, "llama.attention.key_length": 16, "llama.attention.value_length": 16,
        "llama.attention.causal": True, "general.idea": "new", "llama.tensor_data_layout": "Meta AI original pth",
    }  # fmt: skip
    models.load(str(write_model(tmp_path / "tiny.gguf", changes=changes)))


def test_a_type_that_nobody_dequantises_is_refused_by_name(tmp_path: Path, tiny_path: Path) -> None:
    content = bytearray(tiny_path.read_bytes())
    name = b"blk.0.attn_norm.weight"
    kind_at = content.index(name) + len(name) + 4 + 8  # after the rank and one axis
    assert content[kind_at : kind_at + 4] == struct.pack("<I", Kind.F32)
    content[kind_at : kind_at + 4] = struct.pack("<I", Kind.I32)  # as many bytes
    path = tmp_path / "integers.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"'blk.0.attn_norm.weight' of type i32 cannot be used.*q8_0"):
        models.load(str(path))


def test_a_wrong_dtype_is_the_callers_mistake(tiny_path: Path) -> None:
    with pytest.raises(unify.errors.InvalidArgument, match="'quantized' or 'float32', not 'int4'"):
        models.load(str(tiny_path), dtype="int4")


def test_a_file_that_goes_away_after_opening_is_an_error(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf")
    file = models.ModelFile(path)
    with path.open("rb+") as opened:
        opened.truncate(file.tensors["output.weight"].offset + 100)
    with pytest.raises(ModelFileError, match=r"ends inside tensor 'output.weight'"):
        file.read("output.weight")
    path.unlink()
    with pytest.raises(ModelFileError, match=r"tiny.gguf: tensor 'output.weight' cannot be read: No such file"):
        file.read("output.weight")
    with pytest.raises(ModelFileError, match="cannot be read: Is a directory"):
        models.ModelFile(tmp_path)


# Headers written by hand, as somebody who means harm would.


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header(
    *parts: bytes, tensors: int = 0, entries: int = 0, version: int = 3, magic: bytes = b"GGUF", data: int = 0
) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, entries) + b"".join(parts) + bytes(data)


U64 = struct.pack("<Q", 2**64 - 1)
HOSTILE = {
    "empty": b"",
    "magic": header(magic=b"GGML"),
    "version": header(version=4),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "tensor-count": header(tensors=2**63),
    "entry-count": header(entries=2**64 - 1),
    "as-many-tensors-as-believable": header(tensors=2**16),
    "key-length": header(U64, entries=1),
    "key-length-signed": header(struct.pack("<q", -1), b"x" * 64, entries=1),
    "text-length": header(entry(b"k", 8, U64), entries=1),
    "text-longer-than-the-file": header(entry(b"k", 8, struct.pack("<Q", 2**24)), entries=1),
    "array-length": header(entry(b"k", 9, struct.pack("<I", 4) + U64), entries=1),
    "array-of-texts-longer-than-the-file": header(entry(b"k", 9, struct.pack("<IQ", 8, 2**22)), entries=1),
    "array-longer-than-the-file": header(entry(b"k", 9, struct.pack("<IQ", 12, 2**22)), entries=1),
    "array-in-arrays": header(entry(b"k", 9, struct.pack("<IQ", 9, 1) * 10_000), entries=1),
    "value-type": header(entry(b"k", 13, b"\0" * 8), entries=1),
    "item-type": header(entry(b"k", 9, struct.pack("<IQ", 99, 1)), entries=1),
    "key-not-utf8": header(entry(b"\xff\xfe", 0, b"\0"), entries=1),
    "text-not-utf8": header(entry(b"k", 8, text(b"\xed\xa0\x80")), entries=1),
    "key-twice": header(entry(b"k", 0, b"\0") * 2, entries=2),
    "alignment-zero": header(entry(b"general.alignment", 4, bytes(4)), entries=1),
    "alignment-odd": header(entry(b"general.alignment", 4, struct.pack("<I", 48)), entries=1),
    "alignment-huge": header(entry(b"general.alignment", 10, struct.pack("<Q", 2**63)), entries=1),
    "alignment-text": header(entry(b"general.alignment", 8, text(b"32")), entries=1),
    "name-not-utf8": header(tensor(b"\xc3\x28", (32,)), tensors=1, data=256),
    "name-twice": header(tensor(b"x", (8,)), tensor(b"x", (8,), offset=32), tensors=2, data=256),
    "no-axes": header(tensor(b"x", ()), tensors=1, data=256),
    "many-axes": header(tensor(b"x", (1,) * 5), tensors=1, data=256),
    "rank-huge": header(text(b"x"), struct.pack("<I", 2**32 - 1), tensors=1, data=256),
    "axis-zero": header(tensor(b"x", (0, 8)), tensors=1, data=256),
    "axis-huge": header(tensor(b"x", (2**64 - 1,)), tensors=1, data=256),
    "product-wraps-to-zero": header(tensor(b"x", (2**32, 2**32)), tensors=1, data=256),
    "product-wraps-to-one-block": header(tensor(b"x", (2**63 + 16, 2)), tensors=1, data=256),
    "part-of-a-block": header(tensor(b"x", (33,), kind=Kind.Q4_0), tensors=1, data=256),
    "tensor-type": header(tensor(b"x", (32,), kind=4), tensors=1, data=256),  # Q4_2, removed from the format
    "tensor-type-huge": header(tensor(b"x", (32,), kind=2**32 - 1), tensors=1, data=256),
    "offset-misaligned": header(tensor(b"x", (8,), offset=8), tensors=1, data=256),
    "offset-beyond": header(tensor(b"x", (8,), offset=2**20), tensors=1, data=256),
    "offset-wraps": header(tensor(b"x", (8,), offset=2**64 - 32), tensors=1, data=256),
    "ends-in-the-last-tensor": header(tensor(b"x", (64,)), tensors=1, data=200),
    "overlap": header(tensor(b"x", (16,)), tensor(b"y", (8,), offset=32), tensors=2, data=256),
    "same-place": header(tensor(b"x", (8,)), tensor(b"y", (8,)), tensors=2, data=256),
}
_TRACED_BYTES = 4 << 20  # some hundred times the largest of these files


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_and_takes_no_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[name])
    models.ModelFile(write_gguf(tmp_path / "first.gguf", {}, {"x": (np.zeros((1, 32), np.float32), Kind.F32)}))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=r"hostile\.gguf: ") as refused:
            models.ModelFile(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < _TRACED_BYTES
    assert len(str(refused.value)) < 500 + len(str(path))


def test_the_parts_of_the_hostile_headers_make_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    alignment = entry(b"general.alignment", 4, struct.pack("<I", 64))
    parts = (alignment, tensor(b"x", (8,)), tensor(b"y", (8, 2), offset=64))
    path.write_bytes(header(*parts, tensors=2, entries=1, data=256))
    read = models.ModelFile(path)
    assert {name: info.shape for name, info in read.tensors.items()} == {"x": (8,), "y": (2, 8)}
    assert all(info.offset % 64 == 0 for info in read.tensors.values())


def test_a_long_name_does_not_fill_the_screen(tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(header(tensor(b"n" * 100_000, (0,)), tensors=1))
    with pytest.raises(ModelFileError) as refused:
        models.ModelFile(path)
    assert len(str(refused.value)) < 1000


@pytest.mark.filterwarnings("ignore:.* become float32 in memory:RuntimeWarning")  # f32 may become f16
@settings(max_examples=400, deadline=2000)
@given(changes=damages("flip", "delete", "insert", "word", "cut"))
def test_whatever_is_done_to_a_file_it_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, tiny_path: Path, changes: list[Change]
) -> None:
    content = tiny_path.read_bytes()
    header_bytes = min(info.offset for info in models.ModelFile(tiny_path).tensors.values())
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    path.write_bytes(damaged(content, header_bytes, changes))
    tracemalloc.start()
    try:
        models.load(str(path))
    except Error as refused:
        assert str(path) in str(refused)  # noqa: PT017 - loading is as good
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 50 << 20


def test_the_sizes_of_the_tiny_model_are_those_of_its_tensors(tiny: tuple[models.Llama, models.Tokenizer]) -> None:
    config = tiny[0].config
    assert (config.width, config.vocabulary, config.layers) == (WIDTH, len(TOKENS), 2)
    assert SHAPES["blk.0.attn_k.weight"] == (config.kv_heads * config.head_width, config.width)
