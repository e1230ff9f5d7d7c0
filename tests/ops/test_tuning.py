"""Measured tiles: found once, kept for the device, and taken from then on."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unify as un
from unify import ops
from unify._config import settings
from unify.errors import CompileError, InvalidArgument
from unify.ops import tuning
from unify.ops.op import op
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
from unify.ops import tuning
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
