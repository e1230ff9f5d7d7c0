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


def test_host_memory_is_counted_where_it_was_made(acl: Acl, driver: Driver) -> None:
    before = simulation_of(acl).live()
    pinned, managed = acl.pinned(5000), acl.made("aclrtMemAllocManaged", ctypes.c_uint64(100), 1)
    live = simulation_of(acl).live()
    assert live["pinned_bytes"] == before["pinned_bytes"] + 8192
    assert live["managed_bytes"] == before["managed_bytes"] + 4096
    acl.aclrtFreeHost(pinned)
    acl.aclrtFree(managed)
    assert simulation_of(acl).live() == before
    host = driver.made("cuMemHostAlloc", ctypes.c_size_t(100), 0)
    assert driver.live("pinned_bytes") == 4096
    driver.cuMemFreeHost(ctypes.c_void_p(host))
    assert driver.live("pinned_bytes") == 0
    acl.aclrtResetDeviceForce(0)


@pytest.mark.parametrize(
    ("kind", "call", "near"),
    [
        ("ascend", "aclrtMemcpyAsyn", "'aclrtMemcpyAsync'"),
        ("ascend", "malloc", "any call"),  # of another library
        ("ascend", "unify_simulator_fail", "any call"),
        ("ascend", "a:b", "any call"),
        ("cuda", "cuLaunchKernelX", "'cuLaunchKernelEx'"),
        ("cuda", "cuMemAlloc_v2", "'cuMemAlloc'"),
    ],
)
def test_a_call_that_the_driver_does_not_have_is_refused(
    acl: Acl, driver: Driver, kind: str, call: str, near: str
) -> None:
    simulation = simulation_of(acl)
    if kind == "cuda":
        words = Words("CUDA", "cuLaunchKernelEx", "cuMemcpyAsync", "ecc")
        simulation = Simulation(load(driver.library._name), "cuda:90", 2, words)
    for plan in (simulation.fail, simulation.hang, simulation.corrupt):
        with pytest.raises(InvalidArgument, match=f"no function {call!r}.*{near}"):
            plan(call)
    acl.aclrtResetDeviceForce(0)


def test_numbers_reach_c_as_they_are(acl: Acl) -> None:
    simulation = simulation_of(acl)
    for call, words in (
        (lambda: simulation.fail(after=1.5), "after is a whole number, not a float, 1.5"),  # type: ignore[arg-type]
        (lambda: simulation.fail(after=-1), "after is -1"),
        (lambda: simulation.fail(device="0"), "device is a whole number, not a str"),  # type: ignore[arg-type]
        (lambda: simulation.fail(device=1 << 32), "device is 4294967296"),
        (lambda: simulation.live(1 << 32), "device is 4294967296"),
        (lambda: simulation.clear(-1), "device is -1"),
        (lambda: simulation.release(0.5), "device is a whole number"),  # type: ignore[arg-type]
        (lambda: simulation.fail_after("x", "ecc"), "'x' is not a number"),  # type: ignore[arg-type]
        (lambda: ascend.simulate(count=(1 << 32) + 1), "count is 4294967297"),
        (lambda: ascend.simulate(count=2.5), "count is a whole number"),  # type: ignore[arg-type]
        (lambda: ascend.simulate(memory_bytes=1 << 64), "memory_bytes is 18446744073709551616"),
        (lambda: cuda.simulate(count=True + (1 << 32)), "count is 4294967297"),
        (lambda: cuda.simulate("cuda:4294967386"), "cuda:4294967386' is no chip that can be simulated"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            call()
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


@pytest.mark.parametrize("first", ["ascend:910B3", "cuda:90"])
def test_a_simulation_that_is_refused_changes_nothing(python: Any, first: str) -> None:
    kind = first.partition(":")[0]
    other = {"ascend": "ascend:950", "cuda": "cuda:80"}[kind]
    program = f"""
import unify as un
from unify.errors import InvalidArgument
for wrong in (dict(count=99), dict(memory_bytes=1)):
    try:
        un.simulate({first!r}, **wrong)
    except InvalidArgument:
        continue
    raise SystemExit("not refused")
print(un.simulate({first!r}))
try:
    un.simulate({other!r}, count=3)
except InvalidArgument as error:
    print("already" in str(error))
print([d.name for d in un.devices()], un.device("{kind}:0").target)
"""
    finished = python("-c", program)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [
        f"unify.simulate({first!r}, count=1)", "True", f"['cpu', '{kind}:0'] {first}",
    ]  # fmt: skip


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
