"""Training over two processes on hccl, against one process with the whole batch on the CPU."""

from __future__ import annotations

import pytest

PROGRAM = """
import os, sys
import torch, torch_npu
import torch.distributed as dist
from torch import nn
rank = int(sys.argv[1])
torch.npu.set_device(rank)
dist.init_process_group("hccl", init_method="file://" + os.path.abspath("store"), rank=rank, world_size=2)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(32, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 32)
    def forward(self, tokens):
        return self.head(self.block(self.tokens(tokens)))
def made(device):
    torch.manual_seed(0)
    return Net().to(device)
def loss_of(net, tokens):
    return nn.functional.cross_entropy(net(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())
def train(net, tokens, mean):
    adam = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses, gradients = [], []
    for _ in range(5):
        loss = loss_of(net, tokens)
        adam.zero_grad()
        loss.backward()
        gradients.append([each.grad.cpu().clone() for each in net.parameters()])
        adam.step()
        losses.append(mean(loss.detach()))
    return losses, gradients
def mean(loss):
    dist.all_reduce(loss)
    return loss.item() / 2
tokens = torch.randint(0, 32, (4, 8), generator=torch.Generator().manual_seed(1))
mine = tokens[rank * 2 :][:2].npu()
expected = train(made("cpu"), tokens, lambda loss: loss.item())
"""
DDP = """
found = train(nn.parallel.DistributedDataParallel(made("npu"), device_ids=[rank]), mine, mean)
torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
told = [{"from": rank}, rank]
dist.broadcast_object_list(told, 1)
assert told == [{"from": 1}, 1]
"""
SHARDED = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
net, mesh = made("npu"), init_device_mesh("npu", (2,))
fully_shard(net.block, mesh=mesh)
fully_shard(net, mesh=mesh)
adam = torch.optim.AdamW(net.parameters(), lr=1e-2)
for n in range(2):
    loss = loss_of(net, mine)
    adam.zero_grad()
    loss.backward()
    gradients = [each.grad.full_tensor().cpu() for each in net.parameters()]
    adam.step()
    torch.testing.assert_close((mean(loss.detach()), gradients), (expected[0][n], expected[1][n]), rtol=1e-3, atol=1e-5)
"""
ENDS = """
dist.destroy_process_group()
"""


@pytest.mark.parametrize("program", [DDP, pytest.param(SHARDED, marks=pytest.mark.slow)], ids=["ddp", "fsdp"])
def test_losses_and_gradients_are_those_of_one_process(run_ranks, program: str) -> None:
    run_ranks(PROGRAM + program + ENDS)
