"""Modules: images that were compiled elsewhere, and the functions in them.

module = un.Module(Path("saxpy.cubin").read_bytes(), device="cuda:0")
saxpy = module.function("saxpy", "fp32, *fp32, *fp32, i32", threads=256)
saxpy[-(-n // 256)](2.0, x, y, n)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import _core
from ._core import Device, Function
from ._device import device as open_device
from ._errors import InvalidArgument, UnsupportedError, described
from .compiler import Binary, cubin, ptx, signature
from .compiler.ptx import Entry

if TYPE_CHECKING:
    from ._device import DeviceLike

__all__ = ["Function", "Module"]


class Module:
    """A compiled image on a device: a cubin, PTX, a fatbin, a CPU object, whatever the device's backend loads.

    image: its bytes. name: in errors. The image is unloaded when the module and its functions are gone and the
    device has run what uses them. Raises InvalidArgument for an image that is damaged or made for another device.
    """

    def __init__(self, image: bytes | bytearray | memoryview, device: DeviceLike = None, name: str = "module") -> None:
        if not isinstance(image, (bytes, bytearray, memoryview)):
            raise InvalidArgument(f"Module: the image's bytes are needed, not {described(image)}: read the file first.")
        self.name = name
        self.device: Device = open_device(device)
        content = bytes(image)
        if ptx.is_ptx(content):
            _refuse_simulated(self.device, "PTX")
        self._loaded = _core.load_module(self.device, content, name)
        self._entries: dict[str, Entry] = ptx.entries(content.decode(errors="replace")) if ptx.is_ptx(content) else {}
        self._argument_bytes = cubin.argument_bytes(content)
        self._aliases: dict[str, str] = {}
        self._functions: dict[str, Function] = {}
        self.log = ""

    @classmethod
    def from_binary(cls, binary: Binary, device: DeviceLike = None) -> Module:
        """Loads what unify.compile made; its function knows its parameters.

        What `types` promised with ":16" is not checked at the launch. A grid counts programs, each of num_ctas blocks;
        blocks where function.launch() is given a cluster. Raises InvalidArgument for a device of another
        kind than the binary's target.
        """
        opened = open_device(device)
        kind = opened.target.partition(":")[0]
        if binary.target.partition(":")[0] != kind:
            raise InvalidArgument(
                f"Module: kernel {binary.name} was compiled for {binary.target}, {opened.name} is a {kind} device."
            )
        module = cls(binary.image, opened, binary.name)
        module._entries = {
            binary.name: Entry(
                binary.name, binary.parameters, binary.threads, binary.shared_bytes, binary.args_bytes,
                binary.cluster, binary.flags, binary.scratch_bytes, binary.scratch_offset,
                binary.scratch_programs,
            )
        }  # fmt: skip
        return module

    @classmethod
    def from_cuda_source(
        cls,
        source: str,
        device: DeviceLike = "cuda:0",
        *,
        name: str = "program.cu",
        options: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        arch: str | None = None,
        name_expressions: Sequence[str] = (),
    ) -> Module:
        """Compiles CUDA C++ by NVRTC and loads it; its functions know their parameters.

        arch: the device's unless given, "90a" say. The other arguments are those of unify.compiler.nvrtc.compile.
        Functions are found by the name in the source, by a name expression, or by the name in the image; `log` holds
        NVRTC's warnings. Raises CompileError with file and line, UnsupportedError without NVRTC and on a simulated
        device.
        """
        from .compiler import nvrtc

        opened = open_device(device)
        kind, _, own_arch = opened.target.partition(":")
        if kind != "cuda":
            raise UnsupportedError(f"Module: CUDA C++ runs on cuda devices; {opened.name} is a {kind} device.")
        _refuse_simulated(opened, "CUDA C++")
        made = nvrtc.compile(
            source, arch or own_arch, name=name, options=options, headers=headers, name_expressions=name_expressions
        )
        module = cls(made.cubin, opened, name)
        module._entries, module._aliases, module.log = made.functions, made.names, made.log
        return module

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions whose parameters are known: of PTX, CUDA C++ and what unify.compile made."""
        return tuple(self._entries)

    def function(
        self,
        name: str | None = None,
        types: str | Sequence[str] | None = None,
        *,
        threads: int | None = None,
        shared_bytes: int = 0,
    ) -> Function:
        """Finds a function by its name; the name may be left out where there is only one.

        types: what it takes, in Triton's names, by commas: ``fp32, *fp32, *kfp32, n: i32``. A name makes an argument
        one that can be given by name. ``*kfp32`` is a pointer that is only read through; ptr is any array, or an
        address as an int; bytes[24]@8 is a struct of 24 bytes aligned to 8, given as bytes or as a ctypes.Structure.
        Where the module does not know them and they are not given, each argument has to carry its own type: arrays,
        NumPy's scalars, bool and None do, Python's numbers do not.
        threads: of a program, unless the launch says otherwise. shared_bytes: scratch memory beyond what the image
        itself sets aside.

        Raises InvalidArgument for a name that is not there, naming near ones, or a type that cannot be passed.
        """
        entry = ptx.find(self._entries, self._aliases, name, self.name)
        found = entry.name if entry is not None else self._aliases.get(name or "", name or "")
        entry = entry or Entry(found, ())
        parameters, args_bytes = (entry.parameters, entry.args_bytes) if found in self._entries else (None, 0)
        if types is not None:
            parameters = signature.parse(types)
            args_bytes = max(signature.total_bytes(parameters), entry.args_bytes or 0)
        elif parameters is not None and args_bytes is None:
            args_bytes = signature.total_bytes(parameters)
        taken = self._argument_bytes.get(found)
        if parameters is None:
            args_bytes = taken
        elif taken not in (None, args_bytes):
            raise InvalidArgument(
                f"module {self.name}: {found} takes {taken} bytes of arguments, the types given make {args_bytes}. A "
                "kernel of Triton's takes two pointers behind the others: Module.from_binary knows them; or add "
                "'ptr, ptr' and give None for both, if it needs no scratch memory."
            )
        return self._loaded.function(
            found, parameters, args_bytes or 0, threads or entry.threads or 0, shared_bytes or entry.shared_bytes,
            self.name if self.name != found else "", entry.cluster, entry.flags, entry.scratch_bytes,
            entry.scratch_offset, entry.scratch_programs,
        )  # fmt: skip

    def __getitem__(self, name: str) -> Function:
        """The function of this name, as function(name) finds it; the same object each time."""
        if name not in self._functions:
            self._functions[name] = self.function(name)
        return self._functions[name]

    def __repr__(self) -> str:
        known = f": {', '.join(self._entries)}" if self._entries else ""
        return f"unify.Module({self.name!r}, {self.device.name}{known})"


def _refuse_simulated(device: Device, what: str) -> None:
    if device.kind == "cuda" and device.properties["simulated"]:
        raise UnsupportedError(
            f"Module: {device.name} is simulated, and {what} is code for a chip. What unify.jit and unify.compile make "
            "while the simulation is on runs there. unify.compiler.nvrtc.compile compiles CUDA C++ without a device."
        )
