"""Runs on this machine's CPU what Huawei's compiler made of a Triton kernel, from its linalg stage on.

The vendor's own passes bring the text to loops over buffers (lowering.py); we write code for those (program.py and
what it names), and LLVM makes an object of it that the simulated device loads (include/unify/host_kernel.h).

Strict: sums are taken in the order of the text, products and sums are rounded one by one, NaN and infinity are kept;
a kernel gives the same bits each time. What only the choice of a maximum among equal numbers (0.0 and -0.0) decides is
left open.

What this cannot show:
- The order in which a chip's pipes and cores do their work, and what is missing where they ought to wait for each
  other. Programs run one after the other.
- Races between programs. Atomic operations are a read, a computation and a write.
- What the vendor's compiler does after the linalg stage: its scheduling, its rounding on vector and cube units, and
  hivmc, its assembler. A kernel may run here that a chip cannot run, and one that runs there may round differently.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unify.compiler import mlir_reader
from unify.compiler.cpu import link
from unify.simulator.section import HostKernel

from .kernel import PREFIX, generate
from .lowering import to_buffers

__all__ = ["build"]


def build(
    linalg: str, tool: Path, *, strict: bool = True, stages: dict[str, str] | None = None, arch: str = ""
) -> HostKernel:  # fmt: skip
    """Compiles what triton-adapter-opt wrote for this machine, or another processor that the target `cpu` knows.

    tool: the vendor's bishengir-opt. strict=False: sums may be taken in any order, and fused with products. `stages`
    receives the texts on the way. The kernel reads its arguments as the vendor's launcher packs them: 24 bytes that are
    not the kernel's, then its own (`parameters`), then the grid as three int32, which are the last 12 bytes.
    Raises CompileError, which names what cannot run and the kernel's line.
    """
    features = link.features(arch)
    if strict:
        # AVX512-BF16 makes zeros of the smallest bfloat16 numbers (Intel, VCVTNEPS2BF16); arith.truncf does not.
        features = replace(features, flags=features.flags - {"avx512bf16"})
    text = to_buffers(linalg, tool)
    generated = generate(mlir_reader.parse(text), features, strict)
    if stages is not None:
        stages["buffers"], stages["source"] = text, generated.text
    image = link.link(generated.text, features, stages)
    args_bytes = generated.grid_offset + 12
    return HostKernel(generated.name, image, args_bytes, generated.scratch_bytes, generated.parameters, PREFIX)
