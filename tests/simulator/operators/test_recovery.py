"""Recovery as Huawei's framework does it: stop the device, ask for its memory, restart it, join the group again."""

from __future__ import annotations

import pytest

RECOVERY = """
from torch_npu.npu import check_uce_in_memory, restart_device, stop_device
from torch_npu.npu._recovery import check_npu_tensor_is_safe
values = torch.arange(10.0)
def is_right(x):
    torch.testing.assert_close((x + x * x).cpu(), values + values * values)
def faulty_pages(device=0):
    count = ctypes.c_size_t()
    pages = (ctypes.c_char * 1024)()
    assert acl.aclrtGetMemUceInfo(device, pages, ctypes.c_size_t(16), ctypes.byref(count)) == 0
    return count.value
x, other = values.npu(), values.to("npu:1")
is_right(x), is_right(other)
torch.npu.set_device(0)
"""
LEAVES = """
sys.stdout.flush()
os._exit(0)  # torch_npu's own end waits for devices that were stopped
"""
RECOVERS = """
plan({plan!r})
y = x + x
told = raised(torch.npu.synchronize)
assert {words!r} in told, told
is_right(other)  # the other device goes on
torch.npu.set_device(0)
assert stop_device(0) == 0
told = raised(lambda: x + x)
assert told.startswith("FORCE STOP"), told
assert check_uce_in_memory(0) == {memory}
assert faulty_pages() == ({memory} != 0)
restart_device(0, rebuild_all_resources=True)
assert check_uce_in_memory(0) == faulty_pages() == 0  # repaired
assert not check_npu_tensor_is_safe(x)
assert "There is unsafe data in the input tensor" in raised(lambda: x + x)
x.copy_(values)  # as a checkpoint is loaded
is_right(x)
with torch.npu.stream(torch.npu.Stream()):
    is_right(x)
is_right(other)
"""


@pytest.mark.parametrize(
    ("fault", "words", "memory"),
    [
        ("aicore", "507015", 0),
        ("ecc", "HBM MULTI BIT ECC ERROR", 3),  # 3: memory that is in use; it is loaded again
        pytest.param("link", "HCCS LINK ERROR", 0, marks=pytest.mark.slow),
        pytest.param("ACL_ERROR_RT_DEVICE_MEM_ERROR", "UCE ERROR", 3, marks=pytest.mark.slow),
    ],
)
def test_a_device_recovers_and_computes_what_is_right(run, fault: str, words: str, memory: int) -> None:
    run(RECOVERY + RECOVERS.format(plan=f"aclnnAdd:0:{fault}", words=words, memory=memory) + LEAVES)


def test_an_error_in_memory_that_is_free_costs_a_step_alone(run) -> None:
    run(
        RECOVERY
        + """
big = torch.ones(8 << 20, device="npu:0")  # a segment of its own
del x
torch.npu.empty_cache()
plan("aclnnInplaceMuls:0:ACL_ERROR_RT_DEVICE_MEM_ERROR")
big.mul_(2)
assert "UCE ERROR" in raised(torch.npu.synchronize)
assert stop_device(0) == 0
del big
assert check_uce_in_memory(0) == 2  # torch_npu gave the memory back: the step is done again
restart_device(0)
is_right(values.npu())
is_right(other)
"""
        + LEAVES
    )


ROUNDS = """
import random
random.seed(0)
for n in range({rounds}):
    x = values.npu()
    plan(f"aclnnAdd:{{random.randrange(8)}}:{fault}")
    def step():
        for _ in range(random.randrange(8, 40)):
            y = x + x
        torch.npu.synchronize() if n % 2 else y.cpu()
    assert {words!r} in raised(step)
    assert stop_device(0) == 0
    restart_device(0, rebuild_all_resources=n % 3 == 0, disable_tensor_unsafe_check=True)
    is_right(values.npu())
"""


@pytest.mark.parametrize(
    ("fault", "words"), [("ecc", "HBM MULTI BIT ECC ERROR"), pytest.param("link", "LINK ERROR", marks=pytest.mark.slow)]
)
def test_a_device_recovers_wherever_the_work_behind_the_fault_is(run, fault: str, words: str) -> None:
    """Some of it is still in torch_npu's queue, some in the stream."""
    run(RECOVERY + ROUNDS.format(rounds=100, fault=fault, words=words) + LEAVES)


def test_work_behind_an_exception_of_a_core_ends_torch_npu_s_queue(run) -> None:
    """The vendor's runtime takes no work after it; torch_npu's thread that launches ends then, and says so.

    torch_npu 2.13 never starts that thread again: after `restart_device` the next operator would wait for ever, on a
    chip as here. The process is to be ended.
    """
    run(
        RECOVERY
        + """
plan("aclnnAdd:0:aicore")
y = x + x
assert "507015" in raised(torch.npu.synchronize)
y = x + x
told = raised(torch.npu.synchronize)
assert "The process exits for this inner error" in told, told
assert "aclnnAdd" in told, told
is_right(other)
"""
        + LEAVES
    )


RANKS = """
import ctypes, faulthandler, os, sys, threading
faulthandler.dump_traceback_later(150, exit=True)
import torch, torch_npu
import torch.distributed as dist
from torch_npu.distributed import reinit_process_group
from torch_npu.npu import check_uce_in_memory, restart_device, stop_device
acl = ctypes.CDLL("libascendcl.so")
rank, rebuilds = int(sys.argv[1]), {rebuilds}
torch.npu.set_device(rank)
store = dist.FileStore(os.path.abspath("store"), 2)
dist.init_process_group("hccl", store=store, rank=rank, world_size=2)
x = torch.full((4,), rank + 1.0).npu()
dist.all_reduce(x)
assert x.cpu().tolist() == [3.0] * 4
if rank == 0:
    assert acl.unify_simulator_fail(0, b"HcclAllReduce:0:{fault}") == 0
watched = dist.FileStore(os.path.abspath("store"), 2)
def meet(what):
    store.set(f"{{what}} {{rank}}", "yes")
    store.wait([f"{{what}} 0", f"{{what}} 1"])
def watch():  # stops this rank's device when another one failed
    watched.wait(["failed"])
    assert stop_device(rank) == 0
watcher = threading.Thread(target=watch)
watcher.start()
try:
    dist.all_reduce(x)
    torch.npu.synchronize()
except RuntimeError as error:
    assert ("FORCE STOP" if rank else {words!r}) in str(error), error
    store.set("failed", "yes")
else:
    raise AssertionError("nothing was raised")
watcher.join()
meet("stopped")
check_uce_in_memory(rank)
restart_device(rank, rebuild_all_resources=rebuilds)
reinit_process_group(rebuild_link=rebuilds)
meet("left")  # each rank deletes the key in the store under which the next communicator is found
x.copy_(torch.full((4,), rank + 1.0))
for _ in range(3):
    dist.all_reduce(x)
assert x.cpu().tolist() == [12.0] * 4
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("fault", "words", "rebuilds"),
    [
        ("link", "HCCS LINK ERROR", True),
        pytest.param("link", "HCCS LINK ERROR", False, marks=pytest.mark.slow),
        pytest.param("ecc", "HBM MULTI BIT ECC ERROR", True, marks=pytest.mark.slow),
    ],
)
def test_ranks_join_their_group_again(run_ranks, fault: str, words: str, rebuilds: bool) -> None:
    run_ranks(RANKS.format(fault=fault, words=words, rebuilds=rebuilds))
