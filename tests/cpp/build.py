"""Builds test_core.cpp with the core and the CPU backend into one program: `python build.py FOLDER [SANITIZER]`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# As in setup.py, but for the level: these files are compiled once for each run of the tests.
COMPILE = ["-std=c++17", "-O1", "-g1", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion"]
COMPILE += ["-Wno-psabi", "-Werror", "-Iunify/include", "-Icsrc"]


def objects_of_extension() -> dict[Path, Path]:
    """By source: what setup.py compiled, if no source changed since."""
    changed = max(
        path.stat().st_mtime for pattern in ("csrc/**/*", "unify/include/**/*") for path in ROOT.glob(pattern)
    )
    for folder in ROOT.glob("build/objects-*"):
        objects = {path.relative_to(folder).with_suffix(".cpp"): path for path in folder.glob("csrc/**/*.o")}
        if all(path.stat().st_mtime > changed for path in objects.values()):
            return objects
    return {}


def build(folder: Path, sanitizer: str = "") -> Path:
    """Returns the program. `sanitizer` is what -fsanitize takes, e.g. "address,undefined"."""
    compiler = os.environ.get("CXX", "ccache c++" if shutil.which("ccache") else "c++").split()
    flags = [f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer"] if sanitizer else []
    made = {} if sanitizer else objects_of_extension()
    sources = [*ROOT.glob("csrc/core/**/*.cpp"), *ROOT.glob("csrc/backends/*.cpp"), *ROOT.glob("tests/cpp/*.cpp")]
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        path = source.relative_to(ROOT)
        if path in made:
            return made[path]
        output = folder / f"{'.'.join(path.with_suffix('').parts)}.o"
        subprocess.run([*compiler, *COMPILE, *flags, "-c", path, "-o", output], cwd=ROOT, check=True)
        return output

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    program = folder / "test_core"
    subprocess.run([*compiler, *flags, *objects, "-o", program, "-ldl", "-pthread"], cwd=ROOT, check=True)
    return program


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), *sys.argv[2:3]))
