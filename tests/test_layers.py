"""The conformance suite with layers around every backend: the core breaks none of the ABI's rules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unify as un
from unify.testing.backends import compile_backend


def run_with(layers: str, root: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since layers are chosen before the first device is opened."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "UNIFY_LAYERS": layers, **settings},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


SAMPLE = "test_error.py test_event.py test_graph.py test_memory.py test_module.py test_stream.py"


@pytest.mark.parametrize(
    ("devices", "files"),
    [
        ("cpu toy:0 plain:0 cuda:0", SAMPLE),
        pytest.param("cpu toy:0 plain:0 cuda:0", "", marks=pytest.mark.slow),
    ],
)
def test_the_core_keeps_the_rules_and_every_backend_fails_on_demand(root: Path, devices: str, files: str) -> None:
    wanted = [argument for name in devices.split() for argument in ("--unify-device", name)]
    paths = [f"tests/conformance/{file}" for file in files.split()] or ["tests/conformance"]
    finished = run_with(
        "faults,validate", root, "-m", "pytest", "--capture=no", "-p", "no:cacheprovider", *wanted, *paths
    )
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output[-5000:]
    assert "unify validate:" not in output, output
    assert "does not fail on demand" not in output


CONCEPTS = ("stream", "event", "copy", "launch", "graph")


@pytest.mark.parametrize("layers", ["validate,leaks,trace", "trace,validate,leaks"])
def test_all_layers_watch_the_suite_and_change_nothing(root: Path, tmp_path: Path, layers: str) -> None:
    trace = tmp_path / "trace.json"
    files = [f"tests/conformance/test_{concept}.py" for concept in CONCEPTS]
    arguments = ("-m", "pytest", "--capture=no", "-p", "no:cacheprovider", *files)
    finished = run_with(layers, root, *arguments, UNIFY_TRACE_FILE=str(trace))
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output[-5000:]
    assert "unify validate:" not in output, output
    events = json.loads(trace.read_text())["traceEvents"]
    ran = [event for event in events if event["ph"] == "X" and event["cat"] == "device"]
    assert {"copy", "fill", "graph"} <= {span["name"] for span in ran}
    assert all(span["dur"] >= 0 for span in ran)
    devices = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert {"host", "cpu:0", "toy:0"} <= devices


def test_an_unknown_layer_names_the_known_ones(root: Path) -> None:
    finished = run_with("tracing", root, "-c", "import unify; unify.zeros(1)")
    assert (
        "InvalidArgument: no layer 'tracing'. Did you mean 'trace'? Known: faults leaks trace validate."
        in finished.stderr
    )


def test_layers_are_chosen_before_the_first_device_is_opened() -> None:
    un.device("cpu")
    with pytest.raises(un.errors.InvalidArgument, match="open already"):
        un._core.set_layers(["validate"])


def test_what_was_made_before_a_reset_is_refused_wherever_it_goes(root: Path) -> None:
    code = """
import unify as un
device = un.device("cpu")
old, event, later = un.Stream(device), un.Event(device, timing=True), un.Event(device, timing=True)
for made in (event, later):
    made.record(old)
with un.Graph.capture(old) as graph:
    un.zeros(4)
old.synchronize()
device.reset()
new = un.Stream(device)
for use in (lambda: new.wait(event), lambda: event.elapsed_ms(later), lambda: event.is_done, event.synchronize,
            lambda: graph.launch(new), lambda: event.record(new), lambda: new.wait(old),
            lambda: un.zeros(4, stream=old), lambda: old.host_call(print)):
    try:
        use()
    except un.errors.DeviceLost as error:
        assert "reset" in str(error), error
    else:
        raise SystemExit(f"{use} went through")
del graph, event, later, old
new.synchronize()
assert un.ones(3).tolist() == [1, 1, 1]
"""
    finished = run_with("faults,validate", root, "-c", code)
    assert finished.returncode == 0, finished.stderr
    assert "unify validate:" not in finished.stderr


def test_a_device_is_reset_while_threads_use_it(root: Path, tmp_path: Path) -> None:
    code = """
import threading
import numpy as np
import triton.language as tl
import unify as un
device = un.device("cpu")
array = np.zeros(64, np.float32)
launched, done = threading.Event(), threading.Event()
raised = []

@un.jit
def increment(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i) + 1)

def launch():
    increment[1](array, BLOCK=64)  # on the default stream
    launched.set()

def use_a_stream():
    stream = un.Stream(device)
    tensor = un.zeros(1000, stream=stream)
    other = un.zeros(1000)
    other.copy_(tensor, stream=stream)
    stream.wait(un.Stream(device).record())
    del tensor, other
    stream.synchronize()

def repeat(work):
    while not done.is_set():
        try:
            work()
        except un.errors.DeviceLost:
            pass
        except BaseException as error:
            raised.append(error)
            raise

threads = [threading.Thread(target=repeat, args=(work,)) for work in (launch, launch, use_a_stream, use_a_stream)]
for thread in threads: thread.start()
for _ in range(100):
    assert launched.wait(60), raised
    launched.clear()
    device.reset()
done.set()
for thread in threads: thread.join()
assert not raised, raised
"""
    program = tmp_path / "program.py"  # a kernel's source is read
    program.write_text(code)
    finished = run_with("faults,validate", root, str(program))
    assert finished.returncode == 0, finished.stderr
    assert "unify validate:" not in finished.stderr, finished.stderr


# The toy, whose memory does not lie as its device_info says, and whose fill answers with what is no status.
WRONG = """
#define unify_backend_get toy_backend_get
#include "{toy}"
#undef unify_backend_get
static unify_status wrong_allocate(unify_device device, const unify_allocate_args* args, unify_address* out) {{
  unify_allocate_args more = *args;
  more.bytes += 8;
  const unify_status status = memory_allocate(device, &more, out);
  if (status == UNIFY_OK) *out += 8;
  return status;
}}
static unify_status wrong_free(unify_device device, unify_memory_kind kind, unify_address address) {{
  return memory_free(device, kind, address - 8);
}}
static unify_status wrong_fill(unify_stream stream, const unify_fill_args* args) {{
  (void)stream, (void)args;
  return (unify_status)77;
}}
UNIFY_EXPORT const unify_backend* unify_backend_get(unify_backend_get_args* args) {{
  static unify_backend table;
  table = *toy_backend_get(args);
#ifdef WRONG_MEMORY
  table.memory_allocate = wrong_allocate;
  table.memory_free = wrong_free;
#else
  table.fill = wrong_fill;
  (void)wrong_allocate, (void)wrong_free;
#endif
  (void)wrong_fill;
  return &table;
}}
"""


def wrong_toy(folder: Path, define: str) -> str:
    (folder / "wrong.c").write_text(WRONG.format(toy=Path(__file__).parent / "plugin" / "toy.c"))
    return str(compile_backend(folder / "wrong.c", folder / "wrong.so", [define]))


def test_memory_that_is_not_aligned_as_the_device_says_is_refused(root: Path, tmp_path: Path) -> None:
    library = wrong_toy(tmp_path, "WRONG_MEMORY")
    finished = run_with("validate", root, "-c", "import unify; unify.ones(3, device='toy')", UNIFY_BACKEND_PATH=library)
    assert "unify validate: toy: memory_allocate: the backend gave address 0x" in finished.stderr
    assert "no multiple of the 256 bytes that its device_info says" in finished.stderr
    assert "unify/backend.h: a mistake in the backend." in finished.stderr


@pytest.mark.parametrize("layers", ["", "validate"])
def test_a_status_that_there_is_not_is_told_by_its_number(root: Path, tmp_path: Path, layers: str) -> None:
    library = wrong_toy(tmp_path, "WRONG_STATUS")
    finished = run_with(layers, root, "-c", "import unify; unify.ones(3, device='toy')", UNIFY_BACKEND_PATH=library)
    assert "the backend answered with a status that there is not, 77." in finished.stderr
