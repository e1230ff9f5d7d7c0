"""What the CUDA backend declares for itself, compiled against NVIDIA's own header, which Triton's package carries."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import triton

BACKENDS = Path(__file__).parents[1] / "csrc" / "backends"
NVIDIA = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
TYPES = (BACKENDS / "cuda_types.h").read_text()

# Parameters that are enumerations in NVIDIA's header are ints in ours: of one size, and neither a pointer.
PROOF = """
#include <cstddef>
#include <type_traits>
#include "cuda_types.h"
#include <cuda.h>

template <typename Ours, typename Theirs>
constexpr bool is_passed_alike =
    std::is_void_v<Ours> ? std::is_void_v<Theirs>
                         : sizeof(std::conditional_t<std::is_void_v<Ours>, char, Ours>) ==
                                   sizeof(std::conditional_t<std::is_void_v<Theirs>, char, Theirs>) &&
                               std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> &&
                               std::is_floating_point_v<Ours> == std::is_floating_point_v<Theirs> &&
                               std::is_class_v<Ours> == std::is_class_v<Theirs>;
template <typename Ours, typename Theirs>
struct Same : std::false_type {};
template <typename... Ours, typename... Theirs>
struct Same<int(Ours...), ::CUresult(Theirs...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(Ours) != sizeof...(Theirs)) return false;
    else return (is_passed_alike<Ours, Theirs> && ...);
  }();
};
namespace unify::cuda::proof {
"""


# Of what a newer version replaced: NVIDIA's name for the one that is called. Its header has them under this macro.
REPLACED = {"cuStreamGetCaptureInfo": "cuStreamGetCaptureInfo_v2"}
WITH_REPLACED = "-D__CUDA_API_VERSION_INTERNAL"


def compile_proof(lines: list[str], tail: list[str], tmp_path: Path, *options: str) -> str:
    source = tmp_path / "proof.cpp"
    source.write_text("\n".join([PROOF, *lines, "}", *tail]))
    command = ["c++", "-std=c++17", "-fsyntax-only", "-Wall", "-I", str(BACKENDS), "-isystem", str(NVIDIA), *options]
    command.append(str(source))
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.fixture(autouse=True)
def header() -> None:
    assert (NVIDIA / "cuda.h").exists(), "Triton's package carries cuda.h no more: find another source for it"


def test_every_number_is_nvidia_s(tmp_path: Path) -> None:
    numbers = re.findall(r"^  (CU\w+) = (\d+),", TYPES, re.MULTILINE)
    assert len(numbers) > 40
    checks = [f'static_assert(int({name}) == {value}, "{name}");' for name, value in numbers]
    assert compile_proof([], checks, tmp_path) == ""


def test_every_struct_lies_as_nvidia_s(tmp_path: Path) -> None:
    checks = []
    for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", TYPES, re.MULTILINE | re.DOTALL):
        checks.append(f"static_assert(sizeof(unify::cuda::{name}) == sizeof(::{name}));")
        fields = body
        while "{" in fields:  # what is nested, from the inside
            fields = re.sub(r"(struct|union) \{[^{}]*\} ", "int ", fields)
        for field in re.findall(r"(\w+)(?:\[\d+\])?[,;]", fields):
            if field != "pad":
                checks.append(f"static_assert(offsetof(unify::cuda::{name}, {field}) == offsetof(::{name}, {field}));")
    assert len(checks) > 40
    assert compile_proof([], checks, tmp_path) == ""


def test_every_function_is_called_as_nvidia_declares_it(tmp_path: Path) -> None:
    table = re.sub(r"//.*", "", (BACKENDS / "cuda_api.inc").read_text())
    entries = re.findall(r"API\((\w+), (\d+), (?:true|false),\s*(\(.*?\))\)\n", table, re.DOTALL)
    assert len(entries) > 60
    ours = [f"using {name}_ours = int {parameters};" for name, _, parameters in entries]
    names = [name for name, _, _ in entries]

    def same(name: str) -> str:
        theirs = REPLACED.get(name, name)
        return f'static_assert(Same<unify::cuda::proof::{name}_ours, decltype(::{theirs})>::value, "{name}");'

    assert compile_proof(ours, [same(name) for name in names if name not in REPLACED], tmp_path) == ""
    assert compile_proof(ours, [same(name) for name in REPLACED], tmp_path, WITH_REPLACED) == ""


def test_the_proof_sees_a_difference(tmp_path: Path) -> None:
    ours = ["using wrong = int(CUdevice);"]
    check = 'static_assert(Same<unify::cuda::proof::wrong, decltype(::cuMemFree)>::value, "differs");'
    text = compile_proof(ours, [check], tmp_path)
    assert "differs" in text
