"""unify.info(): what a bug report needs, whatever is broken."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import unify as un
from unify import _info
from unify.testing.backends import compile_backend

from .conftest import Run

TOY = Path(__file__).parent / "plugin" / "toy.c"


def info_with(python: Run, **environment: str) -> dict[str, Any]:
    finished = python("-m", "unify", "info", "--json", env={**os.environ, **environment})
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def test_it_is_plain_data_with_the_versions_of_what_is_installed() -> None:
    found = json.loads(json.dumps(un.info()))
    assert (found["unify"], found["python"]) == (un.__version__, platform.python_version())
    assert found["packages"]["numpy"] == version("numpy")


def test_a_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_info, "_PACKAGES", ("numpy", "no-such-package"))
    found = un.info()
    assert found["packages"] == {"numpy": version("numpy"), "no-such-package": None}
    assert "no-such-package not installed" in _info.as_text(found)


def test_a_device_has_its_memory_properties_and_capabilities() -> None:
    cpu = next(device for device in un.info()["devices"] if device["name"] == "cpu")
    assert cpu["state"] == "healthy"
    assert 0 < cpu["memory_free_bytes"] <= cpu["memory_total_bytes"]
    assert cpu["properties"] == un.device("cpu").properties
    assert cpu["capabilities"] == un.device("cpu").capabilities


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_default_device_is_marked_however_it_is_written(python: Run, name: str) -> None:
    found = info_with(python, UNIFY_DEVICE=name)
    assert [device["name"] for device in found["devices"] if device["default"]] == ["cpu"]
    assert found["default_device"] == {"name": "cpu", "why": ""}


def test_a_default_device_that_is_not_there_is_told(python: Run) -> None:
    found = info_with(python, UNIFY_DEVICE="nope")
    assert not any(device["default"] for device in found["devices"])
    assert found["default_device"]["name"] == "nope"
    assert "no device 'nope'" in found["default_device"]["why"]
    assert "  no default: no device 'nope'" in _info.as_text(found)


def test_devices_and_backends_of_a_plugin_are_listed_and_one_may_be_the_default(python: Run, tmp_path: Path) -> None:
    toy = compile_backend(TOY, tmp_path / "toy.so")
    found = info_with(python, UNIFY_BACKEND_PATH=str(toy), UNIFY_DEVICE="toy:1")
    assert [(device["name"], device["default"]) for device in found["devices"]] == [
        ("cpu", False), ("toy:0", False), ("toy:1", True),
    ]  # fmt: skip
    (backend,) = [backend for backend in found["backends"] if backend["name"] == "toy"]
    assert (backend["library"], backend["devices"], backend["why"]) == (str(toy), 2, "")
    text = _info.as_text(found)
    assert "2 devices" in text
    assert "Others come as plugins: docs/abi.md" in text
    assert any(line.startswith("  toy:1 ") and line.endswith("(default)") for line in text.splitlines())


def test_a_backend_that_is_absent_says_why_and_the_rest_is_there(python: Run, tmp_path: Path) -> None:
    absent = compile_backend(TOY, tmp_path / "absent.so", ["TOY_ABSENT"])
    found = info_with(python, UNIFY_BACKEND_PATH=str(absent))
    whys = {backend["library"]: backend["why"] for backend in found["backends"]}
    assert "no toy is plugged in" in whys[str(absent)]
    assert "absent: " in _info.as_text(found)
    assert [device["name"] for device in found["devices"]] == ["cpu"]
