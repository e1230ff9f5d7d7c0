"""Training steps on simulated chips that fail on demand: torch_npu's own errors, and what still works after them."""

from __future__ import annotations

import pytest

TRAINING = """
import threading, time
from torch import nn
class Training:
    def __init__(self, device):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))
        self.net, self.device = net.to(device), device
        self.adam = torch.optim.AdamW(self.net.parameters(), lr=1e-2)
    def step(self):
        loss = self.net(torch.arange(40.0).reshape(5, 8).div(40).to(self.device)).square().mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.item()
    def steps(self, count=4):
        return torch.tensor([self.step() for _ in range(count)])
def agree(found):
    torch.testing.assert_close(found, expected[:len(found)], rtol=1e-3, atol=1e-5)
expected = Training("cpu").steps()
"""
LEAVES = """
sys.stdout.flush()
os._exit(0)  # torch_npu's own end has the device's fault again
"""
FAILS = """
first, other = Training("npu:0"), Training("npu:1")
agree(first.steps(2))
plan({plan!r})
print(raised(lambda: first.steps({steps})))
agree(other.steps())  # the other device goes on
print(raised(lambda: torch.npu.synchronize(0)))
"""


@pytest.mark.parametrize(
    ("plan", "steps", "part"),
    [
        ("aclnnGelu:0:aicore", 1, "507015"),
        pytest.param("aclnnGeluBackward:1:vector_core", 2, "507035", marks=pytest.mark.slow),
        pytest.param("aclnnLayerNorm:2:timeout", 3, "507014", marks=pytest.mark.slow),
        pytest.param("aclnnGelu:1:lost", 2, "507010", marks=pytest.mark.slow),
        pytest.param("time:0.5:lost", 10_000, "507010", marks=pytest.mark.slow),
    ],
)
def test_a_failed_step_is_torch_npu_s_error_with_the_chip_s_code(run, plan: str, steps: int, part: str) -> None:
    assert f"error code is {part}" in run(TRAINING + FAILS.format(plan=plan, steps=steps) + LEAVES)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("ecc", "HBM MULTI BIT ECC ERROR"), pytest.param("link", "HCCS LINK ERROR", marks=pytest.mark.slow)],
)
def test_a_restarted_device_trains_again(run, fault: str, words: str) -> None:
    """Faults that torch_npu itself recovers from; after one of a core, it ends the thread that launches."""
    told = run(
        TRAINING
        + FAILS.format(plan=f"aclnnGelu:0:{fault}", steps=1)
        + """
assert torch.npu.stop_device(0) == 0
torch.npu.restart_device(0)
torch.npu.set_device(0)
agree(Training("npu:0").steps())
agree(other.steps(0))
"""
        + LEAVES
    )
    assert told.count(words) == 2, told


@pytest.mark.slow
def test_a_lost_device_does_not_come_back(run) -> None:
    told = run(
        TRAINING
        + FAILS.format(plan="aclnnGelu:0:lost", steps=1)
        + """
assert torch.npu.stop_device(0) == 1
torch.npu.restart_device(0)
torch.npu.set_device(0)
print(raised(lambda: Training("npu:0").step()))
"""
        + LEAVES
    )
    assert told.count("error code is 507010") == 2


def test_what_hangs_is_told_after_a_time_and_stopped(run) -> None:
    told = run(
        TRAINING
        + """
first, other = Training("npu:0"), Training("npu:1")
agree(first.steps(1))
plan("aclnnGelu:0:hang")
x = nn.functional.gelu(torch.ones(10).npu())
print(raised(torch.npu.synchronize))
agree(other.steps())
torch.npu.set_device(0)
assert torch.npu.stop_device(0) == 0
print(raised(lambda: nn.functional.gelu(x)))
torch.npu.restart_device(0)
torch.npu.set_device(0)
agree(Training("npu:0").steps())
"""
        + LEAVES,
        ACL_DEVICE_SYNC_TIMEOUT="2",
    )
    assert "error code is 507046" in told
    assert "FORCE STOP" in told


def test_memory_that_ends_between_steps_is_torch_s_error_and_can_be_freed(run) -> None:
    run(
        TRAINING
        + """
first = Training("npu:0")
agree(first.steps(2))
held = []
try:
    while True:
        held.append(torch.empty(100 << 20, dtype=torch.uint8, device="npu:0"))
except torch.OutOfMemoryError as error:
    assert "NPU out of memory. Tried to allocate 102.00 MiB" in str(error), error
else:
    raise AssertionError("nothing was raised")
held.clear()
torch.npu.empty_cache()
for _ in range(2):  # the allocator frees what it keeps and tries again
    plan("aclrtMallocAlign32:0:out_of_memory")
assert "Tried to allocate" in raised(lambda: torch.empty(100 << 20, dtype=torch.uint8, device="npu:0"))
torch.testing.assert_close(first.steps(2), expected[2:], rtol=1e-3, atol=1e-5)
"""
    )


LEAKS = """
import gc
from torch import nn
acl.unify_simulator_live.restype = ctypes.c_int64
COUNTS = ("streams", "events", "bytes", "pinned_bytes", "graphs", "graph_execs", "modules", "allocations",
          "reservations")
def used():
    gc.collect()
    torch.npu.synchronize()
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    live = {what: acl.unify_simulator_live(0, what.encode()) for what in COUNTS}
    live["events"] //= 8  # torch_npu keeps a few to use again
    live["pinned_bytes"] //= 1 << 20
    resident = int(status["VmRSS"].split()[0]) << 10
    return resident, live | {
        "threads": int(status["Threads"]), "files": len(os.listdir("/proc/self/fd")),
        "allocated": torch.npu.memory_allocated(),
    }
net = nn.Sequential(
    nn.Embedding(32, 16), nn.Linear(16, 16), nn.GELU(), nn.LayerNorm(16), nn.Dropout(0.1), nn.Linear(16, 4)
).to("npu")
adam = torch.optim.AdamW(net.parameters(), lr=1e-3)
tokens, labels = torch.randint(0, 32, (5,)).npu(), torch.randint(0, 4, (5,)).npu()
def step(n):
    event, side = torch.npu.Event(enable_timing=True), torch.npu.Stream()
    event.record()
    loss = nn.functional.cross_entropy(net(tokens), labels)
    adam.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    adam.step()
    side.wait_event(event)
    with torch.npu.stream(side):
        copy = torch.ones(10).pin_memory().to("npu", non_blocking=True)
        torch.cat([copy, copy]).sort()
        copy.topk(3), copy[copy > 0], torch.nonzero(copy)
    if n % 10 == 0:
        loss.item()
seen = {}
for n in range(1, STEPS + 1):
    step(n)
    if n in (STEPS // 5, STEPS):
        seen[n] = used()
(before, first), (after, last) = seen.values()
assert first == last, (first, last)
assert after - before < (4 << 20), (before, after)
"""


@pytest.mark.parametrize("steps", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_training_leaks_nothing(run, steps: int) -> None:
    """The first fifth of the steps warms caches up; after it, memory, files, threads and the chip's objects stay."""
    run(f"STEPS = {steps}\n" + LEAKS, timeout=1200)
