"""Measured tiles: found once, kept for the device, and taken from then on."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unify as un
from unify import ops
from unify._config import settings
from unify.errors import CompileError, InvalidArgument
from unify.ops import tiles, tuning
from unify.ops.op import op
from unify.ops.quant import quantize_weight
from unify.ops.tile import Tile
from unify.ops.tiles import product_tile

from ..conftest import Run

CPU = un.device("cpu")
SLOW, FAST, BROKEN = Tile(16, 16, 16), Tile(32, 32, 32), Tile(64, 64, 64)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is known, and what is found goes to a folder of the test's."""
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setattr(tuning, "_ROUND_S", 0.0)
    with settings.override(cache_dir=tmp_path):
        yield tmp_path


class Clock:
    """Stands for time: each call of the op takes as long as its tile says."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tuning, "time", made)
    return made


def op_with(clock: Clock, cost: dict[Tile, float], taken: list[Tile]) -> Any:
    @op
    def pretend(x: Any, size: int, *, out: Any = None, stream: Any = None) -> Any:
        tile = tuning.choose("pretend", CPU, (size,), SLOW, lambda: [FAST, BROKEN])
        if tile is BROKEN:
            raise CompileError("too large for this chip")
        clock.now += cost[tile]
        taken.append(tile)
        return x

    return pretend


def test_the_fastest_tile_is_taken_from_then_on(clock: Clock) -> None:
    taken: list[Tile] = []
    pretend = op_with(clock, {SLOW: 2.0, FAST: 1.0}, taken)
    with ops.tune() as session:
        pretend(np.ones(1, np.float32), 7)
    (found,) = session.found
    assert (found.name, found.key, found.default, found.best) == ("pretend", (7,), SLOW, FAST)
    assert found.speedup == pytest.approx(2.0)
    assert found.tried == 2  # and one that does not compile
    taken.clear()
    pretend(np.ones(1, np.float32), 7)
    pretend(np.ones(1, np.float32), 8)  # of which nothing is known
    assert taken == [FAST, SLOW]


def test_what_is_hardly_faster_changes_nothing(clock: Clock) -> None:
    pretend = op_with(clock, {SLOW: 1.01, FAST: 1.0}, [])
    with ops.tune() as session:
        pretend(np.ones(1, np.float32), 7)
    assert session.found[0].best == SLOW


def test_sizes_are_measured_once(clock: Clock) -> None:
    taken: list[Tile] = []
    pretend = op_with(clock, {SLOW: 2.0, FAST: 1.0}, taken)
    with ops.tune() as session:
        pretend(np.ones(1, np.float32), 7)
        count = len(taken)
        pretend(np.ones(1, np.float32), 7)
    assert len(taken) == count + 1
    assert len(session.found) == 1
    with ops.tune() as session:
        pretend(np.ones(1, np.float32), 7)
    assert session.found == []


def test_an_op_that_writes_over_its_input_runs_once(clock: Clock) -> None:
    taken: list[Tile] = []
    pretend = op_with(clock, {SLOW: 2.0, FAST: 1.0}, taken)
    x = np.ones(1, np.float32)
    with ops.tune() as session:
        pretend(x, 7, out=x)
    assert taken == [SLOW]
    assert session.found == []


def test_the_file_is_private_and_read_by_the_next_process(clock: Clock, fresh: Path, python: Run) -> None:
    pretend = op_with(clock, {SLOW: 2.0, FAST: 1.0}, [])
    with ops.tune():
        pretend(np.ones(1, np.float32), 7)
    (file,) = (fresh / "tiles").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    program = f"""
import os; os.environ["UNIFY_CACHE_DIR"] = {str(fresh)!r}
import unify as un
from unify.ops import tiles, tuning
from unify.ops.tile import Tile
print(tuning.choose("pretend", un.device("cpu"), (7,), Tile(1, 1, 1), list))
"""
    assert python("-c", program).stdout.strip() == str(FAST)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '[{"name": "a"}]', '[{"name": "a", "key": [1], "tile": {"q": 1}}]']
)
def test_a_damaged_file_counts_as_none(fresh: Path, content: str) -> None:
    path = tuning._path(CPU)
    path.parent.mkdir(mode=0o700)
    path.write_text(content)
    assert tuning.choose("pretend", CPU, (7,), SLOW, list) == SLOW


def test_what_was_measured_can_be_forgotten(clock: Clock, fresh: Path) -> None:
    pretend = op_with(clock, {SLOW: 2.0, FAST: 1.0}, [])
    with ops.tune():
        pretend(np.ones(1, np.float32), 7)
    tuning.forget(CPU)
    assert tuning.choose("pretend", CPU, (7,), SLOW, list) == SLOW
    assert list((fresh / "tiles").iterdir()) == []


def test_only_one_is_open_at_a_time() -> None:
    with ops.tune(), pytest.raises(InvalidArgument, match="open already"), ops.tune():
        pass
    with ops.tune():
        pass


def test_a_captured_graph_is_not_measured(clock: Clock) -> None:
    taken: list[Tile] = []
    pretend = op_with(clock, {SLOW: 2.0, FAST: 1.0}, taken)
    x = un.ones((1,))
    with ops.tune() as session, un.Graph.capture(device=CPU):
        pretend(x, 7)
    assert (taken, session.found) == ([SLOW], [])


def test_a_product_tries_tiles_and_stays_right() -> None:
    a, b = (np.random.default_rng(k).standard_normal((48, 48), np.float32) for k in (1, 2))
    with ops.tune() as session:
        result = ops.matmul(a, b)
    np.testing.assert_allclose(result, a @ b, rtol=1e-5, atol=1e-5)
    (found,) = session.found
    assert found.name == "product"
    assert found.tried > 3
    assert product_tile(CPU, 48, 48) == found.best
    np.testing.assert_allclose(ops.matmul(a, b), a @ b, rtol=1e-5, atol=1e-5)


def test_sizes_near_one_are_powers_of_two_within_bounds() -> None:
    assert tuning.near(64, 16, 512) == [32, 64, 128]
    assert tuning.near(16, 16, 16) == [16]
    assert [tuning.size_class(size) for size in (0, 1, 2, 3, 64, 65)] == [1, 1, 2, 4, 64, 128]
    tile = Tile(2, 16, 32, {"num_warps": 4})
    assert set(tuning.tiles_near(tile, (2, 8, 32), (2, 16, 32))) == {replace(tile, n=8), tile}
    assert all(near.launch == tile.launch for near in tuning.tiles_near(tile, (1, 1, 1), (64, 64, 64)))


RNG = np.random.default_rng(5)


def numbers(*shape: int) -> Any:
    return RNG.standard_normal(shape, np.float32)


def experts(rows: int, gated: bool, kind: str | None, activations: str | None = None) -> Callable[[], Any]:
    """Two groups, the second with most of the rows."""
    x, weight, offsets = numbers(rows, 256), numbers(2, 64, 256), np.array([0, rows // 4, rows], np.int32)
    made = weight if kind is None else quantize_weight(weight, kind)
    return lambda: ops.grouped_linear(x, made, offsets, gated=gated, activations=activations)


def one_each(kind: str | None) -> Callable[[], Any]:
    x, gate_up, down = numbers(1, 128), numbers(2, 128, 128), numbers(2, 128, 64)
    weights, ids = np.ones((1, 2), np.float32), np.array([[1, 0]], np.int32)
    made = [w if kind is None else quantize_weight(w, kind) for w in (gate_up, down)]
    return lambda: ops.moe(x, weights, ids, *made)


def product(rows: int, kind: str | None = None, activations: str | None = None) -> Callable[[], Any]:
    x, weight = numbers(rows, 256), numbers(96, 256)
    made = weight if kind is None else quantize_weight(weight, kind)
    return lambda: ops.linear(x, made, activations=activations)


def matrices() -> Callable[[], Any]:
    a, b = numbers(48, 64), numbers(64, 48)
    return lambda: ops.matmul(a, b)


def heads() -> Callable[[], Any]:
    q, k, v = numbers(70, 4, 32), numbers(70, 2, 32), numbers(70, 2, 32)
    return lambda: ops.attention(q, k, v)


def pages(op: str) -> Callable[[], Any]:
    """Over pages of 32, of which each sequence has two or three."""
    table, lengths = np.array([[3, 1, 0], [2, 4, 5]], np.int32), np.array([70, 33], np.int32)
    if op == "latent":
        q, latents = numbers(2, 4, 48), numbers(6, 32, 48)
        return lambda: ops.mla_attention(q, latents, table, lengths, rank=32, scale=0.2)
    k, v = numbers(6, 32, 2, 32), numbers(6, 32, 2, 32)
    if op == "decode":
        q = numbers(2, 4, 32)
        return lambda: ops.paged_attention(q, k, v, table, lengths)
    q, starts = numbers(50, 4, 32), np.array([0, 40, 50], np.int32)
    return lambda: ops.paged_prefill(q, k, v, table, lengths, starts)


EACH = [
    ("product", matrices),
    ("few rows", partial(product, 2)),
    ("product of codes", partial(product, 3, "int8")),
    ("product of codes", partial(product, 1, "int4")),
    ("product of codes", partial(product, 2, "int8", "int8")),
    ("product with codes", partial(product, 80, "int8")),
    ("product with codes", partial(product, 300, "int4", "int8")),
    ("fp8 few rows", partial(product, 2, "fp8")),
    ("fp8 few rows", partial(product, 2, "fp8", "fp8")),
    ("fp8 product", partial(product, 24, "fp8")),
    ("fp8 product", partial(product, 24, "fp8", "fp8")),
    ("grouped few rows", partial(experts, 6, False, None)),
    ("grouped few rows", partial(one_each, None)),
    ("grouped product", partial(experts, 60, True, None)),
    ("quantised grouped few rows", partial(experts, 2, True, "fp8")),
    ("quantised grouped few rows", partial(experts, 4, True, "int8")),
    ("quantised grouped few rows", partial(experts, 4, True, "int4", "int8")),
    ("quantised grouped few rows", partial(one_each, "int4")),
    ("quantised grouped product", partial(experts, 40, False, "fp8")),
    ("quantised grouped product", partial(experts, 40, False, "fp8", "fp8")),
    ("quantised grouped product", partial(experts, 300, True, "int4")),
    ("quantised grouped product", partial(experts, 300, False, "int8", "int8")),
    ("attention", heads),
    ("paged attention", partial(pages, "decode")),
    ("paged prefill", partial(pages, "prefill")),
    ("latent attention", partial(pages, "latent")),
]


def test_each_name_that_a_tile_is_asked_for_by_is_tried_below() -> None:
    sources = "".join(path.read_text() for path in Path(tuning.__file__).parent.glob("*.py"))
    assert set(re.findall(r'(?:choose|_measured)\(\s*"([^"]+)"', sources)) == {name for name, _ in EACH}


@pytest.mark.parametrize(("name", "make"), EACH)
def test_each_tile_that_is_tried_gives_the_same_result(
    monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[], Callable[[], Any]]
) -> None:
    if name.endswith(("with codes", "grouped product")):  # instead of sums of bytes, which a CPU may be faster at
        monkeypatch.setattr("unify.ops.quantized_linear._has_byte_products", lambda: False)
    call = make()
    expected, asked = call(), []
    choose = tuning.Tuning.choose

    def noted(self: Any, *args: Any) -> Any:
        asked.append(args)
        return choose(self, *args)

    monkeypatch.setattr(tuning.Tuning, "choose", noted)
    monkeypatch.setattr(tuning.Tuning, "run", lambda self, call: call())
    with ops.tune() as session:
        call()
        questions = {(given, key): (default, others()) for given, _, key, default, others in asked if given == name}
        assert questions
        for place, (default, others) in questions.items():
            assert set(others) - {default}
            for tile in others:
                session._trial[place] = tile
                np.testing.assert_allclose(call(), expected, rtol=2e-4, atol=2e-3, err_msg=f"{place}: {tile}")


def test_lengths_of_a_class_are_one_question() -> None:
    keys = []
    with pytest.MonkeyPatch.context() as patched, ops.tune():
        patched.setattr(
            tuning.Tuning, "choose", lambda self, name, device, key, default, others: (keys.append(key), default)[1]
        )
        for rows in range(65, 129):
            tiles.grouped_tile(CPU, rows, 768, un.float32, gated=True)
            tiles.decode_tile(CPU, rows, 64, rows, splits=None, width=64, types="float16")
            tiles.prefill_tile(CPU, rows, 64, width=64, types="float16")
            tiles.latent_tile(CPU, rows, 128, 64, rows, types="float16")
    assert len(keys) == 4 * 64
    assert len(set(keys)) == 4


# How deep a tile of codes may be depends on k, which has a remainder of 64 here and none there.
@pytest.mark.parametrize("name", ["product with codes", "quantised grouped product"])
def test_a_tile_for_one_depth_is_not_taken_for_another(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def product(k: int) -> tuple[Callable[[], Any], torch.Tensor]:
        weight = ops.quant.quantize_weight(torch.randn(2, 64, k, generator=generator), "int8")
        x = torch.randn(128, k, generator=generator).bfloat16()
        values = torch.from_numpy(weight.dequantize().numpy())
        if name == "product with codes":
            return lambda: ops.linear(x, weight[0]), x.float() @ values[0].T
        offsets = torch.tensor([0, 0, 128], dtype=torch.int32)
        return lambda: ops.grouped_linear(x, weight, offsets), x.float() @ values[1].T

    monkeypatch.setattr("unify.ops.quantized_linear._has_bfloat16_products", lambda: True)
    (deep, _), (shallow, expected) = product(1024), product(96)
    keys: dict[int, list[tuning.Key]] = {}
    asked: list[tuning.Key] = []
    monkeypatch.setattr(
        tuning.Tuning,
        "choose",
        lambda self, given, device, key, default, others: (asked.append(key) if given == name else None, default)[1],
    )
    with ops.tune():
        for k, call in ((1024, deep), (96, shallow)):
            asked.clear()
            result = call()
            keys[k] = list(asked)
    assert keys[1024]
    assert keys[96]
    assert not set(keys[1024]) & set(keys[96])
    torch.testing.assert_close(result.float(), expected, rtol=2**-7, atol=2**-7 * 96**0.5)
