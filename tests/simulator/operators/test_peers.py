"""Tensors of one chip on another one, of the host in pinned memory, and of another process."""

from __future__ import annotations

START = """
import ctypes
acl = ctypes.CDLL("libascendcl.so")
import torch, torch_npu
def is_busy(device):
    return not torch.npu.current_stream(device).query()
def hold(device, call):  # the call that comes next stands still in its stream
    assert acl.unify_simulator_fail(device, f"{call}:0:hang".encode()) == 0
def release(device):
    assert acl.unify_simulator_release(device) == 0
"""


def test_chips_reach_each_other_s_memory(run) -> None:
    run(
        """
assert torch.npu.can_device_access_peer(0, 1) and torch.npu.can_device_access_peer(1, 0)
assert not torch.npu.can_device_access_peer(0, 0)
values = torch.arange(24.0).reshape(4, 6)
x = values.npu()
torch.testing.assert_close(x.to("npu:1").cpu(), values)
there = torch.empty(4, 6, device="npu:1")
there.copy_(x + 1)
torch.testing.assert_close(there.cpu(), values + 1)
assert there.device.index == 1 and torch.npu.current_device() == 0
""",
        start=START,
    )


def test_memory_is_out_of_reach_without_peer_access(run) -> None:
    """torch_npu allows it before its first copy; a copy in the vendor's own call is refused until then."""
    run(
        """
here, there = torch.ones(4, device="npu:0"), torch.zeros(4, device="npu:1")
torch.npu.synchronize(0), torch.npu.synchronize(1)
torch.npu.set_device(0)
def copy():  # 3: from a device to a device
    size = ctypes.c_size_t(16)
    to, source = ctypes.c_void_p(there.data_ptr()), ctypes.c_void_p(here.data_ptr())
    return acl.aclrtMemcpy(to, size, source, size, 3)
assert copy() != 0
assert not there.cpu().any()
assert torch.equal(here.to("npu:1").cpu(), torch.ones(4))
torch.npu.set_device(0)
assert copy() == 0
assert torch.equal(there.cpu(), torch.ones(4))
""",
        start=START,
    )


def test_a_copy_waits_for_the_work_of_both_chips(run) -> None:
    run(
        """
x, y = torch.ones(1000, device="npu:0"), torch.ones(1000, device="npu:1")
x.to("npu:1")
torch.npu.synchronize(0), torch.npu.synchronize(1)
hold(0, "aclnnInplaceAdds")
x.add_(1)
copied = x.to("npu:1", non_blocking=True)
with torch.npu.device(1):
    doubled = copied * 2
assert is_busy(0) and is_busy(1)  # of the source
release(0)
assert torch.equal(doubled.cpu(), torch.full((1000,), 4.0))
hold(1, "aclnnInplaceAdds")
with torch.npu.device(1):
    y.add_(1)
y.copy_(x, non_blocking=True)
x.add_(5)
assert is_busy(0)  # of the target: what comes next on the source waits for the copy
release(1)
assert torch.equal(y.cpu(), torch.full((1000,), 2.0))
assert torch.equal(x.cpu(), torch.full((1000,), 7.0))
""",
        start=START,
    )


def test_streams_of_two_chips_are_ordered_by_events(run) -> None:
    run(
        """
first, second = torch.npu.Stream(0), torch.npu.Stream(1)
x, y = torch.ones(1000, device="npu:0"), torch.zeros(1000, device="npu:1")
torch.npu.synchronize(0), torch.npu.synchronize(1)
written = torch.npu.Event()
hold(0, "aclnnInplaceAdds")
with torch.npu.stream(first):
    x.add_(1)
    written.record()
with torch.npu.stream(second):
    second.wait_event(written)
    y.add_(3)
assert not written.query() and not second.query()
release(0)
second.synchronize()
assert written.query()
assert torch.equal(y.cpu(), torch.full((1000,), 3.0))
""",
        start=START,
    )


def test_a_copy_of_pinned_memory_does_not_wait_for_the_chip(run) -> None:
    run(
        """
values = torch.arange(1000.0)
pinned = values.clone().pin_memory()
assert pinned.is_pinned() and not values.is_pinned()
back = torch.zeros(1000).pin_memory()
x = torch.zeros(1000, device="npu:0")
torch.npu.synchronize()
hold(0, "aclnnInplaceAdds")
x.add_(1)
x.copy_(pinned, non_blocking=True)
back.copy_(x, non_blocking=True)
assert is_busy(0) and not back.any()
release(0)
torch.npu.synchronize()
assert torch.equal(back, values)
""",
        start=START,
    )


def test_a_tensor_is_shared_with_a_process_that_was_spawned(run) -> None:
    run(
        """
import torch.multiprocessing as mp
def child(tensors, answers):
    x = tensors.get()
    answers.put((str(x.device), x.sum().item()))
    x.mul_(2)
    torch.npu.synchronize()
    answers.put("changed")
    tensors.get()  # the owner has read it
    del x
if __name__ == "__main__":
    spawn = mp.get_context("spawn")
    tensors, answers = spawn.Queue(), spawn.Queue()
    process = spawn.Process(target=child, args=(tensors, answers))
    process.start()
    x = torch.arange(10.0, device="npu:1")
    tensors.put(x)
    assert answers.get(timeout=200) == ("npu:1", 45.0)
    assert answers.get(timeout=200) == "changed"
    assert torch.equal(x.cpu(), torch.arange(10.0) * 2)
    tensors.put(None)
    process.join()
    assert process.exitcode == 0
""",
        start=START,
    )
