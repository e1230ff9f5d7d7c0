"""What a program does with simulated devices, of either vendor: its words reach the driver as the driver's own."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from unify import simulator
from unify.errors import InvalidArgument
from unify.simulator import ascend, cuda
from unify.simulator.simulation import Simulation, Words, load

from .acl.driver import LIBRARY as ACL_LIBRARY, Acl
from .driver import Driver


@pytest.fixture
def acl() -> Acl:
    made = Acl(count=2)
    made.aclrtSetDevice(0)
    return made


def simulation_of(acl: Acl, error: str = "ACL_ERROR_RT_AICORE_EXCEPTION") -> Simulation:
    words = Words("Ascend", "aclrtLaunchKernelWithHostArgs", "aclrtMemcpyAsync", error)
    return Simulation(load(acl.library._name), "ascend:910B3", 2, words)


def test_a_fault_of_a_call_is_the_vendor_s_and_is_forgotten(acl: Acl) -> None:
    simulation = simulation_of(acl)
    simulation.fail("aclrtMalloc", after=1, error="out_of_memory")
    address = acl.malloc(64)
    out = ctypes.c_uint64()
    assert acl.result("aclrtMalloc", ctypes.byref(out), ctypes.c_size_t(64), 0) == "RT_MEMORY_ALLOCATION"
    simulation.fail("aclrtMalloc", error="out_of_memory")
    simulation.clear()
    acl.aclrtFree(acl.malloc(64))
    acl.aclrtFree(address)
    acl.aclrtResetDeviceForce(0)


def test_a_copy_is_corrupted_without_a_word(acl: Acl) -> None:
    simulation_of(acl).corrupt()
    source, target = acl.upload(bytes(64)), acl.upload(bytes(64))
    acl.aclrtMemcpyAsync(target, ctypes.c_size_t(64), source, ctypes.c_size_t(64), 3, 0)
    acl.aclrtSynchronizeDevice()
    assert sum(byte.bit_count() for byte in acl.download(target, 64)) == 1
    acl.aclrtResetDeviceForce(0)


def test_a_device_is_lost_and_the_other_goes_on() -> None:
    acl = Acl(count=2)  # a lost device stays lost: a library of its own would be needed to have it back
    simulation = simulation_of(acl)
    assert simulation.live(1)["bytes"] == 0
    with pytest.raises(InvalidArgument, match=r"simulated Ascend: .*no device 2"):
        simulation.lose(2)
    with pytest.raises(InvalidArgument, match="'nonsense' is neither"):
        simulation.fail(error="nonsense")
    with pytest.raises(InvalidArgument, match="'nonsense' is neither"):
        simulation_of(acl, "nonsense").fail()


def test_what_is_alive_is_counted_by_kind(acl: Acl, driver: Driver) -> None:
    acl.malloc(1 << 20)
    acl.stream()
    live = simulation_of(acl).live()
    assert (live["allocations"], live["streams"], live["retained"]) == (1, 1, 1)
    driver.made("cuMemAlloc", 100)
    cudas = Simulation(
        load(driver.library._name), "cuda:90", 2, Words("CUDA", "cuLaunchKernelEx", "cuMemcpyAsync", "ecc")
    )
    assert cudas.live()["allocations"] == 1
    assert cudas.live().keys() == live.keys()
    acl.aclrtResetDeviceForce(0)


def test_the_libraries_are_where_each_kind_looks_for_them() -> None:
    assert ascend.library_path() == ACL_LIBRARY
    assert simulator.library_path() == cuda.library_path() != ascend.library_path()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cuda:90x2"),
        ("cuda:90;", "cuda:90x2"),
        ("ascend", "ascend:910B3x2"),
        ("ascend:910B3;ascend", "ascend:910B3x2"),
        ("ascend:910B3y2", "not a chip"),
        ("ascned:910B3", "ascend:910B3"),
        ("ascend:910B3x2,4", "ascend:910B3x2"),
    ],
)
def test_a_text_that_cannot_be_read_says_how(text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (cuda, ascend):  # the parts before it, whose chips are in use by now
        real = kind.simulate
        monkeypatch.setattr(kind, "simulate", lambda target, *more, real=real: real(target) if "y" in target else None)
    with pytest.raises(InvalidArgument, match=words):
        simulator.from_text(text)


def test_chips_of_both_kinds_at_a_time(python: Any) -> None:
    program = """
import ctypes
from unify import simulator
from unify.simulator import ascend
simulator.from_text("cuda:80x2;ascend:910B4x3,0.5g")
cuda = ctypes.CDLL(str(simulator.library_path()))
acl = ctypes.CDLL(str(ascend.library_path()))
assert cuda.cuInit(0) == 0
count, size = ctypes.c_int(), ctypes.c_int64()
cuda.cuDeviceGetCount(ctypes.byref(count))
assert count.value == 2
acl.aclrtGetDeviceCount(ctypes.byref(count))
assert count.value == 3
acl.aclrtGetSocName.restype = ctypes.c_char_p
assert acl.aclrtGetSocName() == b"Ascend910B4"
"""
    finished = python("-c", program)
    assert finished.returncode == 0, finished.stderr


def test_the_same_chips_again_are_the_same_and_others_are_refused(python: Any) -> None:
    code = """
import unify as un
for target in ("cuda:90", "ascend:910B3"):
    first = un.simulate(target, count=2)
    device = un.device(target.partition(":")[0] + ":0")
    print(un.simulate(target, count=2) is first)
    try:
        un.simulate(target)
    except un.errors.InvalidArgument as error:
        print(error)
"""
    finished = python("-c", code)
    assert (finished.returncode, finished.stderr) == (0, "")
    expected = "simulate: this process has unify.simulate('{}', count=2) already; others need a process of their own."
    lines = [line for target in ("cuda:90", "ascend:910B3") for line in ("True", expected.format(target))]
    assert finished.stdout.splitlines() == lines
