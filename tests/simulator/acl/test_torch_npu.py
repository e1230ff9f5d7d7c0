"""torch_npu, as Huawei publishes it, on simulated chips: an ACL program that knows nothing of the simulation."""

from __future__ import annotations

import pytest


def test_it_sees_the_chips(run) -> None:
    assert "Ascend910B3" in run("""
assert torch.npu.is_available() and torch.npu.device_count() == 2
told = torch.npu.get_device_properties(1)
assert (told.total_memory, told.cube_core_num, told.vector_core_num) == (1 << 30, 20, 40), told
print(torch.npu.get_device_name(1))
""")


def test_tensors_move_both_ways_and_are_added(run) -> None:
    run("""
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int32, torch.int64):
    a, b = (torch.randn(37, 50) * 100).to(dtype), (torch.randn(50) * 100).to(dtype)
    x, y = a.npu(), b.to("npu:0")
    assert x.device.type == "npu" and torch.equal(x.cpu(), a)
    assert torch.equal(x.t().cpu(), a.t())
    assert torch.equal((x + y).cpu(), a + b), dtype
    assert torch.equal((x.t() + x.t()).cpu(), a.t() + a.t())
    assert torch.equal((x + 2).cpu(), a + 2)
pinned = torch.arange(1000.0).pin_memory()
assert torch.equal(pinned.to("npu:1", non_blocking=True).cpu(), pinned)
assert torch.equal(pinned.to("npu:1").to("npu:0").cpu(), pinned)
""")


@pytest.mark.slow
def test_streams_events_and_graphs_order_the_work(run) -> None:
    run("""
a = torch.arange(1 << 16, dtype=torch.float32)
x, side = a.npu(), torch.npu.Stream()
begin, end = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
side.wait_stream(torch.npu.current_stream())
with torch.npu.stream(side):
    begin.record()
    y = x + x
    for _ in range(4):
        y = y + y
    end.record()
torch.npu.current_stream().wait_event(end)
assert torch.equal((y + x).cpu(), a * 33)
assert begin.elapsed_time(end) > 0 and end.query()
graph, given = torch.npu.NPUGraph(), x.clone()
with torch.npu.graph(graph):
    out = given + given
for n in (3, 5):
    given.copy_((a * n).npu())
    graph.replay()
    assert torch.equal(out.cpu(), a * 2 * n)
""")


@pytest.mark.slow
def test_threads_have_devices_of_their_own(run) -> None:
    run("""
import threading
wrong = []
def work(n):
    x = torch.full((1000,), float(n)).to(f"npu:{n % 2}")
    for _ in range(50):
        x = x + 1
    if not (x.cpu() == n + 50).all():
        wrong.append(n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
""")


@pytest.mark.slow
def test_memory_that_is_not_there_is_torch_s_error(run) -> None:
    run("""
try:
    torch.empty(1 << 40, dtype=torch.uint8, device="npu")
except torch.OutOfMemoryError as error:
    assert "1024.00 GiB" in str(error)
else:
    raise AssertionError("nothing was raised")
assert torch.equal(torch.ones(10).npu().cpu(), torch.ones(10))
free, total = torch.npu.mem_get_info()
assert total == 1 << 30 and 0 < free < total
""")


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("aicore", "507015"),
        pytest.param("ecc", "HBM MULTI BIT ECC ERROR", marks=pytest.mark.slow),  # torch_npu's own words
        pytest.param("lost", "507010", marks=pytest.mark.slow),
        pytest.param("link", "507056", marks=pytest.mark.slow),
    ],
)
def test_a_fault_is_the_one_that_torch_npu_knows(run, fault: str, part: str) -> None:
    told = run(f"""
x = torch.ones(10).npu()
torch.npu.synchronize()
plan("aclnnAdd:0:{fault}")
for work in (lambda: (x + x, torch.npu.synchronize()), torch.npu.synchronize):  # it may be told by the first of them
    print(raised(work))
other = torch.ones(10).to("npu:1")
assert torch.equal((other + other).cpu(), torch.full((10,), 2.0))
sys.stdout.flush()
os._exit(0)  # torch_npu's own end has the device's fault again
""")
    assert part in told


def test_kernels_of_unify_take_its_tensors_on_its_current_stream(run) -> None:
    """And the program ends, though torch_npu's own end comes first and takes its streams away."""
    run(
        """
for device in ("npu:0", "npu:1"):
    a, b = torch.randn(1000), torch.randn(1000)
    x, y, weight = a.to(device), b.to(device), torch.full((1000,), 1.0).to(device)
    assert un.asarray(x).address == x.data_ptr()
    out, side = torch.empty_like(x), torch.npu.Stream(device=device)
    side.wait_stream(torch.npu.current_stream(device))
    with torch.npu.stream(side):
        add[(4,)](x, y, out, 1000, B=256)
        for _ in range(20):
            add[(4,)](x, out, out, 1000, B=256)
        total = out + out  # torch_npu's own, behind them
    side.synchronize()
    expected = a + b
    for _ in range(20):
        expected = a + expected
    assert torch.equal(total.cpu(), expected + expected)
    normed = un.ops.rms_norm(x, weight)
    assert normed.device == x.device and type(normed) is torch.Tensor
    torch.testing.assert_close(normed.cpu(), torch.nn.functional.rms_norm(a, (1000,), eps=1e-6))
    back = torch.from_dlpack(un.asarray(x))
    assert back.device == x.device and back.data_ptr() == x.data_ptr()
""",
        start="""
import torch, torch_npu
import unify as un
import triton.language as tl

@un.jit
def add(x, y, out, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)
""",
    )


def test_an_operator_that_is_not_there_fails_by_its_name(run) -> None:
    assert "aclStft" in run("""
print(raised(lambda: torch.stft(torch.ones(64).npu(), 16, window=torch.ones(16).npu(), return_complex=True).cpu()))
sys.stdout.flush()
os._exit(0)
""")
