"""Directories of safetensors: what the safetensors package wrote in them, and what is refused."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import save_file

from unify._errors import ModelFileError
from unify.models.checkpoint import Checkpoint

from ..conftest import Run
from .damage import Change, damaged, damages

KINDS = {
    torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "f8_e4m3", torch.float8_e5m2: "f8_e5m2", torch.int64: "i64", torch.int32: "i32",
    torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
}  # fmt: skip


def write(path: Path, *shards: dict[str, torch.Tensor], config: Any = None, index: Any = None) -> Path:
    """Writes shards by the safetensors package, their index where there are several, and a config."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({} if config is None else config))
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, tensors in zip(names, shards, strict=True):
        save_file(tensors, path / name, metadata={"format": "pt"})
    if len(shards) > 1:
        index = index or {"weight_map": {key: name for name, keys in zip(names, shards, strict=True) for key in keys}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def some(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((3, 5), generator=generator)
    found = {f"{seed}.{kind}": (values * 50).to(dtype) for dtype, kind in KINDS.items()}
    return found | {f"{seed}.empty": torch.empty(0, 4), f"{seed}.scalar": torch.tensor(3.5)}


def test_tensors_read_back_as_they_were_written(tmp_path: Path) -> None:
    shards = [some(0), some(1), some(2)]
    checkpoint = Checkpoint(write(tmp_path / "m", *shards, config={"a": 1}))
    everything = shards[0] | shards[1] | shards[2]
    assert checkpoint.config == {"a": 1}
    assert checkpoint.tensors.keys() == everything.keys()
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in everything.values())
    for name, tensor in everything.items():
        info = checkpoint.info(name, tuple(tensor.shape))
        assert (info.kind, info.nbytes) == (KINDS[tensor.dtype], tensor.nbytes)
        read = checkpoint.read(name)
        assert (read.shape, read.tobytes()) == (tuple(tensor.shape), bits(tensor))


def test_rows_of_a_tensor_are_read_alone(tmp_path: Path) -> None:
    tensors = some()
    checkpoint = Checkpoint(write(tmp_path / "m", tensors))
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and len(tensor):
            for first, rows in ((0, 1), (1, 2), (2, 0), (0, 3)):
                assert checkpoint.read(name, first, rows).tobytes() == bits(tensor[first : first + rows])


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write(tmp_path / "m", {"x": torch.tensor([1.0, 2.0])}))
    assert checkpoint.read("x").tolist() == [1.0, 2.0]


def test_progress_counts_the_bytes_of_each_shard(tmp_path: Path) -> None:
    shards = [{"a": torch.zeros(4), "b": torch.zeros(2)}, {"c": torch.zeros(8)}]
    told: list[tuple[str, int, int]] = []
    checkpoint = Checkpoint(write(tmp_path / "m", *shards), lambda *call: told.append(call))
    for name in "acb":
        checkpoint.read(name)
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert told == [(first, 16, 24), (second, 32, 32), (first, 24, 24)]


def test_shards_may_be_links_as_in_a_cache(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    (path / "model.safetensors").rename(tmp_path / "blob")
    (path / "model.safetensors").symlink_to(tmp_path / "blob")
    assert Checkpoint(path).read("x").tolist() == [1.0, 1.0, 1.0]


def test_a_tensor_that_is_absent_or_of_another_shape_is_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write(tmp_path / "m", {"x": torch.ones(3)}))
    with pytest.raises(ModelFileError, match=r"m: the tensor 'y' is absent; \[2\] is needed"):
        checkpoint.info("y", (2,))
    with pytest.raises(ModelFileError, match=r"m: the tensor 'x' is \[3\]; \[2\] is needed"):
        checkpoint.info("x", (2,))
    with pytest.raises(ModelFileError, match="'y' is absent"):
        checkpoint.read("y")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [(3, int, 3), (10000, float, 10000.0), (0.5, float, 0.5), (None, int, 7), ("x", str, "x"), ([1], list, [1])],
)
def test_a_config_entry_is_of_the_type_that_is_asked_for(tmp_path: Path, value: Any, kind: type, expected: Any) -> None:
    read = Checkpoint(write(tmp_path / "m", {}, config={"key": value})).require(
        "key", kind, kind(7) if value is None else None
    )
    assert (read, type(read)) == (expected, kind)


@pytest.mark.parametrize(("value", "kind"), [(True, int), (1.0, int), ("3", int), (None, int), (10**400, float)])
def test_a_config_entry_of_another_type_is_refused(tmp_path: Path, value: Any, kind: type) -> None:
    checkpoint = Checkpoint(write(tmp_path / "m", {}, config={"key": value}))
    with pytest.raises(ModelFileError, match=f"config.json: 'key' is .*; {kind.__name__} is needed"):
        checkpoint.require("key", kind)


def test_a_file_that_changes_after_opening_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(1000)})
    checkpoint = Checkpoint(path)
    os.truncate(path / "model.safetensors", 200)
    with pytest.raises(ModelFileError, match=r"model.safetensors: ends inside the tensor 'x'"):
        checkpoint.read("x")
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model.safetensors: the tensor 'x' cannot be read: No such file"):
        checkpoint.read("x")


# Shards written by hand, as somebody who means harm would.


def shard(header: Any, data: int = 0, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def entry(shape: Any, place: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


X = entry([2], [0, 8])
HOSTILE = {
    "empty": b"",
    "only-a-length": struct.pack("<Q", 2),
    "length-beyond": shard({}, length=1000),
    "length-huge": shard({}, length=2**64 - 1),
    "length-signed": shard({}, length=2**63),
    "length-zero": shard({}, length=0),
    "not-json": shard(b"{'x': 1}"),
    "not-utf8": shard(b'{"\xff": 1}'),
    "a-list": shard([1, 2]),
    "a-space-before": shard(b' {"x": %s}' % json.dumps(X).encode(), data=8),
    "metadata-a-number": shard({"x": X, "__metadata__": {"a": 1}}, data=8),
    "not-a-number": shard(b'{"x": NaN}'),
    "nested": shard(b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a-long-number": shard(b'{"x": ' + b"9" * 100_000 + b"}"),
    "key-twice": shard(b'{"x": %s, "x": %s}' % ((json.dumps(X).encode(),) * 2), data=8),
    "field-twice": shard(b'{"x": {"dtype": "F32", "dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}', data=8),
    "no-object": shard({"x": 1}),
    "no-dtype": shard({"x": {"shape": [2], "data_offsets": [0, 8]}}, data=8),
    "dtype-unknown": shard({"x": entry([2], [0, 8], "F33")}, data=8),
    "dtype-a-list": shard({"x": entry([2], [0, 8], ["F32"])}, data=8),
    "shape-negative": shard({"x": entry([-2], [0, 8])}, data=8),
    "shape-a-fraction": shard({"x": entry([2.0], [0, 8])}, data=8),
    "shape-true": shard({"x": entry([True, 2], [0, 8])}, data=8),
    "shape-huge": shard({"x": entry([2**62, 4], [0, 8])}, data=8),
    "shape-that-wraps": shard({"x": entry([2**32, 2**32], [0, 0])}),
    "many-axes": shard({"x": entry([1] * 100_000, [0, 4])}, data=4),
    "place-of-one": shard({"x": entry([2], [8])}, data=8),
    "place-of-three": shard({"x": entry([2], [0, 8, 8])}, data=8),
    "place-backwards": shard({"x": entry([2], [8, 0])}, data=8),
    "place-negative": shard({"x": entry([2], [-8, 0])}, data=8),
    "place-too-short": shard({"x": entry([2], [0, 4])}, data=8),
    "place-beyond": shard({"x": entry([2], [0, 8])}, data=4),
    "place-huge": shard({"x": entry([2], [2**62, 2**62 + 8])}, data=8),
    "overlap": shard({"x": X, "y": entry([2], [4, 12])}, data=12),
    "same-place": shard({"x": X, "y": X}, data=8),
    "gap": shard({"x": X, "y": entry([2], [12, 20])}, data=20),
    "not-from-the-start": shard({"x": entry([2], [4, 12])}, data=12),
    "bytes-at-the-end": shard({"x": X}, data=9),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shard_is_refused_and_takes_no_memory(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    (path / "model.safetensors").write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=r"model\.safetensors: ") as refused:
            Checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert len(str(refused.value)) < 500 + len(str(path))


def test_an_empty_shard_was_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"model\.safetensors: is empty \(0 bytes\): was the download cut off\?"):
        Checkpoint(path)


def test_shards_without_an_index_name_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    for number in (1, 2):
        (path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"")
    (path / "model.safetensors").unlink()
    told = r"model\.safetensors\.index\.json is missing, .* model-00001-of-00002\.safetensors, model-00002-of-00002"
    with pytest.raises(ModelFileError, match=told):
        Checkpoint(path)


def test_a_header_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 16)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="a header of 1073741824 bytes"):
            Checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_parts_of_the_hostile_shards_make_a_good_one(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    header = {"y": entry([3], [8, 20]), "x": X, "none": entry([0], [8, 8]), "__metadata__": {"format": "pt"}}
    (path / "model.safetensors").write_bytes(shard(header, data=20))
    assert {name: Checkpoint(path).read(name).shape for name in ("x", "y", "none")} == {
        "x": (2,),
        "y": (3,),
        "none": (0,),
    }


@pytest.mark.parametrize(
    "name",
    ["../m2/model.safetensors", "/etc/passwd", "sub/model.safetensors", "..\\model.safetensors", "", ".", "..",
     "a/../model.safetensors", ".hidden.safetensors", "model.bin", "m\0.safetensors", 7, None, ["model.safetensors"]],
)  # fmt: skip
def test_an_index_does_not_lead_out_of_the_directory(tmp_path: Path, name: Any) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    write(tmp_path / "m2", {"x": torch.ones(3)})
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ModelFileError, match=r"index.json: .* is no name of a safetensors file in the same directory"):
        Checkpoint(path)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({}, "no 'weight_map'"),
        ({"weight_map": []}, "no 'weight_map'"),
        ({"weight_map": {}}, "no 'weight_map'"),
        ([], "is no object"),
        ({"weight_map": {"x": "model-00002-of-00002.safetensors"}}, "the tensor 'x' should be in model-00002"),
        ({"weight_map": {"z": "model-00001-of-00002.safetensors"}}, "the tensor 'z' should be in model-00001"),
        ({"weight_map": {"x": "other.safetensors"}}, "other.safetensors: cannot be read: No such file"),
    ],
)
def test_an_index_that_tells_something_else_than_its_shards_is_refused(tmp_path: Path, index: Any, told: str) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)}, {"y": torch.ones(3)})
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=told):
        Checkpoint(path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    shards = {"x": torch.ones(3)}, {"x": torch.ones(3), "y": torch.ones(1)}
    path = write(tmp_path / "m", *shards, index={"weight_map": {"x": first, "y": second}})
    with pytest.raises(ModelFileError, match=f"the tensor 'x' is in {first} too"):
        Checkpoint(path)


def test_pickles_are_named_and_not_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "m", {})
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"pytorch_model.bin is there\. Pickled weights .* never read"):
        Checkpoint(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    (path / name).unlink()
    os.mkfifo(path / name)  # which nobody ever writes to
    with pytest.raises(ModelFileError, match=f"{name}: cannot be read: it is no regular file"):
        Checkpoint(path)


@pytest.mark.parametrize(
    ("config", "told"),
    [(b"", "cannot be read"), (b"[]", "is no object"), (b"{" * 10, "cannot be read"), (b'{"a": \xff}', "not UTF-8"),
     (b'{"a": 1, "a": 2}', "a key comes twice"), (b'{"a": ' + b"[" * 100_000, "nested too deeply|cannot be read")],
)  # fmt: skip
def test_a_config_that_is_none_is_refused(tmp_path: Path, config: bytes, told: str) -> None:
    path = write(tmp_path / "m", {"x": torch.ones(3)})
    (path / "config.json").write_bytes(config)
    with pytest.raises(ModelFileError, match=rf"config.json: .*({told})"):
        Checkpoint(path)


@settings(max_examples=300, deadline=2000)
@given(changes=damages("flip", "digit", "delete", "insert", "length", "cut"))
def test_whatever_is_done_to_a_shard_it_reads_as_the_package_reads_it_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Change]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    file = write(path, some()) / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(damaged(content, 8 + int.from_bytes(content[:8], "little"), changes))
    tracemalloc.start()
    try:
        checkpoint = Checkpoint(path)
        ours = {name: checkpoint.read(name) for name in checkpoint.tensors}
    except ModelFileError as refused:
        assert str(path) in str(refused)  # noqa: PT017 - reading it is as good
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20
    with safe_open(file, "pt") as theirs:  # which refuses nothing that was read
        expected = {name: bits(theirs.get_tensor(name)) for name in theirs.keys()}  # noqa: SIM118 - no mapping
    assert {name: array.tobytes() for name, array in ours.items()} == expected


_MEASURE = """
import sys
from unify._process import peak_memory_bytes
from unify.models.checkpoint import Checkpoint
import numpy
checkpoint = Checkpoint(sys.argv[1])
before = peak_memory_bytes()
held = [checkpoint.read(name) for name in checkpoint.tensors]
print(checkpoint.nbytes, peak_memory_bytes() - before)
"""


def test_reading_takes_the_memory_of_what_is_read(tmp_path: Path, python: Run) -> None:
    shards = [{f"{i}.{j}": torch.full((1 << 22,), float(i + j)) for j in range(3)} for i in range(4)]  # 200 MB
    finished = python("-c", _MEASURE, str(write(tmp_path / "m", *shards)))
    weights, grown = map(int, finished.stdout.split())
    assert weights == 4 * 3 << 24
    assert 0.9 * weights < grown < 1.1 * weights + (20 << 20)
