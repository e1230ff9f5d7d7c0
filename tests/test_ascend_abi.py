"""What the Ascend backend declares for itself, compiled against the vendor's own headers, in torch_npu's wheel."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from . import acl_headers

BACKENDS = Path(__file__).parents[1] / "csrc" / "backends"
TYPES = (BACKENDS / "ascend_types.h").read_text()
ERRORS = re.sub(r"//.*", "", (BACKENDS / "ascend_errors.inc").read_text())

# An enumeration of the vendor's is an int in ours, a pointer to one a pointer to int; structs have names of their own.
# Everything else must be the same type.
PROOF = """
#include <cstddef>
#include <type_traits>
#include "ascend_types.h"
#include <acl/acl_rt.h>

template <typename Ours, typename Theirs>
constexpr bool is_alike() {
  if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using Our = std::remove_pointer_t<Ours>;
    using Their = std::remove_pointer_t<Theirs>;
    if constexpr (std::is_void_v<Our> || std::is_void_v<Their> || std::is_function_v<Their>) {
      return std::is_same_v<Our, Their>;
    } else {
      return std::is_const_v<Our> == std::is_const_v<Their> &&
             is_alike<std::remove_cv_t<Our>, std::remove_cv_t<Their>>();
    }
  } else if constexpr (std::is_enum_v<Theirs>) {
    return std::is_same_v<Ours, int> && sizeof(Ours) == sizeof(Theirs);
  } else if constexpr (std::is_class_v<Theirs>) {
    return std::is_class_v<Ours> && sizeof(Ours) == sizeof(Theirs);
  } else {
    return std::is_same_v<Ours, Theirs>;
  }
}
template <typename Ours, typename Theirs>
struct Same : std::false_type {};
template <typename Our, typename... Ours, typename Their, typename... Theirs>
struct Same<Our(Ours...), Their(Theirs...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(Ours) != sizeof...(Theirs)) return false;
    else return is_alike<Our, Their>() && (is_alike<Ours, Theirs>() && ...);
  }();
};
namespace unify::ascend::proof {
"""


@pytest.fixture(scope="session")
def headers() -> Path:
    return acl_headers.folder()


@pytest.fixture
def compile_proof(headers: Path, tmp_path: Path):
    """Compiles declarations of ours and what is asserted of them; returns the compiler's errors."""

    def compiled(ours: list[str], checks: list[str]) -> str:
        source = tmp_path / "proof.cpp"
        source.write_text("\n".join([PROOF, *ours, "}", *checks]))
        command = ["c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wno-deprecated-declarations"]
        command += ["-I", str(BACKENDS), "-isystem", str(headers), str(source)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    return compiled


def test_every_number_is_the_vendor_s(compile_proof) -> None:
    numbers = re.findall(r"^  (ACL_\w+) = (\d+),", TYPES, re.MULTILINE)
    assert len(numbers) > 50
    assert compile_proof([], [f'static_assert(int({name}) == {value}, "{name}");' for name, value in numbers]) == ""


def test_every_error_has_the_vendor_s_number_and_none_is_missing(compile_proof, headers: Path) -> None:
    errors = re.findall(r"ERROR\((\d+), (\w+),", ERRORS)
    assert compile_proof([], [f'static_assert(int({name}) == {code}, "{name}");' for code, name in errors]) == ""
    theirs = (headers / "acl" / "error_codes" / "rt_error_codes.h").read_text()
    assert set(re.findall(r"#define +(ACL_ERROR_\w+)", theirs)) <= {name for _, name in errors}


def test_every_struct_lies_as_the_vendor_s(compile_proof) -> None:
    checks = []
    for name, body in re.findall(r"^(?:struct|union) (\w+) \{\n(.*?)^\};", TYPES, re.MULTILINE | re.DOTALL):
        checks.append(f"static_assert(sizeof(unify::ascend::{name}) == sizeof(::{name}));")
        for field in re.findall(r"(\w+)(?:\[\d+\])?;", body):
            ours, theirs = f"unify::ascend::{name}", f"::{name}"
            checks.append(f"static_assert(offsetof({ours}, {field}) == offsetof({theirs}, {field}));")
            checks.append(f"static_assert(sizeof({ours}::{field}) == sizeof({theirs}::{field}));")
    assert len(checks) > 50
    assert compile_proof([], checks) == ""


def test_every_function_is_called_as_the_vendor_declares_it(compile_proof) -> None:
    table = re.sub(r"//.*", "", (BACKENDS / "ascend_api.inc").read_text())
    entries = re.findall(r"API\(([\w\s*]+), (\w+), (?:true|false),\s*(\(.*?\))\)\n", table, re.DOTALL)
    assert len(entries) == table.count("API(") > 60
    ours = [f"using {name}_ours = {result} {parameters};" for result, name, parameters in entries]
    checks = [
        f'static_assert(Same<unify::ascend::proof::{n}_ours, decltype(::{n})>::value, "{n}");' for _, n, _ in entries
    ]
    assert compile_proof(ours, checks) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        "aclError(void*, size_t, const void*, size_t, aclrtStream)",  # without the kind
        "aclError(void*, size_t, const void*, int, int, aclrtStream)",  # a size of 4 bytes
        "aclError(void*, size_t, void*, size_t, int, aclrtStream)",  # not const
        "void(void*, size_t, const void*, size_t, int, aclrtStream)",
    ],
)
def test_the_proof_sees_a_difference(compile_proof, wrong: str) -> None:
    check = 'static_assert(Same<unify::ascend::proof::wrong, decltype(::aclrtMemcpyAsync)>::value, "differs");'
    assert "differs" in compile_proof([f"using wrong = {wrong};"], [check])
