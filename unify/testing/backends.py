"""Building a backend from one C file, to test it or to test with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import unify
from unify._errors import BackendError


def compile_backend(
    source: str | os.PathLike[str], library: str | os.PathLike[str], defines: Sequence[str] = ()
) -> Path:
    """Compiles a backend written in plain C into a shared library and returns its path.

    Warnings are errors, so that the header stays clean for plugin authors. Raises BackendError with the compiler's
    words when it does not compile.
    """
    compiler = os.environ.get("CC", "cc").split()  # the one variable that every build tool reads
    if shutil.which(compiler[0]) is None:
        raise BackendError(f"compile_backend: there is no C compiler {compiler[0]!r}. Install one, or set CC.")
    command = [*compiler, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-shared", "-fPIC"]
    command += [f"-I{unify.get_include()}", *(f"-D{define}" for define in defines), "-o", str(library), str(source)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise BackendError(f"compile_backend: {source} does not compile:\n{finished.stderr.strip()}")
    return Path(library)
