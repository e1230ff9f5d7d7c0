"""unify.jit: Triton kernels that launch on any device.

A launch stays in C++ (csrc/python/kernel.cpp); what is here runs when a kernel is made, when it meets arguments of a
new kind, and around kernels that are tuned.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, overload

import triton
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

from . import _core
from ._config import settings
from ._errors import InvalidArgument
from .compiler import Binary, Options, Specialization, Target, compile


class _Launchers(dict[Any, Any]):
    """Launchers by grid, made at their first use."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def __missing__(self, grid: Any) -> Any:
        launcher = self._dispatcher.launcher(grid)
        if len(self) < 4096:  # grids that change with each call are not kept for ever
            self[grid] = launcher
        return launcher


class Kernel(JITFunction):  # type: ignore[misc, unused-ignore]
    """A Triton kernel: `kernel[grid](arguments, META=…, stream=…)`, on the device of its arrays.

    grid: a number, a tuple of one to three, or a function of the arguments by name. Arrays: unify, torch, CuPy, NumPy
    and whatever speaks DLPack, without a copy. Integers that are 1 or multiples of 16, and aligned pointers, get code
    of their own, as in Triton. A first call with arguments of a new kind compiles; that is kept on disk.
    Usable inside other kernels like any triton.jit function.
    Raises CompileError, InvalidArgument, DeviceMismatchError, KernelFault.
    """

    def __init__(self, fn: Callable[..., Any], **options: Any) -> None:
        super().__init__(fn, **options)
        parameters = [
            (
                parameter.name,
                parameter.has_default,
                parameter.default if parameter.has_default else None,
                parameter.annotation_type or "",
                parameter.is_constexpr,
                not parameter.do_not_specialize,
                not parameter.do_not_specialize_on_alignment,
            )
            for parameter in self.params
        ]
        self._dispatcher = _core.Dispatcher(fn.__name__, parameters, self._compile_for)
        self._launchers = _Launchers(self._dispatcher)
        self._lock = threading.Lock()
        self._binaries: dict[Any, Binary] = {}

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        """A callable that launches the kernel on this grid."""
        try:
            return self._launchers[grid]  # type: ignore[no-any-return]
        except TypeError:  # a list cannot be kept
            return self._dispatcher.launcher(grid)

    def run(self, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        """Launches, in the way of triton.JITFunction."""
        if warmup:
            raise InvalidArgument("run(warmup=True) is Triton's own; call compile() of unify.compiler instead.")
        self[grid](*args, **kwargs)

    @property
    def binaries(self) -> list[Binary]:
        """What this process has compiled or loaded for this kernel so far."""
        return list(self._binaries.values())

    def _compile_for(
        self, device: Any, values: list[Any], types: list[str], aligned: list[bool], options: dict[str, Any]
    ) -> tuple[Any, list[tuple[int, str, int, bool]], list[Any]]:
        """Compiles and loads for arguments of a new kind; called from the launch path."""
        names = self.arg_names
        specialization = Specialization(
            types=dict(zip(names, types, strict=True)),
            constants={n: _plain(v) for n, v, t in zip(names, values, types, strict=True) if t == "constexpr"},
            aligned=frozenset(n for n, is_aligned in zip(names, aligned, strict=True) if is_aligned),
        )
        with self._lock:
            checked = Options(check_bounds=settings.check_bounds, **options)
            binary = compile(self, Target.parse(device.properties["target"]), specialization, checked)
            self._binaries[device.name, str(specialization), str(options)] = binary
        runtime = [index for index, type_name in enumerate(types) if type_name != "constexpr"]
        places = dict(zip((p.name for p in binary.parameters), runtime, strict=False))
        fields = [(places[p.name], p.type, p.offset, p.is_written) for p in binary.parameters]
        function = _core.load_function(
            device, binary.image, binary.name, binary.shared_bytes, binary.threads, binary.args_bytes, self._location()
        )
        return function, fields, self._globals()

    def _location(self) -> str:
        code = self.fn.__code__
        return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}"

    def _globals(self) -> list[tuple[dict[str, Any], str, Any]]:
        """The globals that Triton read, to be compared at each launch."""
        used = getattr(self, "used_global_vals", {})
        return [(scope, key[0], value) for key, (value, scope) in used.items()]


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, triton.language.constexpr) else value


class TunedKernel:
    """A kernel under triton.autotune or triton.heuristics, launched like any other.

    Each new combination of the tuning key's arguments is measured once per process with the device's own events; the
    fastest configuration is kept.
    """

    def __init__(self, tuner: Any) -> None:
        self._tuner = tuner
        self.kernel = jit(tuner.fn)
        self.fn = tuner.fn
        self.best_config: Any = None
        self._best: dict[Any, Any] = {}

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        """A callable that launches the kernel on this grid, with its best configuration."""

        def launch(*args: Any, **kwargs: Any) -> None:
            if isinstance(self._tuner, Heuristics):
                arguments = self._bound(args, kwargs)
                computed: dict[str, Any] = {}
                for name, heuristic in self._tuner.values.items():
                    computed[name] = heuristic({**arguments, **computed})
                self.kernel[grid](*args, **{**kwargs, **computed})
            else:
                self._launch_tuned(grid, args, kwargs)

        return launch

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._tuner.arg_names, args, strict=False)), **kwargs}

    def _launch_tuned(self, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tuner, arguments = self._tuner, self._bound(args, kwargs)
        dtypes = tuple(str(value.dtype) for value in arguments.values() if hasattr(value, "dtype"))
        key = (*(arguments[name] for name in tuner.keys if name in arguments), *dtypes)
        config = self._best.get(key)
        if config is None:
            configs = list(tuner.configs)
            if len(configs) > 1:
                tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
                configs = list(tuner.prune_configs(kwargs))
            config = self._best[key] = self._fastest(configs, grid, args, kwargs)
        self.best_config = config
        if config.pre_hook is not None:
            config.pre_hook({**arguments, **config.all_kwargs()})
        self.kernel[grid](*args, **{**kwargs, **_config_arguments(config)})

    def _fastest(self, configs: list[Any], grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(configs) == 1:
            return configs[0]
        tuner, arguments = self._tuner, self._bound(args, kwargs)
        times: list[tuple[float, int]] = []
        for config in configs:
            everything = {**arguments, **config.all_kwargs()}

            def once(config: Any = config, everything: dict[str, Any] = everything) -> None:
                if config.pre_hook is not None:
                    config.pre_hook(everything)
                tuner.pre_hook(everything)
                self.kernel[grid](*args, **{**kwargs, **_config_arguments(config)})
                tuner.post_hook(everything, exception=None)

            times.append((_measure_ms(once, kwargs.get("stream")), len(times)))
        return configs[min(times)[1]]


def _config_arguments(config: Any) -> dict[str, Any]:
    known = {"num_warps", "num_stages", "num_ctas"}
    options = {name: value for name, value in config.all_kwargs().items() if name in known or name in config.kwargs}
    return {name: value for name, value in options.items() if value is not None}


def _measure_ms(function: Callable[[], None], stream: Any) -> float:
    """The best of some runs, in device time: noise only ever adds."""
    from ._stream import Event, current_stream

    stream = stream or current_stream()
    function()  # compiles
    best, spent = float("inf"), 0.0
    while spent < 20.0:
        begin, end = Event(timing=True), Event(timing=True)
        begin.record(stream)
        function()
        end.record(stream)
        end.synchronize()
        elapsed = begin.elapsed_ms(end)
        best, spent = min(best, elapsed), spent + max(elapsed, 0.2)
    return best


@overload
def jit(fn: Callable[..., Any]) -> Kernel: ...
@overload
def jit(fn: None = None, **options: Any) -> Callable[[Callable[..., Any]], Kernel]: ...


def jit(fn: Any = None, **options: Any) -> Any:
    """Makes a kernel of a Python function in Triton's language.

    fn: the function, or a triton.jit, triton.autotune or triton.heuristics object, which is taken as it is. Options
    are triton.jit's: do_not_specialize, do_not_specialize_on_alignment, debug, noinline.
    Returns a `Kernel`. Raises InvalidArgument for anything else.

    >>> @un.jit
    ... def double(x, BLOCK: tl.constexpr):
    ...     i = tl.arange(0, BLOCK)
    ...     tl.store(x + i, tl.load(x + i) * 2)
    >>> x = un.arange(16)
    >>> double[(1,)](x, BLOCK=16)
    >>> x[:4].tolist()
    [0, 2, 4, 6]
    """
    if fn is None:
        return lambda function: jit(function, **options)
    if isinstance(fn, (Kernel, TunedKernel)):
        return fn
    if isinstance(fn, (Autotuner, Heuristics)):
        return TunedKernel(fn)
    if isinstance(fn, JITFunction):
        return Kernel(
            fn.fn,
            do_not_specialize=fn.do_not_specialize,
            do_not_specialize_on_alignment=fn.do_not_specialize_on_alignment,
            debug=fn.debug,
            noinline=fn.noinline,
            **options,
        )
    if not inspect.isfunction(fn):
        raise InvalidArgument(f"jit: a function in Triton's language is needed, not {fn!r}.")
    return Kernel(fn, **options)
