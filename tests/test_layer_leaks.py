"""The layer `leaks`: what a program still holds at its end, by the line that asked for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# A reference that nobody will ever drop, as a faulty extension module makes it.
LOSE = "import ctypes\nlose = lambda thing: ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))\n"


def report_of(folder: Path, code: str, layers: str = "leaks") -> list[str]:
    """The report's lines of a program named program.py."""
    program = folder / "program.py"
    program.write_text("import unify as un\n" + code)
    finished = subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env={**os.environ, "UNIFY_LAYERS": layers},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "SystemExit" not in finished.stderr
    start = finished.stderr.find("unify leaks:")
    return finished.stderr[start:].replace(f"{folder}/", "").splitlines() if start >= 0 else []


def test_what_nobody_lets_go_of_is_named_by_its_line_the_largest_first(tmp_path: Path) -> None:
    code = f"""{LOSE}
def make(bytes):
    return un.empty((bytes,), un.uint8)

for _ in range(3):
    lose(make(1024))
lose(un.zeros(1 << 20, un.uint8))
lose(un.Stream("cpu"))
lose(un.Event("cpu"))
"""
    assert report_of(tmp_path, code) == [
        "unify leaks: held to the end: 1.0 MiB in 4 tensors, 1 stream, 1 event",
        "  1.0 MiB in 1 tensor on cpu, made at program.py:10 in <module>",
        "  3.0 KiB in 3 tensors on cpu, made at program.py:6 in make",
        "  1 stream on cpu, made at program.py:11 in <module>",
        "  1 event on cpu, made at program.py:12 in <module>",
    ]


KERNEL = """
import triton.language as tl

@un.jit
def double(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i) * 2)

x = un.ones(64)
double[1](x, BLOCK=64)
"""


def test_a_program_without_leaks_prints_nothing(tmp_path: Path) -> None:
    code = f"""{KERNEL}
kept = [un.zeros(10), un.Stream("cpu"), un.Event("cpu"), un.empty_pinned((4,))]
stream = un.Stream("cpu")
with un.Graph.capture(stream) as graph:
    y = x.copy()
graph.launch(stream)
stream.synchronize()

class Holder:
    tensor = un.zeros(7)

def default(tensor=un.zeros(3)):
    return tensor
"""
    report_of(tmp_path, KERNEL)  # compiled: from here on it is loaded from disk
    assert report_of(tmp_path, code) == []


@pytest.mark.xfail(strict=True, reason="Triton's front end keeps the module of what it compiled; find by what")
def test_a_kernel_that_was_compiled_just_now_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFY_NO_CACHE", "1")
    assert report_of(tmp_path, KERNEL) == []


def test_a_program_that_raises_has_leaked_nothing(tmp_path: Path) -> None:
    code = "def f():\n    x = un.zeros(10)\n    raise KeyError(x)\nf()\n"
    assert report_of(tmp_path, code) == []


def test_reference_cycles_are_told_apart(tmp_path: Path) -> None:
    code = """import gc
gc.disable()
class Node: pass
def cycle():
    node = Node()
    node.self = node
    node.tensor = un.zeros(4096, un.uint8)
cycle()
cycle()
"""
    assert report_of(tmp_path, code) == [
        "unify leaks: held by reference cycles until the garbage collector ran: 8.0 KiB in 2 tensors",
        "  8.0 KiB in 2 tensors on cpu, made at program.py:8 in cycle",
    ]


def test_a_graph_that_holds_itself_by_a_host_call_is_a_leak(tmp_path: Path) -> None:
    code = """
stream = un.Stream("cpu")
tensor = un.zeros(2048, un.uint8)
with un.Graph.capture(stream) as graph:
    stream.host_call(lambda held=graph: None)
    tensor.fill_(1)
"""
    report = report_of(tmp_path, code)
    assert report[0] == "unify leaks: held to the end: 2.0 KiB in 1 tensor, 1 stream, 1 graph"
    assert "  1 graph on cpu, made at program.py:5 in <module>" in report
    assert "  2.0 KiB in 1 tensor on cpu, made at program.py:4 in <module>" in report


def test_threads_that_allocate_are_named_by_their_own_lines(tmp_path: Path) -> None:
    code = f"""{LOSE}import threading
def work():
    lose(un.zeros(100, un.uint8))
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    assert report_of(tmp_path, code)[1:] == ["  400 bytes in 4 tensors on cpu, made at program.py:6 in work"]


def test_a_forked_child_does_not_report_what_its_parent_holds(tmp_path: Path) -> None:
    code = "import os, sys\nx = un.zeros(3)\npid = os.fork()\nif pid == 0: sys.exit()\nos.waitpid(pid, 0)\n"
    assert report_of(tmp_path, code) == []


@pytest.mark.parametrize("layers", ["", "validate"])
def test_without_the_layer_nothing_is_printed(tmp_path: Path, layers: str) -> None:
    assert report_of(tmp_path, f"{LOSE}lose(un.zeros(3))\n", layers) == []


@pytest.mark.parametrize("layers", ["leaks,validate,trace", "trace,leaks,validate", "validate,trace,leaks"])
def test_other_layers_do_not_change_the_report(tmp_path: Path, layers: str) -> None:
    report = report_of(tmp_path, f"{LOSE}lose(un.zeros(1024, un.uint8))\n", layers)
    assert report == [
        "unify leaks: held to the end: 1.0 KiB in 1 tensor",
        "  1.0 KiB in 1 tensor on cpu, made at program.py:4 in <module>",
    ]
    assert re.search(r'"dropped":"0"', (tmp_path / "unify-trace.json").read_text())
