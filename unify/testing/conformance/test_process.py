"""Processes: how one ends with work under way, and what its children may do."""

from __future__ import annotations

import pytest

import unify as un
from unify.testing.conformance.process import run

ENDINGS = {
    "the_end": "",
    "sys_exit": "sys.exit(0)",
    "os_exit": "sys.stdout.flush(); os._exit(0)",
}
ALIVE = {
    "nothing": "",
    "tensors": "kept = [un.ones(1 << size, un.uint8, device) for size in range(22)]",
    "streams_and_events": """
streams = [un.Stream(device) for _ in range(8)]
events = [stream.record() for stream in streams] + [un.Event(device, timing=True)]
""",
    "a_graph": """
tensor, stream = un.zeros(1000, un.uint8, device), un.Stream(device)
device.synchronize()
with un.Graph.capture(stream) as graph:
    tensor.fill_(7)
graph.launch(stream)
""",
    "work_under_way": """
streams = [un.Stream(device) for _ in range(4)]
tensors = [[un.empty(1 << 22, un.uint8, device, stream=stream) for _ in range(2)] for stream in streams]
for _ in range(20):
    for stream, (a, b) in zip(streams, tensors):
        a.fill_(1, stream=stream)
        b.copy_(a, stream=stream)
""",
    "an_object_in_a_cycle": """
class Owner: pass
owner = Owner()
owner.itself, owner.tensor, owner.stream = owner, un.ones(1000, un.uint8, device), un.Stream(device)
""",
}


@pytest.mark.parametrize("alive", ALIVE)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_in_silence(device: un.Device, alive: str, ending: str) -> None:
    finished = run(device, ALIVE[alive] + "\n" + ENDINGS[ending])
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


@pytest.mark.needs("host_calls", support="native")
def test_a_process_ends_with_a_host_call_under_way(device: un.Device) -> None:
    finished = run(device, "stream = un.Stream(device)\nstream.host_call(lambda: time.sleep(0.2))")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_an_exception_is_what_a_process_ends_with(device: un.Device) -> None:
    finished = run(device, "tensor = un.ones(3, un.uint8, device)\nraise KeyError('the last word')")
    assert finished.returncode == 1
    assert finished.stderr.rstrip().endswith("KeyError: 'the last word'")


FORK = """
{before}
child = os.fork()
if child == 0:
    signal.alarm(30)  # a hang is a failure
    try:
        works = un.ones(3, un.int8, device).tolist() == [1, 1, 1]
        status = 0 if works else 3
    except un.errors.Error:
        status = 0
    {end}
status = os.waitpid(child, 0)[1]
assert status == 0, f"the child ended with {{os.waitstatus_to_exitcode(status)}}"
assert un.ones(3, un.int8, device).tolist() == [1, 1, 1]  # the parent goes on
print("done")
"""


@pytest.mark.parametrize("end", ["os._exit(status)", "sys.exit(status)"])
@pytest.mark.parametrize("before", ["", "tensor = un.ones(3, un.int8, device); tensor.numpy()", "device.synchronize()"])
def test_a_child_of_a_fork_works_or_is_told_and_never_hangs(device: un.Device, before: str, end: str) -> None:
    finished = run(device, FORK.format(before=before, end=end))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "done\n"


def test_a_child_drops_what_its_parent_made(device: un.Device) -> None:
    code = """
    tensor, stream = un.ones(1000, un.int8, device), un.Stream(device)
    event = stream.record()
    tensor.numpy()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        del tensor, event, stream
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert tensor.tolist() == [1] * 1000
    """
    finished = run(device, code)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_child_that_is_started_anew_uses_the_device_too(device: un.Device) -> None:
    code = """
    import subprocess
    tensor = un.ones(3, un.int8, device)
    if len(sys.argv) == 3:
        subprocess.run([sys.executable, "-c", sys.orig_argv[4], *sys.argv[1:], "child"], check=True, timeout=60)
    assert tensor.tolist() == [1, 1, 1]
    """
    finished = run(device, code)
    assert (finished.returncode, finished.stderr) == (0, "")
