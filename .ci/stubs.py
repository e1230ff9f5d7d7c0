"""Compares unify/_core.pyi with the extension as it was built; without --check also drafts it anew.

The draft is pybind11-stubgen's, in build/stubs/: it knows every name and docstring, but not the types of C
functions, so the committed stub is edited by hand and compared by mypy's stubtest.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUB = ROOT / "unify" / "_core.pyi"
# How pybind11 makes classes is nothing that a caller sees.
OF_PYBIND11 = ("metaclass differs", '__init__ is inconsistent, stub does not have *args parameter "args"')

# Raises TypeError with a better text than Python's; a type checker shall refuse it too.
REFUSED = re.compile(r"Tensor\.__r?(add|sub|mul|truediv|matmul)__ is not present in stub")


def differences() -> list[str]:
    """What stubtest finds, a line each."""
    command = [sys.executable, "-m", "mypy.stubtest", "unify._core", "--concise", "--ignore-disjoint-bases"]
    command += ["--mypy-config-file", "pyproject.toml"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = finished.stdout.splitlines() + finished.stderr.splitlines() if finished.returncode else []
    return [line for line in lines if not (any(pattern in line for pattern in OF_PYBIND11) or REFUSED.search(line))]


def draft() -> Path:
    """Writes the draft and returns its path."""
    folder = ROOT / "build" / "stubs"
    command = [sys.executable, "-m", "pybind11_stubgen", "unify._core", "-o", str(folder), "--ignore-all-errors"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    path = folder / "unify" / "_core.pyi"
    text = re.sub(r"typing\.Supports(Int|Float) \| typing\.SupportsIndex", lambda m: m[1].lower(), path.read_text())
    path.write_text(text)
    return path


def main() -> int:
    """Returns 1 if the stub and the extension differ."""
    found = differences() if STUB.exists() else [f"{STUB.relative_to(ROOT)} does not exist"]
    print("\n".join(found) or "unify/_core.pyi describes the extension as it is.")
    if found and "--check" in sys.argv:
        print("Edit unify/_core.pyi; `make stubs` drafts a new one to take from.")
    if "--check" not in sys.argv:
        print(f"A draft of today's extension: {draft().relative_to(ROOT)}")
        return 0
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
