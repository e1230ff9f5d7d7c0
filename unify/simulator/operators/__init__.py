"""The library of operators in libopapi's place: torch's own on the CPU do the arithmetic.

It is compiled with the headers of the torch that a program uses, once for each version of it and of these sources.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from unify._config import settings
from unify._errors import InvalidArgument, TargetError

_INCLUDE = Path(__file__).parents[2] / "include"
_COMPILE = ("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
_MANY = 8  # sources from which on it pays to compile the headers by themselves
NAME = "libunify_simulated_operators.so"
UNFINISHED = ".installing-"  # what a folder is called until all of it is there


def library(torch: Path, ascendcl: Path, *, said: Callable[[str], None] = lambda _: None) -> Path:
    """Returns the library for a torch, made of the sources here on the first call, which takes some minutes.

    torch: the folder of its package; ascendcl: the simulated libascendcl.so; said: told what is compiled. Raises
    InvalidArgument for a torch without headers, TargetError where there is no C++ compiler or it refuses a file.
    """
    return _made(torch, ascendcl, sorted(Path(__file__).parent.glob("*.cpp")), said)


def extension(
    torch: Path, ascendcl: Path, base: Path, sources: Sequence[Path], *, said: Callable[[str], None] = lambda _: None
) -> Path:
    """Returns a library of the caller's own operators, which is loaded with `base`, made by `library`.

    sources: C++ files, as the ones here are. Where both have an operator, a program gets the caller's. Raises as
    `library`, and InvalidArgument for a file that is not there.
    """
    for path in sources:
        if not path.is_file():
            raise InvalidArgument(f"operators: {path} is not there; UNIFY_SIMULATED_OPERATORS names C++ files.")
    return _made(torch, ascendcl, list(sources), said, base)


def _made(
    torch: Path, ascendcl: Path, sources: list[Path], said: Callable[[str], None], base: Path | None = None
) -> Path:
    if not (torch / "include" / "ATen").is_dir():
        raise InvalidArgument(f"operators: {torch} has no include/ATen: it is not the folder of a torch package.")
    compiler = _compiler()
    root = Path(settings.toolchain_dir) / "torch_npu"
    made = root / f"operators-{_key(torch, compiler, sources, base)}" / NAME
    if made.exists():
        return made
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=root, prefix=UNFINISHED) as scratch:
        built = _build(Path(scratch), torch, [ascendcl, *([base] if base else [])], compiler, sources, said)
        with contextlib.suppress(OSError):  # another process was faster
            built.parent.rename(made.parent)
    return made


def _build(
    scratch: Path,
    torch: Path,
    linked: list[Path],
    compiler: list[str],
    sources: list[Path],
    said: Callable[[str], None],
) -> Path:
    include = [f"-isystem{torch / 'include'}", f"-I{_INCLUDE}", f"-I{Path(__file__).parent}"]
    if len(sources) >= _MANY:  # ATen's headers take longer than what is behind them
        header = scratch / "all.h"
        header.write_text('#include <ATen/Functions.h>\n#include "operator.h"\n')
        said("headers")
        _run([*compiler, *_COMPILE, *include, "-x", "c++-header", str(header), "-o", f"{header}.gch"])
        include += ["-include", str(header)]
    objects = {source: scratch / f"{number}.o" for number, source in enumerate(sources)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {
            pool.submit(_run, [*compiler, *_COMPILE, *include, "-c", str(source), "-o", str(made)]): source
            for source, made in objects.items()
        }
        for number, future in enumerate(as_completed(futures), 1):
            future.result()
            said(f"[{number}/{len(sources)}] {futures[future].name}")
    whole = scratch / "whole"
    whole.mkdir()
    link = ["-shared", *map(str, objects.values()), "-o", str(whole / NAME), "-Wl,--no-as-needed"]
    libraries = [*map(str, linked), f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
    _run([*compiler, *link, *libraries])
    return whole / NAME


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX", "c++"))
    if not command or shutil.which(command[0]) is None:
        raise TargetError(
            f"operators: the C++ compiler {command[0] if command else ''!r} is not there. Install one (g++ 10 or clang "
            "12, or newer), or name it in CXX."
        )
    return command


def _key(torch: Path, compiler: list[str], sources: list[Path], base: Path | None) -> str:
    digest = hashlib.sha256(" ".join([str(torch), str(base), *compiler, *_COMPILE]).encode())
    here = Path(__file__).parent
    headers = [*sorted(here.glob("*.h")), *sorted(here.glob("*.inc")), _INCLUDE / "unify" / "simulated_operator.h"]
    for path in [torch / "version.py", *headers, *sources]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the user's compiler
    if done.returncode != 0:
        raise TargetError(f"operators: {shlex.join(command)} failed:\n{done.stderr[-4000:]}")
