"""A kernel's Python source to TTIR, by upstream Triton's own front end. No Triton driver takes part."""

from __future__ import annotations

import inspect
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unify._errors import CompileError
from unify.compiler import mlir

_FP8 = ("fp8e4b15", "fp8e4b8", "fp8e4nv", "fp8e5", "fp8e5b16")


@dataclass(frozen=True)
class Specialization:
    """What a kernel is compiled for, argument by argument, in the order of its parameters.

    types: Triton's signature by parameter name, "constexpr" for what is fixed; constants: the values of those;
    aligned: the parameters that are multiples of 16 (pointers: addresses).
    """

    types: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    aligned: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FrontEndOptions:
    """The options that Triton's front end reads, of 3.6 to 3.9."""

    num_warps: int = 4
    num_ctas: int = 1
    num_stages: int = 3
    warp_size: int = 32
    maxnreg: int | None = None
    enable_fp_fusion: bool = True
    launch_cooperative_grid: bool = False
    launch_pdl: bool = False
    cluster_dims: tuple[int, ...] = (1, 1, 1)
    supported_fp8_dtypes: tuple[str, ...] = _FP8
    deprecated_fp8_dot_operand_dtypes: tuple[str, ...] = ()
    default_dot_input_precision: str = "ieee"
    allowed_dot_input_precisions: tuple[str, ...] = ("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6")
    max_num_imprecise_acc_default: int = 0
    extern_libs: Any = ()
    debug: bool = False
    backend_name: str = "unify"
    sanitize_overflow: bool = False
    arch: str = ""
    ir_override: str | None = None
    instrumentation_mode: str = ""
    fpsan_homomorphic_casts: bool = False
    enable_iisan: bool = False


def to_ttir(
    kernel: Any, specialization: Specialization, *, num_warps: int, num_stages: int, debug: bool, target: str = "cpu"
) -> str:
    """Returns the kernel's TTIR in MLIR's generic form, with locations, after Triton's own clean-up passes.

    target: which dtypes and sizes of products the front end takes, and how tl.dot multiplies float32 when the kernel
    does not say. Raises CompileError with the file, line and source line that Triton refused.
    """
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.errors import CompilationError

    place = {name: (index,) for index, name in enumerate(kernel.arg_names)}
    constants = {place[name]: value for name, value in specialization.constants.items()}
    attributes = {place[name]: [["tt.divisibility", 16]] for name in specialization.aligned}
    source = ASTSource(kernel, dict(specialization.types), constants, attributes)
    options = replace(_options_for(target), num_warps=num_warps, num_stages=num_stages, debug=debug)
    context = ir.context()
    ir.load_dialects(context)
    arguments = [options, language_functions(target), module_map(), context]
    if "target" in inspect.signature(source.make_ir).parameters:  # Triton before 3.8
        arguments.insert(0, GPUTarget("cpu", "", options.warp_size))
    try:
        module = run_passes(source.make_ir(*arguments))
    except CompilationError as error:
        raise _compile_error(kernel, error) from None
    except Exception as error:  # of Triton: a module that does not verify, a type that it cannot read
        raise _own_failure(kernel, error) from error
    return generic_text(module, ir.builder(context))


def _options_for(target: str) -> FrontEndOptions:
    kind, _, arch = target.partition(":")
    if kind != "cuda" or not arch.isdigit():
        return FrontEndOptions()
    # As Triton's Nvidia backend has them.
    return FrontEndOptions(
        arch=f"sm{arch}",
        backend_name="cuda",
        default_dot_input_precision="tf32",
        allowed_dot_input_precisions=("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6"),
        supported_fp8_dtypes=("fp8e4b15", "fp8e4nv", "fp8e5") if int(arch) >= 89 else ("fp8e4b15", "fp8e5"),
        deprecated_fp8_dot_operand_dtypes=("fp8e4b15",) if int(arch) >= 90 else (),
        max_num_imprecise_acc_default=2**30 if arch == "90" else 0,
    )


def source_key(kernel: Any) -> str:
    """What stands for the kernel's source and that of all that it calls. Raises CompileError for what none may call."""
    try:
        return str(kernel.cache_key)
    except BaseException as error:
        _forget_placeholders(error)
        if not isinstance(error, RuntimeError):
            raise
        # "Unsupported function referenced: …"
        code, name = kernel.fn.__code__, kernel.fn.__name__
        reason = f"{error}. A kernel calls functions of triton.language, and others under unify.jit or triton.jit"
        raise CompileError(
            f"{code.co_filename}:{code.co_firstlineno}: kernel {name}: {reason}.",
            file=code.co_filename, line=code.co_firstlineno, reason=reason, kernel=name,
        ) from None  # fmt: skip


def _forget_placeholders(error: BaseException) -> None:
    """Triton sets a function's key to "recursion:…" while it looks for what the function calls, and leaves it there
    when that fails: the next launch would take it for the key, whatever the source."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        function = frame.f_locals.get("self")
        if function is not None and str(getattr(function, "hash", "")).startswith("recursion:"):
            function.hash = None


def run_passes(module: Any) -> Any:
    """Triton's own clean-up of a fresh module. Returns it, or another one of the same context."""
    module = _with_calls_inlined(module)
    _clean_up(module)
    return module


def _with_calls_inlined(module: Any) -> Any:
    """Functions marked noinline save code on a GPU; here a call is no gain, so the mark is dropped."""
    from triton._C.libtriton import ir

    text = str(module.str())
    if "noinline = true" not in text:
        return module
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.ttir"
        path.write_text(text.replace("noinline = true", "noinline = false"))
        context = module.context
        module = ir.parse_mlir_module(str(path), context)
        module.context = context  # as Triton keeps it
        return module


def _clean_up(module: Any) -> None:
    from triton._C.libtriton import ir, passes

    manager = ir.pass_manager(module.context)
    passes.common.add_inliner(manager)
    if hasattr(passes.ttir, "add_rewrite_tensor_pointer"):  # block pointers, until 3.7
        passes.ttir.add_rewrite_tensor_pointer(manager)
    passes.ttir.add_rewrite_tensor_descriptor_to_pointer(manager)
    passes.common.add_canonicalizer(manager)
    passes.ttir.add_combine(manager)
    passes.ttir.add_reorder_broadcast(manager)
    passes.common.add_cse(manager)
    passes.common.add_symbol_dce(manager)
    passes.ttir.add_loop_unroll(manager)
    passes.common.add_licm(manager)
    manager.run(module, "make_ttir")


def generic_text(module: Any, builder: Any) -> str:
    """The module in MLIR's generic form, with locations. The module is not valid afterwards."""
    # MLIR's printer falls back to the generic form when verification fails, and this attribute makes it fail.
    module.set_attr("llvm.data_layout", builder.get_string_attr(mlir.NO_LAYOUT))
    return str(module.str())


def language_functions(target: str = "cpu") -> dict[str, Any]:
    """What Triton's front end asks a target for."""
    smallest = _smallest_on_tensor_cores if target.startswith("cuda") else (lambda lhs, rhs: (1, 1, 1))
    return {"min_dot_size": smallest, "convert_custom_types": _convert_custom_types}


def _smallest_on_tensor_cores(lhs: Any, rhs: Any) -> tuple[int, int, int]:
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import min_dot_size

    return min_dot_size(GPUTarget("cuda", 90, 32))(lhs, rhs)  # type: ignore[no-any-return]


def module_map() -> dict[str, Any]:
    """The modules that stand for `tl.extra.libdevice`."""
    from triton.language.extra.cuda import libdevice

    return {"triton.language.extra.libdevice": libdevice}


def _convert_custom_types(value: Any, to: Any, rounding: Any, _semantic: Any) -> Any:
    """From and to fp8e4b15, whose 7 lower bits are those of a half's upper byte, one further up."""
    from triton import language as tl

    def number(n: int) -> Any:
        return _semantic.cast(_semantic.to_tensor(tl.constexpr(n)), tl.uint16)

    scalar = to.scalar
    if value.type.scalar.is_fp8e4b15():
        code = _semantic.cast(_semantic.bitcast(value, value.type.with_element_ty(tl.uint8)), tl.uint16)
        sign = _semantic.shl(_semantic.and_(code, number(0x80)), number(8))
        rest = _semantic.shl(_semantic.and_(code, number(0x7F)), number(7))
        half = _semantic.bitcast(_semantic.or_(sign, rest), code.type.with_element_ty(tl.float16))
        return _semantic.cast(half, scalar)
    half = _semantic.cast(value, tl.float16)
    bits = _semantic.bitcast(half, half.type.with_element_ty(tl.uint16))
    sign = _semantic.and_(_semantic.lshr(bits, number(8)), number(0x80))
    odd = _semantic.and_(_semantic.lshr(bits, number(7)), number(1))
    magnitude = _semantic.minimum(_semantic.and_(bits, number(0x7FFF)), number(0x3F00), tl.PropagateNan.NONE)
    rounded = _semantic.add(_semantic.add(magnitude, odd, False), number(0x3F), False)
    code = _semantic.or_(_semantic.lshr(rounded, number(7)), sign)
    return _semantic.bitcast(_semantic.cast(code, tl.uint8), half.type.with_element_ty(tl.float8e4b15))


@dataclass(frozen=True)
class _Place:
    """A line of a function in Triton's language. Triton counts from the `def`, users from the file's first line."""

    file: str
    line: int
    text: str

    @staticmethod
    def of(error: Any, kernel: Any) -> _Place:
        function = _function_of(error) or kernel.fn
        source, first = inspect.getsourcelines(function)
        first += next((i for i, text in enumerate(source) if text.lstrip().startswith("def ")), 0)  # after decorators
        offset = max(getattr(error.node, "lineno", 1) - 1, 0)
        lines = (error.src or "").splitlines()
        text = lines[offset].strip() if offset < len(lines) else ""
        return _Place(inspect.getsourcefile(function) or "?", first + offset, text)


def _compile_error(kernel: Any, error: Any) -> CompileError:
    """The reason is the innermost error's; the place is the innermost that is not in Triton's own library."""
    import triton
    from triton.compiler.errors import CompilationError

    chain = [error]
    while isinstance(chain[-1].__cause__, CompilationError):
        chain.append(chain[-1].__cause__)
    reason, library = _reason(chain[-1]), str(Path(triton.__file__).parent)
    places = list(dict.fromkeys(_Place.of(each, kernel) for each in chain))
    *callers, place = [place for place in places if not place.file.startswith(library)] or places
    name = kernel.fn.__name__
    message = f"{place.file}:{place.line}: kernel {name}: {reason}\n  {place.text}".rstrip()
    message += "".join(f"\n  called at {caller.file}:{caller.line}" for caller in reversed(callers))
    return CompileError(message, file=place.file, line=place.line, reason=reason, kernel=name)


def _own_failure(kernel: Any, error: Exception) -> CompileError:
    """What Triton itself does not tell: the place is MLIR's, of the operation that does not verify, or the kernel's."""
    code, name = kernel.fn.__code__, kernel.fn.__name__
    file, line, reason = code.co_filename, code.co_firstlineno, f"Triton's own failure: {type(error).__name__}: {error}"
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = frames[-1].f_locals.get("module")
    if frames[-1].f_code.co_name == "ast_to_ttir" and module is not None:
        found = re.search(r"^(.+?):(\d+):\d+: error: (.+)", _said_by(module.verify), re.MULTILINE)
        if found is not None:
            file, line, reason = found[1], int(found[2]), found[3]
    return CompileError(f"{file}:{line}: kernel {name}: {reason}.", file=file, line=line, reason=reason, kernel=name)


def _said_by(function: Callable[[], Any]) -> str:
    """What a function of MLIR writes to standard error, where alone its diagnostics go."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), 2)
            try:
                function()
            finally:
                os.dup2(before, 2)
            log.seek(0)
            return log.read().decode(errors="replace")
    finally:
        os.close(before)


def _reason(error: Any) -> str:
    from triton.compiler.errors import CompileTimeAssertionFailure

    text = str(error.error_message or "").strip()
    if isinstance(error, CompileTimeAssertionFailure):
        return f"static_assert: {text}" if text else "a static_assert does not hold"
    if text or error.__cause__ is None:
        return text or "it is not valid in a kernel"
    return f"{type(error.__cause__).__name__}: {error.__cause__}"


def _function_of(error: Any) -> Any:
    """The function that Triton was in when it raised the error: it knows the text alone, which another may have too."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        function = getattr(frame.f_locals.get("self"), "jit_fn", None)
        if function is not None and function.src == error.src:
            found = function.fn
    return found
