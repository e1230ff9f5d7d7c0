"""unify.jit's launch path before Triton's own, for unmodified triton.jit kernels on the CPU.

Triton binds arguments in Python, some microseconds a launch. A call that C++ knows already never gets there; one that
it cannot take, or that somebody watches with a hook, goes Triton's way as if nothing stood before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver, jit
from triton.runtime.jit import JITFunction

from unify import _core
from unify._kernel import Launchers, fields, formals, read_globals
from unify._tensor import as_tensor

from .compiler import CPUBackend

_ATTRIBUTE = "_unify_launchers"  # of a JITFunction, whose own hash would read its source
_getitem = JITFunction.__getitem__
_run = JITFunction.run
_specialize = jit.native_specialize_impl


@functools.cache
def install(driver_type: type) -> None:
    """From now on kernels launch through unify while the active driver is a `driver_type`."""
    hooks = knobs.runtime

    def is_ours(kernel: JITFunction[Any]) -> bool:  # written for speed: each launch asks
        if type(driver._active) is not driver_type or kernel.pre_run_hooks or type(kernel) is not JITFunction:
            return False
        try:
            return not (hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls)
        except AttributeError:  # a program put a function, or None, where Triton has a chain
            return False

    def getitem(self: JITFunction[Any], grid: Any) -> Callable[..., Any]:
        if not is_ours(self):
            return _getitem(self, grid)  # type: ignore[no-any-return]
        try:
            return self.__dict__[_ATTRIBUTE][grid]  # type: ignore[no-any-return]
        except (KeyError, TypeError):
            return _launchers(self).of(grid)

    def run(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if warmup or not is_ours(self):
            return _run(self, *args, grid=grid, warmup=warmup, **kwargs)
        return getitem(self, grid)(*args, **kwargs)

    def specialize(backend: Any, value: Any, *how: bool) -> Any:  # Triton knows arrays by what torch's have
        if isinstance(backend, CPUBackend) and hasattr(value, "__dlpack__") and not hasattr(value, "data_ptr"):
            value = _Described(as_tensor(value))
        return _specialize(backend, value, *how)

    jit.native_specialize_impl = specialize
    JITFunction.__getitem__ = functools.wraps(_getitem)(getitem)
    JITFunction.run = functools.wraps(_run)(run)


class _Described:
    """An array as far as Triton looks at one."""

    def __init__(self, tensor: Any) -> None:
        self.dtype = tensor.dtype
        self._address = tensor.address

    def data_ptr(self) -> int:
        """Where its first element is."""
        return self._address  # type: ignore[no-any-return]


def _launchers(kernel: JITFunction[Any]) -> Launchers:
    launchers: Launchers | None = kernel.__dict__.get(_ATTRIBUTE)
    if launchers is None:
        launchers = kernel.__dict__.setdefault(_ATTRIBUTE, _made(kernel))
    return launchers


def _made(kernel: JITFunction[Any]) -> Launchers:
    def fallback(grid: Any) -> Callable[..., Any]:
        return functools.partial(_run, kernel, grid=grid, warmup=False)

    def compile_for(_: Any, values: list[Any], types: list[str], __: Any, options: dict[str, Any]) -> Any:
        compiled = _run(kernel, *values, grid=None, warmup=True, **options)
        if not isinstance(compiled, CompiledKernel):
            return None  # a hook took the compilation over
        compiled._init_handles()
        loaded = compiled.function
        runtime = [index for index, type_name in enumerate(types) if type_name != "constexpr"]
        return loaded.function, fields(loaded.binary, runtime), read_globals(kernel), compiled

    return Launchers(_core.Dispatcher(kernel.fn.__name__, formals(kernel), compile_for, fallback))
