"""Forks, exits and two drivers: what a process may do with a simulated ACL in it."""

from __future__ import annotations

import pytest

START = """
import os, sys, threading
sys.path.insert(0, {root!r})
from tests.simulator.acl.driver import *
acl = Acl()
acl.aclrtSetDevice(0)
stream = acl.stream()
"""


@pytest.fixture
def run(python: object, root: object) -> object:
    def run_program(program: str) -> tuple[str, int]:
        finished = python("-c", START.format(root=str(root)) + program, timeout=60)  # type: ignore[operator]
        assert not finished.stderr, finished.stderr
        return finished.stdout, finished.returncode

    return run_program


def test_the_child_of_a_fork_has_no_device(run: object) -> None:
    program = """
data = acl.upload(b"parent")
if (child := os.fork()) == 0:
    answers = {acl.result(call, *arguments) for call, arguments in [
        ("aclInit", (None,)), ("aclrtSynchronizeStream", (stream,)), ("aclrtFree", (data,)), ("aclrtSetDevice", (0,))]}
    assert acl.library.unify_simulator_release(0) == -1
    os._exit(answers != {"RT_DEV_SETUP_ERROR"})
print(os.waitpid(child, 0)[1], acl.download(data, 6))
"""
    assert run(program) == ("0 b'parent'\n", 0)  # type: ignore[operator]


def test_a_child_of_a_fork_before_the_first_device_has_one(python: object, root: object) -> None:
    program = f"""
import os, sys; sys.path.insert(0, {str(root)!r})
from tests.simulator.acl.driver import *
acl = Acl()
if (child := os.fork()) == 0:
    acl.aclrtSetDevice(0)
    os._exit(acl.download(acl.upload(b"child"), 5) != b"child")
print(os.waitpid(child, 0)[1])
"""
    assert python("-c", program).stdout == "0\n"  # type: ignore[operator]


@pytest.mark.parametrize(
    "work",
    [
        'for (;;) __asm__ volatile("");',
        "((volatile char*)args[3])[0] += 1; --i;",
    ],
)
def test_a_process_ends_while_a_kernel_runs(run: object, work: str) -> None:
    program = f"""
function = acl.function(image("busy", {work!r}), "busy")
acl.launch(function, words(acl.malloc(16)), 1, stream)
print("end")
"""
    assert run(program) == ("end\n", 0)  # type: ignore[operator]


def test_a_process_ends_while_work_hangs_and_waits(run: object) -> None:
    program = """
data, event, other = acl.malloc(16), acl.event(), acl.stream()
acl.fail("aclrtMemsetAsync:0:hang")
acl.fill_later(data, 7, 16, stream)
acl.aclrtRecordEvent(event, stream)
acl.aclrtStreamWaitEvent(other, event)
acl.fill_later(data, 8, 16, other)
waiting = threading.Thread(target=acl.result, args=("aclrtSynchronizeStream", other), daemon=True)
waiting.start()
print("end")
"""
    assert run(program) == ("end\n", 0)  # type: ignore[operator]


def test_both_vendors_live_in_one_process(run: object) -> None:
    program = """
from tests.simulator import driver as cuda
driver = cuda.Driver()
driver.open()
data = acl.upload(b"ascend")
assert driver.download(driver.upload(b"cuda"), 4) == b"cuda"
wrong = acl.function(image("wrong", "((char*)args[3])[1 << 30] = 1;"), "wrong")
acl.launch(wrong, words(acl.malloc(16)), 1, stream)
print(acl.result("aclrtSynchronizeStream", stream))
wrong = driver.function(cuda.image("wrong", "((char*)args[0])[1 << 30] = 1;"), "wrong")
driver.launch(wrong, cuda.words(driver.made("cuMemAlloc", 16)))
print(driver.result("cuCtxSynchronize"), acl.download(data, 6))
"""
    expected = "RT_VECTOR_CORE_EXCEPTION\nCUDA_ERROR_ILLEGAL_ADDRESS b'ascend'\n"
    assert run(program) == (expected, 0)  # type: ignore[operator]
