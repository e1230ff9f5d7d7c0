"""What a measured tile is kept for: a type and a format of its own, where these are not equally fast."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unify as un
from unify import ops
from unify._config import settings
from unify.ops import tuning
from unify.ops.quant import quantize_weight
from unify.ops.tile import Tile

CPU = un.device("cpu")
RNG = np.random.default_rng(6)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known, and what is found goes to a folder of the test's."""
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setattr(tuning, "_ROUND_S", 0.0)
    with settings.override(cache_dir=tmp_path):
        yield


def numbers(*shape: int) -> Any:
    return RNG.standard_normal(shape, np.float32)


def keys_of(name: str, call: Callable[[], Any]) -> set[tuning.Key]:
    """The keys that a call asks for, by this name."""
    asked: set[tuning.Key] = set()

    def noted(_: Any, given: str, device: Any, key: tuning.Key, default: Tile, others: Any) -> Tile:
        if given == name:
            asked.add(key)
        return default

    with pytest.MonkeyPatch.context() as patched, ops.tune():
        patched.setattr(tuning.Tuning, "choose", noted)
        call()
    return asked


def typed(op: str, dtype: torch.dtype) -> Callable[[], Any]:
    """A call whose arrays are of this type."""

    def floats(*shape: int) -> torch.Tensor:
        return torch.from_numpy(numbers(*shape)).to(dtype)

    weight, starts = quantize_weight(floats(2, 64, 128), "fp8"), torch.tensor([0, 1, 2], dtype=torch.int32)
    table, lengths = torch.tensor([[1, 0]], dtype=torch.int32), torch.tensor([40], dtype=torch.int32)
    calls: dict[str, Callable[[], Any]] = {
        "product": lambda: ops.matmul(floats(20, 64), floats(64, 32)),
        "few rows": lambda: ops.linear(floats(2, 64), floats(32, 64)),
        "fp8 few rows": lambda: ops.linear(floats(2, 128), weight[0]),
        "fp8 product": lambda: ops.linear(floats(20, 128), weight[0]),
        "grouped few rows": lambda: ops.grouped_linear(floats(2, 128), floats(2, 64, 128), starts),
        "quantised grouped few rows": lambda: ops.grouped_linear(floats(2, 128), weight, starts),
        "attention": lambda: ops.attention(floats(20, 4, 32), floats(20, 2, 32), floats(20, 2, 32)),
        "paged attention": lambda: ops.paged_attention(
            floats(1, 4, 32), floats(2, 32, 2, 32), floats(2, 32, 2, 32), table, lengths
        ),
        "paged prefill": lambda: ops.paged_prefill(
            floats(5, 4, 32), floats(2, 32, 2, 32), floats(2, 32, 2, 32), table, lengths, torch.tensor([0, 5]).int()
        ),
        "latent attention": lambda: ops.mla_attention(
            floats(1, 4, 48), floats(2, 32, 48), table, lengths, rank=32, scale=0.2
        ),
    }
    return calls[op]


@pytest.mark.parametrize(
    "name",
    ["product", "few rows", "fp8 few rows", "fp8 product", "grouped few rows", "quantised grouped few rows",
     "attention", "paged attention", "paged prefill", "latent attention"],
)  # fmt: skip
def test_types_of_one_size_have_tiles_of_their_own(name: str) -> None:
    halves, brains = (keys_of(name, typed(name, dtype)) for dtype in (torch.float16, torch.bfloat16))
    assert len(halves) == len(brains) == 1
    assert halves != brains


@pytest.mark.parametrize("op", ["paged attention", "paged prefill"])
def test_a_cache_of_fp8_and_one_of_int8_have_tiles_of_their_own(op: str) -> None:
    table, lengths, starts = (torch.tensor(x, dtype=torch.int32) for x in ([[1, 0]], [40], [0, 1]))
    q = torch.from_numpy(numbers(1, 4, 32))
    found = []
    for dtype in (torch.int8, torch.float8_e4m3fn, torch.float32):
        k, v = (torch.from_numpy(numbers(2, 32, 2, 32)).to(dtype) for _ in range(2))
        rest = () if op == "paged attention" else (starts,)
        call = ops.paged_attention if op == "paged attention" else ops.paged_prefill
        found.append(keys_of(op, partial(call, q, k, v, table, lengths, *rest)))  # type: ignore[operator]
    assert len(set.union(*found)) == 3


def test_weights_of_fp8_and_int8_have_tiles_of_their_own() -> None:
    weight = numbers(96, 256)
    for rows in (2, 80):
        x = numbers(rows, 256)
        names = ("product of codes", "product with codes", "fp8 few rows", "fp8 product")
        asked = [
            {
                (name, key)
                for name in names
                for key in keys_of(name, partial(ops.linear, x, quantize_weight(weight, kind)))
            }
            for kind in ("int8", "int4", "fp8")
        ]
        assert all(asked)
        assert len(set.union(*asked)) == sum(map(len, asked))


def test_a_type_that_becomes_the_same_codes_is_no_question_of_its_own() -> None:
    weight = quantize_weight(numbers(96, 256), "int8")
    asked = [
        keys_of("product of codes", lambda x=x: ops.linear(x, weight))  # type: ignore[misc]
        for x in (torch.zeros(2, 256), torch.zeros(2, 256).bfloat16(), torch.zeros(2, 256).half())
    ]
    assert asked[0]
    assert asked[0] == asked[1] == asked[2]


def test_what_was_kept_by_another_key_is_not_taken_and_harms_nothing() -> None:
    path = tuning._path(CPU)
    path.parent.mkdir(mode=0o700)
    old = {"name": "few rows", "key": [2, 96, 2], "tile": {"m": 2, "n": 77, "k": 16, "launch": {}}}
    path.write_text(json.dumps([old]))
    x, weight = (torch.from_numpy(numbers(*shape)).bfloat16() for shape in ((2, 256), (96, 256)))
    expected = x.float() @ weight.float().T
    torch.testing.assert_close(ops.linear(x, weight).float(), expected, rtol=2**-7, atol=0.1)  # 77 is no power of two
    with ops.tune() as session:
        ops.linear(x, weight)
    assert [found.key for found in session.found] == [(2, 96, 256, "bfloat16")]
    assert [row["key"] for row in json.loads(path.read_text())] == [[2, 96, 2], [2, 96, 256, "bfloat16"]]
