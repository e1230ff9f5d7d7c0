"""Forks, exits and signals: what a process may do with a driver in it."""

from __future__ import annotations

import pytest

START = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
from tests.simulator.driver import *
driver = Driver()
driver.open()
stream = driver.stream()
"""


@pytest.fixture
def run(python: object, root: object) -> object:
    def run_program(program: str) -> tuple[str, int]:
        finished = python("-c", START.format(root=str(root)) + program, timeout=60)  # type: ignore[operator]
        assert not finished.stderr, finished.stderr
        return finished.stdout, finished.returncode

    return run_program


def test_the_child_of_a_fork_has_no_driver(run: object) -> None:
    program = """
data = driver.upload(b"parent")
driver.fail("cuMemsetD8Async:0:hang")
driver.cuMemsetD8Async(driver.made("cuMemHostAlloc", 16, 1), 0, 1, stream)
threads = [threading.Thread(target=driver.cuCtxGetCurrent, args=(ctypes.byref(ctypes.c_uint64()),)) for _ in range(9)]
if (child := os.fork()) == 0:
    answers = {driver.result(call, *arguments) for call, arguments in [
        ("cuInit", (0,)), ("cuCtxSynchronize", ()), ("cuStreamSynchronize", (stream,)), ("cuMemFree", (data,)),
        ("cuDevicePrimaryCtxReset", (0,)), ("cuDeviceGetCount", (ctypes.byref(ctypes.c_int()),))]}
    assert driver.library.unify_simulator_release(0) == -1
    os._exit(answers != {"CUDA_ERROR_NOT_INITIALIZED"})
print(os.waitpid(child, 0)[1])
driver.library.unify_simulator_release(0)
print(driver.download(data, 6, stream))
"""
    assert run(program) == ("0\nb'parent'\n", 0)  # type: ignore[operator]


def test_a_child_of_a_fork_before_cuInit_has_one(python: object, root: object) -> None:
    program = f"""
import os, sys; sys.path.insert(0, {str(root)!r})
from tests.simulator.driver import *
driver = Driver()
if (child := os.fork()) == 0:
    driver.open()
    os._exit(driver.download(driver.upload(b"child"), 5) != b"child")
print(os.waitpid(child, 0)[1])
"""
    assert python("-c", program).stdout == "0\n"  # type: ignore[operator]


@pytest.mark.parametrize(
    "work",
    [
        'for (;;) __asm__ volatile("");',
        "((volatile char*)args[0])[0] += 1; --i;",
    ],
)
def test_a_process_ends_while_a_kernel_runs(run: object, work: str) -> None:
    program = f"""
function = driver.function(image("busy", {work!r}), "busy")
driver.launch(function, words(driver.made("cuMemAlloc", 16)), 1, stream)
print("end")
"""
    assert run(program) == ("end\n", 0)  # type: ignore[operator]


def test_a_process_ends_while_work_hangs_and_waits(run: object) -> None:
    program = """
data, event, other = driver.made("cuMemAlloc", 16), driver.event(), driver.stream()
driver.fail("cuMemsetD8Async:0:hang")
driver.cuMemsetD8Async(data, 7, 16, stream)
driver.cuEventRecord(event, stream)
driver.cuStreamWaitEvent(other, event, 0)
driver.cuMemsetD8Async(data, 8, 16, other)
waiting = threading.Thread(target=driver.result, args=("cuStreamSynchronize", other), daemon=True)
waiting.start()
print("end")
"""
    assert run(program) == ("end\n", 0)  # type: ignore[operator]


def test_signals_go_to_the_programs_own_threads(run: object) -> None:
    program = """
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(threading.current_thread() is threading.main_thread()))
driver.upload(b"1")
os.kill(os.getpid(), signal.SIGUSR1)
print(caught)
"""
    assert run(program) == ("[True]\n", 0)  # type: ignore[operator]


def test_both_guards_of_kernels_live_in_one_process(run: object) -> None:
    program = """
import unify as un
cpu = un.device("cpu")
driver.cuCtxSynchronize()
wrong = driver.function(image("wrong", "((char*)args[0])[1 << 30] = 1;"), "wrong")
for _ in range(3):
    data = driver.made("cuMemAlloc", 16)
    driver.launch(wrong, words(data), 1, stream)
    print(driver.result("cuStreamSynchronize", stream))
    driver.cuDevicePrimaryCtxReset(0)
    driver.open()
    stream = driver.stream()
    wrong = driver.function(image("wrong", "((char*)args[0])[1 << 30] = 1;"), "wrong")
"""
    assert run(program) == ("CUDA_ERROR_ILLEGAL_ADDRESS\n" * 3, 0)  # type: ignore[operator]
