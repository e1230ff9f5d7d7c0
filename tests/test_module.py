"""Modules and functions that others compiled: what a launch packs, what it refuses, and whom it keeps alive.

The images are a C compiler's, after unify/host_kernel.h, and unify.compile's.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import struct
import subprocess
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl

import unify as un

SOURCE = """
#include <unify/host_kernel.h>

/* The arguments as they came: {uint8_t* out; int32_t bytes; ...} */
int32_t dump(const unify_host_call* call, uint64_t begin, uint64_t end) {
  uint8_t* out = *(uint8_t* const*)call->args;
  int32_t bytes = *(const int32_t*)((const char*)call->args + 8);
  for (int32_t i = 0; i < bytes && begin == 0; ++i) out[i] = ((const uint8_t*)call->args)[i];
  return 0;
}

typedef struct { float a; const float* x; float* y; int32_t n; } saxpy_args;
int32_t saxpy(const unify_host_call* call, uint64_t begin, uint64_t end) {
  const saxpy_args* args = call->args;
  for (uint64_t i = begin; i < end && i < args->n; ++i) args->y[i] += args->a * args->x[i];
  return 0;
}

/* What a program knows of itself: {int64_t* out;} gets the grid and whether there is scratch memory. */
int32_t about(const unify_host_call* call, uint64_t begin, uint64_t end) {
  int64_t* out = *(int64_t* const*)call->args;
  for (int i = 0; i < 3; ++i) out[i] = call->grid[i];
  out[3] = call->scratch != 0;
  return 0;
}
"""
SAXPY = "fp32, *kfp32, *fp32, i32"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("image")
    (folder / "kernels.c").write_text(SOURCE)
    command = ["cc", "-c", "-O1", "-fPIC", "-fno-stack-protector", "-I", un.get_include(), "kernels.c"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "kernels.o").read_bytes()


@pytest.fixture
def module(image: bytes) -> un.Module:
    return un.Module(image, device="cpu", name="kernels.o")


@un.jit
def add(x: "*fp32", y: "*fp32", n: tl.int32, BLOCK: tl.constexpr = 16):  # noqa: F722
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


def packed(module: un.Module, types: str, *values: Any, count: int) -> bytes:
    """The bytes that reach a function with these parameters behind its first two."""
    out = np.zeros(256, np.uint8)
    module.function("dump", f"*u8, i32, {types}")[1](out, count, *values)
    return out.tobytes()[:count]


# ---- launching ----


def test_a_function_runs_with_arrays_of_any_library(module: un.Module) -> None:
    saxpy = module.function("saxpy", SAXPY)
    for make in (un.asarray, np.asarray, lambda x: torch.from_numpy(x)):
        x, y = make(np.arange(8, dtype=np.float32)), make(np.ones(8, np.float32))
        saxpy[8](2.0, x, y, 8)
        un.synchronize()
        np.testing.assert_array_equal(np.asarray(y), 1 + 2 * np.arange(8))


def test_an_image_of_unify_compile_runs_as_its_kernel_does() -> None:
    module = un.Module.from_binary(un.compile(add, "cpu"), device="cpu")
    function = module.function()
    assert [(p.name, p.type) for p in function.parameters or ()] == [("x", "*fp32"), ("y", "*fp32"), ("n", "i32")]
    x, y = un.arange(40, dtype=un.float32), un.zeros(40)
    function[3](x, n=40, y=y)
    np.testing.assert_array_equal(y.numpy(), np.arange(40) + 1)
    assert module["add"] is module["add"]
    assert module.functions == ("add",)


def test_a_kernel_with_bounds_checks_knows_where_arrays_end() -> None:
    module = un.Module.from_binary(un.compile(add, "cpu", check_bounds=True), device="cpu")
    x, y = un.zeros(16), np.zeros(16, np.float32)
    module["add"][1](x, y, 16)
    un.synchronize()
    assert y.tolist() == [1.0] * 16
    with pytest.raises(un.errors.KernelFault, match=r"add.*\n?.*bounds"):
        module["add"][2](x, un.zeros(16), 32)
        un.synchronize()
    with pytest.raises(un.errors.InvalidArgument, match="'x' must be an array: this kernel was compiled with bounds"):
        module["add"][1](None, y, 16)


def test_a_fault_names_the_function_and_its_module() -> None:
    @un.jit
    def careful(x: "*fp32"):  # noqa: F722
        tl.device_assert(tl.load(x) == 0, "x is not zero")

    module = un.Module(un.compile(careful, "cpu", debug=True).image, "cpu", name="careful.o")
    with pytest.raises(un.errors.KernelFault, match=r"(?s)careful \(careful\.o\).*x is not zero"):
        module.function("careful", "*fp32")[1](un.ones(1))
        un.synchronize()


def test_grids_are_those_of_kernels(module: un.Module) -> None:
    about = module.function("about", "out: *i64")
    for grid, expected in ((3, [3, 1, 1]), ((2, 3), [2, 3, 1]), ([1, 2, 3], [1, 2, 3]), (lambda _: (4, 5), [4, 5, 1])):
        out = np.zeros(4, np.int64)
        about[grid](out)
        un.synchronize()
        assert out[:3].tolist() == expected
    out = np.full(4, -1, np.int64)
    about[0](out)
    about[lambda meta: meta["out"].size - 4](out)
    assert out.tolist() == [-1] * 4


def test_a_block_stands_beside_a_grid_where_one_is_a_tuple(module: un.Module) -> None:
    about = module.function("about", "*i64")
    out = np.zeros(4, np.int64)
    about[(2, 3), 1](out)
    about[2, (1, 1, 1)](out)
    about[lambda _: 5, 1](out)
    un.synchronize()
    assert out[:3].tolist() == [5, 1, 1]
    with pytest.raises(un.errors.InvalidArgument, match="about .*128 threads a program asked for, at most 1 run here"):
        about[(2,), 128](out)
    for block in (0, -1, (1, 2, 3, 4), "x", (), 1.5):
        with pytest.raises(un.errors.InvalidArgument, match="a block is a number or a tuple of one to three"):
            about[(2,), block]


def test_launch_says_everything(module: un.Module) -> None:
    about = module.function("about", "*i64")
    out, stream = np.zeros(4, np.int64), un.stream("cpu")
    about.launch((2, 2), (out,), block=1, shared_bytes=1024, stream=stream)
    stream.synchronize()
    assert out.tolist() == [2, 2, 1, 1]
    about.launch(3, [out])
    un.synchronize()
    assert out.tolist() == [3, 1, 1, 0]
    with pytest.raises(un.errors.InvalidArgument, match="launch.. takes the arguments as a tuple; they are a"):
        about.launch(1, out)  # type: ignore[arg-type]
    with pytest.raises(un.errors.UnsupportedError):
        about.launch(1, (out,), cluster=2)
    with pytest.raises(un.errors.InvalidArgument, match="bytes of scratch memory"):
        about.launch(1, (out,), shared_bytes=1 << 40)
    with pytest.raises(un.errors.InvalidArgument, match="shared_bytes is a whole number"):
        about.launch(1, (out,), shared_bytes=-1)
    with pytest.raises(TypeError, match="no argument 'blok'"):
        about.launch(1, (out,), blok=1)  # type: ignore[call-arg]


def test_scratch_memory_of_the_function_is_that_of_each_launch(module: un.Module) -> None:
    out = np.zeros(4, np.int64)
    about = module.function("about", "*i64", shared_bytes=64)
    about[1](out)
    un.synchronize()
    assert out[3] == 1
    assert about.shared_bytes == 64


def test_what_is_known_of_a_function(module: un.Module) -> None:
    saxpy = module.function("saxpy", SAXPY)
    assert (saxpy.name, saxpy.device, saxpy.threads, saxpy.max_threads) == ("saxpy", un.device("cpu"), 1, 1)
    assert (saxpy.registers, saxpy.local_bytes, saxpy.shared_bytes) == (0, 0, 0)
    assert repr(saxpy) == "unify.Function(saxpy (kernels.o), cpu)"
    assert repr(module) == "unify.Module('kernels.o', cpu)"
    assert module.function("saxpy").parameters is None
    with pytest.raises(un.errors.InvalidArgument, match=r"saxpy\[grid\]\(arguments\)"):
        saxpy(1)
    with pytest.raises(TypeError):
        un.Function()


# ---- what is packed ----


def test_arguments_lie_as_in_a_c_struct(module: un.Module) -> None:
    types = "i8, u16, b32, fp64, u1, bf16, fp16, fp32, i64, u64"
    values = (-3, 65535, -1, 0.1, True, 1.5, 2.5, 0.1, -(2**63), 2**64 - 1)
    found = packed(module, types, *values, count=64)
    fields = [(12, 1), (14, 2), (16, 4), (24, 8), (32, 1), (34, 2), (36, 2), (40, 4), (48, 8), (56, 8)]
    expected = [struct.pack("b", -3), struct.pack("H", 65535), struct.pack("i", -1), struct.pack("d", 0.1), b"\1",
                b"\xc0\x3f", struct.pack("e", 2.5), struct.pack("f", 0.1), struct.pack("q", -(2**63)),
                struct.pack("Q", 2**64 - 1)]  # fmt: skip
    assert [found[at : at + size] for at, size in fields] == expected


class Range(ctypes.Structure):
    _fields_ = (("low", ctypes.c_double), ("count", ctypes.c_int32 * 3))


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "ctypes", "numpy"])
def test_a_struct_is_given_by_value(module: un.Module, kind: str) -> None:
    struct_ = Range(2.5, (1, 2, 3))
    content = bytes(struct_)
    record = np.frombuffer(content, np.dtype([("low", "f8"), ("count", "i4", 4)]))[0]
    value = {"bytes": content, "bytearray": bytearray(content), "memoryview": memoryview(content), "ctypes": struct_,
             "numpy": record}[kind]  # fmt: skip
    assert packed(module, "i8, bytes[24]@8", 7, value, count=40)[16:] == content


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"123", r"annotated as bytes\[24\]@8 and has 3 bytes"),
        (5, r"annotated as bytes\[24\]@8 and is an int, 5; pass bytes"),
        (None, r"is None; pass bytes"),
    ],
)
def test_a_struct_of_another_size_is_refused(module: un.Module, value: object, message: str) -> None:
    with pytest.raises(un.errors.DTypeError, match=message):
        packed(module, "bytes[24]@8", value, count=8)


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 0, np.uint64(2**63), None])
@pytest.mark.parametrize("type_name", ["ptr", "b64"])
def test_an_address_may_be_a_number(module: un.Module, type_name: str, value: Any) -> None:
    found = packed(module, type_name, value, count=24)[16:]
    assert int.from_bytes(found, "little") == int(value or 0) % 2**64


@pytest.mark.parametrize("type_name", ["*fp32", "*kfp32", "ptr", "b64"])
def test_an_array_is_its_address(module: un.Module, type_name: str) -> None:
    x = np.zeros(4, np.float32)
    assert int.from_bytes(packed(module, type_name, x, count=24)[16:], "little") == x.ctypes.data
    assert packed(module, type_name, None, count=24)[16:] == bytes(8)


def test_without_types_each_argument_carries_its_own(module: un.Module) -> None:
    out = np.zeros(64, np.uint8)
    dump = module.function("dump")
    dump[1](out, np.int32(48), np.int8(-1), np.float16(2.5), True, np.float64(0.5), None, out)
    un.synchronize()
    assert out[12:13].tobytes() == b"\xff"
    assert out[14:16].tobytes() == struct.pack("e", 2.5)
    assert out[16:17].tobytes() == b"\1"
    assert out[24:48].tobytes() == struct.pack("dQQ", 0.5, 0, out.ctypes.data)
    for value in (5, 2.5, b"1234"):
        with pytest.raises(
            un.errors.DTypeError, match=r"dump: argument 'arg1' is .*does not say its width.*NumPy scalar"
        ):
            dump[1](out, value)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("i32", 2**32), ("i8", 128), ("u8", -1), ("u8", 256), ("i64", 2**63), ("b32", 2**32), ("b32", -(2**31) - 1),
        ("b8", 256), ("u64", -1), ("i16", np.int32(40000)),
    ],
)  # fmt: skip
def test_a_number_that_does_not_fit_is_refused(module: un.Module, type_name: str, value: int) -> None:
    function = module.function("dump", f"*u8, i32, n: {type_name}")
    message = f"kernel dump: argument 'n' is annotated as {type_name}, which does not hold {int(value)}"
    with pytest.raises(un.errors.InvalidArgument, match=message):
        function[1](np.zeros(1, np.uint8), 0, value)


@pytest.mark.parametrize(
    ("types", "value", "message"),
    [
        ("i32", 2.5, "annotated as i32 and is the float 2.5; pass an int"),
        ("b32", 2.5, "annotated as b32 and is the float 2.5"),
        ("ptr", 2.5, "annotated as ptr and is the float 2.5"),
        ("i64", np.zeros(1), "annotated as i64 and is an array; pass a number"),
        ("fp32", np.zeros(1), "is an array; pass a number"),
        ("fp32", None, "annotated as fp32 and is None; pass a number"),
        ("*fp32", 5, r"annotated as \*fp32 and is 5; pass an array"),
        ("*fp32", np.zeros(1, np.float64), "its elements are fp64"),
        ("i32", "5", "is a str, '5'. A kernel takes arrays, real numbers and None"),
        ("*fp32", [1.0], "is a list, .*make an array with unify.asarray"),
    ],
)
def test_a_value_of_another_kind_is_refused(module: un.Module, types: str, value: object, message: str) -> None:
    with pytest.raises(un.errors.DTypeError, match=f"kernel dump: argument 'arg2' .*{message}"):
        module.function("dump", f"*u8, i32, {types}")[1](np.zeros(1, np.uint8), 0, value)


def test_a_read_only_array_goes_where_the_kernel_only_reads(module: un.Module) -> None:
    x, y = np.ones(4, np.float32), np.zeros(4, np.float32)
    x.flags.writeable = False
    module.function("saxpy", SAXPY)[4](1.0, x, y, 4)
    un.synchronize()
    assert y.tolist() == [1.0] * 4
    with pytest.raises(un.errors.InvalidArgument, match=r"'arg1' is read-only, .*declare the parameter as \*kfp32"):
        module.function("saxpy", "fp32, *fp32, *fp32, i32")[4](1.0, x, y, 4)
    with pytest.raises(un.errors.InvalidArgument, match=r"'arg1' is read-only, and the kernel may write to it"):
        module.function("saxpy", "fp32, ptr, *fp32, i32")[4](1.0, x, y, 4)


def test_the_number_of_arguments_and_their_names_are_checked(module: un.Module) -> None:
    saxpy = module.function("saxpy", "a: fp32, x: *fp32, y: *fp32, n: i32")
    x = un.zeros(1)
    with pytest.raises(
        un.errors.InvalidArgument, match="kernel saxpy was launched without n. Its arguments: a, x, y, n"
    ):
        saxpy[1](1.0, x, x)
    with pytest.raises(un.errors.InvalidArgument, match=r"takes 4 positional arguments \(a, x, y, n\), 5 were given"):
        saxpy[1](1.0, x, x, 1, 2)
    with pytest.raises(un.errors.InvalidArgument, match="'n' was given twice"):
        saxpy[1](1.0, x, x, 1, n=2)
    with pytest.raises(un.errors.InvalidArgument, match="no argument 'num_warps'. .*; options: stream"):
        saxpy[1](1.0, x, x, n=1, num_warps=4)


def test_an_unknown_name_or_image_is_refused(module: un.Module) -> None:
    with pytest.raises(un.errors.Error, match="no function 'saxpi'"):
        module.function("saxpi", SAXPY)
    with pytest.raises(un.errors.InvalidArgument, match="module kernels.o: which function"):
        module.function()
    with pytest.raises(un.errors.InvalidArgument, match="no parameter can be 'float'"):
        module.function("saxpy", "float")
    with pytest.raises(un.errors.InvalidArgument, match="broken.o"):
        un.Module(b"\x7fELF and no more", "cpu", name="broken.o")
    with pytest.raises(un.errors.InvalidArgument, match="the image is empty"):
        un.Module(b"", "cpu")
    with pytest.raises(un.errors.InvalidArgument, match="read the file first"):
        un.Module("saxpy.cubin", "cpu")  # type: ignore[arg-type]


def test_more_than_can_be_packed_is_refused(module: un.Module) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="at most 96 of 4096 bytes"):
        module.function("dump", ["i8"] * 97)
    with pytest.raises(un.errors.InvalidArgument, match="at most 96 of 4096 bytes"):
        module.function("dump", "bytes[5000]@8")
    with pytest.raises(un.errors.InvalidArgument, match="at most 96 are possible"):
        module.function("dump")[1](*[True] * 97)


def test_all_that_a_binary_says_of_its_launch_is_carried(image: bytes) -> None:
    parameters = tuple(
        un.compiler.Parameter(name, type_, offset, is_written=True)
        for name, type_, offset in (("out", "*u8", 0), ("count", "i32", 8))
    )
    binary = un.compiler.Binary(
        "dump", image, "cpu", parameters, 40, scratch_bytes=1 << 20, scratch_offset=16
    )  # a null for the profiler follows, and what is the function's own
    out = np.full(32, 255, np.uint8)
    un.reset_memory_peaks("cpu")
    before = un.memory_statistics("cpu").allocated_bytes
    module = un.Module.from_binary(binary, "cpu")
    for function in (module.function(), module.function("dump", "*u8, i32")):
        function[3](out, 32)
        un.synchronize()
        _, count, scratch, profile = struct.unpack("<QixxxxQQ", out.tobytes())
        assert (count, scratch % 64, profile) == (32, 0, 0)
        assert scratch != 0
    assert un.memory_statistics("cpu").allocated_bytes_peak - before >= 3 << 20
    few = dataclasses.replace(binary, scratch_programs=2)
    un.reset_memory_peaks("cpu")
    un.Module.from_binary(few, "cpu").function()[1000](out, 32)
    un.synchronize()
    assert 2 << 20 <= un.memory_statistics("cpu").allocated_bytes_peak - before < 4 << 20
    function.launch(1, (out, 32), shared_bytes=4096)  # of a program: not the one above
    un.synchronize()
    assert struct.unpack_from("<Q", out.tobytes(), 16)[0] != 0
    beside = (*parameters, un.compiler.Parameter("after", "i64", 24, is_written=False))
    longer = dataclasses.replace(binary, parameters=beside, args_bytes=32)
    un.Module.from_binary(longer, "cpu").function()[1](out, 32, 77)
    un.synchronize()
    assert out.tobytes()[24:] == (77).to_bytes(8, "little")  # the memory's address is 8 bytes, and no more
    for said in ({"cluster": 2}, {"flags": 1}):
        demanding = un.Module.from_binary(dataclasses.replace(binary, **said), "cpu")
        with pytest.raises(un.errors.UnsupportedError):
            demanding["dump"][1](out, 32)


def test_a_binary_of_another_kind_of_device_is_refused() -> None:
    binary = un.compiler.Binary("f", b"x", "cuda:90", (), 0)
    with pytest.raises(un.errors.InvalidArgument, match="kernel f was compiled for cuda:90, cpu is a cpu device"):
        un.Module.from_binary(binary, "cpu")
    with pytest.raises(un.errors.UnsupportedError, match="CUDA C.. runs on cuda devices; cpu is a cpu device"):
        un.Module.from_cuda_source("", "cpu")


# ---- order, lifetime, threads ----


def test_a_launch_comes_after_what_its_stream_holds(module: un.Module) -> None:
    saxpy, stream = module.function("saxpy", SAXPY), un.stream("cpu")
    x, y = un.ones(4), un.zeros(4)
    stream.host_call(lambda: time.sleep(0.05))
    with stream:
        y.fill_(5)
    saxpy[4](1.0, x, y, 4, stream=stream)
    stream.synchronize()
    assert y.numpy().tolist() == [6.0] * 4


def test_arrays_and_images_live_until_the_stream_has_passed(image: bytes) -> None:
    stream, gate = un.stream("cpu"), threading.Event()
    y = np.zeros(1 << 16, np.float32)
    stream.host_call(gate.wait)
    saxpy = un.Module(image, "cpu").function("saxpy", SAXPY)
    saxpy[1 << 16](1.0, np.ones(1 << 16, np.float32), y, 1 << 16, stream=stream)
    del saxpy
    gc.collect()
    noise = [np.full(1 << 16, 7, np.float32) for _ in range(8)]  # what would take the place of freed memory
    gate.set()
    stream.synchronize()
    assert (y == 1).all()
    assert len(noise) == 8


def test_launches_are_recorded(module: un.Module) -> None:
    saxpy, dump = module.function("saxpy", SAXPY), module.function("dump")
    x, y, out = un.ones(4), un.zeros(4), np.zeros(16, np.uint8)
    with un.Graph.capture(device="cpu") as graph:
        saxpy[4](2.0, x, y, 4)
        saxpy.launch(4, (1.0, np.ones(4, np.float32), y, 4))
        dump[1](out, np.int32(12))
    assert y.numpy().tolist() == [0.0] * 4
    gc.collect()
    for _ in range(3):
        graph.launch()
    un.synchronize()
    assert y.numpy().tolist() == [9.0] * 4
    assert out[8] == 12
    assert "saxpy (kernels.o)" in graph.describe()


def test_threads_launch_one_function_at_once(module: un.Module) -> None:
    saxpy = module.function("saxpy", SAXPY)
    totals = [np.zeros(64, np.float32) for _ in range(4)]

    def work(y: np.ndarray[Any, Any]) -> None:
        with un.stream("cpu") as stream:
            x = np.ones(64, np.float32)
            for _ in range(300):
                saxpy[64](1.0, x, y, 64)
            stream.synchronize()

    threads = [threading.Thread(target=work, args=(y,)) for y in totals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((y == 300).all() for y in totals)


class Holder:
    launcher: Any = None

    def grid(self, _: dict[str, Any]) -> int:
        return 1


def test_launchers_and_functions_are_collected(module: un.Module) -> None:
    function = module.function("about", "*i64")
    holder = Holder()
    holder.launcher = function[holder.grid]  # a circle
    alive = weakref.ref(holder)
    del holder
    gc.collect()
    assert alive() is None
    launcher = module.function("about", "*i64")[1]
    gc.collect()
    out = np.zeros(4, np.int64)
    launcher(out)
    un.synchronize()
    assert out[0] == 1
