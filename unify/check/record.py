"""A program's launches, recorded while it runs on the CPU: which kernels, for which types and constants, on what grid.

`of_program` starts the program in a process of its own, whose main module this is. There each new kind of launch is
written down as a line of JSON, with the kernel's TTIR for each kind of target: its source may not be found again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unify._config import environment
from unify._errors import InvalidArgument

from .subject import Kernel, Outcome, Variant

_OPTIONS = ("num_warps", "num_stages", "num_ctas")


def of_program(command: list[str], targets: list[str]) -> tuple[list[Kernel], dict[str, str]]:
    """Runs a Python program with its arguments, and returns the kernels that it launched; and those that cannot be
    checked, with the reason. What the program prints goes to standard error. Raises InvalidArgument if it fails.
    """
    program = Path(command[0])
    if not program.is_file():
        raise InvalidArgument(f"check: no program {program}. Give --run PROGRAM.py, and its arguments behind it.")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "launches")
        out.touch()
        variables = {**environment(), "TRITON_DEFAULT_BACKEND": "cpu", "UNIFY_DEVICE": "cpu"}
        finished = subprocess.run(  # noqa: S603 - what the user asked for, by this Python
            [sys.executable, "-m", __name__, str(out), ",".join(targets), *command],
            stdout=2, env=variables, check=False,
        )  # fmt: skip
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    if finished.returncode:
        raise InvalidArgument(f"check: {program} ended with status {finished.returncode}, on the CPU.")
    return _kernels(lines), {line["name"]: line["reason"] for line in lines if line["kind"] == "problem"}


def _kernels(lines: list[dict[str, Any]]) -> list[Kernel]:
    grids: dict[str, dict[str, tuple[int, int, int]]] = {}
    for line in lines:
        if line["kind"] == "grid":
            x, y, z = line["grid"]
            grids.setdefault(line["id"], {})[line["largest"]] = (x, y, z)
    found: dict[tuple[str, str, int, bool], list[dict[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "variant":
            where = (line["name"], line["file"], line["line"], not line["is_tuned"])
            found.setdefault(where, []).append(line)
    return [
        Kernel(*where[:3], tuple(_variant(v, v["constants"] | apart, grids) for v, apart in _apart(variants)),
               needs_all=where[3])
        for where, variants in found.items()
    ]  # fmt: skip


def _apart(variants: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Each variant with what differs between them besides constants: types, and the options of a GPU."""
    told = [{**line["types"], **line["options"]} for line in variants]
    names = dict.fromkeys(name for each in told for name in each)
    differs = [name for name in names if len({str(each.get(name)) for each in told}) > 1]
    for line, each in zip(variants, told, strict=True):
        yield line, {name: str(each[name]) for name in differs if name in each}


def _variant(
    line: dict[str, Any], constants: dict[str, str], grids: dict[str, dict[str, tuple[int, int, int]]]
) -> Variant:
    from .collect import front

    def ttir(target: str) -> str | Outcome:
        told = line["ttir"][front(target)]
        return told if isinstance(told, str) else Outcome.of(told)

    def key(target: str) -> dict[str, object]:
        return {"ttir": line["ttir"][front(target)]}

    seen = dict.fromkeys(grids.get(line["id"], {}).values())
    return Variant(constants, line["options"], key, ttir, tuple(seen))


# ---------------------------------------------------------------- in the program's process


def main(argv: list[str]) -> None:
    """Runs the program as Python would, with its launches recorded. argv: the file to write to, targets, program."""
    out, targets, program, *_ = argv
    sys.argv = argv[2:]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(program).resolve().parent)
    _Recorder(Path(out), targets.split(",")).install()
    runpy.run_path(program, run_name="__main__")


class _Recorder:
    def __init__(self, out: Path, targets: list[str]) -> None:
        from .collect import front

        self._out = os.open(out, os.O_WRONLY | os.O_APPEND)
        self._fronts = sorted({front(target) for target in targets})
        self._grids: dict[str, dict[str, int]] = {}
        self._problems: set[str] = set()
        self._tuning = threading.local()
        self._lock = threading.Lock()

    def install(self) -> None:
        """Stands before each launch from now on, of Triton's kernels and of ours."""
        import triton.runtime.autotuner
        from triton.runtime.jit import JITFunction

        import unify._kernel
        import unify.triton

        unify.triton.activate()  # puts itself there first
        for launched in (JITFunction, unify._kernel.Kernel):
            launched.__getitem__ = self._getitem(launched.__getitem__)  # type: ignore[method-assign]
        JITFunction.run = self._run(JITFunction.run)
        autotuner, ours = triton.runtime.autotuner.Autotuner, unify._kernel.TunedKernel
        autotuner.run = self._tuned(autotuner.run)
        ours._launch_tuned = self._tuned(ours._launch_tuned)  # type: ignore[method-assign]

    def _getitem(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def getitem(kernel: Any, grid: Any) -> Callable[..., Any]:
            launcher = original(kernel, grid)

            def launch(*args: Any, **kwargs: Any) -> Any:
                self._note(kernel, grid, args, kwargs)
                return launcher(*args, **kwargs)

            return launch

        return getitem

    def _run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
            self._note(kernel, None if warmup else grid, args, kwargs)  # what is warmed up may be launched by itself
            return original(kernel, *args, grid=grid, warmup=warmup, **kwargs)

        return run

    def _tuned(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def tuned(*args: Any, **kwargs: Any) -> Any:
            with self._in_tuner():
                return original(*args, **kwargs)

        return tuned

    @contextlib.contextmanager
    def _in_tuner(self) -> Iterator[None]:
        before = getattr(self._tuning, "is_on", False)
        self._tuning.is_on = True
        try:
            yield
        finally:
            self._tuning.is_on = before

    def _note(self, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            with self._lock:
                self._record(kernel, grid, args, kwargs)
        except Exception as error:  # the program goes on as if nobody watched
            name = kernel.fn.__name__
            if name not in self._problems:
                self._problems.add(name)
                self._write({"kind": "problem", "name": name, "reason": f"{type(error).__name__}: {error}"})

    def _record(self, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        from triton.runtime import driver

        given = {name: value for name, value in kwargs.items() if name != "stream"}
        *_, binder = kernel.device_caches[driver.active.get_current_device()]
        bound, kinds, options = binder(*args, **given)
        types = {p.name: kind[0] for p, kind in zip(kernel.params, kinds)}
        if strange := [name for name, type_ in types.items() if not isinstance(type_, str)]:
            raise InvalidArgument(f"parameter {strange[0]!r} is a tuple, which only a launch can lay out")
        constants = {name: bound[name] for name, type_ in types.items() if type_ == "constexpr"}
        aligned = [p.name for p, kind in zip(kernel.params, kinds) if isinstance(kind[1], str) and "D" in kind[1]]
        chosen = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
        shown = {name: str(getattr(value, "__name__", value)) for name, value in constants.items()}
        identity = json.dumps([id(kernel), types, shown, aligned, chosen])
        if identity not in self._grids:
            self._grids[identity] = {"programs": 0, "axis": 1}
            self._write(
                {"kind": "variant", "id": identity, **self._described(kernel, types, constants, aligned, chosen)}
            )
        x, y, z = _extents(grid, bound) if grid is not None else (0, 0, 0)
        largest = self._grids[identity]
        for which, size in (("programs", x * y * z), ("axis", max(y, z))):  # each has a limit somewhere
            if size > largest[which] and x * y * z > 0:
                largest[which] = size
                self._write({"kind": "grid", "id": identity, "largest": which, "grid": [x, y, z]})

    def _described(
        self, kernel: Any, types: dict[str, str], constants: dict[str, Any], aligned: list[str], options: dict[str, Any]
    ) -> dict[str, Any]:
        from unify.compiler import Specialization

        from .collect import variant_of

        given = {p.name for p in kernel.params if p.is_constexpr}
        specialization = Specialization(types, constants, frozenset(aligned))
        variant = variant_of(kernel, specialization, options, names=given)
        texts = {front: variant.ttir(front) for front in self._fronts}

        def told(name: str) -> str:  # None and 1 are constants also where the kernel does not ask for it
            return str(constants[name]) if name in constants else types[name] + ":16" * (name in aligned)

        code = kernel.fn.__code__
        return {
            "name": kernel.fn.__name__,
            "file": code.co_filename,
            "line": code.co_firstlineno,
            "is_tuned": getattr(self._tuning, "is_on", False),
            "constants": variant.constants if given else {},
            "types": {name: told(name) for name in types if name not in given},
            "options": options,
            "ttir": {front: asdict(text) if isinstance(text, Outcome) else text for front, text in texts.items()},
        }

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._out, json.dumps(line).encode() + b"\n")


def _extents(grid: Any, bound: dict[str, Any]) -> tuple[int, int, int]:
    grid = grid(bound) if callable(grid) else grid
    extents = [int(grid)] if isinstance(grid, int) else [int(extent) for extent in grid]
    x, y, z, *_ = [*extents, 1, 1, 1]
    return x, y, z


if __name__ == "__main__":
    main(sys.argv[1:])
