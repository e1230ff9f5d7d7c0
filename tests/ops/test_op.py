"""What holds for each op: its stream, its caller's kind of array, and what it refuses."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import unify as un
from unify import ops
from unify.ops import quant
from unify.testing.backends import compile_backend

LIMIT_S = 20.0


@dataclass(frozen=True)
class Case:
    """An op and arrays for it, by the names of its parameters; those in `strided` may be strided at will.

    float32: arrays, and numbers of results, that are float32 whatever the others are. free: arrays and axes of them,
    as "x 0", that no other array has to fit.
    """

    function: Callable[..., Any]
    arrays: dict[str, torch.Tensor]
    strided: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    float32: tuple[str | int, ...] = ()
    free: str = ""

    def call(self, kind: Callable[[torch.Tensor], Any], stream: Any = None, **replaced: Any) -> list[Any]:
        """What the op returns and writes, of fresh arrays of this kind."""
        given = {name: kind(array) for name, array in self.arrays.items()} | self.options | replaced
        returned = self.function(**given, stream=stream)
        results = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
        return [*results, *(given[name] for name in self.written)]


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def quantized() -> quant.QuantizedMatrix:
    raw = gguf.quants.quantize(floats(64, 32).numpy(), gguf.GGMLQuantizationType.Q4_1)
    return quant.from_gguf("q4_1", raw.view(np.uint8))


def experts(n: int, k: int) -> quant.QuantizedMatrix:
    return quant.quantize_weight(floats(3, n, k), "int8")


CACHE = {"k_cache": floats(2, 16, 2, 64), "v_cache": floats(2, 16, 2, 64)}
CODES = {name: (cache * 40).to(torch.int8) for name, cache in CACHE.items()}
SCALES = {"k_scale": torch.full((2,), 0.025), "v_scale": torch.full((2,), 0.025)}
HEADS = {"sinks": floats(4), "alibi": torch.rand(4)}
ROUTED = {"weights": torch.rand(3, 2), "ids": ints(0, 1, 1, 2, 2, 0).reshape(3, 2)}
TABLE = ints(1, 0)
CASES = {
    "combine": Case(
        ops.combine,
        {
            "y": floats(4, 8),
            "places": ints(0, 2, 3, 1).reshape(2, 2),
            "weights": torch.rand(2, 2),
            "residual": floats(2, 8),
        },
        ("y", "residual"),
        float32=("weights",),
        free="y 0",
    ),
    "expert_load": Case(
        ops.expert_load, {"ids": ints(0, 2, 2, 1).reshape(2, 2)}, options={"experts": 4}, free="ids 0, ids 1"
    ),
    "grouped_linear": Case(
        ops.grouped_linear,
        {"x": floats(5, 64), "weight": floats(3, 8, 64), "offsets": ints(0, 2, 2, 5)},
        ("x", "weight"),
        free="x 0, weight 1",
    ),
    "moe": Case(
        ops.moe,
        {
            "x": floats(3, 64),
            **ROUTED,
            "gate_up": floats(3, 32, 64),
            "down": floats(3, 64, 16),
            "residual": floats(3, 64),
        },
        ("x", "gate_up", "down", "residual"),
        float32=("weights",),
    ),
    "route": Case(
        ops.route, {"logits": floats(3, 16)}, ("logits",), options={"top_k": 4}, float32=(0,), free="logits 0, logits 1"
    ),
    "attention": Case(
        ops.attention,
        {"q": floats(5, 4, 64), "k": floats(7, 2, 64), "v": floats(7, 2, 64)},
        ("q", "k", "v"),
        free="q 0, q 1, v 2",
    ),
    "count_tokens": Case(
        ops.count_tokens, {"ids": ints(1, 5)[:, None]}, options={"vocabulary": 9}, free="ids 0, ids 1"
    ),
    "embedding": Case(
        ops.embedding, {"ids": ints(2, 0), "weight": floats(3, 64)}, float32=(0,), free="ids 0, weight 0, weight 1"
    ),
    "embedding quantised": Case(
        ops.embedding, {"ids": ints(2, 0)}, options={"weight": quantized()}, float32=(0,), free="ids 0"
    ),
    "kv_write": Case(
        ops.kv_write,
        {"k": floats(3, 2, 64), "v": floats(3, 2, 64), **CACHE, "slots": ints(0, 17, 31)},
        ("k", "v", "k_cache"),
        ("k_cache", "v_cache"),
    ),
    "latent_read": Case(
        ops.latent_read,
        {"cache": floats(2, 16, 24), "block_table": TABLE[None], "cu_seqlens": ints(0, 5)},
        options={"total": 7},
        free="cache 0, cache 1, cache 2, block_table 1",
    ),
    "latent_write": Case(
        ops.latent_write,
        {
            "latent": floats(3, 16),
            "rope_key": floats(3, 8),
            "cache": floats(2, 16, 24),
            "slots": ints(0, 17, 31),
        },
        ("latent", "rope_key"),
        ("cache",),
        free="cache 0, cache 1",
    ),
    "linear": Case(
        ops.linear, {"x": floats(2, 64), "weight": floats(8, 64), "residual": floats(2, 8)}, ("x", "weight", "residual")
    ),
    "linear quantised": Case(
        ops.linear,
        {"x": floats(2, 32), "residual": floats(2, 64)},
        ("x", "residual"),
        options={"weight": quantized()},
    ),
    "linear of codes": Case(
        ops.linear,
        {"x": floats(2, 32), "residual": floats(2, 64)},
        ("x", "residual"),
        options={"weight": quantized(), "activations": "int8"},
    ),
    "logit_bias": Case(
        ops.logit_bias, {"logits": floats(1, 64), "ids": ints(3, 9)[None], "bias": floats(1, 2)}, free="logits 1"
    ),
    "matmul": Case(ops.matmul, {"a": floats(20, 64), "b": floats(64, 8)}, ("a", "b"), free="a 0, b 1"),
    "matmul of a batch": Case(ops.matmul, {"a": floats(3, 20, 64), "b": floats(3, 64, 8)}, ("a", "b"), free="a 1, b 2"),
    "mla_attention": Case(
        ops.mla_attention,
        {
            "q": floats(1, 4, 24),
            "cache": floats(2, 16, 24),
            "block_table": TABLE[None],
            "context_lens": ints(20),
        },
        ("q",),
        options={"rank": 16, "scale": 0.2},
        free="q 1, cache 0, cache 1, block_table 1",
    ),
    "paged_attention": Case(
        ops.paged_attention,
        {"q": floats(1, 4, 64), **CACHE, "block_table": TABLE[None], "context_lens": ints(20)},
        ("q", "k_cache"),
        free="q 1, v_cache 3, block_table 1",
    ),
    "paged_prefill": Case(
        ops.paged_prefill,
        {
            "q": floats(5, 4, 64),
            **CACHE,
            "block_table": TABLE[None],
            "context_lens": ints(20),
            "cu_seqlens": ints(0, 5),
        },
        ("q", "k_cache"),
        free="q 0, q 1, v_cache 3, block_table 1",
    ),
    "merge_states": Case(
        ops.merge_states,
        {"outs": floats(2, 3, 4, 64), "lses": floats(2, 3, 4)},
        ("outs", "lses"),
        float32=("lses", 1),
        free="outs 3",
    ),
    "penalize": Case(
        ops.penalize,
        {"logits": floats(1, 4), "counts": ints(0, 1, 2, 9)[None], "presence": torch.ones(1)},
        ("logits",),
    ),
    "rms_norm": Case(ops.rms_norm, {"x": floats(3, 64), "weight": floats(64)}, free="x 0"),
    "rms_norm out": Case(
        ops.rms_norm, {"x": floats(3, 64), "weight": floats(64), "out": torch.zeros(3, 64)}, written=("out",)
    ),
    "rope": Case(ops.rope, {"x": floats(3, 2, 64), "positions": ints(0, 1, 9)}, ("x",), free="x 1, x 2"),
    "rope with frequencies": Case(
        ops.rope,
        {"x": floats(3, 2, 64), "positions": ints(0, 1, 9), "frequencies": torch.rand(32)},
        ("x",),
        free="x 1",
    ),
    "sample": Case(
        ops.sample,
        {"logits": floats(3, 700)},
        ("logits",),
        options={"temperature": 1.0, "step": 3},
        free="logits 0, logits 1",
    ),
    "sample greedy": Case(ops.sample, {"logits": floats(3, 700)}, ("logits",), free="logits 0, logits 1"),
    "sample with steps": Case(
        ops.sample,
        {"logits": floats(3, 700), "step": torch.tensor([4, 5, 6])},
        ("logits",),
        options={"temperature": 1.0, "top_k": 9, "top_p": 0.9},
        free="logits 1",
    ),
    "sample of requests": Case(
        ops.sample,
        {"logits": floats(3, 700), "temperature": torch.ones(3), "seed": torch.tensor([4, 5, 6])},
        ("logits",),
        options={"min_p": 0.01},
        free="logits 1",
    ),
    "attention of packed sequences": Case(
        ops.attention,
        {
            "q": floats(5, 4, 64),
            "k": floats(7, 2, 64),
            "v": floats(7, 2, 64),
            "cu_seqlens": ints(0, 2, 5),
            "cu_seqlens_k": ints(0, 3, 7),
            **HEADS,
        },
        ("q", "k", "v"),
        free="q 0, v 2",
    ),
    "grouped_linear gathered": Case(
        ops.grouped_linear,
        {"x": floats(4, 64), "weight": floats(3, 8, 64), "offsets": ints(0, 2, 2, 5), "gather": ints(3, 0, 1, 1, 2)},
        ("x", "weight"),
        free="x 0, weight 1, gather 0",
    ),
    "grouped_linear masked": Case(
        ops.grouped_linear,
        {"x": floats(3, 4, 64), "weight": floats(3, 8, 64), "counts": ints(0, 2, 4)},
        ("x", "weight"),
        options={"gated": True},
        free="x 1, weight 1",
    ),
    "grouped_linear quantised": Case(
        ops.grouped_linear,
        {"x": floats(5, 64), "offsets": ints(0, 2, 2, 5)},
        ("x",),
        options={"weight": experts(32, 64)},
        free="x 0",
    ),
    "grouped_linear of codes": Case(
        ops.grouped_linear,
        {"x": floats(4, 64), "offsets": ints(0, 2, 2, 5), "gather": ints(3, 0, 1, 1, 2)},
        ("x",),
        options={"weight": experts(32, 64), "activations": "int8"},
        free="x 0, gather 0",
    ),
    "grouped_linear of masked codes": Case(
        ops.grouped_linear,
        {"x": floats(3, 4, 64), "counts": ints(0, 2, 4)},
        ("x",),
        options={"weight": experts(32, 64), "activations": "int8", "gated": True},
        free="x 1",
    ),
    "kv_write of codes": Case(
        ops.kv_write,
        {"k": floats(3, 2, 64), "v": floats(3, 2, 64), **CODES, "slots": ints(0, 17, 31), **SCALES},
        ("k", "v", "k_cache"),
        ("k_cache", "v_cache"),
        float32=("k_scale", "v_scale"),
    ),
    "moe quantised": Case(
        ops.moe,
        {"x": floats(3, 64), **ROUTED},
        ("x",),
        options={"gate_up": experts(64, 64), "down": experts(64, 32)},
        float32=("weights",),
    ),
    "moe of codes": Case(
        ops.moe,
        {"x": floats(3, 64), **ROUTED},
        ("x",),
        options={"gate_up": experts(64, 64), "down": experts(64, 32), "activations": "int8"},
        float32=("weights",),
    ),
    "paged_attention of codes": Case(
        ops.paged_attention,
        {"q": floats(1, 4, 64), **CODES, "block_table": TABLE[None], "context_lens": ints(20), **HEADS, **SCALES},
        ("q", "k_cache"),
        float32=("k_scale", "v_scale"),
        free="v_cache 3, block_table 1",
    ),
    "penalize each": Case(
        ops.penalize,
        {"logits": floats(2, 4), "counts": ints(0, 1, 2, 9, 1, 1, 0, 0).reshape(2, 4), "frequency": torch.rand(2)},
        ("logits",),
    ),
    "penalize with a prompt": Case(
        ops.penalize,
        {
            "logits": floats(1, 4),
            "counts": ints(0, 1, 2, 0)[None],
            "prompt": ints(1, 1, 0, 0)[None],
            "repetition": torch.full((1,), 1.5),
        },
        ("logits",),
    ),
    "count_tokens on": Case(
        ops.count_tokens,
        {"ids": ints(1, 5)[:, None], "add_to": ints(*range(18)).reshape(2, 9)},
        options={"vocabulary": 9},
        written=("add_to",),
        free="ids 1",
    ),
    "rms_norm of a sum": Case(ops.rms_norm, {"x": floats(3, 64), "weight": floats(64), "residual": floats(3, 64)}),
    "route with a bias": Case(
        ops.route,
        {"logits": floats(3, 16), "bias": floats(16)},
        ("logits",),
        options={"top_k": 4, "score": "sigmoid", "groups": 4, "top_groups": 2},
        float32=(0,),
        free="logits 0",
    ),
    "swiglu": Case(ops.swiglu, {"gate": floats(3, 64), "up": floats(3, 64)}, ("gate", "up")),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_array = pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{title}: {name}") for title, case in CASES.items() for name in case.arrays],
)


def to_unify(array: torch.Tensor) -> un.Tensor:
    return un.asarray(array.clone())


KINDS: dict[type, Callable[[torch.Tensor], Any]] = {
    np.ndarray: lambda array: array.numpy().copy(),
    torch.Tensor: torch.Tensor.clone,
    un.Tensor: to_unify,
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_guest = pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])


def strided(array: torch.Tensor) -> torch.Tensor:
    wide = torch.full((*array.shape, 2), 99, dtype=array.dtype)
    wide[..., 0] = array
    return wide[..., 0]


def equal(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(left, right, strict=True)
    )


@contextmanager
def held_back(stream: un.Stream) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Later work of the stream waits until the first event is set, or for the end; the second says that it goes on."""
    opened, passed = threading.Event(), threading.Event()
    stream.host_call(lambda: (opened.wait(LIMIT_S), passed.set()))
    try:
        yield opened, passed
    finally:
        opened.set()


def test_each_op_has_a_case() -> None:
    beside = {"yarn_frequencies", "tune", "permute", "Permutation"}  # no arrays, or none alone
    assert {case.function.__name__ for case in CASES.values()} == set(ops.__all__) - beside


@each_case
@each_kind
def test_an_op_returns_its_callers_kind(case: Case, kind: type) -> None:
    result = case.call(KINDS[kind])
    assert all(type(array) is kind for array in result)
    assert equal(result, case.call(to_unify))


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_op_takes_narrow_floats(case: Case, dtype: torch.dtype) -> None:
    def narrow(array: torch.Tensor) -> torch.Tensor:
        return array.to(dtype) if array.is_floating_point() else array.clone()

    wide_arrays = {name: array for name, array in case.arrays.items() if name in case.float32}
    for i, (ours, wide) in enumerate(zip(case.call(narrow, **wide_arrays), case.call(torch.clone), strict=True)):
        assert ours.dtype == (dtype if wide.is_floating_point() and i not in case.float32 else wide.dtype)


@each_case
def test_all_work_of_an_op_is_on_its_stream(case: Case) -> None:
    # The current stream stands still: whatever an op enqueues there is not done when its own stream is.
    current, stream = un.Stream("cpu"), un.Stream("cpu")
    arrays, again = ({name: un.asarray(strided(case.arrays[name])) for name in case.strided} for _ in range(2))
    with held_back(current):
        with current:
            result = case.call(to_unify, stream, **arrays)
        stream.synchronize(timeout_s=LIMIT_S)
        found = [array.numpy().copy() for array in result]
    assert equal(found, case.call(to_unify, **again))


@each_case
def test_an_op_does_not_wait_for_its_stream(case: Case) -> None:
    stream = un.Stream("cpu")
    with held_back(stream) as (_, passed):
        case.call(to_unify, stream)
        assert not passed.is_set()


@each_case
@each_guest
def test_what_another_library_gets_is_ready(case: Case, kind: type) -> None:
    # Its library reads at once. The timer opens the stream only after an op that does not wait has returned.
    stream = un.Stream("cpu")
    with held_back(stream) as (opened, passed):
        threading.Timer(0.05, opened.set).start()
        result = case.call(KINDS[kind], stream)
        assert passed.is_set()
        assert equal(result, case.call(to_unify))


def test_a_captured_op_writes_into_another_librarys_array_when_launched() -> None:
    x, weight, out = floats(3, 64), floats(64), torch.zeros(3, 64)
    stream = un.Stream("cpu")
    ops.rms_norm(x, weight, out=out)  # compiles
    expected = out.clone()
    out.zero_()
    with un.Graph.capture(stream) as graph:
        assert ops.rms_norm(x, weight, out=out) is out
    assert not out.any()
    graph.launch(stream)
    stream.synchronize()
    assert torch.equal(out, expected)


@each_case
def test_a_stream_of_another_device_is_refused(case: Case, other_device: str) -> None:
    with pytest.raises(un.errors.DeviceMismatchError, match="stream"):
        case.call(to_unify, un.Stream(other_device))


@each_array
@pytest.mark.parametrize("dtype", [torch.float64, torch.int16, torch.uint8])
def test_an_array_of_a_wrong_dtype_is_refused_by_name(case: Case, name: str, dtype: torch.dtype) -> None:
    with pytest.raises(un.errors.DTypeError, match=f"{case.function.__name__}: {name}.*must be"):
        case.call(torch.clone, **{name: case.arrays[name].to(dtype)})


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES.values()
        if case.function is not ops.embedding and any(a.is_floating_point() for a in case.arrays.values())
    ],
)
def test_arrays_of_one_wrong_dtype_are_refused(case: Case) -> None:
    def double(array: torch.Tensor) -> torch.Tensor:
        return array.double() if array.is_floating_point() else array.clone()

    with pytest.raises(un.errors.DTypeError, match="float16, bfloat16 or float32, not float64"):
        case.call(double)


@each_array
def test_an_array_without_axes_is_refused(case: Case, name: str) -> None:
    with pytest.raises(un.errors.ShapeError, match=rf"{case.function.__name__}: .*\b{name}\b"):
        case.call(torch.clone, **{name: case.arrays[name].flatten()[0].clone()})


@each_array
def test_an_axis_of_another_length_is_refused_unless_nothing_has_to_fit_it(case: Case, name: str) -> None:
    array = case.arrays[name]
    allowed = set()
    for axis in range(array.ndim):
        for lengthened in (torch.cat([array, array.narrow(axis, 0, 1)], axis), array.narrow(axis, 0, 0)):
            try:
                case.call(torch.clone, **{name: lengthened.clone()})
                allowed.add(f"{name} {axis}")
            except (un.errors.ShapeError, un.errors.InvalidArgument) as refusal:
                # What it names is this array or an argument that should have fitted it.
                others = "|".join([*case.arrays, *case.options])
                if not re.match(rf"{case.function.__name__}: .*\b({others})\b", str(refusal)):
                    raise
    assert allowed == {place for place in case.free.split(", ") if place.startswith(f"{name} ")}


@pytest.fixture(scope="session")
def other_device(tmp_path_factory: pytest.TempPathFactory) -> str:
    toy, library = Path(__file__).parents[1] / "plugin" / "toy.c", tmp_path_factory.mktemp("toy") / "toy.so"
    assert un.add_backend(str(compile_backend(toy, library, ['TOY_NAME="opstoy"']))).is_usable
    return "opstoy:0"


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, name)
        for case in CASES.values()
        for name in case.arrays
        if len(case.arrays) > 1 or "weight" in case.options
    ],
)
def test_an_array_on_another_device_is_refused(case: Case, name: str, other_device: str) -> None:
    # The first array says where the work is done: then it is the others that are elsewhere.
    named = "|".join(case.arrays if name == next(iter(case.arrays)) else [name]) + "|weight|gate_up"
    with pytest.raises(un.errors.DeviceMismatchError, match=rf"{case.function.__name__}: ({named}): is on"):
        case.call(to_unify, **{name: to_unify(case.arrays[name]).to(other_device)})
