"""The committed types of the extension are those of the extension as it was built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_stub_describes_the_extension() -> None:
    command = [sys.executable, ".ci/stubs.py", "--check"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout


def test_every_name_of_the_extension_is_in_the_stub_and_no_other() -> None:
    import ast

    from unify import _core

    names: set[str] = set()
    for node in ast.parse((ROOT / "unify" / "_core.pyi").read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    assert {name for name in names if name[0] != "_"} == {name for name in vars(_core) if name[0] != "_"}
