"""Builds a simulated driver and its stress.cpp, apart from the plain build: `python build.py FRONT FOLDER [SANITIZER]`.

FRONT: cuda or ascend.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"cuda": "cuda", "ascend": "ascendcl"}
STRESS = {"cuda": "tests/simulator/stress.cpp", "ascend": "tests/simulator/acl/stress.cpp"}
COMPILE = ["-std=c++17", "-O1", "-g1", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion"]
COMPILE += ["-Wno-psabi", "-Werror", "-Iunify/include", "-Icsrc"]


def compiler() -> list[str]:
    return os.environ.get("CXX", "ccache c++" if shutil.which("ccache") else "c++").split()


def build_program(front: str, folder: Path, flags: list[str]) -> Path:
    """Returns the program; its arguments are a library and an image."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "stress"
    command = [*compiler(), *COMPILE, *flags, STRESS[front], "-o", str(program), "-ldl"]
    subprocess.run(command, cwd=ROOT, check=True)
    return program


def build_library(front: str, folder: Path, flags: list[str]) -> Path:
    """Returns the simulated driver, with the files that setup.py takes for it."""
    folder.mkdir(parents=True, exist_ok=True)
    patterns = ["csrc/simulator/*.cpp", f"csrc/simulator/{front}/*.cpp"]
    patterns += [f"csrc/backends/{prefix}*.cpp" for prefix in ("host_elf", "host_fault", "host_re")]
    sources = [path for pattern in patterns for path in ROOT.glob(pattern)]

    def compile_one(source: Path) -> Path:
        output = folder / f"{source.stem}.o"
        subprocess.run([*compiler(), *COMPILE, *flags, "-c", source, "-o", output], cwd=ROOT, check=True)
        return output

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / f"libunify_simulated_{NAMES[front]}.so"
    exports = f"-Wl,--version-script=csrc/simulator/{front}/exports.map"
    command = [*compiler(), *flags, "-shared", *objects, "-o", library, "-ldl", "-pthread", "-Wl,-z,nodelete", exports]
    subprocess.run(command, cwd=ROOT, check=True)
    return library


if __name__ == "__main__":
    front, folder = sys.argv[1], Path(sys.argv[2])
    flags = [f"-fsanitize={sanitizer}" for sanitizer in sys.argv[3:4]]
    print(build_program(front, folder, flags), build_library(front, folder, flags))
