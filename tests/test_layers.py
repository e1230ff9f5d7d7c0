"""The conformance suite with layers around every backend: the core breaks none of the ABI's rules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unify as un


def run_with(layers: str, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since layers are chosen before the first device is opened."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "UNIFY_LAYERS": layers},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_the_core_keeps_the_rules_and_every_backend_fails_on_demand(root: Path) -> None:
    pytest_arguments = ("-m", "pytest", "--capture=no", "-p", "no:cacheprovider", "tests/conformance")
    finished = run_with("faults,validation", root, *pytest_arguments)
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output[-5000:]
    assert "unify validation:" not in output, output
    assert "does not fail on demand" not in output


def test_an_unknown_layer_names_the_known_ones(root: Path) -> None:
    finished = run_with("tracing", root, "-c", "import unify; unify.zeros(1)")
    assert "InvalidArgument: no layer 'tracing'. Known: faults validation." in finished.stderr


def test_layers_are_chosen_before_the_first_device_is_opened() -> None:
    un.device("cpu")
    with pytest.raises(un.errors.InvalidArgument, match="open already"):
        un._core.set_layers(["validation"])
