"""CUDA C++ by the real NVRTC, without a GPU: images, signatures, errors, and what is kept."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import unify as un
from unify._config import settings
from unify.compiler import nvrtc

EM_CUDA = 190  # elf.h
SOURCE = """
struct Range { double low; int count[3]; };
template <typename T> __global__ void scale(T* x, T f, int n) { if (threadIdx.x < n) x[threadIdx.x] *= f; }
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n, Range r) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i] + r.low;
}
__global__ void plain(long long n, bool b) {}
"""


def is_installed() -> bool:
    try:
        nvrtc._library()
    except un.errors.UnsupportedError:
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not is_installed(), reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    with settings.override(cache_dir=tmp_path, no_cache=False):
        yield tmp_path / "kernels"


def machine_of(image: bytes) -> int:
    found: tuple[int] = struct.unpack_from("<H", image, 18)  # e_machine
    return found[0]


@needs_nvrtc
@pytest.mark.parametrize("arch", ["80", "sm_89", "cuda:90", "90a", "100", "120"])
def test_a_source_becomes_a_cubin_for_each_architecture(arch: str) -> None:
    result = nvrtc.compile(SOURCE, arch)
    assert result.cubin[:4] == b"\x7fELF"
    assert machine_of(result.cubin) == EM_CUDA
    digits = arch.removeprefix("cuda:").removeprefix("sm_")
    assert f".target sm_{digits}" in result.ptx


@needs_nvrtc
def test_functions_are_known_with_what_they_take() -> None:
    result = nvrtc.compile(SOURCE, "90", name_expressions=("scale<float>", "&scale<double>"))
    lowered = result.names["scale<float>"]
    assert {"saxpy", "_Z5plainxb", lowered, result.names["&scale<double>"]} == set(result.functions)
    pointer = {"b64", "ptr"}
    saxpy = [p.type for p in result.functions["saxpy"].parameters]
    assert saxpy[0] == "fp32"
    assert set(saxpy[1:3]) <= pointer
    assert saxpy[3:] == ["b32", "bytes[24]@8"]
    assert [p.type for p in result.functions["_Z5plainxb"].parameters] == ["b64", "b8"]
    assert [p.type for p in result.functions[lowered].parameters][1:] == ["fp32", "b32"]


@needs_nvrtc
def test_an_error_has_file_line_and_the_compilers_text() -> None:
    with pytest.raises(
        un.errors.CompileError, match=r'(?s)norm\.cu:3: identifier "foo" is undefined\n.*foo\(1\);'
    ) as caught:
        nvrtc.compile("\n__global__ void f() {\n  foo(1);\n}", "90", name="norm.cu")
    assert (caught.value.file, caught.value.line) == ("norm.cu", 3)
    assert caught.value.reason == 'identifier "foo" is undefined'


@needs_nvrtc
def test_headers_are_given_as_text_and_a_missing_one_says_how() -> None:
    source = '#include "shape.h"\nextern "C" __global__ void f(float* x) { *x = SIZE; }'
    assert "f" in nvrtc.compile(source, "90", headers={"shape.h": "#define SIZE 3"}).functions
    with pytest.raises(un.errors.CompileError, match=r"(?s)program.cu:1: .*shape.h.*headers=") as caught:
        nvrtc.compile(source, "90")
    assert caught.value.line == 1


@needs_nvrtc
def test_missing_headers_of_cuda_say_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_header_folders", list)
    with pytest.raises(un.errors.CompileError, match="pip install nvidia-cuda-runtime .*CUDA_HOME"):
        nvrtc.compile("#include <cuda_fp16.h>", "90")


@needs_nvrtc
def test_options_reach_the_compiler() -> None:
    source = 'extern "C" __global__ void f(float* x) { *x = SIZE / *x; }'
    exact = nvrtc.compile(source, "90", options=("-DSIZE=3.0f",))
    fast = nvrtc.compile(source, "90", options=("-DSIZE=3.0f", "--use_fast_math"))
    assert "div.rn.f32" in exact.ptx
    assert "div.approx" in fast.ptx
    with pytest.raises(un.errors.CompileError, match="no-such-option"):
        nvrtc.compile(source, "90", options=("--no-such-option",))
    with pytest.raises(un.errors.InvalidArgument, match="tuples of strings"):
        nvrtc.compile(source, "90", options="--use_fast_math")


@needs_nvrtc
@pytest.mark.parametrize("arch", ["20", "cpu", "", "sm_", "90b"])
def test_an_architecture_that_it_does_not_have_is_named(arch: str) -> None:
    with pytest.raises(un.errors.TargetError, match=r"NVRTC \d+\.\d+ does not compile for .* It knows .*90"):
        nvrtc.compile(SOURCE, arch)


@needs_nvrtc
def test_what_is_kept_is_not_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = nvrtc.compile(SOURCE, "90", name_expressions=("scale<float>",))
    assert len(list(folder.iterdir())) == 1
    others: list[dict[str, Any]] = [
        {"source": SOURCE + "\n"}, {"arch": "80"}, {"options": ("-DX",)}, {"headers": {"a.h": ""}}, {"name": "b.cu"},
        {"name_expressions": ()},
    ]  # fmt: skip

    def refuse(*args: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(nvrtc, "_compile", refuse)
    given = {"source": SOURCE, "arch": "90", "name_expressions": ("scale<float>",)}
    assert nvrtc.compile(**given) == first  # type: ignore[arg-type]
    for other in others:
        with pytest.raises(AssertionError, match="compiled"):
            nvrtc.compile(**{**given, **other})


@needs_nvrtc
def test_what_reads_files_of_ones_own_is_compiled_each_time(folder: Path, tmp_path: Path) -> None:
    header = tmp_path / "own.h"
    for value in (3, 5):
        header.write_text(f"#define VALUE {value}")
        source = '#include "own.h"\nextern "C" __global__ void f(int* x) { *x = VALUE; }'
        assert f", {value};" in nvrtc.compile(source, "90", options=(f"-I{tmp_path}",)).ptx
    assert not folder.exists()


@needs_nvrtc
@pytest.mark.parametrize("can_leave_out", [True, False])
@pytest.mark.parametrize("way", ["absolute", "folder", "header"])
def test_what_includes_files_of_ones_own_is_compiled_each_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, can_leave_out: bool
) -> None:
    if not can_leave_out:
        monkeypatch.setitem(vars(nvrtc._library()), "leaves_out_source_folder", False)
    header = tmp_path / "own.h"
    name = "own.h" if way == "folder" else str(header)
    headers = {"first.h": f'#include "{name}"'} if way == "header" else {}
    source = f'#include "{"first.h" if headers else name}"\nextern "C" __global__ void f(int* x) {{ *x = VALUE; }}'
    for value in (3, 5):
        header.write_text(f"#define VALUE {value}")
        if way == "folder" and can_leave_out:
            with pytest.raises(un.errors.CompileError, match="headers="):
                nvrtc.compile(source, "90", name=str(tmp_path / "f.cu"))
        else:
            made = nvrtc.compile(source, "90", name=str(tmp_path / "f.cu"), headers=headers)
            assert f", {value};" in made.ptx
    assert not folder.exists()


def test_each_way_to_ask_for_a_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "cuda_fp16.h").write_text("")
    for text in (
        '#include "a.h"', "#include <cuda_fp16.h>", '  #  include "cuda_fp16.h" // why', "int include;", "#define X 1",
    ):  # fmt: skip
        assert not nvrtc._reads_files([text], {"a.h": ""}, [tmp_path]), text
    for text in (
        '#include "b.h"', "#include X", '#/* */include "a.h"', '%:include "a.h"', '#inc\\\nlude "b.h"', "#embed <b>",
        "#if __has_include(<b.h>)", f'#include "{tmp_path}/cuda_fp16.h"', '#include "../b.h"', "#include <b.h>",
    ):  # fmt: skip
        assert nvrtc._reads_files([text], {"a.h": ""}, [tmp_path]), text
    assert nvrtc._reads_files(["#include <cuda_fp16.h>"], {}, ())


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_candidates", lambda: ["libnothing-of-the-kind.so"])
    nvrtc._library.cache_clear()
    try:
        with pytest.raises(un.errors.UnsupportedError, match=r"pip install 'unify-runtime\[cuda\]'"):
            nvrtc.compile(SOURCE, "90")
    finally:
        nvrtc._library.cache_clear()
