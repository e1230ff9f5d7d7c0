"""Triton's own interpreter as a process: pickled (kernel file, arrays, n) on stdin, the arrays it left on stdout.

Triton chooses between interpreting and compiling when it is imported, so one process cannot do both.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any


def kernel_of(path: Path) -> Any:
    """The function `program` of a Python file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.program


class Interpreter:
    """Runs kernels in the other process; a kernel's error is raised here."""

    def __enter__(self) -> Interpreter:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TRITON_INTERPRET": "1"},
        )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.communicate()  # closes stdin, at which it ends

    def run(self, path: Path, arrays: list[Any], n: int) -> list[Any]:
        """The arrays after two programs of the kernel in `path`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump((path, arrays, n), self.process.stdin)
        self.process.stdin.flush()
        answer = pickle.load(self.process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


def serve() -> None:
    import torch

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a kernel prints is no answer
    while sys.stdin.buffer.peek(1):
        path, arrays, n = pickle.load(sys.stdin.buffer)
        tensors = [torch.from_numpy(a) for a in arrays]
        try:
            kernel_of(path)[(2,)](*tensors, n)
            pickle.dump([t.numpy() for t in tensors], answers)
        except Exception as error:
            pickle.dump(RuntimeError(f"{path}: {error!r}"), answers)
        answers.flush()


if __name__ == "__main__":
    serve()
