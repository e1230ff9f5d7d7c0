"""A sample of the kernels of the other files, with arguments: for other chips, and other processors."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import (
    test_calls as calls,
    test_control as control,
    test_loops as loops,
    test_program as program,
    test_reductions as reductions,
    test_views as views,
)

RNG = np.random.default_rng(950)
Case = tuple[Any, tuple[int, ...], dict[str, Any], dict[str, Any], float]


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def whole(low: int, high: int, *shape: int) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(np.int32)


def _flash() -> Case:
    q, k, v = (floats(2, 128, 32).astype(np.float16) for _ in range(3))
    arguments = {"q": q, "k": k, "v": v, "out": np.zeros_like(q), "scale": 0.17, "n": 128}
    return control._flash, (4, 2), arguments, {"M": 32, "N": 32, "D": 32}, 4e-3


def _product() -> Case:
    a, b = floats(40, 50), floats(50, 60)
    arguments = {"a": a, "b": b, "out": np.zeros((40, 60), np.float32), "m": 40, "n": 60, "k": 50}
    return reductions._product, (1,), arguments, {"M": 64, "N": 64, "K": 64}, 1e-5


def _softmax() -> Case:
    x = floats(3, 1000)
    return loops._softmax, (3,), {"x": x, "out": np.zeros_like(x), "row": 1000, "n": 1000}, {"BLOCK": 1024}, 4e-6


def _scanned() -> Case:
    x = whole(1, 3, 8, 16).astype(np.float32)
    constants = {"M": 8, "N": 16, "AXIS": 1, "REVERSE": True}
    return calls._scans, (1,), {"x": x, "out": np.zeros((2, 8, 16), np.float32)}, constants, 0


def _extremes() -> Case:
    x = floats(8, 64)
    return reductions._arg_extremes, (1,), {"x": x, "out": np.zeros(72, np.int32)}, {"M": 8, "N": 64}, 0


def _histogram() -> Case:
    return calls._histogram, (1,), {"x": whole(0, 32, 128), "out": np.zeros(32, np.int32)}, {"N": 128, "BINS": 32}, 0


def _scattered() -> Case:
    order = RNG.permutation(16).astype(np.int32)
    arguments = {"x": floats(16, 32), "order": order, "out": np.zeros((16, 32), np.float32)}
    return views._rows, (1,), arguments, {"ROWS": 16, "N": 32}, 0


def _masked() -> Case:
    return views._masked, (1,), {"x": floats(32), "out": np.zeros(32, np.float32), "n": 20}, {"FIRST": 4, "N": 32}, 0


def _ranked() -> Case:
    arguments = {"expert": whole(0, 4, 40), "count": np.zeros(4, np.int32), "rank": np.zeros(40, np.int32)}
    return program._ranks, (40,), {**arguments, "out": np.zeros((4, 16), np.int32)}, {"N": 16}, 0


def _collisions() -> Case:
    x, place = whole(0, 9, 64).astype(np.float32), whole(0, 5, 64)
    return program._collisions, (1,), {"x": x, "place": place, "out": np.zeros(5, np.float32)}, {"N": 64}, 0


def _hops() -> Case:
    return control._hops, (40,), {"x": whole(1, 12, 40), "out": np.zeros((40, 2), np.int32), "n": 40}, {}, 0


def _ways_out() -> Case:
    x = floats(12, 16)
    return control._ways_out, (12,), {"x": x, "out": np.zeros_like(x)}, {"N": 16}, 0


CASES = (_flash, _product, _softmax, _scanned, _extremes, _histogram, _scattered, _masked, _ranked, _collisions, _hops,
         _ways_out)  # fmt: skip
