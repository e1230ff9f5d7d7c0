"""Triton's kernels in a program on simulated chips."""

from __future__ import annotations

from collections.abc import Callable


def test_kernels_of_triton_take_tensors_of_torch_npu(run: Callable[..., str]) -> None:
    told = run("""
import triton, triton.language as tl
@triton.jit
def add(x, y, out, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)
tuned = triton.autotune(configs=[triton.Config({"B": 256}), triton.Config({"B": 1024})], key=["n"])(add)
even = triton.heuristics({"B": lambda given: 512})(add)
a, b = torch.randn(5000), torch.randn(5000)
for device in ("npu:0", "npu:1"):
    x, y = a.to(device), b.to(device)
    for kernel, options in ((add, {"B": 512}), (tuned, {}), (even, {})):
        out = torch.empty_like(x)
        kernel[lambda given: (triton.cdiv(5000, given["B"]),)](x, y, out, 5000, **options)
        assert torch.equal(out.cpu(), a + b), kernel
add.run(x, x, out, 5000, B=512, grid=(10,))
assert torch.equal(out.cpu(), a + a)
device = triton.runtime.driver.active
print(device.get_current_target(), device.utils.get_device_properties(0))
""")
    assert "arch='Ascend910B3'" in told
    assert "'num_aicore': 20, 'num_vectorcore': 40" in told


def test_a_fault_of_a_kernel_is_torch_npu_s_error_and_names_it(run: Callable[..., str]) -> None:
    told = run("""
import triton, triton.language as tl
@triton.jit
def far(x, far: tl.constexpr):
    tl.store(x + far, 1.0)
x = torch.ones(4).npu()
far[(1,)](x, far=1 << 40)
print(raised(torch.npu.synchronize))
sys.stdout.flush()
os._exit(0)
""")
    assert "kernel_name=far" in told
    assert "507035" in told  # of a vector core
