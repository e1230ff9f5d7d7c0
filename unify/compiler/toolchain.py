"""Compilers of vendors, on which no package can depend: installed on request, into a folder of their own.

Their packages hold Python modules as well, and one of them is named `triton`. Only the programs are taken, and they are
run by their paths.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from unify._config import settings
from unify._errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECORD = "installed.json"
_UNFINISHED = ".installing-"


@dataclass(frozen=True)
class Wheel:
    """A package on PyPI. hashes: SHA-256 by machine; members: the files that are taken, by their places in it."""

    name: str
    version: str
    megabytes: int
    hashes: dict[str, str]
    members: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """As pip reads it, with the hash that it must have."""
        return f"{self.name}=={self.version} --hash=sha256:{self.hashes[platform.machine()]}"


@dataclass(frozen=True)
class Toolchain:
    """A vendor's compilers, under the name of the target that they are for. python: whose wheels are fetched."""

    name: str
    about: str
    wheels: tuple[Wheel, ...]
    python: str
    platforms: tuple[str, ...]

    @property
    def version(self) -> str:
        """The pinned versions in one word; another set of them is another folder."""
        return "-".join(wheel.version for wheel in self.wheels)

    @property
    def megabytes(self) -> int:
        """What is fetched."""
        return sum(wheel.megabytes for wheel in self.wheels)

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of the files that are there once it is installed."""
        return tuple(PurePosixPath(member).name for wheel in self.wheels for member in wheel.members)

    @property
    def folder(self) -> Path:
        """Where it is, or would be."""
        return Path(settings.toolchain_dir) / self.name / self.version

    @property
    def is_installed(self) -> bool:
        """Whether all of it is there, as it was installed."""
        return (self.folder / _RECORD).is_file() and not self.damage

    @property
    def damage(self) -> str:
        """What became of an installed one since, in words; empty where nothing did."""
        try:
            sizes = json.loads((self.folder / _RECORD).read_text()).get("bytes", {})
        except FileNotFoundError:
            return ""
        except ValueError:
            return f"{_RECORD} cannot be read"
        for program, bytes_ in sizes.items():
            path = self.folder / program
            if not path.is_file():
                return f"{program} is gone"
            if path.stat().st_size != bytes_:
                return f"{program} is not what was installed"
            if not os.access(path, os.X_OK):
                return f"{program} cannot be run"
        return ""


_BISHENG = tuple(f"ascendnpuir/bin/bishengir-{tool}{chip}" for tool in ("compile", "opt") for chip in ("", "-a5"))
_TABLE = {
    "ascend": Toolchain(
        name="ascend",
        about="Huawei's Triton adapter (MIT) and AscendNPU IR (Apache-2.0)",
        wheels=(
            Wheel(
                "triton-ascend", "3.2.0", 54,
                {
                    "x86_64": "17c8d7161eed1e96a286281963fe04d3113ee85affaa5d82c7dd0c35803962f0",
                    "aarch64": "69a9aecd6fa8b0beb798d16989bb24bc8a1ad61ded71526d6099d4179c428043",
                },
                ("triton/backends/ascend/triton-adapter-opt",),
            ),
            Wheel(
                "ascendnpu-ir", "1.2.0", 161,
                {
                    "x86_64": "d4e5bfab877ee4ba7b312885f4f5bf646072fd47c88d5aa96f6a11f67d3e8522",
                    "aarch64": "76aaaedd3c4a08148a690f1bdddf2e2668f484989ab261fdb7e19cdba5d0f957",
                },
                _BISHENG,
            ),
        ),
        python="311",
        platforms=("manylinux_2_28",),
    )
}  # fmt: skip


def toolchains() -> tuple[Toolchain, ...]:
    """Those that `install` knows."""
    return tuple(_TABLE.values())


def find(name: str) -> Path:
    """Returns the folder with the toolchain's programs. Raises TargetError, saying how to install it."""
    chosen = _chosen(name)
    if damage := chosen.damage:
        raise TargetError(
            f"target {name}: the vendor's compilers in {chosen.folder} are damaged: {damage}. "
            f"`unify toolchain install {name}` fetches them again ({chosen.megabytes} MB)."
        )
    if not chosen.is_installed:
        raise TargetError(
            f"target {name}: the vendor's compilers are not installed. `unify toolchain install {name}` fetches them "
            f"from PyPI ({chosen.megabytes} MB) into {chosen.folder}; no chip is needed."
        )
    status = chosen.folder.stat()
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TargetError(f"target {name}: {chosen.folder} is writable by others or not yours; nothing of it is run.")
    return chosen.folder


def is_installed(name: str) -> bool:
    """Whether all of a toolchain is there."""
    return _chosen(name).is_installed


def version_of(name: str) -> str:
    """What stands for the toolchain of a target in the name of what it made; empty for a target that has none."""
    return _TABLE[name].version if name in _TABLE else ""


def install(name: str, quiet: bool = False) -> Path:
    """Fetches a toolchain by pip, from the index that pip is set to, and returns its folder.

    Nothing of what is there already is fetched again, unless it is damaged. Each file must have the hash that is
    written here. Waits while another process installs or removes it. quiet: no progress is shown. Raises TargetError
    for a machine that the vendor has no programs for, or if pip fails.
    """
    chosen = _chosen(name)
    if chosen.is_installed:
        return chosen.folder
    _check_machine(chosen)
    with _alone(chosen, quiet):
        return chosen.folder if chosen.is_installed else _install(chosen, quiet)


def _install(chosen: Toolchain, quiet: bool) -> Path:
    folder = chosen.folder
    for left in folder.parent.glob(f"{_UNFINISHED}*"):  # of processes that were killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_UNFINISHED) as scratch:
        wheels, made = Path(scratch, "wheels"), Path(scratch, "made")
        _download(chosen, wheels, quiet)
        made.mkdir(mode=0o755)
        for wheel in chosen.wheels:
            _unpack(next(wheels.glob(f"{wheel.name.replace('-', '_')}-*.whl")), wheel.members, made)
        _try(chosen, made)
        record: dict[str, Any] = {
            wheel.name: [wheel.version, wheel.hashes[platform.machine()]] for wheel in chosen.wheels
        }
        record["bytes"] = {program: (made / program).stat().st_size for program in chosen.programs}
        (made / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)  # it is damaged
        made.rename(folder)
    return folder


def remove(name: str) -> bool:
    """Deletes a toolchain, all versions of it. Whether there was one."""
    chosen = _chosen(name)
    folder = chosen.folder.parent
    if not folder.exists():
        return False
    with _alone(chosen):
        shutil.rmtree(folder)
    return True


@contextlib.contextmanager
def _alone(chosen: Toolchain, quiet: bool = False) -> Iterator[None]:
    """Keeps other processes from installing and removing the same."""
    root = chosen.folder.parent.parent
    try:
        chosen.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (root / f".{chosen.name}.lock").open("w")
    except OSError as error:
        raise TargetError(
            f"toolchain {chosen.name}: {root} cannot be written: {error.strerror}. Set UNIFY_TOOLCHAIN_DIR."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not quiet:
                sys.stderr.write(f"toolchain {chosen.name}: another process works on it; waiting for that.\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        chosen.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # that one may have removed it
        yield


def _chosen(name: str) -> Toolchain:
    if name not in _TABLE:
        raise TargetError(f"no toolchain {name!r}. Known: {', '.join(_TABLE)}.", is_unknown=True)
    return _TABLE[name]


def _check_machine(chosen: Toolchain) -> None:
    machine = platform.machine()
    known = sorted({machine for wheel in chosen.wheels for machine in wheel.hashes})
    if platform.system() != "Linux" or machine not in known:
        raise TargetError(
            f"toolchain {chosen.name}: its programs are for Linux on {' and '.join(known)}; this is "
            f"{platform.system()} on {machine}."
        )


def _download(chosen: Toolchain, into: Path, quiet: bool) -> None:
    into.mkdir()
    requirements = into / "requirements.txt"
    requirements.write_text("\n".join(wheel.requirement for wheel in chosen.wheels) + "\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *(["-q"] if quiet else [])]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--implementation=cp"]
    command += [f"--python-version={chosen.python}", f"--abi=cp{chosen.python}"]
    command += [f"--platform={name}_{platform.machine()}" for name in chosen.platforms]
    # pip's lines are progress; standard output is for what the command itself has to say.
    finished = subprocess.run(  # noqa: S603 - this Python's own pip
        [*command, "-d", str(into), "-r", str(requirements)], stdout=sys.stderr, check=False
    )
    if finished.returncode:
        raise TargetError(
            f"toolchain {chosen.name}: pip could not fetch {' and '.join(w.name for w in chosen.wheels)}; its lines "
            "above say why. Without pip: `python -m ensurepip`. Behind a mirror: `pip config set global.index-url`."
        )


def _unpack(wheel: Path, members: tuple[str, ...], into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in members:
            path = into / PurePosixPath(member).name
            with archive.open(member) as source, path.open("wb") as out:
                shutil.copyfileobj(source, out)
            path.chmod(0o755)


def _try(chosen: Toolchain, folder: Path) -> None:
    for program in chosen.programs:
        try:
            subprocess.run(  # noqa: S603 - by its path
                [str(folder / program), "--version"], capture_output=True, check=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise TargetError(f"toolchain {chosen.name}: {program} does not run on this machine: {error}.") from None
