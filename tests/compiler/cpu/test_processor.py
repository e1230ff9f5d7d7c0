"""Names of processors, their features, and what this machine's own are taken from."""

from __future__ import annotations

import pytest

from unify.compiler.cpu import processor
from unify.compiler.cpu.processor import Features
from unify.errors import TargetError


def host() -> tuple[str, str]:
    return "znver4", "+avx2,+fma,+f16c,+avx512f,-avx512bf16"


def find(arch: str) -> Features:
    return processor.find(arch, host)


@pytest.mark.parametrize(
    ("arch", "cpu", "vector_bytes", "vector_registers"),
    [
        ("x86-64-v3", "x86-64-v3", 32, 16),
        ("skylake-avx512", "skylake-avx512", 64, 32),
        ("aarch64", "generic", 16, 32),
        ("kunpeng920", "tsv110", 16, 32),
        ("neoverse-v1", "neoverse-v1", 16, 32),
    ],
)
def test_a_name_stands_for_a_processor(arch: str, cpu: str, vector_bytes: int, vector_registers: int) -> None:
    found = find(arch)
    assert (found.cpu, found.vector_bytes, found.vector_registers) == (cpu, vector_bytes, vector_registers)
    assert found.triple.startswith("x86_64" if vector_bytes > 16 else "aarch64")


def test_features_are_added_to_a_name_and_taken_away() -> None:
    assert find("aarch64+dotprod").has("dotprod")
    assert not find("aarch64").has("dotprod")
    assert find("neoverse-v1-bf16").has("i8mm")
    assert not find("neoverse-v1-bf16").rounds_to_bfloat
    assert find("znver4").rounds_to_bfloat
    assert find("znver4-avx512f").vector_bytes == 32


def test_vectors_of_scalable_length_are_left_alone() -> None:
    assert "-sve" in find("neoverse-v1").text.split(",")
    assert "-sve" in processor.arm_features("Features\t: asimd atomics sve").split(",")


def test_no_name_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert (find("").cpu, find("").vector_bytes) == ("znver4", 64)
    assert find("-avx512f").vector_bytes == 32


def test_linux_names_the_features_of_an_arm_processor() -> None:
    # /proc/cpuinfo of a Kunpeng 920.
    cpuinfo = """processor	: 0
BogoMIPS	: 200.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt asimddp
CPU implementer	: 0x48
"""
    found = set(processor.arm_features(cpuinfo).split(",")) - {"-sve"}
    assert found == {item for item in find("kunpeng920").text.split(",") if item != "+v8.2a"}


@pytest.mark.parametrize("arch", ["i386", "aarch64be", "x86-64-v2", "neoverse"])
def test_an_unknown_name_lists_the_known_ones(arch: str) -> None:
    with pytest.raises(TargetError, match=rf"'{arch}'.*x86_64: x86-64-v3.*aarch64: aarch64, kunpeng920"):
        find(arch)


@pytest.mark.parametrize(("arch", "missing"), [("haswell-fma-f16c", "FMA, F16C"), ("aarch64-lse", "LSE")])
def test_what_the_code_generator_needs_is_named(arch: str, missing: str) -> None:
    with pytest.raises(TargetError, match=f"lacks {missing}, which"):
        find(arch)
