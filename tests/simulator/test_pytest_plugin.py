"""`pytest --ascend-simulated`: tests of torch_npu see the chips, and nothing happens without the option."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from . import torch_npu

ROOT = Path(__file__).parents[2]
TESTS = """
import os
import pytest

@pytest.mark.parametrize("n", range(4))
def test_adds(n):
    import torch
    assert torch.npu.device_count() == 2
    x = torch.full((100,), float(n)).npu(n % 2)
    assert torch.npu.mem_get_info()[1] == 2 << 30
    assert (x + x).cpu().tolist() == [2.0 * n] * 100
    assert ("PYTEST_XDIST_WORKER" in os.environ) == ("EXPECT_WORKER" in os.environ)
"""

Pytest = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Pytest:
    """Runs pytest in a folder with these tests; the plugin is named where it is not installed."""
    (tmp_path / "test_it.py").write_text(TESTS)
    is_installed = any(entry.value == "unify.simulator.pytest_plugin" for entry in entry_points(group="pytest11"))
    named = [] if is_installed else ["-p", "unify.simulator.pytest_plugin"]

    def ran(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        unset = ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "UNIFY_SIMULATED_BY")
        usual = {name: value for name, value in os.environ.items() if name not in unset}
        ours = {"UNIFY_TOOLCHAIN_DIR": str(torch_npu.toolchains()), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *named, *arguments]
        return subprocess.run(
            command,
            env={**usual, **ours, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return ran


def test_tests_see_the_chips(run: Pytest) -> None:
    finished = run("--ascend-simulated=910B3x2,2g", "test_it.py")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "simulated: ascend:910B3x2,2g" in finished.stdout
    assert "4 passed" in finished.stdout


def test_workers_of_xdist_see_them_too(run: Pytest) -> None:
    pytest.importorskip("xdist")
    finished = run("test_it.py", "-n", "2", "--ascend-simulated=910B3x2,2g", EXPECT_WORKER="1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "4 passed" in finished.stdout


def test_the_exit_status_is_pytest_s(run: Pytest) -> None:
    assert run("-k", "nothing", "test_it.py", "--ascend-simulated").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("option", "part"),
    [
        (["--ascend-simulated=910B9"], "'910B9' is no chip that is known"),
        (["--ascend-simulated", "test_it.py"], "Say --ascend-simulated=910B3 before paths."),
    ],
)
def test_a_wrong_chip_is_wrong_usage(run: Pytest, option: list[str], part: str) -> None:
    finished = run(*option)
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert part in finished.stderr


def test_what_is_not_installed_says_the_command(run: Pytest, tmp_path: Path) -> None:
    finished = run("test_it.py", "--ascend-simulated", UNIFY_TOOLCHAIN_DIR=str(tmp_path))
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert "`unify simulate ascend --install`" in finished.stderr


def test_without_the_option_nothing_is_loaded(run: Pytest, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("""
import sys
def test_it():
    ours = {name for name in sys.modules if name.startswith("unify.simulator")}
    assert ours == {"unify.simulator", "unify.simulator.pytest_plugin"}
    assert "UNIFY_SIMULATE" not in __import__("os").environ
""")
    finished = run("test_it.py")
    assert finished.returncode == 0, finished.stdout
    assert "simulated:" not in finished.stdout
