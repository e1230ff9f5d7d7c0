"""What must not hang: things that are dropped while streams still work, or while a host call needs the interpreter.

Each case runs in a process of its own, since a deadlock would hold this one too.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import unify as un
from unify.testing.backends import compile_backend

from .conftest import Run

TOY = Path(__file__).parent / "plugin" / "toy.c"

GATE = """
import threading
import numpy as np
import unify as un

opened = threading.Event()
reached = threading.Event()

def gate():
    reached.set()
    assert opened.wait(30)
"""


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_backend(TOY, tmp_path_factory.mktemp("toy") / "toy.so")


def run(python: Run, code: str, **environment: str) -> str:
    try:
        finished = python("-c", GATE + code, timeout=60, env={**os.environ, **environment})
    except subprocess.TimeoutExpired:
        pytest.fail("it hangs")
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_the_last_user_of_a_stream_is_dropped_while_a_host_call_needs_the_interpreter(python: Run) -> None:
    run(
        python,
        """
s = un.Stream("cpu")
z, x = un.zeros(10, stream=s), un.zeros(10)
s.host_call(gate)
x.fill_(1, stream=s)
reached.wait(30)
del s, x
opened.set()
del z
un.synchronize()
""",
    )


def test_the_last_tensor_of_a_graphs_pool_is_dropped_while_a_host_call_needs_the_interpreter(python: Run) -> None:
    run(
        python,
        """
s = un.Stream("cpu")
with un.Graph.capture(device="cpu") as graph:
    x = un.zeros(1000)
s.host_call(gate)
reached.wait(30)
del graph
del x
opened.set()
un.synchronize()
""",
    )


@pytest.mark.parametrize("last", ["graph", "capture"])
def test_a_graph_is_dropped_while_it_runs(python: Run, last: str) -> None:
    run(
        python,
        f"""
s = un.Stream("cpu")
x = un.zeros(1000, stream=s)
capture = un.Graph.capture(s)
with capture as graph:
    x.fill_(1)
s.host_call(gate)
graph.launch(s)
reached.wait(30)
{"del capture, graph" if last == "graph" else "del graph, capture"}
opened.set()
with s:
    assert x.numpy().sum() == 1000
""",
    )


def test_a_stream_whose_last_user_is_its_own_work_ends_by_itself(python: Run) -> None:
    run(
        python,
        """
s = un.Stream("cpu")
x, y = un.zeros(100), un.ones(100)
s.host_call(gate)
x[::2].copy_(y[::2], stream=s)
reached.wait(30)
del x, y, s
opened.set()
un.synchronize()
un.zeros(100)
un.synchronize()
""",
    )


def test_memory_of_a_dropped_stream_that_still_works_is_not_waited_for(python: Run) -> None:
    run(
        python,
        """
s = un.Stream("cpu")
x = un.zeros(100, stream=s)
s.host_call(gate)
x.fill_(1, stream=s)
reached.wait(30)
del s, x
for _ in range(100):
    un.zeros(100)       # each looks after what was dropped
opened.set()
un.synchronize()
""",
    )


def test_figures_are_asked_while_another_thread_allocates(python: Run) -> None:
    run(
        python,
        """
done = threading.Event()

def allocate():
    while not done.is_set():
        un.zeros(1 << 16, device="cpu")

threads = [threading.Thread(target=allocate) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(300):
    un.memory_statistics("cpu"), un.memory_snapshot("cpu")
done.set()
for thread in threads: thread.join()
""",
    )


@pytest.mark.parametrize("device", ["cpu", "toy:0"])
def test_a_tensor_is_dropped_while_a_host_call_of_its_stream_runs(python: Run, toy: Path, device: str) -> None:
    run(
        python,
        f"""
s = un.Stream("{device}")
x = un.zeros(1000, un.uint8, "{device}")
x.fill_(1, stream=s)
caller = threading.Thread(target=s.host_call, args=(gate,))
caller.start()
reached.wait(30)
del x
opened.set()
caller.join()
un.synchronize("{device}")
""",
        UNIFY_BACKEND_PATH=str(toy),
    )


def test_an_emulated_host_call_may_use_its_own_stream(python: Run, toy: Path) -> None:
    code = """
s = un.Stream("toy:0")
x = un.zeros(4, un.uint8, "toy:0", stream=s)
s.host_call(lambda: x.fill_(3, stream=s))
with s:
    print(x.tolist())
"""
    assert run(python, code, UNIFY_BACKEND_PATH=str(toy)) == "[3, 3, 3, 3]"


def test_a_stream_that_nobody_holds_is_gone_after_its_work() -> None:
    before = un.memory_statistics("cpu").allocated_bytes
    for _ in range(20):
        stream = un.Stream("cpu")
        tensor = un.zeros(1 << 16, un.uint8, "cpu", stream=stream)
        tensor[::2].copy_(tensor[1::2], stream=stream)
        del stream, tensor
    un.synchronize("cpu")
    assert un.memory_statistics("cpu").allocated_bytes == before


# What four daemon threads do over and over while the interpreter ends: some of them wait for the GIL then.
LOOPS = {
    "waits": "un.zeros(1000, device='cpu', stream=stream).tolist(); stream.synchronize()",
    "host calls": "stream.host_call(lambda: sum(range(1000))); stream.synchronize()",
    "errors": "refused()",
    "arrays of others": "un.asarray(Array())",
    "compiling": "un.jit(kernel)[(1,)](x)",
}
PROGRAM = """
import threading

import numpy as np
import triton.language as tl

import unify as un

stream = un.Stream("cpu")
x = un.zeros(4, un.int32, "cpu")


def kernel(x):
    tl.store(x, 1)


def refused():
    try:
        un.empty((-1,), device="cpu")
    except un.errors.Error:
        pass


class Array:
    def __dlpack_device__(self):
        sum(range(10_000))
        return (1, 0)

    def __dlpack__(self, **options):
        sum(range(10_000))
        return np.zeros(3).__dlpack__(**options)


def loop(was_round):
    while True:
        WORK
        was_round.set()


rounds = [threading.Event() for _ in range(4)]
for was_round in rounds:
    threading.Thread(target=loop, args=(was_round,), daemon=True).start()
for was_round in rounds:
    was_round.wait()
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_daemon_thread_inside_does_not_end_the_process_when_the_interpreter_is_over(
    python: Run, tmp_path: Path, loop: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("WORK", LOOPS[loop]))
    for _ in range(4):
        ended = python(program)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_a_stream_is_wrapped_while_the_device_is_reset_and_its_work_needs_the_interpreter(python: Run) -> None:
    run(
        python,
        """
import sys, time
un.simulate("cuda:90")
device = un.device("cuda:0")
s, x = un.Stream(device), un.zeros(10, device=device)
device.synchronize()
s.host_call(gate)
reached.wait(30)

def read():  # holds the stream until the gate opens
    try:
        x.to("cpu", stream=s)
    except un.Error:
        pass

def reset():
    device.reset()

threads = [threading.Thread(target=work) for work in (read, reset)]
for thread in threads:
    thread.start()
    time.sleep(0.2)  # until it waits, of which nothing tells
threading.Timer(0.2, opened.set).start()
for use in (lambda: un.Stream.from_native(1, device), lambda: device.current_stream):
    use()
assert opened.is_set()
for thread in threads:
    thread.join()
""",
    )


def test_what_was_dropped_ends_by_itself_though_the_interpreter_once_took_no_call(python: Run) -> None:
    run(
        python,
        """
import ctypes, itertools, operator, time, weakref
add, sleep = ctypes.pythonapi.Py_AddPendingCall, ctypes.CDLL(None).usleep
nothing = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
lock = threading.Lock()
lock.acquire()

def call():
    lock.acquire()

s, other = un.Stream("cpu"), un.Stream("cpu")
s.host_call(call)
alive = weakref.ref(call)
del call
# In one go in C, so that the interpreter comes to no call meanwhile: its list is full when the host call ends.
steps = [map(add, [nothing] * 100, [None] * 100), map(operator.methodcaller("release"), [lock]), map(sleep, [500000])]
assert -1 in list(itertools.chain(*steps))
del other
latest = time.monotonic() + 30
while alive() is not None:
    assert time.monotonic() < latest
    time.sleep(0.01)
""",
    )
