"""The compile half of Triton's backend `cpu`. Triton imports this module whenever it is imported itself."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, fields
from typing import Any

from triton.backends.compiler import BaseBackend, GPUTarget, Language

from unify._config import settings
from unify.compiler.frontend import FrontEndOptions, generic_text, language_functions, module_map, run_passes


@dataclass(frozen=True)
class _Options(FrontEndOptions):
    """What a launch may be given. Those of GPUs are accepted, since tuned kernels name them, and mean nothing here."""

    backend_name: str = "cpu"
    warp_size: int = 1
    sanitize_overflow: bool = True
    waves_per_eu: int = 0
    matrix_instr_nonkdim: int = 0
    kpack: int = 1
    schedule_hint: str = ""
    ptx_options: str | None = None
    min_shared_mem: int = 0
    check_bounds: bool = False

    def __post_init__(self) -> None:
        assert self.num_warps.bit_count() == 1, "num_warps must be a power of 2"

    def hash(self) -> str:
        """Part of Triton's cache key."""
        return hashlib.sha256(repr(sorted(vars(self).items())).encode()).hexdigest()


class CPUBackend(BaseBackend):  # type: ignore[misc, unused-ignore]
    """TTIR by Triton, object code by unify.compiler.cpu."""

    binary_ext = "kernel"
    supports_native_tensor_specialization = True

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        """Whether the target is a CPU."""
        return bool(target.backend == "cpu")

    @functools.lru_cache  # noqa: B019 — one for each process
    def hash(self) -> str:
        """Names all that decides which code comes out: compiler, libraries, this machine's CPU."""
        from unify.compiler import compiler_version, machine

        return f"unify-{compiler_version()}-{machine()}"

    def parse_options(self, options: dict[str, Any]) -> _Options:
        """The launch's keyword arguments that are options."""
        known = {field.name for field in fields(_Options)}
        given = {name: value for name, value in options.items() if name in known and value is not None}
        return _Options(**{"check_bounds": settings.check_bounds, **given})

    def pack_metadata(self, metadata: Any) -> tuple[int, int, int]:
        """What launch hooks are shown."""
        return metadata.num_warps, metadata.num_ctas, metadata.shared

    def get_codegen_implementation(self, options: Any) -> dict[str, Any]:
        """What the front end asks a target for."""
        return language_functions()

    def get_module_map(self) -> dict[str, Any]:
        """What stands for `tl.extra.libdevice`."""
        return module_map()

    def load_dialects(self, context: Any) -> None:
        """Nothing to add to Triton's own."""

    def add_stages(self, stages: dict[str, Any], options: _Options, language: Any = Language.TRITON) -> None:
        """A stage a line. Raises CompileError for Gluon, whose layouts are those of a GPU."""
        if language != Language.TRITON:
            from unify.errors import CompileError

            raise CompileError("Gluon kernels place data in a GPU's registers; the CPU target takes Triton kernels.")
        stages["ttir"] = _ttir
        stages["kernel"] = functools.partial(_kernel, options=options)


def _ttir(module: Any, metadata: dict[str, Any]) -> Any:
    module = run_passes(module)
    metadata["name"] = module.get_entry_func_name()
    metadata["tensordesc_meta"] = None
    metadata["tmem_size"] = None
    for use in ("global_scratch", "profile_scratch"):
        metadata[f"{use}_size"], metadata[f"{use}_align"] = 0, 1
    return module


def _kernel(module: Any, metadata: dict[str, Any], options: _Options) -> bytes:
    from triton._C.libtriton import ir

    from unify.compiler import Options, Target, cache, compile_ttir

    text = generic_text(module, ir.builder(module.context))
    ours = Options(debug=options.debug, check_bounds=options.check_bounds)  # a CPU has no warps: one object for all
    binary = compile_ttir(metadata["name"], text, Target("cpu"), ours)
    metadata["shared"] = binary.shared_bytes
    return cache.encode(binary)
