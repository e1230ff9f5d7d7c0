"""The simulation by its Python face: real cubins of Triton's compiler, run on simulated chips."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from unify import simulator
from unify.compiler.target import Binary
from unify.errors import InvalidArgument
from unify.simulator import cuda

from .driver import Driver

PTX = """
.version 8.0
.target sm_{arch}
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b, .param .u32 n, .param .u64 scratch, .param .u64 profile) {{ ret; }}
"""
LOAD = "boundaryCheck = array<i32>, cache = 1 : i32, evict = 1 : i32, isVolatile = false"
STORE = "boundaryCheck = array<i32>, cache = 1 : i32, evict = 1 : i32"
TYPES = "!tt.ptr<f32>, !tt.ptr<f32>, i32"
TTIR = f"""
"builtin.module"() ({{
  "tt.func"() <{{function_type = ({TYPES}) -> (), sym_name = "add", sym_visibility = "public"}}> ({{
  ^bb0(%a: !tt.ptr<f32>, %b: !tt.ptr<f32>, %n: i32):
    %id = "tt.get_program_id"() <{{axis = 0 : i32}}> : () -> i32
    %p = "tt.addptr"(%a, %id) : (!tt.ptr<f32>, i32) -> !tt.ptr<f32>
    %q = "tt.addptr"(%b, %id) : (!tt.ptr<f32>, i32) -> !tt.ptr<f32>
    %x = "tt.load"(%p) <{{{LOAD}, operandSegmentSizes = array<i32: 1, 0, 0>}}> : (!tt.ptr<f32>) -> f32
    %y = "arith.addf"(%x, %x) <{{fastmath = #arith.fastmath<none>}}> : (f32, f32) -> f32
    "tt.store"(%q, %y) <{{{STORE}}}> : (!tt.ptr<f32>, f32) -> ()
    "tt.return"() : () -> ()
  }}) {{noinline = false}} : () -> ()
}}) : () -> ()
"""


@pytest.fixture(scope="module")
def assembler() -> Path:
    triton = pytest.importorskip("triton")
    path = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    if not path.exists():
        pytest.skip("this Triton brings no ptxas")
    return path


def real_cubin(assembler: Path, folder: Path, arch: str) -> bytes:
    (folder / "add.ptx").write_text(PTX.format(arch=arch))
    command = [assembler, f"--gpu-name=sm_{arch}", folder / "add.ptx", "-o", folder / "add.cubin"]
    subprocess.run(command, check=True)
    return (folder / "add.cubin").read_bytes()


@pytest.mark.parametrize("arch", ["80", "86", "89", "90", "90a"])
def test_a_real_cubin_runs_with_the_cpus_code_in_it(assembler: Path, tmp_path: Path, arch: str) -> None:
    binary = Binary("add", real_cubin(assembler, tmp_path, arch), f"cuda:{arch}", (), 40)
    image = cuda.with_host_code(binary, TTIR).image
    driver = Driver(capability=int(arch.rstrip("a")))
    driver.open()
    function = driver.function(image, "add")
    assert driver.made("cuFuncGetAttribute", 4, function) > 0  # registers, from the real code
    data, out = driver.upload(struct.pack("<4f", 1, 2, 3, 4)), driver.made("cuMemAlloc", 16)
    driver.launch(function, struct.pack("<QQi4xQQ", data, out, 4, 0, 0), 4)
    assert struct.unpack("<4f", driver.download(out, 16)) == (2, 4, 6, 8)
    other = 80 if arch.startswith("90") else 90
    driver.cuDevicePrimaryCtxRelease(0)
    driver.configure(capability=other)
    driver.open()
    module = ctypes.c_uint64()
    assert driver.result("cuModuleLoadDataEx", ctypes.byref(module), image, 0, None, None) == (
        "CUDA_ERROR_NO_BINARY_FOR_GPU"
    )
    driver.cuDevicePrimaryCtxRelease(0)


def test_a_kernel_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="'mul'"):
        cuda.with_host_code(Binary("mul", b"", "cuda:90", (), 40), TTIR)


# Each simulation in a process of its own: the CUDA backend looks for its driver once.


def test_a_simulation_is_configured_by_text(python: Any) -> None:
    program = """
import ctypes
from unify import simulator
simulation = simulator.from_text("cuda:80x3,0.5g")
driver = ctypes.CDLL(str(simulator.library_path()))
assert driver.cuInit(0) == 0
count, size = ctypes.c_int(), ctypes.c_size_t()
driver.cuDeviceGetCount(ctypes.byref(count))
driver.cuDeviceTotalMem_v2(ctypes.byref(size), 2)
assert (count.value, size.value, simulation.count) == (3, 1 << 29, 3)
"""
    finished = python("-c", program)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("text", ["cuda", "cpu:90", "cuda:90x", "cuda:90a", "cuda:90,4", ""])
def test_a_text_that_cannot_be_read_says_how(text: str) -> None:
    with pytest.raises(InvalidArgument, match="cuda:90x2"):
        simulator.from_text(text)


def test_an_unknown_chip_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidArgument, match="known: 80, 86, 89, 90, 100, 120"):
        simulator.simulate("cuda:91")
    with pytest.raises(InvalidArgument, match="is not a chip"):
        simulator.simulate("ascend:910")


def test_faults_and_counts_have_python_names(python: Any) -> None:
    program = """
import unify as un
simulation = un.simulate("cuda:90", count=2, memory_bytes=64 << 20)
simulation.fail("cuMemAlloc", after=3, error="CUDA_ERROR_OUT_OF_MEMORY")
simulation.fail_after(60, "ecc", device=1)
simulation.hang()
simulation.corrupt()
simulation.slow(1e9)
simulation.release()
for device in (0, 1):
    simulation.clear(device)
    assert set(simulation.live(device).values()) == {0}
for wrong in (lambda: simulation.fail(error="nonsense"), lambda: simulation.lose(2)):
    try:
        wrong()
    except un.errors.InvalidArgument as error:
        print(error)
"""
    finished = python("-c", program)
    assert finished.returncode == 0, finished.stderr
    assert "'nonsense' is neither" in finished.stdout
    assert "no device 2; there are 2" in finished.stdout


PROGRAM = """
import numpy as np, triton.language as tl, unify as un
simulation = un.simulate("cuda:90", count=2)

@un.jit
def double(x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, 2 * tl.load(x + i, i < n), i < n)

device = un.device("cuda:1")
x = un.asarray(np.arange(1000, dtype=np.float32), device=device)
double[(8,)](x, 1000, BLOCK=128)
assert np.array_equal(x.numpy(), 2 * np.arange(1000, dtype=np.float32))
simulation.fail("cuMemcpyAsync", error="ecc", device=1)
try:
    x.numpy()
except un.errors.Error as error:
    print(type(error).__name__)
"""


def test_a_program_of_unify_runs_and_fails_on_a_simulated_chip(tmp_path: Path, python: Any) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    finished = python("program.py")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip(), "the fault was not seen"
