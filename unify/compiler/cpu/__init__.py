"""Triton on the CPU: TTIR text in, object bytes out. The stages, a line each, are `compile` below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unify.compiler import mlir_reader, signature
from unify.compiler.cpu import calls, codegen, link, tiling

if TYPE_CHECKING:
    from unify.compiler.target import Binary, Options, Target

__all__ = ["Image", "build", "compile"]


@dataclass(frozen=True)
class Image:
    """A compiled kernel: an ELF relocatable object (include/unify/host_kernel.h) and how to call it."""

    name: str
    object: bytes
    scratch_bytes: int
    parameters: tuple[tuple[str, str, int], ...]
    args_bytes: int


def build(ttir: str, arch: str = "", stages: dict[str, str] | None = None, check_bounds: bool = False) -> Image:
    """Compiles the module's kernel for `arch` ("" is this machine); `stages` receives LLVM IR and assembly."""
    features = link.features(arch)
    module = mlir_reader.parse(ttir)
    function = signature.kernel_of(module)
    calls.expand(function, module)
    plan = tiling.plan(function)
    generated = codegen.generate(function, plan, features, check_bounds)
    if stages is not None:
        stages["source"] = generated.text
    image = link.link(generated.text, features, stages)
    return Image(generated.name, image, generated.scratch_bytes, generated.parameters, generated.args_bytes)


def compile(ttir: str, target: Target, options: Options) -> Binary:
    """The compile half of the target `cpu`: TTIR in generic form to one object file."""
    from unify.compiler.target import Binary, Parameter

    stages: dict[str, str] | None = {} if options.stages else None
    image = build(ttir, target.arch, stages, options.check_bounds)
    return Binary(
        name=image.name,
        image=image.object,
        target=str(target),
        parameters=tuple(Parameter(*parameter) for parameter in image.parameters),
        args_bytes=image.args_bytes,
        shared_bytes=image.scratch_bytes,
        threads=1,
        metadata={"features": link.features(target.arch).text},
        stages=stages or {},
    )
