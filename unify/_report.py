"""`unify compile`: kernels of a file, or all that unify ships, to binaries for some targets, and what each costs."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from triton.runtime.jit import JITFunction

from ._compile import compile
from ._config import settings
from ._errors import CompileError, Error, InvalidArgument
from .compiler import Binary, Target

_LOWERED = "lowered"  # all but the vendor's assembler, without which there is no binary
_IMAGE_SUFFIX = {"cpu": "o", "cuda": "cubin"}
_ON_CHIP = ("ub_bytes", "l1_bytes", "l0c_bytes", "workspace_bytes")
_COLUMNS = {
    "registers": "registers", "shared_bytes": "shared B", "spill_bytes": "spills B", "ub_bytes": "UB B",
    "l1_bytes": "L1 B", "l0c_bytes": "L0C B", "workspace_bytes": "workspace B", "binary_bytes": "binary B",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One kernel for one target."""

    kernel: Any
    target: str
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    title: str  # the kernel's name, and its form where it has several


@dataclass(frozen=True)
class Row:
    """What came out of a job. What the target does not count is None; so is everything if `error` says why not.

    status: "ok"; "lowered", where all but the vendor's assembler was at hand; "failed".
    """

    kernel: str
    target: str
    registers: int | None = None
    shared_bytes: int | None = None
    spill_bytes: int | None = None
    ub_bytes: int | None = None
    l1_bytes: int | None = None
    l0c_bytes: int | None = None
    workspace_bytes: int | None = None
    binary_bytes: int | None = None
    seconds: float | None = None
    status: str = "ok"
    error: str | None = None
    file: str | None = None
    line: int | None = None


def run(args: Any) -> int:
    """Runs `unify compile` and returns its exit status: 0, or 1 if a kernel did not compile."""
    jobs = _shipped(args) if args.shipped else _of_file(args)
    rows, texts = [], []
    for job in jobs:
        row, binary = compile_job(job)
        rows.append(row)
        if binary is not None and args.output is not None:
            texts += [f"{path}" for path in write(binary, Path(args.output), row.kernel)]
            if row.status == _LOWERED:
                print(
                    f"{row.kernel}, {row.target}: lowered, no binary to write: only CANN has the vendor's assembler. "
                    "--emit writes the texts: linalg, hivm.",
                    file=sys.stderr,
                )
        elif binary is not None and args.emit and not args.json:
            texts += [text if text.endswith("\n") else text + "\n" for text in binary.stages.values()]
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for text in texts:
            print(text)
        if args.report or not texts:
            show(rows)
        for row in rows:
            if row.error is not None:
                print(f"{row.kernel}, {row.target}: {row.error}", file=sys.stderr)
    return 1 if any(row.error is not None for row in rows) else 0


def compile_job(job: Job) -> tuple[Row, Binary | None]:
    """Compiles anew, so that the time is that of a first launch."""
    name = job.title
    start = time.perf_counter()
    try:
        with settings.override(no_cache=True), contextlib.redirect_stdout(sys.stderr):  # tl.static_print
            binary = compile(job.kernel, job.target, job.types, job.constants, **job.options)
    except Error as error:
        file, line = (error.file, error.line) if isinstance(error, CompileError) else (None, None)
        return Row(name, job.target, status="failed", error=str(error), file=file, line=line), None
    seconds = time.perf_counter() - start
    counts: dict[str, Any] = {column: _count(binary, column) for column in ("registers", "spill_bytes", *_ON_CHIP)}
    shared = binary.shared_bytes if binary.threads > 1 else None
    status = str(binary.metadata.get("status", "ok"))
    size = len(binary.image) if status != _LOWERED else None  # no binary yet
    row = Row(name, job.target, shared_bytes=shared, binary_bytes=size, seconds=round(seconds, 3), status=status)
    return replace(row, **counts), binary


def _count(binary: Binary, name: str) -> int | None:
    value = binary.metadata.get(name)
    return value if isinstance(value, int) else None


def write(binary: Binary, folder: Path, title: str) -> list[Path]:
    """Writes the image, where there is one, and the texts that were asked for, as title.target.suffix; returns where.

    What is lowered only is no image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{title}.{binary.target}".replace(":", "-")
    paths = []
    if binary.metadata.get("status") != _LOWERED:
        paths.append(folder / f"{stem}.{_IMAGE_SUFFIX.get(binary.target.partition(':')[0], 'bin')}")
        paths[0].write_bytes(binary.image)
    for stage, text in binary.stages.items():
        paths.append(folder / f"{stem}.{stage}")
        paths[-1].write_text(text)
    return paths


def show(rows: Sequence[Row]) -> None:
    """Prints a table, a line a kernel and target; – where the target does not count it, no column where none does."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kernel", no_wrap=True)
    table.add_column("target", no_wrap=True)
    counted = [column for column in _COLUMNS if any(getattr(row, column) is not None for row in rows)]
    for title in (*(_COLUMNS[column] for column in counted), "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        counts = [getattr(row, column) for column in counted]
        numbers = ["–" if value is None else f"{value:,}" for value in counts]
        seconds = "–" if row.seconds is None else f"{row.seconds:.2f}"
        place = f" {Path(row.file).name}:{row.line}" if row.file and row.line is not None else ""
        table.add_row(row.kernel, row.target, *numbers, seconds, {"ok": ""}.get(row.status, row.status) + place)
    failed = sum(row.error is not None for row in rows)
    caption = f"{len(rows)} compiled" if not failed else f"{failed} of {len(rows)} failed"
    if any(row.status == _LOWERED for row in rows):
        caption += "; lowered: all but the vendor's assembler, which only CANN has"
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(caption, style="italic", soft_wrap=True)


# ---- what to compile ----


def _targets(args: Any) -> list[str]:
    targets = args.target or ["cpu"]
    return [str(Target.parse(target)) for target in targets]


def _options(args: Any) -> dict[str, Any]:
    numbers = {"num_warps": args.num_warps, "num_stages": args.num_stages}
    stages = tuple(name for name in (args.emit or "").split(",") if name)
    return {name: value for name, value in numbers.items() if value is not None} | {"stages": stages}


def _shipped(args: Any) -> list[Job]:
    from .ops.signatures import signatures

    if args.file is not None:
        raise InvalidArgument(f"compile: --shipped compiles unify's own kernels, not those of {args.file}. Give one.")
    return [
        Job(row.kernel, target, row.types, row.constants, {**row.options, **_options(args)}, row.title)
        for target in _targets(args)
        for row in signatures(target)
    ]


def _of_file(args: Any) -> list[Job]:
    if args.file is None:
        raise InvalidArgument("compile: give a file with kernels, FILE.py or FILE.py:kernel, or --shipped.")
    types, constants = (
        parse_pairs(args.type),
        {name: parse_value(text) for name, text in parse_pairs(args.constant).items()},
    )
    chosen = _chosen(args.file, {*types, *constants})
    return [
        Job(kernel, target, types, constants, _options(args), kernel.fn.__name__)
        for target in _targets(args)
        for kernel in chosen
    ]


def _chosen(text: str, given: set[str]) -> list[JITFunction[Any]]:
    """The named kernel, or those of the file whose parameters all have a type or a value."""
    path, _, name = text.partition(".py:")
    file = Path(f"{path}.py" if name else text)
    kernels = load_kernels(file)
    if not kernels:
        raise InvalidArgument(f"compile: {file} has no kernel: a function under unify.jit or triton.jit.")
    known = ", ".join(kernels)
    if name:
        if name not in kernels:
            raise InvalidArgument(f"compile: {file} has no kernel {name!r}. It has {known}.")
        return [kernels[name]]
    ready = [kernel for kernel in kernels.values() if not _lacking(kernel, given)]
    if not ready:
        lacking = "".join(f"\n  {name} lacks {', '.join(_lacking(k, given))}" for name, k in kernels.items())
        raise InvalidArgument(
            f"compile: no kernel of {file} has a type for each parameter.{lacking}\n  Annotate the parameters, "
            'x: "*fp16", n: "i32", or give --type x=*fp16 --constant BLOCK=128. `unify check` takes '
            "an autotuner's constants."
        )
    return list({id(kernel): kernel for kernel in ready}.values())  # one may have two names


def _lacking(kernel: JITFunction[Any], given: set[str]) -> list[str]:
    """The parameters that have neither a type nor a value."""

    def is_known(parameter: Any) -> bool:
        has_value = parameter.has_default if parameter.is_constexpr else bool(parameter.annotation)
        return parameter.name in given or has_value

    return [p.name if not p.is_constexpr else f"{p.name} (a constexpr)" for p in kernel.params if not is_known(p)]


def load_kernels(file: Path) -> dict[str, JITFunction[Any]]:
    """Runs a Python file, as import does, and returns the kernels that it defines. Raises InvalidArgument."""
    return kernels_of(load(file))


def load(file: Path) -> ModuleType:
    """Imports a Python file, by its package's name if it is in one. What it prints goes to standard error.

    Raises InvalidArgument where that fails.
    """
    if not file.is_file() or file.suffix != ".py":
        wrong = "is not a Python file" if file.exists() else "does not exist"
        raise InvalidArgument(f"compile: {file} {wrong}. Give FILE.py or FILE.py:kernel.")
    try:
        with contextlib.redirect_stdout(sys.stderr), _arguments([str(file)]):
            return _of_package(file.resolve()) or _alone(file.resolve())
    except Error:
        raise
    except SystemExit as error:
        raise InvalidArgument(
            f"compile: {file} ended with status {error.code or 0} while it was imported. Put what ends it under "
            'if __name__ == "__main__".'
        ) from None
    except Exception as error:
        raise InvalidArgument(f"compile: {file} cannot be imported: {type(error).__name__}: {error}.") from error


def _of_package(file: Path) -> ModuleType | None:
    """The file as a module of its package; None if it is in none, or in one that is not imported from there."""
    folder, names = file.parent, [file.stem]
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    parent = ".".join(names[:-1])
    if not parent or file.stem == "__init__":
        return None
    with _first_on_path(folder):
        try:
            package = importlib.import_module(parent)
        except (Exception, SystemExit):  # it may want a chip; the file by itself may not
            return None
        if str(file.parent) not in map(os.path.realpath, package.__path__):
            return None
        return importlib.import_module(f"{parent}.{file.stem}")


def _alone(file: Path) -> ModuleType:
    # Kernels look for their globals in sys.modules, where another module may have the file's plain name.
    name = f"{file.stem.replace('.', '_')}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with _first_on_path(file.parent):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _arguments(argv: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, argv  # a script would read the command's as its own
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def kernels_of(module: ModuleType) -> dict[str, JITFunction[Any]]:
    """The kernels that a module defines itself, by the names that it has for them."""
    kernels = {name: _kernel(value) for name, value in vars(module).items()}
    return {name: k for name, k in kernels.items() if k is not None and k.fn.__module__ == module.__name__}


def _kernel(value: Any) -> JITFunction[Any] | None:
    """A kernel, also one that triton.autotune or triton.heuristics stands around."""
    for _ in range(8):
        if isinstance(value, JITFunction):
            return value
        if type(value).__module__.partition(".")[0] not in ("triton", "unify"):
            return None
        value = getattr(value, "kernel", None) or getattr(value, "fn", None)
    return None


def parse_pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """Reads NAME=VALUE, each once. Raises InvalidArgument."""
    pairs = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise InvalidArgument(f"compile: {text!r} is not NAME=VALUE.")
        pairs[name] = value
    return pairs


def parse_value(text: str) -> Any:
    """A number, True, a tuple, as Python writes them; anything else is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
