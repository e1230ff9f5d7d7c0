"""What simulated chips do alike, whoever's they are. Beside it stand test_cuda.py and test_simulated_ascend.py."""

from __future__ import annotations

import json
import os

import pytest

from .conftest import Run
from .installed import NEEDS_ASCEND
from .programs import Program

PRELUDE = """
import gc, os
import unify as un

target = os.environ["TARGET"]
simulation = un.simulate(target, memory_bytes=256 << 20)
device = un.device(target.partition(":")[0] + ":0")

"""
TARGETS = pytest.mark.parametrize("target", ["cuda:90", pytest.param("ascend:910B3", marks=NEEDS_ASCEND)])


@TARGETS
def test_a_language_model_says_the_same_as_on_the_cpu(python: Run, target: str) -> None:
    command = ["-m", "unify", "generate", "--prompt", "The capital of France is", "--max-tokens", "24", "--greedy"]
    devices = ["cpu", target.partition(":")[0] + ":0"]
    answers = []
    for device, simulated in zip(devices, ("", f"{target},2g"), strict=True):
        finished = python(*command, "--json", "--device", device, env={**os.environ, "UNIFY_SIMULATE": simulated})
        assert finished.returncode == 0, finished.stderr
        answers.append(json.loads(finished.stdout))
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert [answer["device"] for answer in answers] == devices
    assert "Paris" in answers[1]["text"]


@TARGETS
def test_pinned_memory_outlives_a_reset(program: Program, target: str) -> None:
    code = """
        pinned = un.empty_pinned(4, un.float32, device)
        view = pinned.numpy()
        view[:] = 7
        held = simulation.live()["pinned_bytes"]
        device.reset()
        print(view.tolist(), held > 0)
        del pinned, view
        gc.collect()
        print(un.ones(2, un.float32, device).tolist(), simulation.live()["pinned_bytes"])
    """
    printed = program(code, environment={"TARGET": target})
    assert printed == ["[7.0, 7.0, 7.0, 7.0] True", "[1.0, 1.0] 0"]


@TARGETS
def test_a_token_of_another_container_may_have_the_number_of_this_process(program: Program, target: str) -> None:
    child = """
    import os, sys
    import unify as un
    un.simulate(os.environ["TARGET"])
    x = un.full(4, 7, un.int32, os.environ["TARGET"].partition(":")[0] + ":0")
    print(x.share().hex(), flush=True)
    sys.stdin.readline()
    """
    code = f"""
    import struct, subprocess, textwrap
    command = [sys.executable, "-c", textwrap.dedent({child!r})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        token = bytes.fromhex(other.stdout.readline())
        place = token.index(struct.pack("<i", other.pid))  # as each container counts processes of its own
        token = token[:place] + struct.pack("<i", os.getpid()) + token[place + 4:]
        print(un.Tensor.from_shared(token).tolist())
        other.communicate("end\\n")
    """
    assert program(code, environment={"TARGET": target}) == ["[7, 7, 7, 7]"]
