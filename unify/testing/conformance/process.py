"""Programs on the device under test in processes of their own, to see how they fork, end and share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import unify as un
from unify._config import environment
from unify._device import backends

LIMIT_S = 120

_START = """
import os, signal, sys, threading, time
import unify as un
if sys.argv[2] != "built in":
    un.add_backend(sys.argv[2])  # may be known by an entry point too
device = un.device(sys.argv[1])
"""


def run(device: un.Device, code: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that has the device as `device`. Raises TimeoutExpired if it hangs."""
    command = _command(device, code)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_variables(), timeout=LIMIT_S)


class Child:
    """A program under way that is talked to by lines: it has `say` and `hear` too."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def say(self, line: str) -> None:
        """Writes a line to the program."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def hear(self) -> str:
        """The program's next line. Fails with what it has to say of its end, if that comes first."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate(timeout=LIMIT_S)[1]
        return line.rstrip("\n")


@contextlib.contextmanager
def start(device: un.Device, code: str, *arguments: str, **variables: str) -> Iterator[Child]:
    """Starts a program as run() does, and expects that it ends well and has nothing more to say."""
    command = [*_command(device, _TALK + textwrap.dedent(code)), *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_variables() | variables,
    ) as process:
        try:
            yield Child(process)
            rest = process.communicate(timeout=LIMIT_S)
        except BaseException:
            process.kill()
            raise
        assert (process.returncode, *rest) == (0, "", "")


_TALK = f"""
signal.alarm({LIMIT_S})  # a hang ends, and is a failure
hear = input
def say(*words):
    print(*words, flush=True)
"""


def _command(device: un.Device, code: str) -> list[str]:
    library = next(status.library for status in backends() if status.name == device.kind)
    program = _START + textwrap.dedent(code)
    # A fork of a process with threads is what some programs are about; Python 3.12 warns of it.
    return [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, device.name, library]


def _variables() -> dict[str, str]:
    variables = environment()
    root = str(Path(un.__file__).parents[1])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH", "")]))
    return variables
