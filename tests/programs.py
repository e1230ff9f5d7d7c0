"""Programs that tests run in processes of their own, since a process has one simulation of a vendor, and one fault."""

from __future__ import annotations

import os
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Run

# Kernels of tests that ask whom an error blames: lines 5 and 10 of kernels.py.
SUSPECTS = """
import triton.language as tl
import unify as un

@un.jit
def innocent_kernel(x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)

@un.jit
def guilty_kernel(x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)
"""


@dataclass(frozen=True)
class Program:
    """Runs code in a process of its own, and returns the lines that it printed.

    The code has `told` and `told_at_last` of told.py, the kernels, and what the prelude made.
    """

    python: Run
    folder: Path
    prelude: str
    kernels: str

    def __call__(
        self, code: str, *, prelude: str | None = None, environment: dict[str, str] | None = None
    ) -> list[str]:
        (self.folder / "kernels.py").write_text(self.kernels)
        shutil.copy(Path(__file__).with_name("told.py"), self.folder)
        imports = f"import sys\nsys.path.insert(0, {str(self.folder)!r})\n"
        imports += "from told import told, told_at_last\nfrom kernels import *\n"
        whole = imports + (self.prelude if prelude is None else prelude) + textwrap.dedent(code)
        finished = self.python("-c", whole, env={**os.environ, **(environment or {})})
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        return finished.stdout.splitlines()
