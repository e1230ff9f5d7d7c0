"""Targets, and compile halves of installed backends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unify.compiler import Target
from unify.errors import TargetError

MODULE = """
from unify import Backend
from unify.compiler import Binary

def compile(ttir, target, options):
    assert "tt.store" in ttir
    return Binary("fill", b"image", str(target), (), 8, stages={"toyasm": "STORE", "unasked": ""})

backend = Backend("toy", "/nowhere/libtoy.so", compile)
"""
PROGRAM = """
import triton, triton.language as tl
from unify.compiler import Specialization, Target, compile

@triton.jit
def fill(out):
    tl.store(out, 1.0)

binary = compile(fill, Target.parse("toy:2"), Specialization({"out": "*fp32"}, {}))
print(binary.target, binary.image, binary.stages)
"""


def test_an_installed_backend_compiles_for_its_targets(tmp_path: Path) -> None:
    (tmp_path / "toy_unify.py").write_text(MODULE)
    (tmp_path / "program.py").write_text(PROGRAM)
    package = tmp_path / "toy_unify-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-unify\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[unify.backends]\ntoy = toy_unify:backend\nbad = nowhere:backend\n")
    variables = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "UNIFY_DUMP": "toyasm",
        "UNIFY_DUMP_DIR": str(tmp_path / "dump"), "UNIFY_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    finished = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, env=variables, check=False
    )
    assert finished.stdout == "toy:2 b'image' {}\n", finished.stderr
    assert [path.suffix for path in (tmp_path / "dump").iterdir()] == [".toyasm"]


def test_an_unknown_target_is_named_with_the_nearest() -> None:
    with pytest.raises(TargetError, match=r"no target 'cpuu:x'. Did you mean 'cpu'\? Known: ascend, .*cpu"):
        Target.parse("cpuu:x")
