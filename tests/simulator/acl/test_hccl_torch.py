"""torch.distributed over torch_npu's ProcessGroupHCCL, in two processes on simulated chips."""

from __future__ import annotations

from collections.abc import Callable

import pytest

START = """
import os, sys, time
import torch, torch_npu
import torch.distributed as dist
rank = int(sys.argv[1])
torch.npu.set_device(rank)
dist.init_process_group("hccl", init_method="file://" + os.path.abspath("store"), rank=rank, world_size=2)
def full(value, *shape):
    return torch.full(shape, float(value)).npu()
"""
Ranks = Callable[..., list[tuple[int, str]]]


def test_collectives_and_messages(ended_ranks: Ranks) -> None:
    ended = ended_ranks(
        START
        + """
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8):
    x = torch.arange(100).to(dtype).npu()
    dist.all_reduce(x)
    assert torch.equal(x.cpu(), torch.arange(100).to(dtype) * 2), dtype
x = torch.tensor([rank, 5 - rank]).npu()
dist.all_reduce(x, op=dist.ReduceOp.MAX)
assert x.cpu().tolist() == [1, 5]
x = full(rank, 10)
dist.broadcast(x, 1)
assert (x.cpu() == 1).all()
out = torch.empty(20).npu()
dist.all_gather_into_tensor(out, full(rank, 10))
assert out.cpu().tolist() == [0.0] * 10 + [1.0] * 10
out = torch.empty(10).npu()
dist.reduce_scatter_tensor(out, torch.arange(20.0).npu())
assert torch.equal(out.cpu(), torch.arange(20.0)[rank * 10:][:10] * 2)
out = torch.empty(20).npu()
dist.all_to_all_single(out, torch.arange(20.0).npu() + rank * 100)
assert out.cpu()[::10].tolist() == [rank * 10, rank * 10 + 100]
sent, taken = ([1, 3], [1, 2]) if rank == 0 else ([2, 2], [3, 2])
out = torch.empty(sum(taken)).npu()
dist.all_to_all_single(out, torch.arange(4.0).npu() + rank * 100, taken, sent)
assert out.cpu().tolist() == ([0, 100, 101] if rank == 0 else [1, 2, 3, 102, 103])
x = full(5 + rank, 10)
if rank == 0:
    dist.send(x, 1)
else:
    dist.recv(x, 0)
    assert (x.cpu() == 5).all()
a, b = full(5 + rank, 10), torch.empty(10).npu()
for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, a, 1 - rank), dist.P2POp(dist.irecv, b, 1 - rank)]):
    work.wait()
assert (b.cpu() == 6 - rank).all()
x = full(5 + rank, 10)
dist.reduce(x, 1)
assert rank == 0 or (x.cpu() == 11).all()
x = torch.empty(3).npu()
dist.scatter(x, [full(0, 3), full(1, 3)] if rank == 0 else None, 0)
assert (x.cpu() == rank).all()
x = full(1, 3)
dist.all_reduce(x, group=dist.new_group([0, 1]))
assert (x.cpu() == 2).all()
several = [full(1, 3), full(2, 4)]
with dist._coalescing_manager():
    for x in several:
        dist.all_reduce(x)
assert (several[1].cpu() == 4).all()
side = torch.npu.Stream()
with torch.npu.stream(side):
    x = full(1, 1 << 20) + 1
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    y = x + 1
side.synchronize()
assert (y.cpu() == 5).all()
out = [torch.empty(10).npu() for _ in range(2)]
dist.all_gather(out, full(rank, 10))
assert [each.cpu()[0] for each in out] == [0, 1]
out = [torch.empty(10).npu() for _ in range(2)] if rank == 0 else None
dist.gather(full(rank, 10), out, 0)
assert rank == 1 or [each.cpu()[0] for each in out] == [0, 1]
out = [torch.empty(5).npu() for _ in range(2)]
dist.all_to_all(out, [full(rank * 10, 5), full(rank * 10 + 1, 5)])
assert [each.cpu()[0] for each in out] == [rank, 10 + rank]
out = torch.empty(10).npu()
dist.reduce_scatter(out, [full(1, 10), full(2, 10)])
assert (out.cpu() == 2 + 2 * rank).all()
everyone = [None, None]
dist.all_gather_object(everyone, {"rank": rank})
assert everyone == [{"rank": 0}, {"rank": 1}]
dist.barrier()
dist.destroy_process_group()
print("done")
"""
    )
    assert [(code, "done" in told) for code, told in ended] == [(0, True)] * 2, (
        ended[0][1][-3000:] + ended[1][1][-3000:]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leaves", "parts"),
    [
        ("os._exit(9)", ("SUSPECT REMOTE ERROR", "waits for rank 1, whose process ended")),
        ("time.sleep(8); os._exit(9)", ("507048", "waited 2 s for ranks 1 (HCCL_EXEC_TIMEOUT)")),
    ],
)
def test_a_rank_that_does_not_come_is_torch_npu_s_error(
    ended_ranks: Ranks, leaves: str, parts: tuple[str, ...]
) -> None:
    ended = ended_ranks(
        START
        + f"""
x = full(1, 10)
dist.all_reduce(x)
torch.npu.synchronize()
if rank == 1:
    {leaves}
try:
    dist.all_reduce(x)
    torch.npu.synchronize()
except RuntimeError as error:
    print(error, flush=True)
    os._exit(0)
os._exit(1)
""",
        HCCL_EXEC_TIMEOUT="2" if "sleep" in leaves else "1836",
    )
    assert [part for part in parts if part not in ended[0][1]] == [], ended[0][1][-4000:]
    assert ended[0][0] == 0
