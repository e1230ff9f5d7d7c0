"""What CUDA needs: not the CPU target's LLVM, nor what reads models. No GPU is asked for."""

from __future__ import annotations

from pathlib import Path

from ..conftest import Run

PROGRAM = """
import sys
for name in ("llvmlite", "gguf", "tokenizers", "jinja2"):
    sys.modules[name] = None  # makes an import of it fail
import unify as un
from unify.ops.norm import rms_norm_kernel
un.info()
types = {"x": "*fp32", "weight": "*fp32", "out": "*fp32", "columns": "i32", "eps": "fp32"}
constants = {"BLOCK": 128, "EVEN": False, "residual": None, "total": None}
binary = un.compile(rms_norm_kernel, "cuda:90", types, constants)
print(binary.target, len(binary.image) > 0)
"""


def test_info_ops_and_compiling_for_cuda_need_no_package_of_the_cpu_target(python: Run, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    finished = python(str(script))
    assert finished.stdout == "cuda:90 True\n", finished.stderr
