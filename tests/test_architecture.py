"""Rules of the source that no linter knows. What a rule looks at is in its first line; what breaks it is named."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import unify as un

ROOT = Path(__file__).parents[1]
HEADER = ROOT / "unify" / "include" / "unify" / "backend.h"
# Longer than a subject should be. A file that got shorter must leave the list.
LONG_FILES = {"unify/include/unify/backend.h"}  # one interface, most of it contracts


def files(folder: str, *suffixes: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code(path: Path) -> str:
    """A C++ file without its comments."""
    return re.sub(r"//.*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL if path.suffix == ".h" else 0)


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """The dotted names that a Python file reads or calls, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node), node.lineno


def test_files_have_one_subject() -> None:
    everything = files("unify", ".py", ".h", ".pyi") + files("csrc", ".cpp", ".h", ".inc") + files("tests", ".py")
    long = {name(path) for path in everything if len(path.read_text().splitlines()) > 600}
    assert long == LONG_FILES


def test_the_core_names_no_vendor() -> None:
    for path in files("csrc/core", ".cpp", ".h"):
        if name(path) == "csrc/core/registry.cpp":  # whose table of what is built in is checked below
            continue
        found = re.search(r"\b\w*(cuda|ascend|\bacl|npu|nvidia|huawei)\w*", code(path), re.IGNORECASE)
        assert found is None, f"{name(path)}: {found and found[0]}"


def test_includes_run_down() -> None:
    floors = {
        "csrc/core": ("backends/", "python/", "simulator/", "pybind11", "Python.h"),
        "csrc/backends": ("core/", "python/", "simulator/", "pybind11", "Python.h"),
        "csrc/python": ("simulator/",),
        "csrc/simulator": ("core/", "python/", "pybind11", "Python.h", "unify/backend.h"),
        "unify/include": ("core/", "backends/", "python/", "simulator/", "pybind11"),
    }
    for folder, above in floors.items():
        for path in files(folder, ".cpp", ".h"):
            for included in re.findall(r'#include [<"]([^>"]+)', path.read_text()):
                assert not included.startswith(above), f"{name(path)} includes {included}"


def test_the_product_does_not_know_the_simulator() -> None:
    for path in files("csrc", ".cpp", ".h", ".inc"):
        if "simulator" not in path.parts:
            found = re.search(r"simulator|unify_simulat", code(path))  # that a device may be simulated is no secret
            assert found is None, f"{name(path)} names the simulator, which only a library's path chooses"


def test_the_simulator_shares_the_loader_of_cpu_code_and_nothing_else() -> None:
    shared = {"backends/host_elf.h", "backends/host_fault.h"}
    for path in files("csrc/simulator", ".cpp", ".h"):
        for included in re.findall(r'#include "(backends/[^"]+)', path.read_text()):
            assert included in shared, f"{name(path)} includes {included}"


def test_one_file_loads_the_backends_that_are_built_in() -> None:
    builtin = re.compile(r"unify_(host|cuda|ascend)_backend\w*")
    users = {name(path) for path in files("csrc/core", ".cpp", ".h") if builtin.search(code(path))}
    assert users <= {"csrc/core/registry.cpp"}
    lines = code(ROOT / "csrc/core/registry.cpp").splitlines()
    vendors = [line.strip() for line in lines if re.search(r"cuda|ascend|acl[^a]", line, re.IGNORECASE)]
    assert len(vendors) == 4, vendors  # a declaration and a row for each


def test_the_environment_is_read_in_one_place() -> None:
    reads = {"os.environ", "os.getenv", "environ", "getenv"}
    for path in files("unify", ".py"):
        # The others ask for CC and CXX, as build tools do.
        if name(path) in ("unify/_config.py", "unify/testing/backends.py", "unify/simulator/operators/__init__.py"):
            continue
        for read, line in calls(path):
            assert read not in reads, f"{name(path)}:{line} reads the environment; add a setting to _config.TABLE"
    for path in files("csrc", ".cpp", ".h"):
        if name(path) in READ_THE_ENVIRONMENT:
            continue
        assert "getenv" not in code(path), f"{name(path)} reads the environment; pass the value from Python"


def test_nothing_that_was_read_is_run() -> None:
    forbidden = {"pickle.load", "pickle.loads", "torch.load", "eval", "exec", "marshal.loads", "yaml.load", "os.system"}
    for path in files("unify", ".py"):
        if "testing" in path.parts:
            continue
        for call, line in calls(path):
            assert call not in forbidden, f"{name(path)}:{line}: {call}"


def test_public_names_say_what_they_are() -> None:
    for public in un.__all__:
        value = getattr(un, public)
        if callable(value) and not isinstance(value, un.DType):
            assert (value.__doc__ or "").strip(), f"unify.{public} has no docstring"
            assert getattr(value, "__module__", "unify").split(".")[0] == "unify", f"unify.{public} is a stranger's"


@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c", "c11"), ("c++", "c++17")])
@pytest.mark.parametrize("header", ["backend.h", "host_kernel.h"])
def test_headers_stand_alone_in_c_and_in_cpp(header: str, language: str, standard: str) -> None:
    command = ["cc", "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    command += ["-fsyntax-only", "-I", un.get_include(), "-"]
    source = f"#include <unify/{header}>\n"
    finished = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def table() -> str:
    return HEADER.read_text().partition("typedef struct unify_backend {")[2].partition("} unify_backend;")[0]


def contracts() -> list[tuple[str, str]]:
    """Each function of the backend's table, with the comment above it."""
    pattern = re.compile(r"/\*((?:(?!\*/).)*)\*/\s*\w[\w\s*]*\(\*(\w+)\)", re.DOTALL)
    return [(function, comment) for comment, function in pattern.findall(table())]


def test_every_function_of_the_interface_has_a_contract() -> None:
    found = dict(contracts())
    assert found.keys() == set(re.findall(r"\(\*(\w+)\)\(", table()))
    assert len(found) >= 36
    for function, comment in found.items():
        for label in ("Order:", "Memory:", "Threads:", "Errors:"):
            assert label in comment, f"{function} does not say {label}"


# What has no test file of its name, and where it is tested. A file that got its own must leave the list.
# Parts of a library that programs find by the vendor's name, in which unify is not; and a variable of the vendor's.
READ_THE_ENVIRONMENT = {"csrc/simulator/ascend/configure.cpp", "csrc/simulator/ascend/hccl_communicators.cpp"}
TESTED_ELSEWHERE = {
    "unify/_help.py": "test_cli.py",
    "unify/_libraries.py": "arrays/test_streams.py",
    "unify/bench/case.py": "bench/test_cases.py",
    "unify/bench/process.py": "bench/test_compare.py",  # with real processes
    "unify/bench/worker.py": "bench/test_compare.py",
    "unify/simulator/kinds.py": "simulator/test_simulation.py",
    "unify/ops/groups.py": "ops/test_grouped_linear.py",
    "unify/compiler/mlir.py": "compiler/test_mlir_reader.py",  # dataclasses
    "unify/compiler/cpu/axis.py": "compiler/cpu/test_memory.py",
    "unify/compiler/cpu/link.py": "compiler/cpu/test_dot.py",
    "unify/compiler/cpu/tiling.py": "compiler/cpu/test_dot.py",
    "unify/compiler/cpu/codegen/arith.py": "compiler/cpu/test_elementwise.py",
    "unify/compiler/cpu/codegen/bytedot.py": "compiler/cpu/test_dot.py",
    "unify/compiler/cpu/codegen/convert.py": "compiler/cpu/test_elementwise.py",
    "unify/compiler/cpu/codegen/debug.py": "triton/test_driver.py",
    "unify/compiler/cpu/codegen/emitter.py": "compiler/cpu/test_elementwise.py",
    "unify/compiler/cpu/codegen/fault.py": "compiler/cpu/test_guard.py",
    "unify/compiler/cpu/codegen/layout.py": "compiler/cpu/test_control.py",
    "unify/compiler/cpu/codegen/map.py": "compiler/cpu/test_calls.py",
    "unify/compiler/cpu/codegen/math.py": "compiler/cpu/test_elementwise.py",
    "unify/compiler/cpu/codegen/nest.py": "compiler/cpu/test_reduce.py",
    "unify/compiler/cpu/codegen/products.py": "compiler/cpu/test_dot.py",
    "unify/compiler/cpu/codegen/program.py": "compiler/cpu/test_control.py",
    "unify/compiler/cpu/codegen/scan.py": "compiler/cpu/test_reduce.py",
    "unify/compiler/cpu/codegen/values.py": "compiler/cpu/test_elementwise.py",
    "unify/models/decoder.py": "models/test_architectures.py",
    "unify/models/deepseek_v3.py": "models/test_architectures.py",
    "unify/models/feed_forward.py": "models/test_architectures.py",
    "unify/models/grouped_attention.py": "models/test_architectures.py",
    "unify/models/huggingface.py": "models/test_architectures.py",
    "unify/models/latent_attention.py": "models/test_architectures.py",
    "unify/models/llama.py": "models/test_architectures.py",
    "unify/models/mixtral.py": "models/test_architectures.py",
    "unify/models/projection.py": "models/test_generate.py",  # with formats that differ
    "unify/models/qwen3.py": "models/test_architectures.py",
    "unify/models/qwen3_moe.py": "models/test_architectures.py",
    "unify/models/rotation.py": "models/test_architectures.py",
    "unify/models/step.py": "models/test_batch.py",
    "unify/simulator/emulator/elements.py": "simulator/emulator/test_loops.py",
    "unify/simulator/emulator/nests.py": "simulator/emulator/test_loops.py",
    "unify/simulator/lines.py": "simulator/test_transfer.py",
    "unify/simulator/startup/sitecustomize.py": "simulator/test_transfer.py",
    "unify/simulator/emulator/walks.py": "simulator/emulator/test_loops.py",
    "unify/triton/compiler.py": "triton/test_driver.py",
    "unify/ops/tile.py": "ops/test_tiles.py",  # a dataclass
    "unify/ops/signature.py": "ops/test_signatures.py",
    "unify/ops/attention_signatures.py": "ops/test_signatures.py",
    "unify/ops/expert_signatures.py": "ops/test_signatures.py",
}


def test_tests_mirror_the_source() -> None:
    missing = set()
    for path in files("unify", ".py"):
        skipped = ("unify/testing/", "unify/bench/cases/")  # what tests with, and what tests/bench/test_cases.py runs
        if path.name in ("__init__.py", "__main__.py") or name(path).startswith(skipped):
            continue
        folder = path.parent.relative_to(ROOT / "unify").as_posix().removesuffix("/codegen")  # tested above it
        tests = ROOT / "tests" / folder / f"test_{path.name.lstrip('_')}"
        if not tests.exists():
            missing.add(name(path))
            assert name(path) in TESTED_ELSEWHERE, f"{name(path)} has no {name(tests)}"
    assert missing == TESTED_ELSEWHERE.keys()
    for tests in TESTED_ELSEWHERE.values():
        assert (ROOT / "tests" / tests).exists(), f"tests/{tests} is not there"
