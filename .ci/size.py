"""Prints the longest files and functions, Python and C++: to be looked at, not obeyed."""

from __future__ import annotations

import ast
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Where a registry or a switch lives, files grow in every project; ours are shown first.
WATCHED = (
    "unify/compiler/cpu/codegen/__init__.py",
    "csrc/python/kernel.cpp",
    "csrc/core/registry.cpp",
    "unify/ops/attention.py",
)
ROOT = Path(__file__).resolve().parents[1]


def tracked(*patterns: str) -> list[Path]:
    """The files of the repository that match."""
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()]


def lines(path: Path) -> int:
    """How many lines a file has."""
    return len(path.read_text(encoding="utf-8").splitlines())


def python_functions(path: Path) -> Iterator[tuple[int, str]]:
    """The length and name of each function of a Python file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
            yield node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def cxx_functions(path: Path) -> Iterator[tuple[int, str]]:
    """The length and first line of each function of a C++ file: clang-format puts its braces at known places."""
    start = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        opens = line.endswith("{") and line[0] not in " }#/" and "(" in line
        if start is None and opens and not line.startswith(("namespace", "struct", "class", "extern", "enum")):
            start = number, line
        elif start is not None and line.startswith("}"):
            yield number - start[0] + 1, f"{path.relative_to(ROOT)}:{start[0]} {start[1].rstrip(' {')[:60]}"
            start = None


def show(title: str, sizes: list[tuple[int, str]]) -> None:
    """Prints the median, the 95th percentile and the ten largest."""
    if not sizes:
        return
    counts = sorted(count for count, _ in sizes)
    print(f"\n{title}: {len(sizes)}, median {statistics.median(counts):.0f}, p95 {counts[int(len(counts) * 0.95)]}")
    for count, name in sorted(sizes, reverse=True)[:10]:
        print(f"  {count:5}  {name}")


def main() -> None:
    """Prints the report."""
    python, cxx = tracked("unify/*.py"), tracked("csrc/*.cpp", "csrc/*.h", "unify/include/*.h")
    tests = tracked("tests/*.py", "tests/*.cpp")
    for title, files in (("Python", python), ("C++", cxx), ("tests", tests)):
        print(f"{title:8} {sum(map(lines, files)):6} lines in {len(files)} files")
    print("\nwatched:")
    for name in WATCHED:
        print(f"  {lines(ROOT / name) if (ROOT / name).exists() else 0:5}  {name}")
    show("Python files", [(lines(path), str(path.relative_to(ROOT))) for path in python])
    show("C++ files", [(lines(path), str(path.relative_to(ROOT))) for path in cxx])
    show("Python functions", [item for path in python for item in python_functions(path)])
    show("C++ functions", [item for path in cxx for item in cxx_functions(path)])


if __name__ == "__main__":
    main()
