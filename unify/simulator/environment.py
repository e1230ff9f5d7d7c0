"""What a program needs to use torch_npu on simulated chips: Huawei's package, and variables that point to it.

torch_npu is never put into the environment of anybody: with it there, `import torch` needs CANN. It lies in a folder
of its own, and so does torch where the program's environment has none of the version that torch_npu is made for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unify._config import environment as inherited, settings
from unify._errors import InvalidArgument, TargetError
from unify._notice import Notice

from .ascend import LIBRARIES, MODELS, library_path, link_libraries
from .operators import NAME, UNFINISHED, extension, library

VERSION = "2.13.0"  # of torch_npu, and of the torch that it is made for
MEMORY_GIB = {"910B1": 64, "910B2": 64, "910B3": 64, "910B4": 32, "910C": 64, "950": 128}  # csrc/.../chips.cpp
_INDEX = "https://download.pytorch.org/whl/cpu"  # PyPI's torch for x86-64 is for CUDA, and brings gigabytes
_PROBE = """
import importlib.util as u, importlib.metadata as m, json, platform, sys
def has(name):
    return u.find_spec(name) is not None
found = u.find_spec("torch")
try:
    version = m.version("torch") if found else ""
except m.PackageNotFoundError:
    version = ""
print(json.dumps({
    "tag": f"{'cp' if sys.implementation.name == 'cpython' else sys.implementation.name}{sys.version_info[0]}"
           f"{sys.version_info[1]}",
    "machine": f"{platform.system()} {platform.machine()}",
    "torch": version,
    "folder": list(found.submodule_search_locations or [""])[0] if found else "",
    "missing": [name for name, module in (("numpy", "numpy"), ("pyyaml", "yaml")) if not has(module)],
    "has_pip": has("pip"),
}))
"""


@dataclass(frozen=True)
class Chips:
    """Which chips a program shall see, and what shall go wrong on them."""

    soc: str = "910B3"
    devices: int = 1
    memory_gib: float | None = None  # of each; None: what the chip has
    faults: tuple[str, ...] = ()  # "DEVICE:CALL:AFTER:WHAT", "DEVICE:time:SECONDS:WHAT"

    @property
    def text(self) -> str:
        """As UNIFY_SIMULATE has them."""
        memory = MEMORY_GIB[self.soc] if self.memory_gib is None else self.memory_gib
        return f"ascend:{self.soc}x{self.devices},{memory:g}g"


def read_soc(text: str) -> str:
    """A model, in large letters or small ones. Raises InvalidArgument."""
    model = text.upper().removeprefix("ASCEND").removeprefix(":")
    if model not in MODELS:
        raise InvalidArgument(f"simulate ascend: {text!r} is no chip that is known: {', '.join(MODELS)}.")
    return model


def read_memory(text: str) -> float:
    """GiB, of "64G", "64GiB" or "512M". Raises InvalidArgument."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([gm])(?:i?b)?", text.strip().lower())
    gib = float(found[1]) / (1 if found[2] == "g" else 1024) if found else 0.0
    if not 4 / 1024 <= gib <= 1024:
        raise InvalidArgument(f"simulate ascend: memory {text!r}: say 64G or 512M, from 4M to 1024G.")
    return gib


def read_chips(text: str) -> Chips:
    """Chips of "910B3x2,64g", with or without "ascend:" before it; empty for one 910B3. Raises InvalidArgument."""
    found = re.fullmatch(r"(?:ascend:)?(\w+?)(?:x(\d+))?(?:,(\S+))?", text or "910B3", re.IGNORECASE)
    if found is None:
        raise InvalidArgument(f"simulate ascend: {text!r}: say 910B3, 910B3x2 for two, or 910B3x2,64g.")
    memory = read_memory(found[3]) if found[3] else None
    return Chips(read_soc(found[1]), read_count(found[2] or "1"), memory)


def read_count(text: str) -> int:
    """How many devices. Raises InvalidArgument."""
    if not text.isdecimal() or not 1 <= int(text) <= 16:
        raise InvalidArgument(f"simulate ascend: {text} devices: 1 to 16 are possible.")
    return int(text)


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs a program, and what it has."""

    path: str
    tag: str  # "cp311"
    machine: str  # "Linux x86_64"
    torch: str  # its version; empty: none
    folder: str  # torch's
    missing: tuple[str, ...]  # of what torch_npu needs besides
    has_pip: bool

    @staticmethod
    def of(path: str) -> Interpreter:
        """Asks it. Raises InvalidArgument for what is no Python that runs."""
        command = [path, "-c", _PROBE]
        try:
            variables = {**inherited(), "PYTHONSAFEPATH": "1"}  # a program's own torch.py is not meant
            finished = subprocess.run(  # noqa: S603 - the user's Python
                command, env=variables, capture_output=True, text=True, check=True, timeout=120
            )
            told = json.loads(finished.stdout.splitlines()[-1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            why = said[-1] if said else "it says nothing"
            raise InvalidArgument(f"simulate ascend: {path} does not run as a Python: {why}") from None
        return Interpreter(path, **{**told, "missing": tuple(told["missing"])})

    @property
    def has_torch(self) -> bool:
        """Whether it has the torch that torch_npu is made for."""
        return self.torch.split("+")[0] == VERSION

    def command(self, *arguments: str) -> list[str]:
        """Its pip, or ours for it where it has none."""
        pip = [self.path, "-m", "pip"] if self.has_pip else [sys.executable, "-m", "pip", "--python", self.path]
        return [*pip, "--disable-pip-version-check", *arguments]


@dataclass(frozen=True)
class _Part:
    """Packages in a folder of their own. sign: a file of them that is there when all are."""

    about: str
    folder: Path
    requirements: tuple[str, ...]
    options: tuple[str, ...]
    megabytes: int  # to fetch
    unpacked: int
    sign: str

    @property
    def is_installed(self) -> bool:
        return (self.folder / self.sign).exists()


def _parts(python: Interpreter) -> list[_Part]:
    root = Path(settings.toolchain_dir) / "torch_npu"
    parts = []
    if not python.has_torch:
        numpy = ("numpy",) if "numpy" in python.missing else ()
        parts.append(
            _Part(
                f"torch {VERSION} for CPUs", root / f"torch-{VERSION}-{python.tag}", (f"torch=={VERSION}", *numpy),
                ("--extra-index-url", _INDEX, "--retries=1", "--only-binary=:all:"), 200, 950, "torch/version.py",
            )
        )  # fmt: skip
    missing = tuple(name for name in python.missing if python.has_torch or name != "numpy")
    if missing:
        parts.append(
            _Part(
                " and ".join(missing), root / f"{'-'.join(missing)}-{python.tag}", missing, ("--only-binary=:all:",),
                20 if "numpy" in missing else 1, 80 if "numpy" in missing else 3,
                "numpy/__init__.py" if "numpy" in missing else "yaml/__init__.py",
            )
        )  # fmt: skip
    parts.append(
        _Part(
            f"Huawei's torch_npu {VERSION} (BSD)", root / f"torch-npu-{VERSION}-{python.tag}",
            (f"torch-npu=={VERSION}",), ("--no-deps", "--only-binary=:all:"), 44, 150,
            "torch_npu/lib/libtorch_npu.so",
        )
    )  # fmt: skip
    return parts


_STARTUP = Path(__file__).with_name("startup")  # its sitecustomize.py comes before the environment's own


@dataclass(frozen=True)
class Environment:
    """What is installed for an interpreter."""

    python: Interpreter
    folders: tuple[Path, ...]  # for its path of modules, before all others
    torch: Path  # the folder of the package
    libraries: Path  # links under the names of the vendor's libraries

    def variables(self, chips: Chips, report: Path | None = None, trace: Path | None = None) -> dict[str, str]:
        """This process's environment, changed so that a program sees the chips, and so do the processes it starts.

        report, trace: folders that each of them writes into.
        """
        variables = inherited()
        variables["PYTHONPATH"] = _joined(map(str, (_STARTUP, *self.folders)), variables.get("PYTHONPATH"))
        variables["LD_LIBRARY_PATH"] = _joined([str(self.libraries)], variables.get("LD_LIBRARY_PATH"))
        variables["UNIFY_SIMULATE"] = chips.text
        for name in ("UNIFY_SIMULATED_FAULTS", "UNIFY_SIMULATED_REPORT", "UNIFY_SIMULATED_TRACE"):
            variables.pop(name, None)
        if chips.faults:
            variables["UNIFY_SIMULATED_FAULTS"] = ";".join(chips.faults)
        if report is not None:
            variables["UNIFY_SIMULATED_REPORT"] = str(report)
        if trace is not None:
            variables["UNIFY_SIMULATED_TRACE"] = str(trace)
        return variables


def _joined(first: Iterator[str] | list[str], rest: str | None) -> str:
    return os.pathsep.join([*first, *([rest] if rest else [])])


def find(path: str) -> Environment:
    """Returns what is installed for the interpreter. Raises TargetError, saying how to install it."""
    python = Interpreter.of(path)
    _check(python)
    parts = _parts(python)
    absent = [part.about for part in parts if not part.is_installed]
    if absent:
        program = "" if path == sys.executable else f" -- {shlex.quote(path)} --version"
        raise TargetError(
            f"simulate ascend: {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed for {path}. "
            f"`unify simulate ascend --install{program}` does that, in folders of their own; no chip is needed."
        )
    return _environment(python, parts, quiet=False)


def install(path: str, quiet: bool = False) -> Environment:
    """Fetches what is not there yet for the interpreter, by pip, and compiles the operators for its torch.

    Says on standard error what it fetches and how much that is, unless quiet. Waits while another process does the
    same. Raises TargetError where there is no C++ compiler, for a machine or a Python that the vendor has no package
    for, or if pip fails.
    """
    python = Interpreter.of(path)
    _check(python)
    if _compiler() is None:
        raise TargetError(
            "simulate ascend: no C++ compiler is there to compile the operators with, so nothing is fetched. Install "
            "one (apt install g++), or name it in CXX."
        )
    parts = _parts(python)
    missing = [part for part in parts if not part.is_installed]
    if missing:
        root = missing[0].folder.parent
        with _alone(root, quiet):
            _say(_sizes([part for part in missing if not part.is_installed], root), quiet)
            for part in missing:
                if not part.is_installed:
                    _fetch(python, part, quiet)
    return _environment(python, parts, quiet)


def _sizes(parts: list[_Part], root: Path) -> str:
    fetched, unpacked = sum(part.megabytes for part in parts), sum(part.unpacked for part in parts)
    names = ", ".join(f"{part.about} ({part.megabytes} MB)" for part in parts)
    return f"Fetching {names} into {root}: about {fetched} MB, {unpacked} MB unpacked." if parts else ""


def _say(text: str, quiet: bool) -> None:
    if text and not quiet:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _check(python: Interpreter) -> None:
    machines = ("Linux x86_64", "Linux aarch64")
    if python.machine not in machines or not python.tag.startswith("cp3"):
        raise TargetError(
            f"simulate ascend: torch_npu is made for CPython on {' and '.join(machines)}; {python.path} is "
            f"{python.tag} on {python.machine}."
        )


def _compiler() -> str | None:
    command = shlex.split(inherited().get("CXX", "c++"))
    return shutil.which(command[0]) if command else None


def _fetch(python: Interpreter, part: _Part, quiet: bool) -> None:
    root = part.folder.parent
    with tempfile.TemporaryDirectory(dir=root, prefix=UNFINISHED) as scratch:
        made = Path(scratch, "made")
        options = [*part.options, "--upgrade", "--target", str(made), *(["--quiet"] if quiet else [])]
        # pip's lines are progress; standard output is for what the command itself has to say. What is on the path is
        # no part of the folder that it makes.
        variables = {name: value for name, value in inherited().items() if name != "PYTHONPATH"}
        command = python.command("install", *options, *part.requirements)
        if subprocess.run(command, stdout=sys.stderr, env=variables, check=False).returncode:  # noqa: S603 - its pip
            raise TargetError(
                f"simulate ascend: pip could not install {' and '.join(part.requirements)} for {python.path} "
                f"({python.tag}); its lines above say why. Without pip: `python -m ensurepip`. Behind a mirror: "
                "`pip config set global.index-url`."
            )
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(part.folder)  # it is damaged
        made.rename(part.folder)


@contextlib.contextmanager
def _alone(root: Path, quiet: bool) -> Iterator[None]:
    """Keeps other processes from installing the same, and takes away what killed ones left."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
    except OSError as error:
        raise TargetError(
            f"simulate ascend: {root} cannot be written: {error.strerror}. Set UNIFY_TOOLCHAIN_DIR."
        ) from None
    with lock:
        with contextlib.nullcontext() if quiet else Notice("simulate ascend: another process installs; waiting."):
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in root.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _environment(python: Interpreter, parts: list[_Part], quiet: bool) -> Environment:
    folders = tuple(part.folder for part in reversed(parts))
    own = next((part.folder / "torch" for part in parts if part.sign.startswith("torch/")), None)
    torch = own or Path(python.folder)
    return Environment(python, folders, torch, _libraries(torch, quiet))


def _libraries(torch: Path, quiet: bool) -> Path:
    """A folder of links; the same for the same libraries, so that nothing of it is to be cleaned up."""
    if not library_path().exists():
        raise TargetError(f"simulate ascend: {library_path()} is not there; build it with `make build`.")
    root = Path(settings.toolchain_dir) / "torch_npu"
    with _alone(root, quiet):  # one process compiles, the others wait

        def said(line: str) -> None:
            _say(f"compiling the operators {line}", quiet)

        operators = base = library(torch, library_path(), said=said)
        own = [Path(path) for path in inherited().get("UNIFY_SIMULATED_OPERATORS", "").split(os.pathsep) if path]
        if own:
            operators = extension(torch, library_path(), base, own, said=said)
        key = hashlib.sha256(f"{library_path()} {operators} {LIBRARIES}".encode()).hexdigest()[:16]
        folder = root / f"libraries-{key}"
        if not folder.exists():
            made = Path(tempfile.mkdtemp(dir=root, prefix=UNFINISHED))
            link_libraries(made, operators)
            (made / NAME).symlink_to(base)  # plans of faults are checked by the names in this folder
            made.rename(folder)
    return folder
