"""What tests of the simulated drivers share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unify._config import settings
from unify.simulator import environment

from . import torch_npu
from .driver import LIBRARY, Driver
from .fork_server import ForkServer

ROOT = Path(__file__).parents[2]
START = """
import ctypes, os, sys
acl = ctypes.CDLL("libascendcl.so")
import torch, torch_npu
def plan(text, device=0):
    assert acl.unify_simulator_fail(device, text.encode()) == 0
def raised(work):
    try:
        work()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("nothing was raised")
"""


@pytest.fixture
def driver() -> Iterator[Driver]:
    """Two devices of 64 MiB, the first one's context current, and nothing left of another test."""
    if not LIBRARY.exists():
        pytest.fail(f"{LIBRARY} is not built: make build")
    made = Driver(count=2)
    made.open()
    yield made
    for device in (0, 1):
        made.library.unify_simulator_clear(device)
        while made.live("retained", device):
            assert made.result("cuDevicePrimaryCtxRelease", device) == "CUDA_SUCCESS"
    made.result("cuCtxSetCurrent", 0)


@pytest.fixture(scope="session")
def npu_environment() -> dict[str, str]:
    """The environment of programs that use torch_npu: two simulated chips with 1 GiB each.

    torch_npu is put into a folder of the user's cache, and no environment: with it, `import torch` needs CANN.
    """
    with settings.override(toolchain_dir=torch_npu.toolchains()):
        variables = environment.find(sys.executable).variables(environment.read_chips("910B3x2,1g"))
    return {**variables, "PYTHONPATH": f"{variables['PYTHONPATH']}{os.pathsep}{ROOT}"}


@pytest.fixture(scope="session")
def fork_server(npu_environment: dict[str, str]) -> Iterator[ForkServer]:
    """Runs programs with torch_npu."""
    server = ForkServer(npu_environment)
    yield server
    server.close()


@pytest.fixture
def run(fork_server: ForkServer, npu_environment: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Runs a program with torch_npu on simulated chips, after START, with arguments; returns what it printed.

    variables: of its environment.
    """

    def ran(program: str, *arguments: str, start: str = START, timeout: float = 400, **variables: str) -> str:
        file = tmp_path / "program.py"
        file.write_text(start + program)
        started = fork_server.start(file, list(arguments), {**npu_environment, **variables})
        assert started.wait(timeout) == 0, started.err.read_text()[-4000:]
        return started.out.read_text()

    return ran


@pytest.fixture
def ended_ranks(
    fork_server: ForkServer, npu_environment: dict[str, str], tmp_path: Path
) -> Callable[..., list[tuple[int, str]]]:
    """Runs a program twice at a time, as ranks 0 and 1: its argument. Returns their exit codes and what they printed.

    variables: of their environment.
    """

    def ran(program: str, **variables: str) -> list[tuple[int, str]]:
        file = tmp_path / "program.py"
        file.write_text(program)
        environment = {**npu_environment, **variables}
        ranks = [fork_server.start(file, [str(rank)], environment, f"rank{rank}") for rank in range(2)]
        try:
            codes = [rank.wait(300) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        return [(code, rank.out.read_text() + rank.err.read_text()) for code, rank in zip(codes, ranks, strict=True)]

    return ran


@pytest.fixture
def run_ranks(ended_ranks: Callable[..., list[tuple[int, str]]]) -> Callable[[str], None]:
    """The same of a program that ends well on both."""

    def ran(program: str) -> None:
        ended = ended_ranks(program)
        assert [code for code, _ in ended] == [0, 0], "".join(told[-3000:] for _, told in ended)

    return ran
