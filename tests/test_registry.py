"""Backends whose tables are not whole, or whose vendor's library fails: refused, each with its reason."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import unify as un
from unify._device import add_backend
from unify.testing.backends import compile_backend

from .conftest import Run

TOY = Path(__file__).parent / "plugin" / "toy.c"
HEADER = Path(un.get_include(), "unify", "backend.h")

# The functions of the header, by name, and whether their comment begins with "optional".
FUNCTION = re.compile(r"/\*((?:(?!\*/).)*)\*/\s*\w+ \(\*(\w+)\)\(", re.DOTALL)
IS_OPTIONAL = {name: label.startswith(" optional") for label, name in FUNCTION.findall(HEADER.read_text())}
REQUIRED = [name for name, is_optional in IS_OPTIONAL.items() if not is_optional]
OPTIONAL = [name for name, is_optional in IS_OPTIONAL.items() if is_optional]

# The toy, with a table that was changed by one statement.
CHANGED = """
#define unify_backend_get toy_backend_get
#include "{toy}"
#undef unify_backend_get

#define MAYBE __attribute__((unused)) static unify_status
MAYBE no_count(uint32_t* out) {{ return *out = 7, fail(UNIFY_INTERNAL, "the driver is too old"); }}
MAYBE mute_count(uint32_t* out) {{ return *out = 7, failure.message = failure.native_name = failure.advice = NULL, \
UNIFY_INTERNAL; }}
MAYBE reserve(unify_device device, size_t bytes, unify_address* out) {{
  return (void)device, (void)bytes, (void)out, UNIFY_UNSUPPORTED;
}}
MAYBE share(unify_device device, unify_ipc_args* args) {{ return (void)device, (void)args, UNIFY_UNSUPPORTED; }}

UNIFY_EXPORT const unify_backend* unify_backend_get(unify_backend_get_args* args) {{
  static unify_backend table;
  table = *toy_backend_get(args);
  {statement}
  return &table;
}}
"""


def changed(folder: Path, statement: str, name: str) -> Path:
    source = folder / f"{name}.c"
    source.write_text(CHANGED.format(toy=TOY, statement=statement))
    return compile_backend(source, source.with_suffix(".so"), [f'TOY_NAME="{name}"'])


@pytest.mark.parametrize(
    ("statement", "present", "absent"),
    [
        ("table.capture_begin = NULL;", "capture_end graph_launch graph_destroy", "capture_begin"),
        ("table.capture_end = NULL;", "capture_begin graph_launch graph_destroy", "capture_end"),
        ("table.graph_launch = NULL;", "capture_begin capture_end graph_destroy", "graph_launch"),
        ("table.ipc_export = share, table.ipc_import = share;", "ipc_export ipc_import", "ipc_close"),
        ("table.virtual_reserve = reserve;", "virtual_reserve", "virtual_commit virtual_decommit virtual_release"),
        ("table.ipc_export = share;", "ipc_export", "ipc_import ipc_close"),
        ("table.ipc_import = share;", "ipc_import", "ipc_export ipc_close"),
    ],
)  # fmt: skip
def test_a_part_of_the_functions_that_belong_together_is_refused(
    tmp_path: Path, statement: str, present: str, absent: str
) -> None:
    name = f"half_{absent.replace(' ', '_')}"
    status = add_backend(str(changed(tmp_path, statement, name)), name)
    assert not status.is_usable
    assert status.why == f"it has {present} and lacks {absent}, which are there together or not at all"
    with pytest.raises(un.errors.BackendError, match=f"device '{name}:0'.*{name}.so.*lacks {absent}"):
        un.device(f"{name}:0")


def test_what_the_header_does_not_call_optional_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'if (!strcmp(getenv("TOY_LACKS"), "{name}")) table.{name} = NULL;' for name in REQUIRED]
    library = changed(tmp_path, "\n  ".join(lines), "lacking")
    for name in REQUIRED:
        monkeypatch.setenv("TOY_LACKS", name)
        assert add_backend(str(library), "lacking").why == f"it lacks the required function {name}"


def test_a_backend_without_any_optional_function_is_taken(tmp_path: Path, python: Run) -> None:
    library = changed(tmp_path, "".join(f"table.{name} = NULL;" for name in OPTIONAL), "bare")
    code = """
import unify as un
print(un.ones(3, un.int8, "bare:1").tolist(), un.device("bare:0").capabilities["graphs"])
start, stop = un.Event("bare:0", timing=True), un.Event("bare:0", timing=True)
start.record(), stop.record()
assert start.elapsed_ms(stop) >= 0
"""
    finished = python("-c", code, env={**os.environ, "UNIFY_BACKEND_PATH": str(library)})
    assert finished.stdout == "[1, 1, 1] emulated\n", finished.stderr


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/abi.md", "docs/abi-changelog.md", "docs/architecture.md"])
def test_the_pages_count_what_is_required_as_the_header_does(root: Path, page: str) -> None:
    counts = re.findall(r"(\d+)\s+(?:functions )?are\s+required", (root / page).read_text())
    assert set(counts) == {str(len(REQUIRED))}


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ("no_count", "counting its devices failed: the driver is too old (TOY_ERROR, 7009). This is a toy: try again."),
        ("mute_count", "counting its devices failed"),
    ],
)
def test_a_backend_that_cannot_count_its_devices_says_why(tmp_path: Path, count: str, why: str) -> None:
    status = add_backend(str(changed(tmp_path, f"table.device_count = {count};", "lost")), "lost")
    assert (status.why, status.device_count) == (why, 0)
    with pytest.raises(un.errors.BackendError, match="device 'lost:0'.*counting its devices failed"):
        un.device("lost:0")


@pytest.mark.parametrize(
    ("define", "error"),
    [
        ("TOY_ABSENT", un.errors.UnsupportedError),
        ("TOY_OTHER_MAJOR", un.errors.BackendError),
        ("TOY_TRUNCATED", un.errors.BackendError),
        ("TOY_WITHOUT_SYMBOL", un.errors.BackendError),
        ('TOY_NAME="other"', un.errors.BackendError),
    ],
)
def test_an_absent_backend_and_a_broken_one_are_two_errors(tmp_path: Path, define: str, error: type) -> None:
    name = define.split("=")[0].lower()
    add_backend(str(compile_backend(TOY, tmp_path / "library.so", [define])), name)
    with pytest.raises(error, match=f"device '{name}:0': the backend '{name}' .*library.so"):
        un.device(f"{name}:0")


def test_a_file_that_is_not_there_is_a_broken_backend(tmp_path: Path) -> None:
    add_backend(str(tmp_path / "absent.so"), "missing")
    with pytest.raises(un.errors.BackendError, match=r"missing.*absent\.so"):
        un.device("missing:0")


def test_a_backend_of_version_1_0_is_asked_for_nothing_that_was_appended(tmp_path: Path, python: Run) -> None:
    older = "table.struct_size = offsetof(unify_backend, copy_rows), table.abi_minor = 0;"
    names = ("copy_rows", "capture_update", "capture_keep")  # behind its end
    poison = "".join(f"table.{name} = (void*)abort;" for name in names)
    library = changed(tmp_path, older + poison, "older")
    code = """
import numpy as np, unify as un
device = un.device("older:0")
array = np.arange(12, dtype=np.int32).reshape(3, 4)
tensor = un.asarray(array, device=device, copy=True)
tensor[:2, 1:3].copy_(tensor[1:, :2])
stream = un.Stream(device)
device.synchronize()
with un.Graph.capture(stream) as graph:
    tensor[0].fill_(0)
graph.launch(stream)
stream.synchronize()
print(tensor.tolist())
"""
    finished = python("-c", code, env={**os.environ, "UNIFY_BACKEND_PATH": str(library)})
    assert finished.stdout == "[[0, 0, 0, 0], [4, 8, 9, 7], [8, 9, 10, 11]]\n", finished.stderr


def test_a_backend_of_a_later_minor_version_is_served(tmp_path: Path) -> None:
    assert add_backend(str(changed(tmp_path, "table.abi_minor = 99;", "later")), "later").is_usable
    assert un.ones(3, un.int8, "later:0").tolist() == [1, 1, 1]
