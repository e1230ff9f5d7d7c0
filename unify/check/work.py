"""One kernel for one target: compiled, looked at by the rules, and kept on disk. Runs in processes of its own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from typing import Any

from unify._config import settings
from unify._errors import CompileError, TargetError
from unify.compiler import Binary, Options, Target, cache, compile_ttir, key_of

from . import rules
from .subject import Outcome, Subject

_STAGES = {"ascend": ("lines", "linalg"), "cuda": ("ttgir",)}
_FACTS = (
    "ub_bytes", "ub_limit", "l1_bytes", "l1_limit", "l0c_bytes", "l0c_limit", "workspace_bytes", "mode",
    "double_buffered", "persistent", "registers", "spill_bytes",
)  # fmt: skip
_SHARED = ("cache_dir", "toolchain_dir", "no_cache")  # settings that a process of the pool must have from this one
_BLOCKS = 65535


@dataclass(frozen=True)
class Work:
    """What a process of the pool is given: a kernel's TTIR, and where the outcome is kept."""

    name: str
    ttir: str
    target: str
    options: dict[str, Any]
    key: str


def entry_key(source: dict[str, object], target: str, options: dict[str, Any]) -> str:
    """The name of an outcome on disk: all that decides it, these rules among it."""
    compiled = key_of(source, Target.parse(target), Options(**options))
    return hashlib.sha256(f"check {_version()} {compiled}".encode()).hexdigest()


def known(key: str) -> Outcome | None:
    """An outcome that is on disk."""
    entry = cache.load_entry(key)
    return Outcome.of(entry[0]) if entry is not None else None


def done(work: Work) -> Outcome:
    """Compiles and applies the rules. Raises TargetError; whatever else goes wrong is an outcome."""
    kind = work.target.partition(":")[0]
    try:
        stages = _STAGES.get(kind, ())
        binary = compile_ttir(
            work.name, work.ttir, Target.parse(work.target), Options(**{**work.options, "stages": stages})
        )
        lines, first = (binary.stages.get(stage, "") for stage in (*stages, "", "")[:2])
        memory = _memory(binary)
        found = rules.findings(Subject(work.ttir, work.target, memory, lines, first=first))
        outcome = Outcome(str(binary.metadata.get("status", "ok")), memory=memory, findings=found)
    except TargetError:
        raise
    except CompileError as error:
        reason = error.reason or str(error)
        found = rules.findings(Subject(work.ttir, work.target, reason=reason))
        outcome = Outcome("failed", reason, error.file, error.line, findings=found)
        if error.is_accident:
            return outcome
    except Exception as error:  # of somebody's kernel no more than this may be lost
        return Outcome("failed", f"unify's own failure: {type(error).__name__}: {error}")
    cache.store_entry(work.key, outcome.as_dict(), b"")
    return outcome


def in_processes(work: Iterable[Work], count: int) -> Iterator[tuple[Work, Outcome]]:
    """Does all of it in `count` processes, in the order in which it is done. Raises TargetError.

    work: may take its time; what it has given already is being done meanwhile. One that ends its process fails alone.
    Whoever stops early, by Ctrl-C say, ends the processes and the compilers that they run.
    """
    broken: list[Work] = []
    pending: dict[Future[Outcome], Work] = {}
    with _pool(count) as pool:
        for each in work:
            try:
                pending[pool.submit(done, each)] = each
            except BrokenProcessPool:
                broken.append(each)
        for future in as_completed(pending):
            try:
                yield pending[future], future.result()
            except BrokenProcessPool:
                broken.append(pending[future])
    for each in broken:
        with _pool(1) as pool:
            try:
                yield each, pool.submit(done, each).result()
            except BrokenProcessPool:
                yield each, Outcome("failed", "the compiler crashed")


@contextlib.contextmanager
def _pool(count: int) -> Iterator[ProcessPoolExecutor]:
    context = get_context("forkserver")  # this process may have threads, of a kernel's file say
    context.set_forkserver_preload([__name__])
    shared = {name: getattr(settings, name) for name in _SHARED}
    others = active_children()
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=(shared,))
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            if process not in others and process.pid is not None:
                with contextlib.suppress(ProcessLookupError):  # before _start
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
        raise


_entered: list[Any] = []


def _start(shared: dict[str, Any]) -> None:
    os.setpgid(0, 0)  # a group with the compilers that it runs: Ctrl-C is for the parent, which ends all of it
    signal.signal(signal.SIGTERM, lambda *_: _end())  # from a pool that lost another of its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    override = settings.override(**shared)
    override.__enter__()
    _entered.append(override)  # for as long as the process lives


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    _end()


def _end() -> None:
    os.killpg(0, signal.SIGKILL)


def _memory(binary: Binary) -> dict[str, Any]:
    found = {name: binary.metadata[name] for name in _FACTS if name in binary.metadata}
    if binary.target.startswith("ascend"):
        found["grid_limit"] = None if found.get("persistent") else _BLOCKS
    if binary.threads > 1:
        found |= {"shared_bytes": binary.shared_bytes, "threads": binary.threads}
    return found


@functools.cache
def _version() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
