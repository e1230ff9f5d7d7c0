"""The simulator's declarations against NVIDIA's own header, which Triton brings along."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIMULATOR = ROOT / "csrc/simulator/cuda"
STRUCTS = {
    "CUuuid": ["bytes"],
    "CUmemLocation": ["type", "id"],
    "CUmemAllocationProp": ["type", "requestedHandleTypes", "location", "win32HandleMetaData", "allocFlags"],
    "CUmemAccessDesc": ["location", "flags"],
    "CUDA_MEMCPY2D": [
        "srcXInBytes",
        "srcY",
        "srcMemoryType",
        "srcHost",
        "srcDevice",
        "srcArray",
        "srcPitch",
        "dstXInBytes",
        "dstY",
        "dstMemoryType",
        "dstHost",
        "dstDevice",
        "dstArray",
        "dstPitch",
        "WidthInBytes",
        "Height",
    ],
    "CUlaunchAttributeValue": ["cooperative", "clusterDim", "priority", "programmaticStreamSerializationAllowed"],
    "CUlaunchAttribute": ["id", "value"],
    "CUlaunchConfig": [
        "gridDimX",
        "gridDimY",
        "gridDimZ",
        "blockDimX",
        "blockDimY",
        "blockDimZ",
        "sharedMemBytes",
        "hStream",
        "attrs",
        "numAttrs",
    ],
    "CUgraphExecUpdateResultInfo": ["result", "errorNode", "errorFromNode"],
    "CUipcMemHandle": ["reserved"],
    "CUipcEventHandle": ["reserved"],
}
# Enumerations here, integers there; pointers to the same handles and structs: what a call passes is the same.
PRELUDE = r"""
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
namespace own {
#include "libcuda.h"
}
namespace vendor {  // second: it has macros for names that are constants in the other
#include "cuda.h"
}
template <typename A, typename B> constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
    using PA = std::remove_pointer_t<A>;
    using PB = std::remove_pointer_t<B>;
    if constexpr (std::is_function_v<PA> || std::is_function_v<PB>) {
      return std::is_function_v<PA> && std::is_function_v<PB>;
    } else if constexpr (std::is_void_v<PA> || std::is_void_v<PB>) {
      return std::is_void_v<PA> && std::is_void_v<PB>;
    } else if constexpr (std::is_class_v<PA> || std::is_class_v<PB>) {
      return std::is_class_v<PA> && std::is_class_v<PB> && std::is_const_v<PA> == std::is_const_v<PB>;
    } else {
      return alike<std::remove_cv_t<PA>, std::remove_cv_t<PB>>() && std::is_const_v<PA> == std::is_const_v<PB>;
    }
  } else if constexpr (std::is_class_v<A> || std::is_enum_v<A> || std::is_union_v<A>) {
    return (std::is_class_v<A> == std::is_class_v<B>) && sizeof(A) == sizeof(B) && alignof(A) == alignof(B);
  } else {
    return std::is_integral_v<A> == std::is_integral_v<B> && sizeof(A) == sizeof(B);
  }
}
template <typename A, typename B> struct Alike : std::false_type {};
template <typename... A, typename... B>
struct Alike<vendor::CUresult(A...), own::CUresult(B...)> {
  static constexpr bool all() {
    if constexpr (sizeof...(A) == sizeof...(B)) return (alike<A, B>() && ...);
    return false;
  }
  static constexpr bool value = all();
};
static_assert(!Alike<decltype(vendor::cuMemAlloc_v2), decltype(own::cuMemFree_v2)>::value, "sees a difference");
#define FUNCTION(name, vendors) \
  static_assert(Alike<decltype(vendor::vendors), decltype(own::name)>::value, "type of " #name);
#define SIZE(type) \
  static_assert(sizeof(vendor::type) == sizeof(own::type) && alignof(vendor::type) == alignof(own::type), #type);
#define FIELD(type, field)                                                                                      \
  static_assert(offsetof(vendor::type, field) == offsetof(own::type, field) &&                                  \
                    sizeof(vendor::type::field) == sizeof(own::type::field), #type "::" #field);
#define VALUE(name, value) static_assert(int(name) == value, #name);
using namespace vendor;
"""


def header_folder() -> Path:
    triton = pytest.importorskip("triton")
    folder = Path(triton.__file__).parent / "backends/nvidia/include"
    if not (folder / "cuda.h").exists():
        pytest.skip("this Triton has no cuda.h: there is nothing to compare with")
    return folder


def check(assertions: list[str], vendor: Path, *options: str) -> None:
    command = ["c++", "-std=c++17", "-fsyntax-only", "-x", "c++", f"-I{vendor}", f"-I{SIMULATOR}", *options, "-"]
    source = PRELUDE + "\n".join(assertions)
    finished = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[:4000]


def test_structures_lie_as_the_drivers_do() -> None:
    wanted = []
    for struct, fields in STRUCTS.items():
        wanted += [f"SIZE({struct})", *(f"FIELD({struct}, {field})" for field in fields)]
    check(wanted, header_folder())


def test_names_have_the_drivers_values() -> None:
    vendor = header_folder()
    types = (SIMULATOR / "cuda_types.h").read_text()
    values = re.findall(r"\b(CU_\w+) = (\d+)", types)
    values += re.findall(r"RESULT\((\w+), (\d+)", (SIMULATOR / "cuda_results.inc").read_text())
    attributes = (SIMULATOR / "cuda_attributes.inc").read_text()
    values += [
        (f"CU_DEVICE_ATTRIBUTE_{name}", n) for name, n in re.findall(r"^ATTRIBUTE\((\w+), (\d+)", attributes, re.M)
    ]
    assert len(values) > 200
    check([f"VALUE({name}, {value})" for name, value in values], vendor)


def test_every_result_of_the_driver_is_known() -> None:
    text = (header_folder() / "cuda.h").read_text()
    body = text.partition("typedef enum cudaError_enum {")[2].partition("} CUresult;")[0]
    theirs = dict(re.findall(r"^\s+(CUDA_\w+)\s*=\s*(\d+)", body, re.MULTILINE))
    ours = dict(re.findall(r"RESULT\((\w+), (\d+)", (SIMULATOR / "cuda_results.inc").read_text()))
    assert ours == theirs


def test_functions_take_what_the_drivers_take() -> None:
    vendor = header_folder()
    ours = re.findall(r"UNIFY_SIMULATOR_EXPORT CUresult (cu\w+)\(", (SIMULATOR / "libcuda.h").read_text())
    # Older forms, which the header hides behind the newer ones of the same type.
    older = {"cuGetProcAddress", "cuDeviceGetUuid", "cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxReset"}
    older |= {"cuStreamDestroy", "cuEventDestroy", "cuIpcOpenMemHandle", "cuEventElapsedTime"}
    # One that a newer version replaced.
    replaced = "cuStreamGetCaptureInfo_v2"
    compared = [name for name in ours if name not in older and name != replaced]
    assert len(compared) > 70
    check([f"FUNCTION({name}, {name})" for name in compared], vendor)
    check([f"FUNCTION({replaced}, {replaced})"], vendor, "-D__CUDA_API_VERSION_INTERNAL")


def test_every_function_that_backends_call_is_there() -> None:
    wanted = re.findall(r"^API\((\w+), (\d+)", (ROOT / "csrc/backends/cuda_api.inc").read_text(), re.MULTILINE)
    known = {
        name: int(since)
        for name, since in re.findall(r"SYMBOL\((\w+), \w+, (\d+)", (SIMULATOR / "cuda_symbols.inc").read_text())
    }
    assert {name for name, since in wanted if known.get(name, 99999) > int(since)} == set()


def test_cuGetProcAddress_answers_for_what_is_declared() -> None:
    symbols = re.findall(r"SYMBOL\((\w+), (\w+), \d+", (SIMULATOR / "cuda_symbols.inc").read_text())
    declared = re.findall(r"CUresult (cu\w+)\(", (SIMULATOR / "libcuda.h").read_text())
    assert {function for _, function in symbols} <= set(declared)
