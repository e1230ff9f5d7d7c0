"""The parent's handle on a worker process, the cores both sides share, and how busy others keep those cores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from unify._config import environment
from unify._errors import Error, InvalidArgument

from .case import Case, Setup

# Every pool a peer may bring reads one of these before its first use.
_THREAD_VARIABLES = ("UNIFY_CPU_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STDERR_LINES = 12


def physical_cpus() -> list[int]:
    """One cpu of each physical core that this process may use, in order."""
    chosen: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text().strip() if siblings.exists() else str(cpu)
        chosen.setdefault(core, cpu)
    return sorted(chosen.values())


def choose_cpus(threads: int) -> list[int]:
    """The cores for `threads` threads, 0 for all: the last ones, since the first serve most interrupts."""
    available = physical_cpus()
    if threads > len(available) or threads < 0:
        raise InvalidArgument(f"bench: {threads} threads asked, this process may use {len(available)} cores.")
    return available[-threads:] if threads else available


class Worker:
    """One side in a process of its own, stopped whenever it is not its turn."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unify.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True, encoding="utf-8",
            env=environment() | dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def __enter__(self) -> Worker:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the process."""
        self.close()

    def close(self) -> None:
        """Ends the process, stopped or not."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                pipe.close()

    def build(self, case: Case, side: str, setup: Setup, cpus: Sequence[int]) -> None:
        """Builds a side. Raises what the side raised, as an Error that names case and side."""
        plain = asdict(setup) | {"model": None if setup.model is None else str(setup.model)}
        self._ask(do="build", case=case.name, file=case.file, side=side, setup=plain, cpus=list(cpus))

    def sample(self, calls: int, warm_calls: int) -> float:
        """See timing.Sampler."""
        return float(self._ask(do="sample", calls=calls, warm_calls=warm_calls)["cost"])

    def result(self) -> dict[str, Any]:
        """The shape and up to 512 values of what the side computed."""
        return self._ask(do="result")

    def limits(self, threads: int, cpus: Sequence[int]) -> dict[str, Any]:
        """The machine's limits, measured in the worker."""
        limits: dict[str, Any] = self._ask(do="limits", threads=threads, cpus=list(cpus))["limits"]
        return limits

    def is_simulated(self, device: str) -> bool:
        """Whether the device is simulated; opens it in the worker."""
        return bool(self._ask(do="device", name=device)["simulated"])

    def cpu_seconds(self) -> float:
        """Processor time that the process and its ended children have used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, cutime, cstime (proc(5))

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.send_signal(signal.SIGCONT)
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            self._process.send_signal(signal.SIGSTOP)
        except (BrokenPipeError, ProcessLookupError):
            line = ""
        if not line:
            raise Error(f"{self._name}: its process ended with status {self._process.wait()}.\n{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Error(f"{self._name}: {answer['error']}", advice=answer["traceback"])
        return answer

    def _last_words(self) -> str:
        self._stderr.seek(0)
        return "\n".join(self._stderr.read().decode(errors="replace").splitlines()[-_STDERR_LINES:])


class NeighbourLoad:
    """Counts the cores that other programs used on `cpus` between two moments."""

    def __init__(self, cpus: Sequence[int], workers: Sequence[Worker]) -> None:
        self._cpus, self._workers = cpus, workers
        self._start = self._read()

    def _read(self) -> tuple[float, float, float]:
        busy, total = busy_seconds(Path("/proc/stat").read_text(), self._cpus)
        return busy, total, sum(worker.cpu_seconds() for worker in self._workers)

    def cores(self) -> float:
        """Cores in use by others since the beginning, on average: 0 on a quiet machine."""
        busy, total, own = (now - then for now, then in zip(self._read(), self._start, strict=True))
        wall = total / len(self._cpus)
        return max(0.0, busy - own) / wall if wall else 0.0


def busy_seconds(stat: str, cpus: Sequence[int]) -> tuple[float, float]:
    """Seconds that `cpus` were busy, and that passed on them in all. stat: the text of /proc/stat."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    busy = total = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name in wanted:
            ticks = [int(field) for field in fields[:8]]  # guest time is counted in user time already (proc(5))
            total += sum(ticks)
            busy += sum(ticks) - ticks[3] - ticks[4]  # all but idle and iowait
    rate = os.sysconf("SC_CLK_TCK")
    return busy / rate, total / rate
