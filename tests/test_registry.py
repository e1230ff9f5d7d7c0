"""Backends whose tables are not whole, or whose vendor's library fails: refused, each with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

import unify as un
from unify._device import BackendStatus, add_backend
from unify.testing.backends import compile_backend

TOY = Path(__file__).parent / "plugin" / "toy.c"

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


def changed(folder: Path, statement: str, name: str) -> BackendStatus:
    source = folder / f"{name}.c"
    source.write_text(CHANGED.format(toy=TOY, statement=statement))
    library = compile_backend(source, source.with_suffix(".so"), [f'TOY_NAME="{name}"'])
    return add_backend(str(library), name)


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
    status = changed(tmp_path, statement, name)
    assert not status.is_usable
    assert status.why == f"it has {present} and lacks {absent}, which are there together or not at all"
    with pytest.raises(un.errors.BackendError, match=f"device '{name}:0'.*{name}.so.*lacks {absent}"):
        un.device(f"{name}:0")


def test_a_backend_without_any_optional_function_is_taken(tmp_path: Path) -> None:
    names = ("capture_begin", "capture_end", "graph_launch", "graph_destroy", "peer_access", "device_reset",
             "device_status", "device_set_option")  # fmt: skip
    status = changed(tmp_path, "".join(f"table.{name} = NULL;" for name in names), "bare")
    assert status.is_usable, status.why
    assert un.ones(3, un.int8, "bare:1").tolist() == [1, 1, 1]
    assert un.device("bare:0").capabilities["graphs"] == "emulated"


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ("no_count", "counting its devices failed: the driver is too old (TOY_ERROR, 7009). This is a toy: try again."),
        ("mute_count", "counting its devices failed"),
    ],
)
def test_a_backend_that_cannot_count_its_devices_says_why(tmp_path: Path, count: str, why: str) -> None:
    status = changed(tmp_path, f"table.device_count = {count};", "lost")
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
