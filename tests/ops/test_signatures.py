"""The table of what each shipped kernel is compiled for is whole, and each row compiles."""

from __future__ import annotations

import datetime
import importlib
import inspect
import pkgutil
import re

import pytest

import unify as un
from unify import ops
from unify.ops.signatures import Signature, signatures

# Scratch memory that a block may have. Source: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability".
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
CUDA_ROWS = signatures("cuda")


def shipped() -> dict[str, un.Kernel]:
    found: dict[str, un.Kernel] = {}
    names = [f"unify.ops.{info.name}" for info in pkgutil.iter_modules(ops.__path__)]
    for module in map(importlib.import_module, ["unify._copy", *names]):
        found |= {
            value.fn.__name__: value
            for value in vars(module).values()
            if isinstance(value, un.Kernel) and value.fn.__module__ == module.__name__
        }
    return found


def test_every_kernel_that_is_launched_has_a_row() -> None:
    kernels = shipped()
    rows = {row.name: row.kernel for row in signatures("cpu")}
    called = {
        name: set(re.findall(r"\b(\w+)\(", inspect.getsource(kernel.fn))) - {name} for name, kernel in kernels.items()
    }
    for name, kernel in kernels.items():
        used = any(name in calls for calls in called.values())
        assert used != (name in rows), f"{name} is {'a helper' if used else 'missing in unify/ops/signatures.py'}"
        assert used or rows[name] is kernel
    assert len(rows) >= 18


def test_no_row_is_there_twice() -> None:
    rows = [(row.name, *sorted({**row.types, **row.constants}.items())) for row in signatures("cpu")]
    assert all(row not in rows[:i] for i, row in enumerate(rows))


@pytest.mark.parametrize("target", ["cpu", "cuda:75", "cuda:90"])
def test_a_row_names_each_parameter_once(target: str) -> None:
    for row in signatures(target):
        named = [*row.types, *row.constants]
        assert sorted(named) == sorted(row.kernel.arg_names), row.name
        assert all(
            row.kernel.params[i].is_constexpr is False for i, n in enumerate(row.kernel.arg_names) if n in row.types
        )


@pytest.mark.parametrize("row", signatures("cpu"), ids=lambda row: row.name)
def test_each_row_compiles(row: Signature) -> None:
    assert un.compile(row.kernel, "cpu", row.types, row.constants).name == row.name


def compile_for_cuda(row: Signature, arch: int) -> None:
    binary = un.compile(row.kernel, f"cuda:{arch}", row.types, row.constants)
    assert binary.image[:4] == b"\x7fELF"
    assert binary.shared_bytes <= SHARED_BYTES[arch], f"{row.name} has too large a tile for cuda:{arch}"


@pytest.mark.parametrize("row", CUDA_ROWS, ids=lambda row: row.name)
def test_each_row_compiles_for_a_current_gpu_and_fits(row: Signature) -> None:
    compile_for_cuda(row, 90)


@pytest.mark.parametrize("arch", [arch for arch in SHARED_BYTES if arch != 90])
def test_a_row_compiles_for_other_gpus_another_each_day(arch: int) -> None:
    day = datetime.datetime.now(datetime.timezone.utc).toordinal() + list(SHARED_BYTES).index(arch)
    compile_for_cuda(CUDA_ROWS[day % len(CUDA_ROWS)], arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in SHARED_BYTES if arch != 90])
@pytest.mark.parametrize("row", CUDA_ROWS, ids=lambda row: row.name)
def test_each_row_compiles_for_every_gpu_and_fits(row: Signature, arch: int) -> None:
    compile_for_cuda(row, arch)


@pytest.mark.parametrize("target", ["cpu", "cuda:90", "ascend:910B3"])
def test_each_row_has_a_title_of_its_own(target: str) -> None:
    titles = [row.title for row in signatures(target)]
    assert len(set(titles)) == len(titles)
    assert all(row.title.startswith(row.name) for row in signatures(target))
