# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""How long does a kernel take to compile, and to load once it is compiled? Against Triton's compiler for Nvidia.

Both take the same Triton kernel from its source to a binary, with empty caches, and load it from their caches on disk.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton
import triton.language as tl

from unify.bench import Case, Setup, Side
from unify.bench.case import MILLISECONDS
from unify.bench.cases._kernels import softmax_kernel

POINTERS = {"softmax": ("x", "out"), "attention": ("q", "k", "v", "out")}
NUMBERS = {"softmax": ("columns",), "attention": ("tokens",)}
CONSTANTS = {"softmax": {"BLOCK": 1024}, "attention": {"M": 64, "N": 64, "D": 64}}


@triton.jit
def attention_kernel(q, k, v, out, tokens, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    # Causal flash attention: one program M queries of one head (Dao et al. 2022, algorithm 1).
    head = tl.program_id(1) * tokens * D
    query = tl.program_id(0) * M + tl.arange(0, M)
    key = tl.arange(0, N)
    width = tl.arange(0, D)
    left = tl.load(q + head + query[:, None] * D + width[None, :])
    top = tl.full([M], float("-inf"), tl.float32)
    mass = tl.zeros([M], tl.float32)
    total = tl.zeros([M, D], tl.float32)
    for start in range(0, (tl.program_id(0) + 1) * M, N):
        place = head + (start + key) * D
        score = tl.dot(left, tl.load(k + place[None, :] + width[:, None])) * 0.18033688  # log2(e) / sqrt(64)
        score = tl.where(query[:, None] >= start + key[None, :], score, float("-inf"))
        new = tl.maximum(top, tl.max(score, axis=1))
        weight = tl.exp2(score - new[:, None])
        shrink = tl.exp2(top - new)
        mass = mass * shrink + tl.sum(weight, axis=1)
        right = tl.load(v + place[:, None] + width[None, :])
        total = tl.dot(weight.to(right.dtype), right, total * shrink[:, None])
        top = new
    tl.store(out + head + query[:, None] * D + width[None, :], total / mass[:, None])


KERNELS = {"softmax": softmax_kernel, "attention": attention_kernel}


def cases() -> list[Case]:
    """Each kernel: compiled anew, and loaded."""
    return [_case(name, dtype, loads) for loads in (False, True) for name, dtype in _KINDS]


_KINDS = (("softmax", "fp32"), ("attention", "fp32"), ("attention", "bf16"))


def _case(name: str, dtype: str, loads: bool) -> Case:
    verb = "load" if loads else "compile"
    return Case(
        name=f"{verb}-{name}-{dtype}",
        subject="compile-time",
        about=f"{'read from the cache on disk' if loads else 'from source to binary'}: {name} of {dtype}",
        unit=MILLISECONDS,
        ours=_steps(_unify(name, dtype), loads),
        peers={"triton": _steps(_triton(name, dtype), loads)},
        repeats=9,
    )


def _steps(compile_once: Callable[[bool], object], loads: bool) -> Callable[[Setup], Side]:
    def build(_: Setup) -> Side:
        folder = tempfile.mkdtemp(prefix="unify-compile-time-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ |= {"UNIFY_CACHE_DIR": folder, "TRITON_CACHE_DIR": str(Path(folder) / "triton")}
        compile_once(False)  # imports, and fills the caches
        return Side(step=lambda: compile_once(loads))

    return build


def _signature(name: str, dtype: str) -> dict[str, str]:
    types = dict.fromkeys(POINTERS[name], f"*{dtype}") | dict.fromkeys(NUMBERS[name], "i32")
    return types | dict.fromkeys(CONSTANTS[name], "constexpr")


def _unify(name: str, dtype: str) -> Callable[[bool], object]:
    def compile_once(from_cache: bool) -> object:
        from unify._config import settings
        from unify.compiler import Specialization, Target, compile as compile_kernel

        aligned = frozenset([*POINTERS[name], *NUMBERS[name]])
        specialization = Specialization(_signature(name, dtype), dict(CONSTANTS[name]), aligned)
        with settings.override(cache_dir=os.environ["UNIFY_CACHE_DIR"]):
            if not from_cache:
                for entry in Path(os.environ["UNIFY_CACHE_DIR"]).glob("kernels/*"):
                    entry.unlink()
            return compile_kernel(KERNELS[name], Target("cpu"), specialization)

    return compile_once


def _triton(name: str, dtype: str) -> Callable[[bool], object]:
    def compile_once(from_cache: bool) -> object:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        kernel: Any = KERNELS[name]
        triton.knobs.compilation.always_compile = not from_cache
        places = {parameter: (index,) for index, parameter in enumerate(kernel.arg_names)}
        constants = {places[parameter]: value for parameter, value in CONSTANTS[name].items()}
        aligned = {places[p]: [["tt.divisibility", 16]] for p in (*POINTERS[name], *NUMBERS[name])}
        source = ASTSource(kernel, _signature(name, dtype), constants, aligned)
        return triton.compile(source, target=GPUTarget("cuda", 90, 32))

    return compile_once
