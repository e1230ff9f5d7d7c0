"""The simulated ACL's declarations against Huawei's own headers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ... import acl_headers
from .driver import LIBRARY, ROOT

ASCEND = ROOT / "csrc/simulator/ascend"
TYPES = (ASCEND / "acl_types.h").read_text()
HCCL = (ASCEND / "hccl.h").read_text()
RESULTS, HCCL_RESULTS = (
    dict(re.findall(r"^RESULT\((\w+), (\d+)", (ASCEND / f"{library}_results.inc").read_text(), re.MULTILINE))
    for library in ("acl", "hccl")
)
# The simulator's header has enumerations and structs of the vendor's names, and no linkage of C here: functions of two
# types may then have one name.
PRELUDE = r"""
#include <cstddef>
#include <cstdint>
#include <type_traits>
namespace own {
#include "acl.h"
#include "hccl.h"
}
#include <acl/acl.h>  // second: it has macros for names that are constants in the other
#include <acl/acl_op_compiler.h>
#include <acl/acl_prof.h>
#include <third_party/hccl/inc/hccl/hccl.h>
template <typename T, typename = void> struct Size { static constexpr size_t value = 0; };  // of what is only declared
template <typename T> struct Size<T, std::void_t<decltype(sizeof(T))>> { static constexpr size_t value = sizeof(T); };
template <typename A, typename B> constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
    using PA = std::remove_pointer_t<A>;
    using PB = std::remove_pointer_t<B>;
    if constexpr (std::is_function_v<PA> || std::is_function_v<PB>) {
      return std::is_function_v<PA> && std::is_function_v<PB>;
    } else if constexpr (std::is_void_v<PA> || std::is_void_v<PB>) {
      return std::is_void_v<PA> && std::is_void_v<PB> && std::is_const_v<PA> == std::is_const_v<PB>;
    } else {
      return alike<std::remove_cv_t<PA>, std::remove_cv_t<PB>>() && std::is_const_v<PA> == std::is_const_v<PB>;
    }
  } else if constexpr (std::is_class_v<A> || std::is_enum_v<A> || std::is_union_v<A>) {
    return std::is_class_v<A> == std::is_class_v<B> && std::is_enum_v<A> == std::is_enum_v<B> &&
           Size<A>::value == Size<B>::value;
  } else {
    return std::is_same_v<A, B>;
  }
}
template <typename A, typename B> struct Alike : std::false_type {};
template <typename R, typename... A, typename S, typename... B>
struct Alike<R(A...), S(B...)> {
  static constexpr bool all() {
    if constexpr (sizeof...(A) == sizeof...(B)) return alike<R, S>() && (alike<A, B>() && ...);
    return false;
  }
  static constexpr bool value = all();
};
template <typename R, typename... A, typename S, typename... B>
struct Alike<R(A..., ...), S(B..., ...)> : Alike<R(A...), S(B...)> {};
static_assert(!Alike<decltype(::aclrtMalloc), decltype(own::aclrtMallocHost)>::value, "sees a difference");
#define FUNCTION(name) static_assert(Alike<decltype(::name), decltype(own::name)>::value, "type of " #name);
#define SIZE(type) static_assert(sizeof(::type) == sizeof(own::type) && alignof(::type) == alignof(own::type), #type);
#define FIELD(type, field)                                                                                      \
  static_assert(offsetof(::type, field) == offsetof(own::type, field) &&                                        \
                    sizeof(::type::field) == sizeof(own::type::field), #type "::" #field);
#define VALUE(name, value) static_assert(uint64_t(name) == value, #name);
"""


@pytest.fixture
def check(tmp_path: Path):
    """Compiles what is asserted of both."""
    vendor = acl_headers.folder()
    (tmp_path / "simulator").mkdir()
    (tmp_path / "simulator/simulator.h").write_text("#define UNIFY_SIMULATOR_EXPORT\n")

    def checked(assertions: list[str]) -> None:
        command = ["c++", "-std=c++17", "-fsyntax-only", "-Wno-deprecated-declarations", "-x", "c++"]
        command += [f"-I{ASCEND}", f"-I{tmp_path}", f"-isystem{vendor}", "-"]
        source = PRELUDE + "\n".join(assertions)
        finished = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr[:4000]

    return checked


def test_structures_lie_as_the_vendor_s(check) -> None:
    wanted = []
    for name, body in re.findall(r"^(?:struct|union) (\w+) \{\n(.*?)^\};", TYPES + HCCL, re.MULTILINE | re.DOTALL):
        fields = re.findall(r"(\w+)(?:\[\w+\])?;", body)
        wanted += [f"SIZE({name})", *(f"FIELD({name}, {field})" for field in fields)]
    assert len(wanted) > 70
    check(wanted)


def test_names_have_the_vendor_s_values(check) -> None:
    values = re.findall(r"\b(\w+) = (0x[0-9a-fA-F]+|\d+)[,;} ]", re.sub(r"//.*", "", TYPES + HCCL))
    assert len(values) > 130
    check([f"VALUE({name}, {value})" for name, value in [*values, *RESULTS.items(), *HCCL_RESULTS.items()]])


def test_every_result_of_the_vendor_s_is_known() -> None:
    codes = (acl_headers.folder() / "acl/error_codes/rt_error_codes.h").read_text()
    base = (acl_headers.folder() / "acl/acl_base_rt.h").read_text()
    theirs = dict(re.findall(r"#define +(ACL_ERROR_\w+) +(\d+)", codes))
    theirs |= dict(re.findall(r"static const int (ACL_\w+) = (\d+);", base))
    same = {"ACL_ERROR_NONE": "ACL_SUCCESS"}  # two names of one number
    assert {name: value for name, value in theirs.items() if name not in same} == RESULTS
    assert all(theirs[name] == theirs[other] for name, other in same.items())
    hccl = (acl_headers.folder() / "third_party/hccl/inc/hccl/hccl_types.h").read_text()
    assert dict(re.findall(r"^ +(HCCL_(?:SUCCESS|E_\w+)) = (\d+),", hccl, re.MULTILINE)) == HCCL_RESULTS


def test_functions_take_what_the_vendor_s_take(check) -> None:
    names = re.findall(r"UNIFY_SIMULATOR_EXPORT [\w *]+?\b(\w+)\(", (ASCEND / "acl.h").read_text() + HCCL)
    assert len(names) > 210
    check([f"FUNCTION({name})" for name in names])


def exported(library: Path) -> set[str]:
    listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    return {line.split()[2] for line in listed.splitlines()}


def test_what_is_declared_is_exported_and_nothing_else() -> None:
    text = "".join((ASCEND / name).read_text() for name in ("acl.h", "hccl.h", "rt.h", "refused.cpp"))
    declared = set(re.findall(r"^UNIFY_SIMULATOR_EXPORT [\w *]+?\b(\w+)\(", text, re.MULTILINE))
    refused = set(re.findall(r"^REFUSED\w*\((\w+)", (ASCEND / "refused.inc").read_text(), re.MULTILINE))
    own = {name for name in exported(LIBRARY) if name.startswith("unify_simulator_")}
    assert len(own) >= 6
    assert not declared & refused
    assert exported(LIBRARY) - own == declared | refused
