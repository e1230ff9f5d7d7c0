"""The compile half for CUDA: Triton's and NVIDIA's real compilers, on machines without a GPU."""

from __future__ import annotations

import re

import pytest
import triton.language as tl

import unify as un
from unify.compiler import Binary, cuda

from .kernels import add_kernel

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
EM_CUDA = 190


@un.jit
def product_kernel(a, b, c, k, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, k, BLOCK):
        left = tl.load(a + i[:, None] * k + (start + i)[None, :])
        right = tl.load(b + (start + i)[:, None] * BLOCK + i[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + i[:, None] * BLOCK + i[None, :], total)


@un.jit
def every_type_kernel(flag, byte, half, short, real, word, brain, double, long, out):
    value = flag.to(tl.float64) + byte + half + short + real + word + brain + double + long
    tl.store(out, value)


@un.jit
def descriptor_kernel(x, out, rows, columns, BLOCK: tl.constexpr):
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    target = tl.make_tensor_descriptor(out, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    target.store([0, 0], source.load([0, 0]) + 1.0)


@pytest.mark.parametrize("arch", ["91", "88", "101", "999", "130", "9", "90a", "", "sm_90", "٩٠"])
def test_an_architecture_that_the_compilers_do_not_know_is_refused_with_those_that_they_know(arch: str) -> None:
    with pytest.raises(un.TargetError, match=f"no target 'cuda:?{arch}': .*Known: 75, 80, .*120, 121"):
        un.compile(product_kernel, f"cuda:{arch}", PRODUCT, {"BLOCK": 64})


def test_each_architecture_that_is_known_has_a_product_of_matrices() -> None:
    for arch in cuda._CAPABILITIES:
        assert machine_of(un.compile(product_kernel, f"cuda:{arch}", PRODUCT, {"BLOCK": 16})) == EM_CUDA


ADD = {"x": "*fp32:16", "y": "*fp32:16", "out": "*fp32:16", "n": "i32"}
PRODUCT = {"a": "*fp32:16", "b": "*fp32:16", "c": "*fp32:16", "k": "i32:16"}


def machine_of(binary: Binary) -> int:
    assert binary.image[:4] == b"\x7fELF"
    return int.from_bytes(binary.image[18:20], "little")


def ptx_parameters(ptx: str) -> list[tuple[int, int]]:
    """Offset and size of each parameter of the entry, as the driver lays them out: `.f32 x` or `.align 2 .b8 x[2]`."""
    entry = ptx[ptx.index(".entry") :]
    found, end = [], 0
    for line in entry[: entry.index("\n)")].splitlines()[1:]:
        array = re.search(r"\.align (\d+) \.b8 \w+\[(\d+)\]", line)
        size = int(array[2]) if array else int(re.search(r"\.param \.\w(\d+) ", line)[1]) // 8
        alignment = int(array[1]) if array else size
        offset = -(-end // alignment) * alignment
        found.append((offset, size))
        end = offset + size
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_cubin_comes_out_for_every_architecture(arch: int) -> None:
    binary = un.compile(add_kernel, f"cuda:{arch}", ADD, {"BLOCK": 1024})
    assert machine_of(binary) == EM_CUDA
    assert binary.target == f"cuda:{arch}"
    assert binary.threads == 128
    assert binary.metadata["registers"] > 0
    assert [p.is_written for p in binary.parameters] == [False, False, True, False]


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_a_product_uses_shared_memory_and_is_kept_with_all_it_needs(arch: int) -> None:
    types = {**PRODUCT, "a": "*bf16:16", "b": "*bf16:16"}
    first = un.compile(product_kernel, f"cuda:{arch}", types, {"BLOCK": 64}, num_warps=8)
    again = un.compile(product_kernel, f"cuda:{arch}", types, {"BLOCK": 64}, num_warps=8)
    assert first.shared_bytes >= 16384
    assert first.threads >= 256  # more where Triton specialises warps
    assert first == again


def test_parameters_lie_where_ptx_has_them() -> None:
    types = {
        "flag": "u1", "byte": "i8", "half": "fp16", "short": "i16", "real": "fp32", "word": "i32", "brain": "bf16",
        "double": "fp64", "long": "i64", "out": "*fp64",
    }  # fmt: skip
    binary = un.compile(every_type_kernel, "cuda:90", types, stages=("ptx",))
    *parameters, scratch, profile = ptx_parameters(binary.stages["ptx"])
    assert [p.offset for p in binary.parameters] == [offset for offset, _ in parameters]
    assert (binary.scratch_offset, 8) == scratch
    assert profile[0] + profile[1] == binary.args_bytes


def test_the_dtypes_are_those_of_the_architecture() -> None:
    types = {**ADD, "x": "*fp8e4nv:16"}
    assert un.compile(add_kernel, "cuda:89", types, {"BLOCK": 1024}).image
    with pytest.raises(un.CompileError, match=r"kernels.py:\d+: kernel add_kernel:.*fp8e4nv"):
        un.compile(add_kernel, "cuda:80", types, {"BLOCK": 1024})


def test_descriptors_need_nothing_of_the_host() -> None:
    types = {"x": "*fp32:16", "out": "*fp32:16", "rows": "i32:16", "columns": "i32:16"}
    binary = un.compile(descriptor_kernel, "cuda:90", types, {"BLOCK": 32})
    assert binary.scratch_bytes == 0
    assert [p.type for p in binary.parameters] == ["*fp32", "*fp32", "i32", "i32"]


def test_the_stages_can_be_kept() -> None:
    binary = un.compile(add_kernel, "cuda:80", ADD, {"BLOCK": 128}, stages=("ttgir", "llir", "ptx"))
    assert "#ttg.blocked" in binary.stages["ttgir"]
    assert "define ptx_kernel" in binary.stages["llir"] or "nvvm.kernel" in binary.stages["llir"]
    assert ".target sm_80" in binary.stages["ptx"]


def test_programs_that_span_blocks_say_so() -> None:
    binary = un.compile(add_kernel, "cuda:90", ADD, {"BLOCK": 1024}, num_ctas=2)
    assert binary.cluster == 2
    assert un.compile(add_kernel, "cuda:90", ADD, {"BLOCK": 1024}).cluster == 0


@pytest.mark.parametrize("arch", ["", "60", "sm_90", "h100", "9.0"])
def test_an_unknown_architecture_says_what_is_meant(arch: str) -> None:
    with pytest.raises(un.TargetError, match="compute capability.*cuda:90"):
        un.compile(add_kernel, f"cuda:{arch}", ADD, {"BLOCK": 128})


def test_what_the_vendor_refuses_names_kernel_and_line() -> None:
    with pytest.raises(un.CompileError, match=r"kernels.py:\d+: kernel add_kernel: cuda:80.*num_ctas") as raised:
        un.compile(add_kernel, "cuda:80", ADD, {"BLOCK": 1024}, num_ctas=2)  # from sm_90 on
    assert raised.value.file
    assert raised.value.file.endswith("kernels.py")
    assert raised.value.line


@un.jit
def percent_kernel(n):
    tl.device_print('100% of "5%d"', n)


def test_what_is_printed_before_a_value_is_no_format() -> None:
    binary = un.compile(percent_kernel, "cuda:90", {"n": "i32"}, stages=("llir",))
    (text,) = re.findall(r'c"(pid.*)"', binary.stages["llir"])
    assert "100%% of \\225%%d\\22: %i" in text
