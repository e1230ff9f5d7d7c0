"""Programs with torch_npu, each in a process of its own that does not import torch: it is forked off one that has it.

To import torch takes as long as most of the tests' programs do. torch_npu and the simulated libraries are loaded in the
program's process only.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PRELOADED = ("torch", "torch.distributed.tensor", "torch.testing")  # what torch_npu imports takes as long again
_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_WRITTEN = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Program:
    """A program that runs. `out` and `err` are files with what it printed so far."""

    def __init__(self, server: ForkServer, pid: int, out: Path, err: Path) -> None:
        self._server = server
        self.pid = pid
        self.out, self.err = out, err
        self.returncode: int | None = None

    def wait(self, timeout: float) -> int:
        """Returns its status, or minus the signal that ended it. Raises TimeoutError; it is killed then."""
        if self.returncode is None:
            try:
                self.returncode = self._server.ask({"wait": self.pid}, timeout)
            except TimeoutError:
                os.kill(self.pid, signal.SIGKILL)
                self.returncode = self._server.answer(10)
                raise
        return self.returncode

    def kill(self) -> None:
        """Ends it, if it has not ended."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(10)


class ForkServer:
    """The process that has torch. environment: of all its programs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**environment, _AUTOLOAD: "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def start(self, file: Path, arguments: list[str], environment: dict[str, str], name: str = "") -> Program:
        """Starts a program in its folder. name: of the files there with what it prints."""
        out, err = (file.with_name(f"{name or file.name}.{stream}") for stream in ("out", "err"))
        asked = {
            "file": str(file),
            "arguments": arguments,
            "environment": environment,
            "out": str(out),
            "err": str(err),
        }
        return Program(self, self.ask(asked, 60), out, err)

    def ask(self, request: dict[str, Any], timeout: float) -> int:
        """Sends a request, and returns the number that comes."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return self.answer(timeout)

    def answer(self, timeout: float) -> int:
        """The next number that comes."""
        assert self._process.stdout is not None
        line, deadline = b"", time.monotonic() + timeout
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"the program has not ended after {timeout} s")
            part = os.read(self._process.stdout.fileno(), 1)
            assert part, f"the fork server ended: {self._process.wait(10)}"
            line += part
        return int(line)

    def close(self) -> None:
        """Ends the server; its programs have ended."""
        self._process.communicate(timeout=30)


def _serve() -> dict[str, Any]:
    """Answers requests; returns in a child, with what is to be run there."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), file=answers, flush=True)
            continue
        child = os.fork()
        if child == 0:
            answers.close()
            return request
        print(child, file=answers, flush=True)
    sys.exit(0)


def _become(request: dict[str, Any]) -> str:
    """Makes this process the one that Python would start for a program; returns the program's path."""
    streams = ((os.devnull, os.O_RDONLY), (request["out"], _WRITTEN), (request["err"], _WRITTEN))
    for number, (stream, flags) in enumerate(streams):
        file = os.open(stream, flags, 0o600)
        os.dup2(file, number)
        os.close(file)
    path = Path(request["file"])
    os.chdir(path.parent)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [path.name, *request["arguments"]]
    sys.path[0] = str(path.parent)
    return str(path)


if __name__ == "__main__":
    for _module in _PRELOADED:
        importlib.import_module(_module)
    __file__ = _become(_serve())
    importlib.import_module("torch")._import_device_backends()
    exec(compile(Path(__file__).read_text(), __file__, "exec"))
