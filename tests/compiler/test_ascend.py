"""The compile half for Ascend: Huawei's real compilers, on machines without a chip."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import triton.language as tl

import unify as un
from unify.compiler import Binary, ascend, toolchain
from unify.ops.signatures import signatures

from ..installed import NEEDS_ASCEND
from .kernels import add_kernel, early_kernel, joined_kernel

pytestmark = NEEDS_ASCEND

CHIPS = ("910B3", "910C", "950")


@un.jit
def product_kernel(a, b, c, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, inner = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros([M, N], tl.float32)
    for start in range(0, k, K):
        left = tl.load(a + m[:, None] * k + (start + inner)[None, :])
        right = tl.load(b + (start + inner)[:, None] * N + n[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + m[:, None] * N + n[None, :], total)


@un.jit
def softened_kernel(a, b, c, K: tl.constexpr):
    i, j = tl.arange(0, 32), tl.arange(0, K)
    scores = tl.dot(tl.load(a + i[:, None] * K + j[None, :]), tl.load(b + j[:, None] * 32 + i[None, :]))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    tl.store(c + i[:, None] * 32 + i[None, :], weights)


@un.jit
def every_type_kernel(byte, short, word, real, double_word, array, out):
    value = tl.load(array) + byte + short + word + real + double_word
    tl.store(out, value)


@un.jit
def plain_kernel(x):
    i = tl.arange(0, 64)
    tl.store(x + i, tl.load(x + i) + 1)


@un.jit
def hinting_kernel(x, n):
    i = tl.arange(0, 64)
    value = tl.load(x + i, cache_modifier=".ca")
    other = tl.load(x + i, mask=i < n, other=0.0, eviction_policy="evict_first")
    tl.store(x + i, value + other, cache_modifier=".cs")


@un.jit
def assuming_kernel(x, n):
    tl.assume(n > 0)
    i = tl.arange(0, 64)
    tl.store(x + i, tl.load(x + i) / n)


@un.jit
def barrier_kernel(x):
    i = tl.arange(0, 64)
    value = tl.load(x + i)
    tl.debug_barrier()
    tl.store(x + i, value + 1)


ADD = {"x": "*fp32:16", "y": "*fp32:16", "out": "*fp32:16", "n": "i32"}
PRODUCT = {"a": "*fp16:16", "b": "*fp16:16", "c": "*fp32:16", "k": "i32:16"}


def header_of(binary: Binary) -> dict[str, int | bytes]:
    names = ("magic", "version", "header_bytes", "kind", "mode", "payload_bytes", "lock_count", "lock_init")
    names += ("grid_offset", "logical_grid_offset", "blocks", "chip")
    return dict(zip(names, struct.unpack_from("<8sIIIIQQqIII4s", binary.image), strict=True))


@pytest.mark.parametrize("chip", CHIPS)
def test_vector_kernels_are_lowered(chip: str) -> None:
    binary = un.compile(add_kernel, f"ascend:{chip}", ADD, {"BLOCK": 1024}, stages=("ttir", "linalg", "hivm"))
    assert binary.metadata["status"] in ("lowered", "ok")
    assert binary.metadata["mode"] == "aiv"
    header = header_of(binary)
    assert (header["magic"], header["header_bytes"], header["mode"]) == (b"UNIFYASC", 64, 0)
    assert header["chip"] == {"950": b"950\0", "910C": b"910C"}.get(chip, b"910B")
    assert len(binary.image) == 64 + int(header["payload_bytes"])
    used, limit = binary.metadata["ub_bytes"], binary.metadata["ub_limit"]
    assert isinstance(used, int)
    assert used * 2 >= 3 * 4096  # three tiles of 4 KiB, of which two may share their place
    assert limit == (253952 if chip == "950" else 196608)
    assert "func.func @add_kernel" in binary.stages["linalg"]
    assert "hivm" in binary.stages["hivm"]


@pytest.mark.parametrize(
    ("soc", "cores"),
    [("910_9382", 48), ("Ascend910_9362", 40), ("910B4-1", 40), ("950PR_9579", 56), ("Ascend950DT_9588", 64)],
)
def test_names_that_cann_gives_to_chips_are_targets(soc: str, cores: int) -> None:
    """With their own numbers of cores, which are those of the vendor's NPUTargetSpec.td."""
    binary = un.compile(add_kernel, f"ascend:{soc}", ADD, {"BLOCK": 1024})
    assert binary.metadata["soc"] == f"Ascend{soc.removeprefix('Ascend')}"
    assert header_of(binary)["blocks"] == cores


@pytest.mark.parametrize("soc", ["910A", "310P3", "910B9", "Ascend", "910_9"])
def test_other_chips_are_refused_with_those_that_are_known(soc: str) -> None:
    with pytest.raises(un.errors.TargetError, match=r"910B1, .*910C, 950, or the name that CANN gives it"):
        un.compile(add_kernel, f"ascend:{soc}", ADD, {"BLOCK": 1024})


@pytest.mark.parametrize("chip", CHIPS)
def test_products_run_on_the_cube(chip: str) -> None:
    binary = un.compile(product_kernel, f"ascend:{chip}", PRODUCT, {"M": 64, "N": 64, "K": 64})
    assert binary.metadata["l0c_bytes"] == 64 * 64 * 4
    l1 = binary.metadata["l1_bytes"]
    assert isinstance(l1, int)
    assert l1 >= 2 * 64 * 64 * 2
    assert binary.metadata["mode"] in ("aic", "mix")


@pytest.mark.parametrize("chip", ["910B3", "910C"])
def test_a_mixed_kernel_brings_its_workspace(chip: str) -> None:
    binary = un.compile(softened_kernel, f"ascend:{chip}", {"a": "*fp16", "b": "*fp16", "c": "*fp32"}, {"K": 64})
    assert binary.metadata["mode"] == "mix"
    assert header_of(binary)["mode"] == 2
    assert binary.scratch_bytes >= 32 * 32 * 4  # the scores go through device memory
    assert binary.scratch_offset == 16


@pytest.mark.parametrize("chip", ["910B3", "950"])
def test_a_barrier_waits_for_all_parts_of_the_core(chip: str) -> None:
    def waits(kernel: object) -> int:
        return un.compile(kernel, f"ascend:{chip}", {"x": "*fp32"}, stages=("hivm",)).stages["hivm"].count("PIPE_ALL")  # type: ignore[arg-type]

    assert waits(barrier_kernel) == waits(plain_kernel) + 1


@pytest.mark.parametrize("chip", ["910B3", "950"])
def test_hints_for_caches_are_no_obstacle(chip: str) -> None:
    binary = un.compile(hinting_kernel, f"ascend:{chip}", {"x": "*fp32", "n": "i32"})
    assert binary.metadata["status"] in ("lowered", "ok")


@pytest.mark.parametrize("chip", ["910B3", "950"])
def test_what_is_assumed_is_no_obstacle(chip: str) -> None:
    binary = un.compile(assuming_kernel, f"ascend:{chip}", {"x": "*fp32", "n": "i32"}, stages=("ttir",))
    assert "llvm.intr.assume" in binary.stages["ttir"]
    assert binary.metadata["status"] in ("lowered", "ok")


def test_arguments_lie_as_the_vendors_launcher_packs_them() -> None:
    types = {"byte": "i8", "short": "i16", "word": "i32", "real": "fp32", "double_word": "i64"}
    binary = un.compile(joined_kernel, "ascend:910B3", {"x": "*fp32", "n": "i32"})
    # Behind the synchronisation's, the lock's and the workspace's addresses; the grid follows.
    assert [(p.name, p.offset) for p in binary.parameters] == [("x", 24), ("n", 32)]
    assert header_of(binary)["grid_offset"] == 36
    assert header_of(binary)["logical_grid_offset"] == header_of(binary)["blocks"] == 0  # its ways join: no loop
    assert binary.args_bytes == 48
    binary = un.compile(every_type_kernel, "ascend:910B3", {**types, "array": "*fp32", "out": "*fp32"})
    assert [p.offset for p in binary.parameters] == [24, 28, 32, 36, 40, 48, 56]


@pytest.mark.parametrize("chip", ["910B3", "950"])
def test_a_kernel_that_leaves_early_is_put_into_a_loop_too(chip: str) -> None:
    assert un.compile(early_kernel, f"ascend:{chip}", {"x": "*fp32", "n": "i32"}).metadata["persistent"] is True


@pytest.mark.parametrize(("chip", "cores"), [("910B1", 48), ("910B3", 40), ("910C", 48), ("950", 72)])
def test_a_kernel_becomes_a_block_for_each_core(chip: str, cores: int) -> None:
    binary = un.compile(add_kernel, f"ascend:{chip}", ADD, {"BLOCK": 1024})
    header = header_of(binary)
    assert binary.metadata["persistent"] is True
    assert header["blocks"] == binary.scratch_programs == cores  # vector cores, which it runs on
    end = binary.parameters[-1].offset + 4
    assert (header["logical_grid_offset"], header["grid_offset"]) == (end, end + 12)
    assert binary.args_bytes == end + 24


def test_a_kernel_is_kept_on_disk(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFY_CACHE_DIR", str(tmp_path))
    first = un.compile(add_kernel, "ascend:910B3", ADD, {"BLOCK": 128})
    monkeypatch.setenv("UNIFY_TOOLCHAIN_DIR", str(tmp_path))  # nothing there
    assert un.compile(add_kernel, "ascend:910B3", ADD, {"BLOCK": 128}) == first
    with pytest.raises(un.errors.TargetError, match="unify toolchain install ascend"):
        un.compile(add_kernel, "ascend:910B3", ADD, {"BLOCK": 64})


# Of the chips but the first every fourth: their compilers take up to a minute for a kernel.
LOWERED = [
    pytest.param(chip, number, marks=() if chip == CHIPS[0] or number % 4 == 0 else pytest.mark.slow)
    for chip in CHIPS
    for number in range(len(signatures("ascend:910B3")))
]


@pytest.mark.parametrize(("chip", "number"), LOWERED)
def test_shipped_kernels_are_lowered(chip: str, number: int) -> None:
    row = signatures(f"ascend:{chip}")[number]
    binary = un.compile(row.kernel, f"ascend:{chip}", row.types, row.constants, **row.options)
    assert binary.metadata["status"] in ("lowered", "ok")
    # One that asks for no program's number is launched as one.
    assert binary.metadata["persistent"] is (row.name != "offsets_kernel")


SPINS = "while :; do :; done"


@pytest.mark.parametrize(
    ("script", "said", "is_accident"),
    [
        (SPINS, r"triton-adapter-opt was not done after 1 s of CPU time", False),
        ("kill -SEGV $$", r"triton-adapter-opt crashed \(SIGSEGV\)", False),
        ("kill -KILL $$", r"triton-adapter-opt crashed \(SIGKILL\)", True),  # as Linux does where memory is short
    ],
)
def test_what_a_program_does_with_a_kernel_is_kept_and_what_others_do_to_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str, is_accident: bool
) -> None:
    adapter = tmp_path / "triton-adapter-opt"
    adapter.write_text(f"#!/bin/sh\n{script}\n")
    adapter.chmod(0o700)
    ttir = un.compile(plain_kernel, "cpu", {"x": "*fp32"}, stages=["ttir"]).stages["ttir"]
    monkeypatch.setattr(toolchain, "find", lambda _: tmp_path)
    with pytest.raises(un.errors.CompileError, match=said) as failure:
        ascend.lower(ttir, ascend.CHIPS["910B3"], "ascend:910B3", adapter_cpu_s=1)
    assert failure.value.kernel == "plain_kernel"
    assert failure.value.is_accident == is_accident
