"""The run half of Triton's backend `cpu`: loads and launches through unify's CPU device.

Triton imports this module whenever it is imported itself, so it is light, and active only where it is asked for or
alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

_CPP = {
    "i1": "int8_t", "i8": "int8_t", "i16": "int16_t", "i32": "int32_t", "i64": "int64_t",
    "u1": "uint8_t", "u8": "uint8_t", "u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t",
    "fp16": "float", "bf16": "float", "fp32": "float", "f32": "float", "fp64": "double",
}  # fmt: skip
_INTEGERS = {f"{sign}{bits}": bits for sign in "iu" for bits in (1, 8, 16, 32, 64)}


class _Loaded:
    """A kernel on the device: launch(grid)(arguments …), and how they are packed."""

    def __init__(self, name: str, content: bytes) -> None:
        import unify
        from unify import _core
        from unify._kernel import load
        from unify.compiler import cache

        binary = cache.decode(content)
        if binary is None:
            raise unify.errors.CompileError(f"kernel {name}: its file in Triton's cache is damaged; delete it.")
        device = unify.device("cpu")
        self.is_checked = any(p.type == "low" for p in binary.parameters)
        function = load(device, binary)
        self.function = function
        self.binary = binary
        fields, formals = [], []
        for index, p in enumerate(binary.parameters):
            is_end = p.type in ("low", "high")
            type_ = "u64" if is_end or p.type.startswith("*") else p.type  # pointers come as addresses
            name = f"{p.name}.{p.type}" if is_end else p.name
            fields.append((index, type_, p.offset, p.is_written))
            formals.append((name, False, None, type_, False, False, False))
        self._dispatcher = _core.Dispatcher(binary.name, formals, lambda *_: (function, fields, []))
        self._stream = device.default_stream

    def launch(self, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        """Returns when the kernel is done, as Triton's callers expect of CPU tensors."""
        self._dispatcher.launcher(grid)(*arguments, stream=self._stream)
        self._stream.synchronize()


class _Utilities:
    """What Triton's compiler asks a driver for."""

    def load_binary(self, name: str, kernel: bytes, shared: int, device: Any) -> tuple[Any, ...]:
        """Returns (module, function, registers, spills, most threads): programs divide by the registers."""
        loaded = _Loaded(name, kernel)
        return loaded, loaded, 32, 0, 1 << 30

    def unload_module(self, module: Any) -> None:
        """The module goes with its last reference."""

    def get_device_properties(self, device: Any) -> dict[str, Any]:
        """Those that programs read to choose their grids."""
        cores = len(os.sched_getaffinity(0))
        return {
            "max_shared_mem": 1 << 40, "max_num_regs": 1 << 16, "multiprocessor_count": cores, "warpSize": 1,
            "sm_clock_rate": 1_000_000, "mem_clock_rate": 1_000_000, "mem_bus_width": 64, "arch": "cpu",
        }  # fmt: skip

    def set_printf_fifo_size(self, size: int) -> None:
        """Printing needs no buffer here."""


class _Launcher:
    """Calls a compiled kernel with the arguments that Triton bound: in C++, but for tuples and descriptors."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._names = tuple(source.signature)
        self._types = tuple(source.signature.values())
        texts = [t for t in self._types if isinstance(t, str) and not t.startswith("tensordesc")]
        # Without an array it would be launched on unify's default device, which may be another one.
        self._is_flat = len(texts) == len(self._types) and any(t[0] == "*" for t in texts)
        self._launchers: Any = None

    def __call__(
        self, x: int, y: int, z: int, stream: Any, loaded: _Loaded, packed_metadata: Any, metadata: Any,
        enter: Callable[[Any], None] | None, leave: Callable[[Any], None] | None, *arguments: Any,
    ) -> None:  # fmt: skip
        """Launches on the CPU's default stream and waits."""
        if enter is not None:
            enter(metadata)
        if self._is_flat:
            if self._launchers is None:
                self._launchers = self._made(loaded)
            self._launchers[x, y, z](*arguments)
        else:
            self._launch(loaded, (x, y, z), arguments)
        if leave is not None:
            leave(metadata)

    def _made(self, loaded: _Loaded) -> Any:
        from unify import _core
        from unify._kernel import Launchers, fields

        formals = [(n, False, None, t, t == "constexpr", False, False) for n, t in zip(self._names, self._types)]
        runtime = [index for index, type_ in enumerate(self._types) if type_ != "constexpr"]
        found: Any = loaded.function, fields(loaded.binary, runtime), []

        def fallback(grid: tuple[int, int, int]) -> Callable[..., None]:
            return lambda *arguments: self._launch(loaded, grid, arguments)

        return Launchers(_core.Dispatcher(loaded.binary.name, formals, lambda *_: found, fallback))

    def _launch(self, loaded: _Loaded, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        if 0 in grid:
            return
        packed = list(_flat(self._types, arguments))
        if loaded.is_checked:
            packed += _memory(self._types, arguments)
        loaded.launch(grid, packed)


def _flat(types: Any, arguments: Any) -> Iterator[Any]:
    """The kernel's packed parameters, in order: pointers as addresses, descriptors and tuples in parts."""
    for type_, value in zip(types, arguments):
        if isinstance(type_, tuple):
            yield from _flat(type_, value)
        elif type_ == "constexpr":
            continue
        elif type_[0] == "*":
            yield _address(value)
        elif type_.startswith("tensordesc"):
            yield from _descriptor(value)
        elif type_ in _INTEGERS:
            yield _integer(type_, value)
        else:
            yield float(value)


def _address(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    if not hasattr(value, "data_ptr"):
        raise TypeError(f"a kernel's pointer argument must be a tensor with data_ptr(); it is {value!r}.")
    device = getattr(getattr(value, "device", None), "type", "cpu")
    if device not in ("cpu", "meta"):
        raise ValueError(f"Pointer argument is on {value.device}, and Triton's active device is the CPU.")
    return int(value.data_ptr())


def _memory(types: Any, arguments: Any) -> Iterator[int]:
    """Where the memory of each pointer begins and ends."""
    for type_, value in zip(types, arguments):
        if isinstance(type_, tuple):
            yield from _memory(type_, value)
        elif type_[0] == "*" or type_.startswith("tensordesc"):
            tensor = value if type_[0] == "*" else value.base
            if hasattr(tensor, "untyped_storage"):
                storage = tensor.untyped_storage()
                yield from (storage.data_ptr(), storage.data_ptr() + storage.nbytes())
            else:
                yield from (0, (1 << 64) - 1)  # a bare address: anything may be there


def _integer(type_: str, value: Any) -> int:
    bits, number = _INTEGERS[type_], int(value)
    if bits == 1:
        return int(bool(number))
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if type_[0] == "i" else (0, 1 << bits)
    if not low <= number < high:
        raise OverflowError(f"{number} does not fit a kernel's parameter of type {type_}.")
    return number if number < 1 << (bits - 1) else number - (1 << bits)  # TTIR knows no unsigned numbers


def _descriptor(value: Any) -> Iterator[Any]:
    """As Triton's rewriting of descriptors to pointers lays them out."""
    yield _address(value.base)
    yield from value.shape
    yield from value.strides
    yield value.padding == "nan"
    if hasattr(value, "round_f32_to_tf32"):  # from 3.8 on
        yield value.round_f32_to_tf32
    yield from value.shape
    yield from value.strides


class _Event:
    """A point in time, as triton.testing.do_bench uses it."""

    def __init__(self, enable_timing: bool = True, blocking: bool = False) -> None:
        self._time_s = 0.0

    def record(self, stream: Any = None) -> None:
        import time

        self._time_s = time.perf_counter()

    def elapsed_time(self, other: _Event) -> float:
        return (other._time_s - self._time_s) * 1e3

    def synchronize(self) -> None:
        pass


class _DeviceInterface:
    """What triton.testing needs of torch.cuda."""

    Event = _Event

    @staticmethod
    def synchronize(device: Any = None) -> None:
        pass

    @staticmethod
    def current_device() -> str:
        return "cpu"

    @staticmethod
    def current_stream(device: Any = None) -> int:
        return 0


class CPUDriver(DriverBase):  # type: ignore[misc, unused-ignore]
    """The CPU as Triton's device."""

    launcher_cls = _Launcher

    def __init__(self) -> None:
        super().__init__()
        self.utils = _Utilities()
        from .launch import install

        install(CPUDriver)

    @staticmethod
    def is_active() -> bool:
        """If it is asked for by TRITON_DEFAULT_BACKEND, or no other backend finds its device."""
        from triton.backends import backends

        from unify._config import settings

        if settings.triton_default_backend:
            return bool(settings.triton_default_backend == "cpu")
        return not any(backend.driver.is_active() for name, backend in backends.items() if name != "cpu")

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cpu", "", 1)

    def get_current_device(self) -> str:
        return "cpu"  # no number: Triton keeps compiled kernels by device, and 0 is a GPU's

    def set_current_device(self, device: Any) -> None:
        pass

    def get_current_stream(self, device: Any = None) -> int:
        return 0

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return (0, 0)

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")

    def get_device_interface(self) -> type[_DeviceInterface]:
        return _DeviceInterface

    def map_python_to_cpp_type(self, ty: str) -> str:
        return "void*" if ty[0] == "*" else _CPP[ty]

    def get_benchmarker(self) -> Callable[..., Any]:
        from triton.testing import do_bench

        return do_bench  # type: ignore[no-any-return, unused-ignore]

    def get_empty_cache_for_benchmark(self) -> Any:
        import torch

        return torch.empty(64 << 18, dtype=torch.int)

    def clear_cache(self, cache: Any) -> None:
        cache.zero_()

    def allocate_default_profile_scratch(self, size: int, alignment: int, stream: Any) -> Any:
        import torch

        return torch.zeros(size, dtype=torch.int8)
