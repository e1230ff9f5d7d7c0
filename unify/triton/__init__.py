"""Unmodified Triton programs on the CPU: unify as a backend of `import triton` itself.

`TRITON_DEFAULT_BACKEND=cpu python program.py` is enough from Triton 3.7 on, and on any version where Triton finds no
GPU; `activate()` says the same from inside a program.
"""

from __future__ import annotations

from typing import Any

__all__ = ["activate", "deactivate", "use_in_torch_compile"]


def activate() -> None:
    """Makes the CPU Triton's active device in this process: `kernel[grid](…)` then takes CPU tensors.

    Kernels that were compiled for a GPU before stay; `deactivate` goes back to it.
    """
    from triton.backends import Backend, backends
    from triton.runtime import driver

    from .compiler import CPUBackend
    from .driver import CPUDriver

    backends.setdefault("cpu", Backend(compiler=CPUBackend, driver=CPUDriver))  # TRITON_BACKENDS_IN_TREE=1 hides it
    if not isinstance(_current(driver), CPUDriver):
        driver.set_active(CPUDriver())


def deactivate() -> None:
    """Gives Triton back the device that it finds by itself."""
    from triton.runtime import driver

    driver.reset_active()


def use_in_torch_compile() -> None:
    """Lets torch.compile generate Triton kernels for the CPU, which then run here, instead of C++."""
    import torch._inductor.config

    activate()
    torch._inductor.config.cpu_backend = "triton"
    # Under max_autotune, Inductor times a kernel with what follows it fused in by means that it has for GPUs only.
    torch._inductor.config.benchmark_epilogue_fusion = False


def _current(config: Any) -> Any:
    try:
        return config.active
    except RuntimeError:  # no GPU, or more than one kind
        return None
