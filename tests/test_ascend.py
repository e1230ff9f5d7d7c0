"""The Ascend backend over a stub of ACL that keeps ACL's rules: what it asks of ACL, and what it makes of the answers.

What every backend must do is in the conformance suite, which runs on a simulated device.
"""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import unify as un

from .conftest import ROOT, Run
from .programs import Program

FOLDER = ROOT / "tests" / "ascend"
COMPILE = ["-std=c++17", "-O1", "-g1", "-pthread", "-fPIC", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-Icsrc"]
FILES = [FOLDER / "backend.cpp", FOLDER / "kernels.cpp"]
TESTS = [name for file in FILES for name in re.findall(r"^TEST\((\w+)\)", file.read_text(), re.MULTILINE)]
OLD_ONLY = ["an_old_version_has_less"]
# What must be so too without the newer functions, where others take their place.
ALSO_OLD = [
    "a_stream_that_runs_is_given_up_without_waiting",
    "an_event_that_was_never_recorded_holds_nobody",
    "copies_know_where_both_ends_are",
    "fills_of_several_widths_or_none",
    "host_calls_run_once_also_where_the_context_forgets_them",
    "what_is_no_fault_of_the_device_leaves_it_healthy",
]
KEPT_IN_OLD = {"aclrtLaunchCallback", "aclrtSubscribeReport", "aclrtUnSubscribeReport", "aclrtProcessReport"}
KEPT_IN_OLD |= {"aclGetDeviceCapability", "aclrtGetVersion"}


def functions(required: str) -> set[str]:
    table = (ROOT / "csrc" / "backends" / "ascend_api.inc").read_text()
    return set(re.findall(rf"API\([\w\s*]+, (\w+), {required},", table))


@dataclass(frozen=True)
class Built:
    """The program that runs a test on a library, and libraries: whole, without what is optional, graphs, a need."""

    program: Path
    whole: Path
    old: Path
    graphless: Path
    lacking: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("ascend")
    compiler = os.environ.get("CXX", "ccache c++" if shutil.which("ccache") else "c++").split()

    def run(*arguments: str | Path) -> None:
        subprocess.run([*compiler, *arguments], cwd=ROOT, check=True)

    def compile_one(source: Path) -> Path:
        run(*COMPILE, f"-I{un.get_include()}", "-c", source, "-o", folder / f"{source.stem}.o")
        return folder / f"{source.stem}.o"

    def link_without(hidden: set[str], name: str) -> Path:
        names = "".join(f" {function};" for function in sorted(hidden))
        (folder / "exports.map").write_text("{ global: *;" + (f" local:{names}" if hidden else "") + " };")
        run("-shared", "-pthread", folder / "stub.o", f"-Wl,--version-script={folder}/exports.map", "-o", folder / name)
        return folder / name

    backends = ROOT / "csrc" / "backends"
    shared = [backends / "stream_work.cpp", backends / "elf_bounds.cpp"]
    sources = [FOLDER / "stub.cpp", *FILES, *shared, *backends.glob("ascend*.cpp")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    run(*objects[1:], "-ldl", "-pthread", "-o", folder / "backend")
    return Built(
        folder / "backend",
        link_without(set(), "libascendcl.so"),
        link_without(functions("false") - KEPT_IN_OLD, "libascendcl_old.so"),
        link_without({name for name in functions("false") if "mdlRI" in name}, "libascendcl_graphless.so"),
        link_without({"aclrtMalloc", "aclrtMemcpyAsync"}, "libascendcl_lacking.so"),
    )


def run_one(program: Path, library: Path, name: str) -> None:
    finished = subprocess.run([program, library, name], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("name", [name for name in TESTS if name not in OLD_ONLY])
def test_of_acl(built: Built, name: str) -> None:
    run_one(built.program, built.whole, name)


@pytest.mark.parametrize("name", [*OLD_ONLY, *ALSO_OLD])
def test_of_an_old_acl(built: Built, name: str) -> None:
    run_one(built.program, built.old, name)


def test_the_stub_has_every_function_that_the_backend_calls(built: Built) -> None:
    library = ctypes.CDLL(str(built.whole))
    assert [name for name in functions("true") | functions("false") if not hasattr(library, name)] == []


def info(python: Run, **environment: str | Path) -> str:
    finished = python("-m", "unify", "info", env={**os.environ, **{k: str(v) for k, v in environment.items()}})
    assert finished.returncode == 0, finished.stderr
    return next(line for line in finished.stdout.splitlines() if line.startswith("  ascend     "))


def test_devices_are_found_also_where_another_library_started_acl(python: Run, built: Built) -> None:
    assert "8.5.0    built in; 2 devices" in info(python, UNIFY_ASCEND_LIBRARY=built.whole)
    assert "2 devices" in info(python, UNIFY_ASCEND_LIBRARY=built.whole, STUB_INIT="100002")


def test_what_an_old_version_lacks_is_told(python: Run, built: Built) -> None:
    line = info(python, UNIFY_ASCEND_LIBRARY=built.old)
    assert "ACL 1.17.0, without" in line
    assert {name for name in functions("false") if name in line} == functions("false") - KEPT_IN_OLD
    assert "2 devices" in line


@pytest.mark.parametrize(
    ("library", "environment", "words"),
    [
        ("/nowhere/libascendcl.so", {}, ["there is no CANN", "/nowhere/lib", "set_env.sh", "UNIFY_SIMULATE=ascend:"]),
        (ctypes.util.find_library("m"), {}, ["is no libascendcl", "aclInit"]),
        ("lacking", {}, ["lacks aclrtMalloc, aclrtMemcpyAsync", "newer"]),
        ("whole", {"STUB_INIT": "500001"}, ["ACL does not start: failure: EE9999", "(ACL_ERROR_FAILURE, 500001)"]),
    ],
)
def test_why_there_is_none_is_told(
    python: Run, built: Built, library: str, environment: dict[str, str], words: list[str]
) -> None:
    path = getattr(built, library) if library in ("lacking", "whole") else library
    line = info(python, UNIFY_ASCEND_LIBRARY=path, **environment)
    assert [word for word in ["absent", *words] if word not in line] == []


def test_a_device_is_used_from_python(program: Program, built: Built) -> None:
    code = """
        import numpy as np, unify as un
        from unify._device import device_of_dlpack
        first, second = un.device("ascend:0"), un.device("ascend:1")
        x = un.asarray(np.arange(1000, dtype=np.float32), device=first)
        y = un.asarray(x, device=second)
        stream, event = un.Stream(first, priority=3), un.Event(first, timing=True)
        z = un.full((1000,), 2.5, un.float32, first)
        event.record(stream)
        stream.synchronize()
        print(y.numpy().sum(), z.numpy().sum(), first.target, first.state, device_of_dlpack(12, 1).name)
        first.reset()
        print(un.ones(3, un.float16, first).tolist(), first.state)
    """
    printed = program(code, environment={"UNIFY_ASCEND_LIBRARY": str(built.whole)})
    assert printed == ["499500.0 2500.0 ascend:910B3 healthy ascend:1", "[1.0, 1.0, 1.0] healthy"]


# No kernel can be loaded here: the stub takes none that was not assembled.
@pytest.mark.parametrize("library", ["whole", "graphless"])
def test_copies_within_a_device_that_acl_does_not_do_are_done_also_in_a_graph(
    program: Program, built: Built, library: str
) -> None:
    code = """
        import numpy as np, unify as un
        device = un.device("ascend:0")
        stream = un.Stream(device)
        x = un.asarray(np.arange(1000, dtype=np.uint8), device=device)
        y, z = un.zeros(1000, un.uint8, device), un.zeros((10, 64), un.uint8, device)
        y[1:900].copy_(x[3:902])
        z[:, 1:30].copy_(x[:640].reshape(10, 64)[:, 2:31])
        print((y.numpy()[1:900] == x.numpy()[3:902]).all())
        print((z.numpy()[:, 1:30] == x.numpy()[:640].reshape(10, 64)[:, 2:31]).all())
        if device.capabilities["graphs"] == "native":
            raise SystemExit
        y.fill_(0); z.fill_(0); device.synchronize()
        with un.Graph.capture(stream) as graph:
            y[1:900].copy_(x[3:902], stream=stream)
            z[:, 1:30].copy_(x[:640].reshape(10, 64)[:, 2:31], stream=stream)
        x.fill_(5); device.synchronize()
        graph.launch(stream)
        stream.synchronize()
        print(y.numpy()[1:900].sum(), z.numpy().sum(), device.capabilities["graphs"])
    """
    printed = program(code, environment={"UNIFY_ASCEND_LIBRARY": str(getattr(built, library))})
    assert printed == ["True", "True", "4495 1450 emulated"][: 2 if library == "whole" else 3]
