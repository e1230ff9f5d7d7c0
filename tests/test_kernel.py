"""unify.jit: arguments, specialisation, grids, errors."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import unify as un
from unify.testing.backends import compile_backend

from .conftest import Run

SCALE = tl.constexpr(3)


@un.jit
def affine(x, out, n, factor, BLOCK: tl.constexpr, SHIFT: tl.constexpr = 0):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) * factor + SHIFT, mask=i < n)


@un.jit
def tripled(x):
    return x * SCALE


@un.jit
def calls_another(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tripled(tl.load(x + i)))


@pytest.mark.parametrize("make", [un.asarray, torch.from_numpy, np.asarray], ids=["unify", "torch", "numpy"])
@pytest.mark.parametrize("n", [1, 2, 16, 1000, 1024])
def test_takes_any_array_without_a_copy(n: int, make) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    out = np.zeros(n, np.float32)
    affine[(-(-n // 128),)](make(x), make(out), n, 2.0, BLOCK=128)
    np.testing.assert_array_equal(out, x * 2)


def test_a_grid_is_a_number_a_tuple_or_a_function_of_the_arguments() -> None:
    x = un.ones((256,))
    for grid in (2, (2,), [2], (2, 1, 1), lambda meta: (256 // meta["BLOCK"],)):
        out = un.zeros((256,))
        affine[grid](x, out, 256, 1.0, BLOCK=128)
        assert out.numpy().sum() == 256


def test_an_empty_grid_launches_nothing() -> None:
    out = un.zeros((4,))
    affine[(0,)](un.ones((4,)), out, 4, 1.0, BLOCK=16)
    assert out.numpy().sum() == 0


def test_keywords_defaults_and_constexprs() -> None:
    x, out = un.ones((16,)), un.zeros((16,))
    affine[1](out=out, x=x, n=16, factor=5, BLOCK=16, SHIFT=1)
    assert out.numpy().tolist() == [6.0] * 16
    affine[1](x, out, 16, 5.0, 16)
    assert out.numpy().tolist() == [5.0] * 16


def test_one_and_multiples_of_sixteen_get_code_of_their_own_and_the_same_result() -> None:
    x = np.arange(64, dtype=np.float32)
    for n in (1, 3, 16, 48, 64):
        out = np.zeros(64, np.float32)
        affine[1](x, out, n, 1.0, BLOCK=64)
        np.testing.assert_array_equal(out, np.where(np.arange(64) < n, x, 0))


def test_an_unaligned_view_is_read_where_it_lies() -> None:
    x, out = np.arange(65, dtype=np.float32), np.zeros(64, np.float32)
    affine[1](x[1:], out, 64, 1.0, BLOCK=64)
    np.testing.assert_array_equal(out, x[1:])


def test_a_kernel_can_be_called_from_another_one() -> None:
    out = np.zeros(16, np.float32)
    calls_another[1](np.ones(16, np.float32), out, BLOCK=16)
    assert out.tolist() == [3.0] * 16


def test_a_triton_jit_function_is_taken_as_it_is() -> None:
    @triton.jit
    def plus_one(x, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(x + i, tl.load(x + i) + 1)

    x = np.zeros(32, np.int32)
    un.jit(plus_one)[1](x, BLOCK=32)
    assert x.tolist() == [1] * 32


def test_an_autotuned_kernel_keeps_the_fastest_configuration() -> None:
    @triton.autotune(configs=[triton.Config({"BLOCK": size}) for size in (16, 256)], key=["n"])
    @triton.jit
    def double(x, out, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)

    kernel = un.jit(double)
    x, out = np.ones(5000, np.float32), np.zeros(5000, np.float32)
    kernel[lambda meta: (-(-5000 // meta["BLOCK"]),)](x, out, 5000)
    assert out.sum() == 10000
    assert kernel.best_config.kwargs["BLOCK"] in (16, 256)


def accumulate(x, total, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(total, tl.sum(tl.load(x + i, mask=i < n, other=0.0)))


accumulate_jit = triton.jit(accumulate)


def tuned(function, **options):
    configs = [triton.Config({"BLOCK": size}) for size in (16, 256)]
    return un.jit(triton.autotune(configs=configs, key=["n"], **options)(triton.jit(function)))


def blocks(meta):
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


@pytest.mark.parametrize("make", [un.asarray, torch.from_numpy, np.asarray], ids=["unify", "torch", "numpy"])
def test_what_is_reset_to_zero_holds_one_launch_after_tuning_and_each_launch_after_that(make) -> None:
    kernel, total = tuned(accumulate, reset_to_zero=["total"]), np.full(1, 5.0, np.float32)
    x, total = make(np.ones(1000, np.float32)), make(total)
    sums = []
    for _ in range(2):
        kernel[blocks](x, total, 1000)
        sums.append(float(total[0]))
    assert sums == [1000.0, 2000.0]  # only tuning resets: Triton adds up like this too


@pytest.mark.parametrize("make", [un.asarray, torch.from_numpy, np.asarray], ids=["unify", "torch", "numpy"])
def test_a_restored_value_is_what_it_was_when_tuning_ends(make) -> None:
    kernel, total = tuned(accumulate, restore_value=["total"]), np.full(1, 5.0, np.float32)
    total = make(total)
    kernel[blocks](make(np.ones(1000, np.float32)), total, 1000)
    assert float(total[0]) == 1005.0


def test_tuning_happens_on_the_stream_of_the_launch() -> None:
    kernel, total, stream = tuned(accumulate, reset_to_zero=["total"]), un.full((1,), 5.0), un.Stream()
    un.synchronize()
    kernel[blocks](un.ones((1000,), stream=stream), total, 1000, stream=stream)
    stream.synchronize()
    assert total.item() == 1000.0


def test_a_tuners_own_hooks_are_called_as_triton_does() -> None:
    calls: list[tuple[str, object]] = []

    def before(arguments, reset_only=False):
        calls.append(("before", reset_only))

    def after(arguments, exception):
        calls.append(("after", exception))

    kernel = tuned(accumulate, pre_hook=before, post_hook=after)
    x, total = np.ones(1000, np.float32), np.zeros(1, np.float32)
    kernel[blocks](x, total, 1000)
    assert calls[-1] == ("before", True)
    assert calls[:-1] == [("before", False), ("after", None)] * (len(calls) // 2)
    count = len(calls)
    kernel[blocks](x, total, 1000)
    assert len(calls) == count


def test_a_configuration_that_does_not_compile_is_passed_over() -> None:
    def picky(x, total, n, BLOCK: tl.constexpr):
        tl.static_assert(BLOCK > 16, "too small")
        accumulate_jit(x, total, n, BLOCK)

    kernel = tuned(picky, reset_to_zero=["total"])
    total = np.zeros(1, np.float32)
    kernel[blocks](np.ones(1000, np.float32), total, 1000)
    assert total[0] == 1000.0
    assert kernel.best_config.kwargs["BLOCK"] == 256
    ((config, reason),) = kernel.refused.items()
    assert "BLOCK: 16" in config
    assert "too small" in reason
    assert [binary.name for binary in kernel.binaries] == ["picky"]


def test_a_tuned_kernel_that_never_compiles_says_why() -> None:
    def hopeless(x, total, n, BLOCK: tl.constexpr):
        tl.static_assert(BLOCK > 1000, "too small")

    with pytest.raises(un.CompileError, match="too small"):
        tuned(hopeless)[blocks](np.ones(8, np.float32), np.zeros(1, np.float32), 8)


def test_each_device_is_tuned_for_itself(tmp_path: Path) -> None:
    toy = compile_backend(Path(__file__).parent / "plugin" / "toy.c", tmp_path / "toy.so", ['TOY_NAME="tunedtoy"'])
    assert un.add_backend(str(toy)).is_usable
    tunings: list[str] = []

    def consider(configs, arguments, **given):
        tunings.append(arguments["x"].device.name)
        return configs

    kernel = tuned(accumulate, prune_configs_by={"early_config_prune": consider})
    for device in ("cpu", "cpu"):
        kernel[blocks](un.ones(8, device=device), un.zeros(1, device=device), 8)
    with pytest.raises(un.Error):  # it runs no kernels
        kernel[blocks](un.ones(8, device="tunedtoy:0"), un.zeros(1, device="tunedtoy:0"), 8)
    assert tunings == ["cpu", "tunedtoy:0"]


def test_a_constexpr_that_is_tuned_cannot_be_given() -> None:
    with pytest.raises(un.InvalidArgument, match="accumulate.*BLOCK.*tuned"):
        tuned(accumulate)[blocks](np.ones(8, np.float32), np.zeros(1, np.float32), 8, BLOCK=32)


def test_tuned_kernels_keep_no_array_alive() -> None:
    kernel, total = tuned(accumulate), np.zeros(1, np.float32)
    x = torch.ones(1000)
    alive = weakref.ref(x)
    kernel[blocks](x, total, 1000)
    del x
    assert alive() is None


def test_a_grid_function_is_not_kept() -> None:
    x, out = un.ones((16,)), un.zeros((16,))

    class Grid:
        def __call__(self, meta):
            return (1,)

    grid = Grid()
    alive = weakref.ref(grid)
    affine[grid](x, out, 16, 1.0, BLOCK=16)
    del grid
    assert alive() is None


class Tag:
    """A constant of a kernel's, with a comparison that does more than compare."""

    def __init__(self, compare=lambda: None) -> None:
        self.compare = compare

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        self.compare()
        return isinstance(other, Tag)


@un.jit
def tagged(x, BLOCK: tl.constexpr, TAG: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i) + 1)


def test_a_variant_is_found_though_comparing_its_constants_compiles_others() -> None:
    x, compared = np.zeros(64, np.float32), []

    def compile_others() -> None:
        compared.append(1)
        for number in range(8):
            tagged[1](x, BLOCK=1, TAG=number)

    tagged[1](x, BLOCK=64, TAG=Tag(compile_others))
    tagged[1](x, BLOCK=64, TAG=Tag())
    assert x[1:].tolist() == [2] * 63
    assert compared == [1]  # a second look would mean that it was compiled again


BIAS = tl.constexpr(1)


@un.jit
def biased(x):
    tl.store(x, tl.load(x) + BIAS)


def test_a_global_that_is_gone_once_it_was_compared_is_still_named() -> None:
    class Vanishing:
        def __eq__(self, other: object) -> bool:
            globals()["BIAS"] = kept
            return False

        def __repr__(self) -> str:
            return "what vanished"

    kept = BIAS
    x = np.zeros(1, np.float32)
    biased[1](x)
    globals()["BIAS"] = Vanishing()
    with pytest.raises(un.errors.InvalidArgument, match="'BIAS' was .* is what vanished now"):
        biased[1](x)
    biased[1](x)
    assert x.tolist() == [2]


def test_options_of_jit_hold_for_what_is_wrapped() -> None:
    def positive(x, n, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.device_assert(tl.load(x + i, mask=i < n, other=1) > 0, "not positive")

    plain = triton.jit(positive)
    configs = [triton.Config({"BLOCK": 16})]
    for wrapped in (positive, plain, un.jit(positive), triton.autotune(configs=configs, key=[])(plain),
                    un.jit(triton.autotune(configs=configs, key=[])(plain))):  # fmt: skip
        constants = {} if hasattr(wrapped, "_tuner") or hasattr(wrapped, "configs") else {"BLOCK": 16}
        un.jit(wrapped)[(1,)](np.zeros(4, np.int32), 4, **constants)
        un.synchronize()
        with pytest.raises(un.KernelFault, match="not positive"):
            un.jit(wrapped, debug=True)[(1,)](np.zeros(4, np.int32), 4, **constants)
    with pytest.raises(un.KernelFault, match="not positive"):
        un.jit(triton.jit(positive, debug=True))[(1,)](np.zeros(4, np.int32), 4, BLOCK=16)
    un.jit(triton.jit(positive, debug=True))[(1,)](np.zeros(4, np.int32), 4, BLOCK=16, debug=False)


def test_heuristics_are_computed_at_each_launch() -> None:
    @triton.heuristics({"BLOCK": lambda args: triton.next_power_of_2(args["n"])})
    @triton.jit
    def fill(out, n, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(out + i, tl.full([BLOCK], 7, tl.int32), mask=i < n)

    for n in (3, 17):
        out = np.zeros(n, np.int32)
        un.jit(fill)[(1,)](out, n)
        assert out.tolist() == [7] * n


def test_wrong_arguments_are_named() -> None:
    x = un.ones((16,))
    with pytest.raises(un.errors.InvalidArgument, match="launched without n, factor. Its"):
        affine[1](x, x, BLOCK=16)
    with pytest.raises(un.errors.InvalidArgument, match="no argument 'BLOKC'.*BLOCK"):
        affine[1](x, x, 16, 1.0, BLOKC=16)
    with pytest.raises(un.errors.InvalidArgument, match=r"6 positional .*BLOCK.*7 .* is a str, 'odd'"):
        affine[1](x, x, 16, 1.0, 16, 0, "odd")
    with pytest.raises(un.errors.DTypeError, match="'BLOCK'.*hashable; it is a list, "):
        affine[1](x, x, 16, 1.0, BLOCK=[16])
    with pytest.raises(un.errors.DTypeError, match=r"'BLOCK'.*cannot be an array.*unify.float32 with shape \[16\]"):
        affine[1](x, x, 16, 1.0, BLOCK=x)
    with pytest.raises(un.errors.InvalidArgument, match="64 bits"):
        affine[1](x, x, 1 << 70, 1.0, BLOCK=16)
    with pytest.raises(un.errors.InvalidArgument, match="grid"):
        affine["wide"](x, x, 16, 1.0, BLOCK=16)


@pytest.mark.parametrize(
    ("annotation", "inside", "outside"),
    [
        ("tl.int8", [-128, 127], [-129, 128]), ("tl.uint8", [0, 255], [-1, 256]),
        ("tl.int32", [-(2**31), 2**31 - 1], [-(2**31) - 1, 2**31]), ("tl.uint32", [0, 2**32 - 1], [-1, 2**32]),
        ("tl.int64", [-(2**63), 2**63 - 1], [2**63]), ("tl.uint64", [0, 2**64 - 1], [-1]),
    ],
)  # fmt: skip
def test_a_number_must_fit_its_annotation(annotation: str, inside: list[int], outside: list[int]) -> None:
    def keep(out, value):
        tl.store(out, value)

    keep.__annotations__["value"] = annotation
    kernel = un.jit(keep)
    for value in inside:
        out = np.zeros(1, annotation.removeprefix("tl."))
        kernel[(1,)](out, value)
        assert out[0] == value
    for value in outside:
        with pytest.raises(un.errors.InvalidArgument, match=f"'value' is annotated as .*, which does not hold {value}"):
            kernel[(1,)](np.zeros(1, annotation.removeprefix("tl.")), value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("text", "is a str, 'text'. "), ([0.5] * 99, r"is a list, \[0.5, .*\.\.\.\]. "), (1j, "is a complex, 1j. "),
        (np.complex64(1), "is a numpy.complex64, "), (object(), "is an object, <object "),
    ],
)  # fmt: skip
def test_what_no_kernel_takes_is_named(given: Any, told: str) -> None:
    with pytest.raises(un.errors.DTypeError, match=rf"^kernel affine: argument 'x' {told}.*asarray\(\).*constexpr"):
        affine[1](given, un.ones(16), 16, 1.0, BLOCK=16)


def test_an_array_of_no_known_dtype_is_named() -> None:
    with pytest.raises(un.errors.DTypeError, match="^kernel affine: argument 'x' cannot be used.*complex64"):
        affine[1](np.ones(16, np.complex64), un.ones(16), 16, 1.0, BLOCK=16)


@pytest.mark.parametrize(("given", "told"), [(None, "x is None"), (1, "x is an int, 1"), (2.5, "x is a float, 2.5")])
def test_a_number_in_place_of_a_pointer_is_named(given: Any, told: str) -> None:
    with pytest.raises(un.errors.CompileError, match=rf"kernel affine: .*\n.*\n  Given: .*{told}.*as arrays"):
        affine[1](given, un.ones(16), 16, 1.0, BLOCK=16)


def test_an_array_in_place_of_a_number_is_named() -> None:
    with pytest.raises(un.errors.CompileError, match=r"Given: .*; n is a numpy.ndarray of float32 with shape \[2\]; "):
        affine[1](un.ones(16), un.ones(16), np.ones(2, np.float32), 1.0, BLOCK=16)


def test_a_function_without_readable_source_is_no_kernel() -> None:
    scope: dict[str, Any] = {}
    exec("def f(x): pass", scope)
    for function in (lambda x: None, scope["f"]):
        with pytest.raises(un.errors.InvalidArgument, match="^unify.jit: the source of .* by `def`, in a file"):
            un.jit(function)


def test_a_kernel_that_does_not_compile_names_file_line_and_reason() -> None:
    @un.jit
    def broken(x):
        tl.store(x, no_such_name)  # noqa: F821

    line = broken.fn.__code__.co_firstlineno + 2
    with pytest.raises(un.errors.CompileError, match="no_such_name") as raised:
        broken[1](un.ones((4,)))
    assert raised.value.line == line
    assert raised.value.file == __file__
    assert f"{__file__}:{line}" in str(raised.value)


def test_an_invalid_access_is_an_error_and_the_process_goes_on() -> None:
    @un.jit
    def far_away(x):
        tl.store(x + (1 << 46), 1.0)

    out = un.zeros((4,))
    with pytest.raises(un.errors.KernelFault, match="far_away"):
        far_away[1](out)
    affine[1](un.ones((4,)), out, 4, 1.0, BLOCK=16)
    assert out.numpy().tolist() == [1.0] * 4


def test_an_assertion_says_what_its_author_wrote() -> None:
    @un.jit(debug=True)
    def warm(x):
        tl.device_assert(tl.load(x) < 90, 'above 90 °C: "hot"')

    with pytest.raises(un.KernelFault, match='above 90 °C: "hot"'):
        warm[1](un.full((1,), 100.0))


def test_a_stream_may_be_named() -> None:
    stream = un.Stream()
    x, out = un.ones((1 << 16,)), un.zeros((1 << 16,))
    affine[(64,)](x, out, 1 << 16, 4.0, BLOCK=1024, stream=stream)
    stream.synchronize()
    assert out.numpy().sum() == 4 << 16


@pytest.mark.parametrize("make", [np.asarray, un.asarray], ids=["numpy", "unify"])
def test_a_read_only_array_can_be_read_and_not_written(make) -> None:
    x, out = np.arange(16, dtype=np.float32), np.zeros(16, np.float32)
    x.flags.writeable = False
    affine[1](make(x), out, 16, 2.0, BLOCK=16)
    np.testing.assert_array_equal(out, x * 2)
    with pytest.raises(un.errors.InvalidArgument, match=r"affine: argument 'out' is read-only.*copy"):
        affine[1](out, make(x), 16, 2.0, BLOCK=16)
    np.testing.assert_array_equal(x, np.arange(16))
    affine[1](out, x.copy(), 16, 2.0, BLOCK=16)


def test_a_kernel_from_the_disk_cache_still_knows_what_it_writes(tmp_path) -> None:
    def launch(x) -> None:
        @un.jit
        def negate(x, BLOCK: tl.constexpr):
            i = tl.arange(0, BLOCK)
            tl.store(x + i, -tl.load(x + i))

        negate[1](x, BLOCK=16)

    fixed = np.ones(16, np.float32)
    fixed.flags.writeable = False
    with un._config.settings.override(cache_dir=tmp_path):
        for _ in range(2):  # the second kernel is another object, and finds the first one's code on disk
            launch(np.ones(16, np.float32))
            with pytest.raises(un.errors.InvalidArgument, match="'x' is read-only"):
                launch(fixed)
        assert len(list(tmp_path.rglob("*.kernel"))) == 1


def test_a_launch_without_a_grid_says_what_is_missing() -> None:
    with pytest.raises(un.errors.InvalidArgument, match=r"needs a grid.*calls_python\[grid\]"):
        calls_python(np.ones(1))


def unknown_helper(value):
    return value


@un.jit
def calls_python(out):
    tl.store(out, unknown_helper(1))


def test_a_python_function_in_a_kernel_is_a_compile_error_with_its_place() -> None:
    with pytest.raises(
        un.errors.CompileError, match=r"test_kernel.py:\d+: kernel calls_python: .*unknown_helper"
    ) as raised:
        calls_python[1](np.ones(1, np.int32))
    assert raised.value.line is not None


def test_a_kernel_without_arrays_runs_on_the_device_of_its_stream(python: Run, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("""
import triton.language as tl
import unify as un

@un.jit
def show_kernel(n):
    tl.device_print("n", n)

un.simulate("cuda:90")
un.set_default_device("cuda:0")
stream = un.Stream("cpu")
show_kernel[(1,)](5, stream=stream)
stream.synchronize()
""")
    finished = python(str(path))
    assert (finished.stdout, finished.stderr) == ("pid (0, 0, 0) idx () n: 5\n", "")


def test_bounds_that_are_not_checked_are_told(python: Run, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("""
import triton.language as tl
import unify as un

@un.jit
def one_kernel(x):
    tl.store(x, 1.0)

un.simulate("cuda:90")
for device in ("cpu", "cuda:0", "cuda:0"):
    one_kernel[(1,)](un.zeros(1, device=device))
""")
    finished = python("-W", "always", str(path), env={**os.environ, "UNIFY_CHECK_BOUNDS": "1"})
    told = "UNIFY_CHECK_BOUNDS checks kernels on the CPU device; those on cuda:0 run unchecked."
    assert finished.stderr.count("RuntimeWarning") == finished.stderr.count(told) == 1
