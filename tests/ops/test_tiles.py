"""Tiles of products and attentions: they fit the shape and the chip, and leave no core without work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import unify as un
from unify.ops import tiles
from unify.ops.attend import Widths
from unify.ops.attention import attention_kernel
from unify.ops.linear import matmul_kernel

from ..installed import NEEDS_ASCEND

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

CPU = un.device("cpu")
KIB = 1024
# Shared memory of a program, by compute capability: CUDA C++ programming guide, technical specifications.
SHARED_BYTES = {80: 163 * KIB, 86: 99 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB, 120: 99 * KIB}
# Instructions of the tensor cores in PTX.
TENSOR_CORES = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
ARRAY, SIZE = "*bf16:16", "i32:16"


@dataclass(frozen=True)
class Chip:
    """As much of a device as tiles are chosen by."""

    target: str
    cores: int = 132

    @property
    def kind(self) -> str:
        return self.target.partition(":")[0]

    @property
    def properties(self) -> dict[str, Any]:
        return {"target": self.target, "cores": self.cores}


@pytest.mark.parametrize("cores", [1, 2, 64])
@given(m=st.integers(1, 5000), n=st.integers(1, 5000))
def test_each_core_has_work_where_there_is_enough_and_few_columns_are_wasted(cores: int, m: int, n: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiles, "cores_of", lambda _: cores)
        tile = tiles.product_tile(CPU, m, n)
    assert tile.m & (tile.m - 1) == tile.n & (tile.n - 1) == 0  # powers of two
    assert tile.m < 2 * max(16, m)
    assert tile.n <= 64 or -n % tile.n * 16 <= n
    assert -(-m // tile.m) * -(-n // tile.n) >= cores or max(tile.m, tile.n) <= 64


@pytest.mark.parametrize("cores", [1, 2, 64])
@given(queries=st.integers(1, 5000), heads=st.integers(1, 100), causal=st.booleans())
def test_an_attention_leaves_no_core_without_work(cores: int, queries: int, heads: int, causal: bool) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiles, "cores_of", lambda _: cores)
        tile = tiles.attention_tile(CPU, queries, heads, causal=causal)
    assert tile.m & (tile.m - 1) == tile.n & (tile.n - 1) == 0  # powers of two
    assert 16 <= tile.m < 2 * max(16, queries)
    assert -(-queries // tile.m) * heads >= cores or tile.m <= 32


@pytest.mark.parametrize("target", ["chip", "cuda:75"])
def test_other_chips_have_tiles_of_their_own(target: str) -> None:
    chip = Chip(target)
    assert tiles.attention_tile(chip, 4096, 8, causal=False).m < tiles.attention_tile(CPU, 4096, 8, causal=False).m
    assert tiles.product_tile(chip, 4096, 4096, un.float16) == tiles.Tile(64, 64, 32)


@given(rows=st.integers(1, 5000), gated=st.booleans(), dtype=st.sampled_from([un.float32, un.float16, un.bfloat16]))
def test_a_group_of_rows_fills_one_tile_as_long_as_there_are_few(rows: int, gated: bool, dtype: un.DType) -> None:
    for chip, most in ((CPU, 512), (Chip("cuda:90"), 64), (Chip("ascend:910B3"), 128), (Chip("cuda:75"), 64)):
        tile = tiles.grouped_tile(chip, rows, 768, dtype, gated=gated)
        assert tile.m & (tile.m - 1) == tile.n & (tile.n - 1) == tile.k & (tile.k - 1) == 0
        assert min(most, rows) <= tile.m < 4 * max(16, rows)
    sums = tiles.grouped_tile(Chip("ascend:910B3"), rows, 768, dtype, gated=True)
    assert 2 * 4 * sums.m * sums.n <= 64 * KIB  # half of what a cube's L0C holds, as other products


def test_a_cpu_launch_has_no_options_of_a_gpu() -> None:
    assert not tiles.product_tile(CPU, 512, 512, un.float16).launch
    assert not tiles.attention_tile(CPU, 512, 8, causal=True, width=64, dtype=un.float16).launch
    assert not tiles.row_tile(CPU, 576).launch
    assert tiles.row_tile(CPU, 576).k == 64


@given(m=st.integers(1, 9000), n=st.integers(1, 9000))
def test_a_product_on_cuda_gives_each_multiprocessor_a_program_where_there_is_enough(m: int, n: int) -> None:
    tile = tiles.product_tile(Chip("cuda:90"), m, n, un.float16)
    assert tile.m < 2 * max(16, m)
    assert -(-m // tile.m) * -(-n // tile.n) >= 132 or max(tile.m, tile.n) <= 64
    assert tile.m > 64 or tile.launch["num_warps"] == 4


def test_float32_on_cuda_has_the_tiles_of_plain_arithmetic() -> None:
    chip = Chip("cuda:90")
    assert tiles.product_tile(chip, 4096, 4096, un.float32) == tiles.Tile(64, 64, 32)
    assert tiles.attention_tile(chip, 4096, 8, causal=True, width=64, dtype=un.float32).m == 64


def test_a_row_on_cuda_is_taken_at_once() -> None:
    assert [tiles.row_tile(Chip("cuda:90"), columns).k for columns in (5, 576, 4096, 100_000)] == [16, 1024, 4096, 8192]
    assert tiles.row_tile(Chip("cuda:90"), 4096).launch == {"num_warps": 8}


def products(arch: int) -> list[tiles.Tile]:
    """Each tile of a family, and one for a few rows."""
    chip = Chip(f"cuda:{arch}")
    family = tiles._CUDA_PRODUCT[tiles._cuda_family(chip) or 0]
    return [*family, tiles.product_tile(chip, 16, 8192, un.float16)]


def compiled_product(target: str, tile: tiles.Tile, array: str = ARRAY, **options: Any) -> un.compiler.Binary:
    arrays, sizes = ["a", "b", "out"], ["m", "n", "k", "a_row", "b_n", "r_row", "o_row"]
    types = dict.fromkeys(arrays, array) | dict.fromkeys(sizes, SIZE)
    constants = {
        "residual": None,
        "a_batch": None,
        "b_batch": None,
        "o_batch": None,
        "b_k": 1,
        "M": tile.m,
        "N": tile.n,
        "K": tile.k,
        "EVEN_K": True,
    }
    return un.compile(matmul_kernel, target, types, constants, **options, **tile.launch)


def compiled_attention(
    target: str, width: int, queries: int = 4096, array: str = ARRAY, **options: Any
) -> un.compiler.Binary:
    dtype = un.float32 if array == "*fp32:16" else un.float16
    tile = tiles.attention_tile(Chip(target), queries, 16, causal=True, width=width, dtype=dtype)
    types = dict.fromkeys(["q", "k", "v", "out"], array) | dict.fromkeys(["queries", "keys"], SIZE)
    types |= dict.fromkeys(["group", "sequences", "steps", "blocks", "max_blocks"], "i32") | {"scale": "fp32"}
    types |= {f"{array}_{axis}": SIZE for array in "qkvo" for axis in ("batch", "token", "head")}
    absent = [
        "lse",
        "starts",
        "key_starts",
        "lengths",
        "table",
        "sinks",
        "alibi",
        "k_scale",
        "v_scale",
        "cap",
        "window",
    ]
    constants = dict.fromkeys(absent) | vars(Widths.of(width, width)) | {"k_dim": 1, "table_row": 1, "PAGE": 0}
    constants |= {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "CAUSAL": True}
    return un.compile(attention_kernel, target, types, constants, **options, **tile.launch)


# A few registers, outside of the loop: Triton 3.6 spills 32 bytes of the largest product on 80, 3.9 none.
MOST_SPILLED = 64


def check(binary: un.compiler.Binary, arch: int) -> None:
    assert binary.shared_bytes <= SHARED_BYTES[arch]
    assert TENSOR_CORES.get(arch, "mma.sync") in binary.stages["ptx"]
    assert binary.metadata["spill_bytes"] <= MOST_SPILLED, binary.metadata  # type: ignore[operator]


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("arch", [90, 120])
def test_an_attention_fits_the_chip_and_uses_its_tensor_cores(arch: int, width: int) -> None:
    check(compiled_attention(f"cuda:{arch}", width, stages=("ptx",)), arch)


def test_the_largest_product_fits_the_chip_and_uses_its_tensor_cores() -> None:
    check(compiled_product("cuda:90", products(90)[0], stages=("ptx",)), 90)


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHARED_BYTES)
def test_each_tile_of_each_family_fits_its_chips(arch: int) -> None:
    for tile in products(arch)[:-1]:
        check(compiled_product(f"cuda:{arch}", tile, stages=("ptx",)), arch)
    assert compiled_product(f"cuda:{arch}", products(arch)[-1]).shared_bytes <= SHARED_BYTES[arch]
    for width in (32, 64, 80, 128):
        check(compiled_attention(f"cuda:{arch}", width, stages=("ptx",)), arch)
        assert compiled_attention(f"cuda:{arch}", width, 16).shared_bytes <= SHARED_BYTES[arch]


@NEEDS_ASCEND
@pytest.mark.parametrize("chip", ["910B3", "950"])
@pytest.mark.parametrize("array", ["*fp16:16", "*fp32:16"])
def test_tiles_fit_the_cores_of_an_ascend(chip: str, array: str) -> None:
    target, dtype = f"ascend:{chip}", un.float32 if array == "*fp32:16" else un.float16
    for rows in (16, 2048):
        compiled_product(target, tiles.product_tile(Chip(target, 20), rows, 4096, dtype), array)
    for width in (64, 128, 256):
        compiled_attention(target, width, array=array)
