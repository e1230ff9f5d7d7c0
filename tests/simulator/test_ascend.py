"""The simulation of Ascend by its Python face, and the images that it makes."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unify import simulator
from unify.compiler.target import Binary
from unify.errors import InvalidArgument
from unify.simulator import ascend
from unify.simulator.section import HostKernel

from .acl.driver import VECTOR, Acl, words
from .driver import compiled

ROOT = Path(__file__).parents[2]
HEADER = struct.Struct("<8sIIIIQQqIII4s")


def binary(kind: int = 1, payload: bytes = b"module {}", args_bytes: int = 52) -> Binary:
    """What the compiler makes without CANN: a header, and the lowered text."""
    header = HEADER.pack(b"UNIFYASC", 1, 64, kind, 0, len(payload), 4, -7, args_bytes - 12, 0, 0, b"910B")
    return Binary("add", header + payload, "ascend:910B3", (), args_bytes)


def kernel(name: str = "add", args_bytes: int = 52) -> HostKernel:
    code = compiled(name, "((float*)args[3])[i] *= 2;")
    return HostKernel(name, code, args_bytes, 0, [("*fp32", 24), ("i64", 32)])


def alone(work: Callable[[], None]) -> None:
    """Runs a function of this file in a process of its own: the driver is configured before a device is opened."""
    program = f"from {__name__} import {work.__name__}; {work.__name__}()"
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-4000:]


def test_an_image_keeps_its_header_and_gets_code() -> None:
    alone(image_gets_code)


def image_gets_code() -> None:
    image = ascend.with_host_code(binary(), kernel()).image
    magic, version, header_bytes, kind, mode, payload_bytes, *rest = HEADER.unpack_from(image)
    assert (magic, version, header_bytes, kind, mode) == (b"UNIFYASC", 1, 64, 0, 0)
    assert rest == [4, -7, 40, 0, 0, b"910B"]
    assert len(image) == 64 + payload_bytes
    acl = Acl()
    acl.aclrtSetDevice(0)
    data = acl.upload(struct.pack("<3f", 1, 2, 3))
    acl.launch(acl.function(image[64:], "add", VECTOR), words(data, 0) + bytes(12), blocks=2)
    acl.aclrtSynchronizeDevice()
    assert struct.unpack("<3f", acl.download(data, 12)) == (2, 4, 3)
    acl.aclrtResetDeviceForce(0)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="not an image of the Ascend backend"):
        ascend.with_host_code(Binary("add", b"\x7fELF" * 20, "ascend:910B3", (), 52), kernel())


@pytest.mark.parametrize("other", [kernel("mul"), kernel(args_bytes=56)])
def test_code_of_another_kernel_is_refused(other: HostKernel) -> None:
    with pytest.raises(InvalidArgument, match="the emulator made"):
        ascend.with_host_code(binary(), other)


def test_the_models_are_those_that_the_library_knows() -> None:
    alone(models_are_known)


def models_are_known() -> None:
    with pytest.raises(InvalidArgument, match=f"known: {', '.join(ascend.MODELS)}"):
        simulator.simulate("ascend:910")
    acl = Acl()
    soc = {}
    for model in ascend.MODELS:
        acl.configure(chip=model)
        acl.aclrtSetDevice(0)
        soc[model] = acl.library.aclrtGetSocName().decode()
        acl.aclrtResetDeviceForce(0)
    assert len(set(soc.values())) == len(ascend.MODELS)
    assert acl.library.unify_simulator_configure(1, b"910", 1 << 30) == -1
    assert f"known: {', '.join(ascend.MODELS)}" in acl.library.unify_simulator_error().decode()


def test_a_device_s_name_is_its_chip_s() -> None:
    with pytest.raises(InvalidArgument, match="always called by its chip"):
        simulator.simulate("ascend:910B3", name="mine")


# In processes of their own: the backend looks for its driver once.

PROGRAM = """
import numpy as np, unify as un
simulation = un.simulate("ascend:910B3", count=2, memory_bytes=64 << 20)
device = un.device("ascend:1")
print(device.properties["name"])
x = un.asarray(np.arange(1000, dtype=np.float32), device=device)
assert np.array_equal(x.numpy(), np.arange(1000, dtype=np.float32))
assert simulation.live(1)["allocations"] > 0
simulation.fail("aclrtMemcpyAsync", error="ecc", device=1)
try:
    x.numpy()
except un.errors.Error as error:
    print(type(error).__name__, error)
other = un.asarray(np.ones(10, np.float32), device="ascend:0")
assert other.numpy().sum() == 10
"""


def test_a_program_of_unify_moves_and_fails_on_a_simulated_chip(python: Any) -> None:
    finished = python("-c", PROGRAM)
    assert finished.returncode == 0, finished.stderr
    name, error = finished.stdout.splitlines()[:2]
    assert "910B3" in name
    assert "(simulated)" in name
    assert error, "the fault was not seen"


def test_a_variable_is_enough(python: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFY_SIMULATE", "cuda:90;ascend:910Cx2,0.25g")
    program = "import unify as un; print([d.name for d in un.devices()])"
    finished = python("-c", program)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "['cpu', 'cuda:0', 'ascend:0', 'ascend:1']"


def test_links_are_made_again(tmp_path: Path) -> None:
    operators = Path("/operators.so")
    ascend.link_libraries(tmp_path, operators)
    (tmp_path / "libhccl.so").unlink()
    (tmp_path / "libhccl.so").symlink_to("/nowhere")
    ascend.link_libraries(tmp_path, operators)
    assert {link.resolve() for link in tmp_path.iterdir()} == {ascend.library_path().resolve(), operators}
    (tmp_path / "libhccl.so").unlink()
    (tmp_path / "libhccl.so").write_text("mine")
    with pytest.raises(FileExistsError):
        ascend.link_libraries(tmp_path, operators)
