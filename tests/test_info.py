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
from unify._config import settings
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


def test_a_toolchain_is_listed_with_what_became_of_it(tmp_path: Path) -> None:
    with settings.override(toolchain_dir=tmp_path):
        (ascend,) = un.info()["toolchains"]
        assert (ascend["name"], ascend["is_installed"], ascend["damage"]) == ("ascend", False, "")
        lines = _info.as_text(un.info()).splitlines()
        assert "  ascend     not installed; `unify toolchain install ascend`" in lines
        folder = Path(ascend["folder"])
        folder.mkdir(parents=True)
        (folder / "installed.json").write_text("{}")
        assert f"  ascend     {ascend['version']}  {folder}" in _info.as_text(un.info()).splitlines()
        (folder / "installed.json").write_text('{"bytes": {"gone": 1}}')
        lines = _info.as_text(un.info()).splitlines()
        assert "  ascend     damaged: gone is gone; `unify toolchain install ascend`" in lines


def test_a_backend_that_is_absent_says_why_and_the_rest_is_there(python: Run, tmp_path: Path) -> None:
    absent = compile_backend(TOY, tmp_path / "absent.so", ["TOY_ABSENT"])
    found = info_with(python, UNIFY_BACKEND_PATH=str(absent))
    whys = {backend["library"]: backend["why"] for backend in found["backends"]}
    assert "no toy is plugged in" in whys[str(absent)]
    assert "absent: " in _info.as_text(found)
    assert [device["name"] for device in found["devices"]] == ["cpu"]


def test_what_is_set_and_means_nothing_is_told(python: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wrong = {"UNIFY_CHECK_BOUND": "1", "UNIFY_CACHE_DIR": str(tmp_path / "file")}
    finished = python("-m", "unify", "info", env={**os.environ, **wrong})
    assert "warning: unknown setting UNIFY_CHECK_BOUND; did you mean UNIFY_CHECK_BOUNDS?" in finished.stdout
    assert f"warning: nothing is kept in {tmp_path / 'file'}, which cannot be written" in finished.stdout
    assert info_with(python, UNIFY_CACHE_DIR=str(tmp_path / "new" / "folder"))["warnings"] == []


SICK = """
import json, time
import unify as un
from unify import _info
from unify._config import settings
sim = un.simulate("cuda:90", count=2)
x = un.zeros(3, device="cuda:0"); un.device("cuda:0").synchronize()
"""


def told(python: Run, code: str) -> tuple[dict[str, Any], str]:
    """What info() says of cuda:0, and the lines for people. cuda:1 is well."""
    finished = python("-c", SICK + code + "\nfound = un.info(); print(json.dumps(found)); print(_info.as_text(found))")
    assert finished.returncode == 0, finished.stderr
    record, _, text = finished.stdout.partition("\n")
    devices = {device["name"]: device for device in json.loads(record)["devices"]}
    assert (devices["cuda:1"]["state"], devices["cuda:1"]["why"]) == ("healthy", "")
    assert devices["cuda:1"]["memory_total_bytes"] > 0
    return devices["cuda:0"], text


def test_a_lost_device_is_told_in_words(python: Run) -> None:
    record, text = told(python, "sim.lose(0); time.sleep(0.1)")
    assert (record["state"], record["memory_free_bytes"]) == ("gone", None)
    assert "CUDA_ERROR_UNKNOWN, 999" in record["why"]
    assert record["why"] in text


def test_a_device_that_a_reset_did_not_bring_back_is_told_in_words(python: Run) -> None:
    code = """
sim.lose(0); time.sleep(0.1)
try: un.device("cuda:0").reset()
except un.DeviceLost: pass
"""
    record, text = told(python, code)
    assert record["state"] == "gone"
    assert "Somebody destroyed" not in text


def test_a_faulted_device_is_told_in_words(python: Run) -> None:
    code = """
sim.fail("cuMemsetD32Async", error="ecc"); x.fill_(1)
try: un.device("cuda:0").synchronize()
except un.KernelFault: pass
"""
    record, text = told(python, code)
    assert record["state"] == "faulted"
    assert "CUDA_ERROR_ECC_UNCORRECTABLE" in record["why"]
    assert record["why"] in text


def test_a_device_that_does_not_open_is_told_in_words(python: Run) -> None:
    code = """
import json
import unify as un
from unify import _info
from unify._config import settings
sim = un.simulate("cuda:90", count=2)
sim.lose(0)
found = un.info()
print(json.dumps([(d["name"], d["state"], d["why"]) for d in found["devices"]]))
print(_info.as_text(found))
"""
    finished = python("-c", code)
    assert finished.returncode == 0, finished.stderr
    records, _, text = finished.stdout.partition("\n")
    _, (name, state, why), other = json.loads(records)
    assert (name, state) == ("cuda:0", "not opened")
    assert "CUDA_ERROR_" in why
    assert other == ["cuda:1", "healthy", ""]
    assert f"cuda:0     not opened: {why}" in text
