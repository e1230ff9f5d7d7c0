"""`unify new-backend`: writes the skeleton of a backend's package, from the files of template/."""

from __future__ import annotations

import argparse
import keyword
import os
import re
from pathlib import Path

from unify._errors import InvalidArgument

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_OURS = {"cpu", "cuda", "ascend", "unify", "testing"}


def write(name: str, directory: str | os.PathLike[str] = ".") -> list[str]:
    """Writes the package unify-NAME into a folder of that name. Returns what to tell the user.

    Raises InvalidArgument for a name that cannot be a backend's, and for a folder that is there already; nothing is
    written then.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise InvalidArgument(
            f"new-backend: {name!r} cannot be a backend's name: a small letter, then up to 30 small letters, digits, _."
        )
    if name in _OURS:
        raise InvalidArgument(f"new-backend: {name!r} is unify's own. Choose another name.")
    folder = Path(directory).expanduser() / f"unify-{name}"
    if folder.exists():
        raise InvalidArgument(f"new-backend: {folder} is there already. Remove it, or choose another --directory.")
    if not folder.parent.is_dir():
        raise InvalidArgument(f"new-backend: {folder.parent} is no folder.")
    _copy(Path(__file__).with_name("template"), folder, name)
    return [
        f"{folder}: a backend that builds and passes. Now:",
        "",
        f"  cd {folder}",
        "  pip install --no-build-isolation -e .",
        f"  unify test-backend {name}",
    ]


def command(args: argparse.Namespace) -> int:
    """What `unify new-backend` does. Returns its exit status."""
    for line in write(args.name, args.directory):
        print(line)
    return 0


def _copy(source: Path, target: Path, name: str) -> None:
    target.mkdir()
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            _copy(entry, target / (f"unify_{name}" if entry.name == "package" else entry.name), name)
        elif entry.name.endswith(".in"):
            text = entry.read_text(encoding="utf-8").replace("@NAME@", name)
            (target / entry.name.removesuffix(".in")).write_text(text, encoding="utf-8")
