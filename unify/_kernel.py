"""unify.jit: Triton kernels that launch on any device.

A launch stays in C++ (csrc/python/kernel.cpp); what is here runs when a kernel is made, when it meets arguments of a
new kind, and around kernels that are tuned.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar, overload

import triton
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

from . import _core
from ._config import settings
from ._core import Device, Event, Stream, Tensor
from ._device import default_device
from ._errors import CompileError, DTypeError, InvalidArgument, described
from ._notice import Notice
from .compiler import Binary, Options, Specialization, Target, compile
from .compiler.cache import warn_once


class Launchers(dict[Any, Any]):
    """Launchers by grid, made at their first use. Grids of numbers are kept, functions with what they hold are not."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def of(self, grid: Any) -> Callable[..., Any]:
        """A callable that launches on this grid."""
        try:
            return self[grid]  # type: ignore[no-any-return]
        except TypeError:  # a list cannot be kept
            return self._dispatcher.launcher(grid)  # type: ignore[no-any-return]

    def __missing__(self, grid: Any) -> Any:
        launcher = self._dispatcher.launcher(grid)
        is_numbers = type(grid) is int or (type(grid) is tuple and all(type(extent) is int for extent in grid))
        if is_numbers and len(self) < 4096:  # grids that change with each call are not kept for ever
            self[grid] = launcher
        return launcher


def formals(kernel: JITFunction[Any]) -> list[tuple[str, bool, Any, str, bool, bool, bool]]:
    """A kernel's parameters as `_core.Dispatcher` takes them."""
    return [
        (
            parameter.name,
            parameter.has_default,
            parameter.default if parameter.has_default else None,
            parameter.annotation_type or "",
            parameter.is_constexpr,
            not parameter.do_not_specialize,
            not parameter.do_not_specialize_on_alignment,
        )
        for parameter in kernel.params
    ]


def fields(binary: Binary, runtime: list[int]) -> list[tuple[int, str, int, bool]]:
    """Where the launch path packs what. runtime: the kernel's parameters that are not constants."""
    places = dict(zip((p.name for p in binary.parameters), runtime, strict=False))
    return [(places[p.name], p.type, p.offset, p.is_written) for p in binary.parameters]


def load(device: Device, binary: Binary, location: str = "") -> Any:
    """The binary's function on a device, for `_core.Dispatcher`. location: "norm.py:12", for errors."""
    return _core.load_function(
        device,
        binary.image,
        binary.name,
        binary.shared_bytes,
        binary.threads,
        binary.args_bytes,
        location,
        cluster=binary.cluster,
        flags=binary.flags,
        scratch_bytes=binary.scratch_bytes,
        scratch_offset=binary.scratch_offset,
        scratch_programs=binary.scratch_programs,
    )


def read_globals(kernel: JITFunction[Any]) -> list[tuple[dict[str, Any], str, Any]]:
    """The globals that Triton read, to be compared at each launch."""
    used = getattr(kernel, "used_global_vals", {})
    return [(scope, key[0], value) for key, (value, scope) in used.items()]


class Kernel(JITFunction):  # type: ignore[misc, unused-ignore]
    """A Triton kernel: `kernel[grid](arguments, META=…, stream=…)`, on the device of its arrays.

    grid: a number, a tuple of one to three, or a function of the arguments by name. Arrays: unify, torch, CuPy, NumPy
    and whatever speaks DLPack, without a copy. Integers that are 1 or multiples of 16, and aligned pointers, get code
    of their own, as in Triton. A first call with arguments of a new kind compiles; that is kept on disk.
    Usable inside other kernels like any triton.jit function.
    Raises CompileError, InvalidArgument, DeviceMismatchError, KernelFault.
    """

    compiled: ClassVar[int] = 0  # or loaded from disk: of all kernels, each kind of arguments counts

    def __init__(self, fn: Callable[..., Any], **options: Any) -> None:
        try:
            super().__init__(fn, **options)
        except (OSError, ValueError) as error:  # Triton reads the function's source
            raise InvalidArgument(
                f"unify.jit: the source of {fn.__qualname__} cannot be read: {error}. A kernel is defined by `def`, in "
                "a file: not by lambda, exec() or python -c."
            ) from None
        self._launchers = Launchers(_core.Dispatcher(fn.__name__, formals(self), self._compile_for))
        self._lock = threading.Lock()
        self._binaries: dict[Any, Binary] = {}

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        """A callable that launches the kernel on this grid."""
        return self._launchers.of(grid)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Not how a kernel is launched. Raises InvalidArgument."""
        name = self.fn.__name__
        raise InvalidArgument(f"kernel {name}: a launch needs a grid, the number of programs: {name}[grid](arguments).")

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
        self._refuse_constant_arrays(values)
        specialization = Specialization(
            types=dict(zip(names, types, strict=True)),
            constants={n: _plain(v) for n, v, t in zip(names, values, types, strict=True) if t == "constexpr"},
            aligned=frozenset(n for n, is_aligned in zip(names, aligned, strict=True) if is_aligned),
        )
        with self._lock:
            if settings.check_bounds and device.kind != "cpu":
                warn_once(f"UNIFY_CHECK_BOUNDS checks kernels on the CPU device; those on {device} run unchecked.")
            checked = Options(
                check_bounds=settings.check_bounds and device.kind == "cpu", **{"debug": bool(self.debug), **options}
            )
            try:
                binary = compile(self, Target.parse(device.properties["target"]), specialization, checked)
            except CompileError as error:
                self._add_arguments(error, values)
                raise
            self._binaries[device.name, str(specialization), str(options)] = binary
        Kernel.compiled += 1
        runtime = [index for index, type_name in enumerate(types) if type_name != "constexpr"]
        function = load(device, binary, self._location())
        return function, fields(binary, runtime), read_globals(self)

    def _refuse_constant_arrays(self, values: list[Any]) -> None:
        for parameter, value in zip(self.params, values, strict=True):
            if parameter.is_constexpr and hasattr(value, "__dlpack__"):
                raise DTypeError(
                    f"kernel {self.fn.__name__}: argument '{parameter.name}' is a constexpr and cannot be an array; it "
                    f"is {described(value)}. Give a number, a string or a tuple of them."
                )

    def _add_arguments(self, error: CompileError, values: list[Any]) -> None:
        """Where Triton misses a pointer, or has one too many: what was given for the names in that line."""
        if not re.search(r"ptr|pointer|NoneType", error.reason or ""):
            return
        words = re.findall(r"\w+", str(error).partition("\n")[2])
        parameters = zip(self.params, values, strict=True)
        given = [f"{p.name} is {described(v)}" for p, v in parameters if p.name in words and not p.is_constexpr]
        if given:
            hint = "Pointers are given as arrays, numbers as numbers."
            error.args = (f"{error}\n  Given: {'; '.join(given)}. {hint}",)

    def _location(self) -> str:
        code = self.fn.__code__
        return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}"


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, triton.language.constexpr) else value


class TunedKernel:
    """A kernel under triton.autotune or triton.heuristics, launched like any other.

    Each new combination of device and the tuning key's arguments is measured once per process with the device's own
    events; the fastest configuration is kept. One that does not compile is passed over, unless none does, and stands
    in `refused`; that it does not is kept on disk.
    """

    def __init__(self, tuner: Any, kernel: Kernel | TunedKernel) -> None:
        self._tuner = tuner
        self.kernel = kernel
        self.fn = tuner.fn
        self.best_config: Any = None
        self.refused: dict[str, str] = {}  # configurations that do not compile, and why not
        self._best: dict[Any, Any] = {}

    @property
    def binaries(self) -> list[Binary]:
        """What this process has compiled or loaded for this kernel so far, of all configurations."""
        return self.kernel.binaries

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
        key = (_device_of(arguments).name, *(arguments[name] for name in tuner.keys if name in arguments), *dtypes)
        config = self._best.get(key)
        if config is None:
            config = self._best[key] = self._fastest(grid, args, kwargs)
        self.best_config = config
        if config.pre_hook is not None:
            config.pre_hook({**arguments, **config.all_kwargs()})
        self.kernel[grid](*args, **kwargs, **self._options(config, kwargs))

    def _options(self, config: Any, given: dict[str, Any]) -> dict[str, Any]:
        """What a configuration adds to the arguments that were given."""
        taken = ", ".join(sorted(config.kwargs.keys() & given.keys()))
        if taken:
            name = self._tuner.base_fn.__name__
            raise InvalidArgument(f"kernel {name}: {taken} was given, but it is tuned. Leave it out of the launch.")
        known = {"num_warps", "num_stages", "num_ctas", "maxnreg"} - given.keys()
        options = {name: value for name, value in config.all_kwargs().items() if name in known or name in config.kwargs}
        return {name: value for name, value in options.items() if value is not None}

    def _fastest(self, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tuner, arguments = self._tuner, self._bound(args, kwargs)
        if len(tuner.configs) == 1:
            return tuner.configs[0]
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))  # which prune_configs reads
        try:
            configs = list(tuner.prune_configs(kwargs))
        finally:
            tuner.nargs = None
        if len(configs) == 1:
            return configs[0]
        stream = _stream_of(arguments)
        hooks = _Hooks(tuner, stream)
        times: list[float] = []
        errors: list[CompileError] = []
        name = self._tuner.base_fn.__name__
        with Notice(f"unify: kernel {name}: trying {len(configs)} configurations on {stream.device}") as notice:
            for config in configs:
                launch = functools.partial(self.kernel[grid], *args, **kwargs, **self._options(config, kwargs))
                everything = {**arguments, **config.all_kwargs()}
                once = functools.partial(hooks.around, launch, everything, config.pre_hook)
                try:
                    times.append(_measure_ms(once, stream))
                except CompileError as error:
                    times.append(float("inf"))
                    errors.append(error)
                    self.refused[str(config)] = str(error)
        if len(errors) == len(configs):
            raise errors[0]
        best = configs[times.index(min(times))]
        if notice.was_written:
            refused = f", {len(errors)} do not compile (.refused says why)" if errors else ""
            sys.stderr.write(f"unify: kernel {name}: the fastest is {best}{refused}\n")
        hooks.before({**arguments, **best.all_kwargs()}, reset_only=True)
        return best


class _Hooks:
    """What a tuner does around each launch that it measures.

    Triton's own hooks, of reset_to_zero and restore_value, call methods that only torch's arrays have, and work on
    torch's stream. These do the same for arrays of any library, on the launch's.
    """

    def __init__(self, tuner: Any, stream: Stream) -> None:
        self._tuner = tuner
        self._stream = stream
        self._saved: list[tuple[Tensor, Tensor]] = []

    def around(self, launch: Callable[[], None], arguments: dict[str, Any], pre_hook: Any) -> None:
        if pre_hook is not None:  # the configuration's
            pre_hook(arguments)
        self.before(arguments)
        try:
            launch()
        except Exception as error:
            self._after(arguments, error)
            raise
        self._after(arguments, None)

    def before(self, arguments: dict[str, Any], **how: bool) -> None:
        """how: reset_only=True if no `after` follows."""
        if self._tuner.user_defined_pre_hook:
            self._tuner.pre_hook(arguments, **how)
            return
        for array in self._arrays(self._tuner.reset_to_zero, arguments):
            array.fill_(0, stream=self._stream)
        if not how:
            arrays = self._arrays(self._tuner.restore_value, arguments)
            self._saved = [(array, array.copy(stream=self._stream)) for array in arrays]

    def _after(self, arguments: dict[str, Any], error: Exception | None) -> None:
        if self._tuner.user_defined_post_hook:
            self._tuner.post_hook(arguments, exception=error)
            return
        for array, saved in self._saved:
            array.copy_(saved, stream=self._stream)
        self._saved = []

    def _arrays(self, names: list[str], arguments: dict[str, Any]) -> list[Tensor]:
        given = ((name, arguments.get(name)) for name in names)
        return [_core.as_tensor(array, name=name) for name, array in given if array is not None]


def _device_of(arguments: dict[str, Any]) -> Device:
    """The device that a launch with these arguments goes to."""
    arrays = (value for value in arguments.values() if hasattr(value, "dtype"))
    array = next(arrays, None)
    return default_device() if array is None else _core.as_tensor(array).device


def _stream_of(arguments: dict[str, Any]) -> Stream:
    """The stream that a launch with these arguments goes to."""
    device = _device_of(arguments)
    stream = arguments.get("stream")
    return device.current_stream if stream is None else Stream.from_native(stream, device)


def _measure_ms(function: Callable[[], None], stream: Stream) -> float:
    """The best of some runs, in device time: noise only ever adds."""
    function()  # compiles
    best, spent = float("inf"), 0.0
    while spent < 20.0:
        begin, end = Event(stream.device, timing=True), Event(stream.device, timing=True)
        begin.record(stream)
        function()
        end.record(stream)
        end.synchronize()
        elapsed = begin.elapsed_ms(end)
        best, spent = min(best, elapsed), spent + max(elapsed, 0.2)
    return best


@overload
def jit(fn: Callable[..., Any] | TunedKernel) -> Kernel: ...
@overload
def jit(fn: None = None, **options: Any) -> Callable[[Callable[..., Any]], Kernel]: ...


def jit(fn: Any = None, **options: Any) -> Any:
    """Makes a kernel of a Python function in Triton's language.

    fn: the function, or a triton.jit, triton.autotune or triton.heuristics object, which is taken as it is. Options
    are triton.jit's: do_not_specialize, do_not_specialize_on_alignment, debug, noinline; they stand above those of fn.
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
    if isinstance(fn, (Kernel, TunedKernel)) and not options:
        return fn
    if isinstance(fn, TunedKernel):
        return TunedKernel(fn._tuner, jit(fn.kernel, **options))
    if isinstance(fn, (Autotuner, Heuristics)):
        return TunedKernel(fn, jit(fn.fn, **options))
    if isinstance(fn, JITFunction):
        names = ("do_not_specialize", "do_not_specialize_on_alignment", "debug", "noinline")
        return Kernel(fn.fn, **{**{name: getattr(fn, name) for name in names}, **options})
    if not inspect.isfunction(fn):
        raise InvalidArgument(f"jit: a function in Triton's language is needed, not {fn!r}.")
    return Kernel(fn, **options)
