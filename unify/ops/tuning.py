"""Tiles that were measured: while `tune()` is open ops look for the fastest, and it is kept for this kind of device.

An op asks `choose` for a tile: with the sizes that decide it as a key, the tile that a table has for them, and others
that its kernel could take. Where nothing was measured it gets the table's.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unify import __version__
from unify._config import settings
from unify._errors import Error, InvalidArgument
from unify.compiler import cache

from .tile import Tile

Key = tuple[int | str | bool, ...]

_ROUNDS = 5  # each tile is measured once a round, so that a slow moment of the machine meets all
_ROUND_S = 0.02
_GAIN = 1.03  # how much faster than the table's a tile must be, or noise would choose


@dataclass(frozen=True)
class Found:
    """The fastest tile for a key, and how much faster it is than the table's: 1 where that is the fastest."""

    device: str
    name: str
    key: Key
    default: Tile
    best: Tile
    speedup: float
    tried: int


@dataclass(frozen=True)
class _Question:
    device: Any
    default: Tile
    others: Sequence[Tile]


class Tuning:
    """An open `tune()`. found: what was measured so far."""

    def __init__(self, on_found: Callable[[Found], object]) -> None:
        self.found: list[Found] = []
        self._on_found = on_found
        self._questions: dict[tuple[str, Key], _Question] = {}
        self._trial: dict[tuple[str, Key], Tile] = {}
        self._is_measuring = False

    def choose(self, name: str, device: Any, key: Key, default: Tile, others: Callable[[], Sequence[Tile]]) -> Tile:
        """What is on trial, or the default, which makes it a question."""
        if (name, key) not in self._trial and not device.current_stream.is_capturing:
            self._questions[name, key] = _Question(device, default, others())
        return self._trial.get((name, key), default)

    def run(self, call: Callable[[], Any]) -> Any:
        """Runs an op; then, once it is known which tiles it asked for, runs it again with each of the others."""
        if self._is_measuring:
            return call()
        self._questions.clear()
        result = call()
        if self._questions:
            self._is_measuring = True
            try:
                for place, question in list(self._questions.items()):
                    self._answer(call, place, question)
            finally:
                self._is_measuring = False
                self._trial.clear()
        return result

    def count(self, program: Callable[[], object]) -> int:
        """Runs a program without measuring; returns how many tiles it asks for of which none was measured yet."""
        self._questions.clear()
        self._is_measuring = True
        try:
            program()
            return len(self._questions)
        finally:
            self._is_measuring = False

    def _answer(self, call: Callable[[], Any], place: tuple[str, Key], question: _Question) -> None:
        tiles = [question.default, *(tile for tile in question.others if tile != question.default)]
        times = self._measure(call, place, question.device, tiles)
        default_s = times[tiles[0]]
        best = min(times, key=times.__getitem__)
        if default_s < times[best] * _GAIN:
            best = tiles[0]
        self._trial[place] = best
        _keep(question.device, place, best)
        found = Found(str(question.device), *place, tiles[0], best, default_s / times[best], len(times))
        self.found.append(found)
        self._on_found(found)

    def _measure(
        self, call: Callable[[], Any], place: tuple[str, Key], device: Any, tiles: Sequence[Tile]
    ) -> dict[Tile, float]:
        """The least seconds of a call with each tile that the kernel compiles with."""
        calls, times = {}, {}

        def timed(tile: Tile, count: int) -> float:
            self._trial[place] = tile
            begin = time.perf_counter()
            for _ in range(count):
                call()
            device.synchronize()
            return (time.perf_counter() - begin) / count

        for tile in tiles:
            try:
                timed(tile, 1)  # compiles
                calls[tile] = max(1, math.ceil(_ROUND_S / timed(tile, 1)))
                times[tile] = math.inf
            except Error:  # more than this chip holds
                if tile is tiles[0]:
                    raise
        for _ in range(_ROUNDS):
            for tile, count in calls.items():
                times[tile] = min(times[tile], timed(tile, count))
        return times


active: Tuning | None = None
_known: dict[Any, dict[tuple[str, Key], Tile]] = {}  # by device


def choose(name: str, device: Any, key: Key, default: Tile, others: Callable[[], Sequence[Tile]]) -> Tile:
    """The tile that was measured to be the fastest on such devices for this name and key, else `default`.

    others: what else the kernel could take; called while tuning only.
    """
    known = _known.get(device)
    if known is None:
        known = _load(device)
    if active is not None and (name, key) not in known:
        return active.choose(name, device, key, default, others)
    return known.get((name, key), default) if known else default


def near(size: int, least: int, most: int) -> list[int]:
    """A power of two, half of it and twice as much, as far as they are `least` to `most`: what a kernel could take."""
    return [other for other in (size // 2, size, 2 * size) if least <= other <= most]


def tiles_near(tile: Tile, least: tuple[int, int, int], most: tuple[int, int, int]) -> list[Tile]:
    """Tiles near this one in each of its sizes, with its launch's options."""
    sizes = map(near, (tile.m, tile.n, tile.k), least, most)
    return [Tile(m, n, k, tile.launch) for m, n, k in itertools.product(*sizes)]


def size_class(size: int) -> int:
    """The power of two that a size is counted as in a key, so that not every length is a question of its own."""
    return 1 << max(0, size - 1).bit_length()


@contextlib.contextmanager
def tune(on_found: Callable[[Found], object] = lambda _: None) -> Iterator[Tuning]:
    """While it is open, each op measures the tiles it could take when it meets sizes for which none was measured yet.

    It runs again and again with the same arguments for that, on the stream of its call, and waits for its device: use
    it on the shapes of your program, once. What is found is kept in UNIFY_CACHE_DIR for devices of this name and
    target, and used from then on by every process. Not where a graph is captured, and not by ops that write into `out`.
    on_found: called with each Found. One at a time in a process: raises InvalidArgument.

    >>> with ops.tune(print):
    ...     silent = ops.rms_norm(np.ones((2, 8), np.float32), np.ones(8, np.float32))  # has no tile to choose
    """
    global active
    if active is not None:
        raise InvalidArgument("tune: it is open already in this process.")
    active = Tuning(on_found)
    try:
        yield active
    finally:
        active = None


def forget(device: Any) -> list[str]:
    """Forgets what was measured on devices like this one, on disk too. Returns the name of each tile's op."""
    names = [name for name, _ in _known.get(device) or _load(device)]
    _known.pop(device, None)
    _path(device).unlink(missing_ok=True)
    return names


def _path(device: Any) -> Path:
    """A file for each kind of device: its name, its target and the number of its cores decide how fast tiles are."""
    deciding = ("name", "target", "cores", "simulated")
    parts = (*map(device.properties.get, deciding), __version__)
    return Path(settings.cache_dir) / "tiles" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}.json"


def _load(device: Any) -> dict[tuple[str, Key], Tile]:
    """What the file has; one that cannot be read, or is none of ours, counts as empty."""
    found = {}
    if not settings.no_cache:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            for row in json.loads(_path(device).read_text()):
                found[row["name"], tuple(row["key"])] = Tile(**row["tile"])
    _known[device] = found
    return found


def _keep(device: Any, place: tuple[str, Key], tile: Tile) -> None:
    _known[device] = {**_load(device), place: tile}
    if settings.no_cache:
        return
    rows = [{"name": name, "key": key, "tile": asdict(kept)} for (name, key), kept in _known[device].items()]
    cache.write_private(_path(device), json.dumps(rows, indent=1).encode(), "measured tiles")
