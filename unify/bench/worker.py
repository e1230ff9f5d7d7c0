"""The process in which one side runs: reads one JSON request a line, answers one JSON line.

    {"do": "build", "case": …, "file": …, "side": …, "setup": {…}, "cpus": […]}  →  {"ok": true}
    {"do": "sample", "calls": n, "warm_calls": m}  →  {"cost": seconds or bytes of one call}
    {"do": "result"}                               →  {"shape": […], "values": [512 at most]}
    {"do": "limits", "threads": n, "cpus": […]}    →  {"limits": {…}}
    {"do": "device", "name": …}                    →  {"simulated": true or false}

A side in a process of its own keeps its thread pool, its allocator and its memory to itself; the parent stops the
process (SIGSTOP) while the other side is measured, so that spinning threads cannot take the other side's cores.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from unify._errors import Error

from .case import Setup, Side
from .timing import timed

RESULT_VALUES = 512
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves requests until standard input ends."""
    _die_with_parent()
    requests, answers = sys.stdin, _private_stdout()
    server = _Server()
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(server, "do_" + request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": _describe(error), "traceback": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _die_with_parent() -> None:
    # A stopped child would outlive a killed parent for ever; SIGKILL reaches stopped processes too (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _private_stdout() -> TextIO:
    """The pipe to the parent; whatever the libraries print goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, Error) else f"{type(error).__name__}: {error}"


def sampled_values(side: Side) -> dict[str, Any]:
    """Shape and at most 512 values of what a side's work gave; a shape of None where it says nothing."""
    import numpy as np

    if side.result is None:
        return {"shape": None, "values": []}
    values = np.asarray(side.result())
    stride = -(-values.size // RESULT_VALUES) | 1  # odd, so that it meets every column of a power of two
    return {"shape": list(values.shape), "values": values.ravel()[::stride].astype(np.float64).tolist()}


class _Server:
    def __init__(self) -> None:
        self.side = Side()

    def do_build(self, case: str, file: str, side: str, setup: dict[str, Any], cpus: list[int]) -> dict[str, Any]:
        from .cases import case_of

        os.sched_setaffinity(0, cpus)
        model = setup.pop("model")
        self.side = case_of(case, file).side(side)(Setup(model=Path(model) if model else None, **setup))
        return {"ok": True}

    def do_sample(self, calls: int, warm_calls: int) -> dict[str, Any]:
        side = self.side
        if side.cost is not None:
            return {"cost": side.cost(calls)}
        side.before()
        if warm_calls:
            timed(side.step, side.finish, warm_calls)
            side.before()
        return {"cost": timed(side.step, side.finish, calls)}

    def do_result(self) -> dict[str, Any]:
        return sampled_values(self.side)

    def do_limits(self, threads: int, cpus: list[int]) -> dict[str, Any]:
        from .roofline import measure

        os.sched_setaffinity(0, cpus)
        return {"limits": measure(threads).as_dict()}

    def do_device(self, name: str) -> dict[str, Any]:
        import unify

        return {"simulated": bool(unify.device(name).properties["simulated"])}


if __name__ == "__main__":
    main()
