"""A Triton driver for a chip that is not there: it loads nothing and launches nothing.

What remains of `kernel[grid](…)` is Triton's own work in Python: binding, specialising, looking up. A real launch comes
on top of it, so the figure flatters Triton.
"""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase


class _Utils:
    def load_binary(self, name: str, image: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        return 1, 1, 0, 0, 1024  # module, function, registers, spills, largest block

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 1 << 20, "multiprocessor_count": 1}


class _Launcher:
    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        pass


class NullDriver(DriverBase):  # type: ignore[misc]  # triton is untyped
    """Install with triton.runtime.driver.set_active(NullDriver())."""

    launcher_cls = _Launcher

    def __init__(self) -> None:
        super().__init__()
        self.utils = _Utils()

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_active_torch_device(self) -> None:
        return None

    def get_benchmarker(self) -> None:
        return None


class Pointer:
    """The least that Triton takes for a tensor: an address and a dtype."""

    dtype = "float32"

    def __init__(self, address: int) -> None:
        self._address = address

    def data_ptr(self) -> int:
        return self._address
