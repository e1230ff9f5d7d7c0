"""Run by Python when a program on simulated chips starts: this folder is the first of PYTHONPATH then.

What unify adds to a program comes with the module that it is about, and costs nothing without it.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_FOLDER = str(Path(__file__).parent)


def _kernels() -> None:
    importlib.import_module("unify.simulator.kernels").install()


def _transfer() -> None:
    importlib.import_module("unify.simulator.transfer").watch()


def _fallback() -> None:
    importlib.import_module("unify.simulator.fallback").watch()


_AFTER: dict[str, Callable[[], None]] = {
    "triton": _kernels,
    "torch_npu": _fallback,
    "torch_npu.contrib.transfer_to_npu": _transfer,
}


class _Finder:
    """Finds the modules of _AFTER as Python does, and calls what is to come after them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As importlib asks."""
        if name not in _AFTER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        after, execute = _AFTER.pop(name), spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            after()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _next(finder: Any) -> None:
    """Runs the sitecustomize that this one stands before, and begins."""
    sys.meta_path.insert(0, finder)
    sys.path[:] = [entry for entry in sys.path if entry != _FOLDER]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_next(_Finder())
