"""Ordinary programs on simulated chips: what people do between the operators."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_tensors_print_as_the_cpu_prints_them(run) -> None:
    program = """
import re
def plain(text):
    return re.sub(r"\\s+", " ", re.sub(r",\\s+device='npu:0'", "", text))
torch.manual_seed(0)
numbers, different = torch.randn(1100).abs() * 100, []
dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool)
for dtype in dtypes:
    for shape in ((), (0,), (5,), (2, 3), (2, 0, 3), (2, 2, 2), (1100,)):
        tensor = (numbers[: torch.Size(shape).numel()].reshape(shape) / 4).to(dtype)
        printed = repr(tensor.npu())
        if plain(printed) != plain(repr(tensor)) or "device='npu:0'" not in printed:
            different.append((dtype, shape, printed))
for tensor in (torch.tensor([float("nan"), float("inf"), -1e-8, 3e10]), torch.randn(3, 4).t()):
    if plain(repr(tensor.npu())) != plain(repr(tensor)):
        different.append(repr(tensor.npu()))
print(different)
"""
    assert run(program).splitlines()[-1] == "[]"


def test_indexing_agrees_with_the_cpu(run) -> None:
    program = """
ALL, i = slice(None), torch.tensor([0, -1, 2])
cpu = torch.arange(120.0).reshape(4, 5, 6)
keys = [0, -1, slice(1, None, 2), (ALL, 2), (..., -1), (None, ..., None), (i,), (i, i), (i, ALL, i), (ALL, i, i),
        (ALL, i), cpu > 50, (torch.tensor([True, False, True, False]),), (i, 2), (cpu[:, :, 0] > 30,),
        (torch.tensor([True, False, True, False]), 2), (ALL, slice(1, 3), torch.tensor([[0, 1], [2, -3]])),
        (i[:, None], i[None, :]), (1, i, slice(0, 4, 3)), [0, 2], ([0, 1], [1, 2]), (torch.tensor(2),),
        torch.tensor([], dtype=torch.long), torch.tensor([0, 1], dtype=torch.int32), True,
        (..., torch.tensor([True, False] * 3))]
def on_npu(key):
    if isinstance(key, tuple):
        return tuple(map(on_npu, key))
    return key.npu() if isinstance(key, torch.Tensor) else key
def read(tensor, key):
    return tensor[key]
def write_number(tensor, key):
    tensor[key] = -7
    return tensor
def write_tensor(tensor, key):
    values = torch.arange(float(tensor[key].numel())).reshape(tensor[key].shape)
    tensor[key] = values.to(tensor.device)
    return tensor
def add(tensor, key):
    tensor[key] += 1
    return tensor
different = []
for key in keys:
    for work in (read, write_number, write_tensor, add):
        wanted, got = work(cpu.clone(), key), work(cpu.npu(), on_npu(key))
        if got.device.type != "npu" or wanted.shape != got.shape or not torch.equal(wanted, got.cpu()):
            different.append((work.__name__, str(key)))
for key in (slice(None, None, -1), 4, (0, 0, 0, 0), torch.ones(3, dtype=torch.bool), "a"):
    errors = []
    for tensor in (cpu, cpu.npu()):
        try:
            tensor[on_npu(key) if tensor.is_npu else key]
        except (IndexError, ValueError, TypeError) as error:
            errors.append((type(error).__name__, str(error).splitlines()[0]))  # torch_npu adds its own
    if len(errors) != 2 or errors[0] != errors[1]:
        different.append((str(key), errors))
print(different)
"""
    assert run(program).splitlines()[-1] == "[]"


def test_states_are_saved_and_loaded_between_devices(run) -> None:
    program = """
import safetensors.torch
def same(state, other, device):
    return all(str(other[n].device) == device and torch.equal(t.cpu(), other[n].cpu()) for n, t in state.items())
def network():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
net = network().npu()
optimizer = torch.optim.AdamW(net.parameters())
net(torch.randn(8, 3).npu()).square().sum().backward()
optimizer.step()
state = net.state_dict()
torch.save({"net": state, "optimizer": optimizer.state_dict()}, "npu.pt")
for place, device in ((None, "npu:0"), ("cpu", "cpu"), ("npu:1", "npu:1"), ({"npu:0": "npu:1"}, "npu:1")):
    assert same(state, torch.load("npu.pt", map_location=place)["net"], device), place
cpu = network()
cpu.load_state_dict(torch.load("npu.pt", map_location="cpu")["net"])
torch.save(cpu.state_dict(), "cpu.pt")
assert same(state, torch.load("cpu.pt"), "cpu")
assert same(state, torch.load("cpu.pt", map_location="npu:0"), "npu:0")
again = torch.optim.AdamW(net.parameters())
again.load_state_dict(torch.load("npu.pt", map_location="cpu")["optimizer"])
for kept, loaded in zip(optimizer.state.values(), again.state.values(), strict=True):
    assert loaded["exp_avg"].is_npu and torch.equal(kept["exp_avg"], loaded["exp_avg"])
safetensors.torch.save_file(state, "net.safetensors")
for device in ("cpu", "npu:0"):
    assert same(state, safetensors.torch.load_file("net.safetensors", device=device), device)
print("done")
"""
    assert run(program).splitlines()[-1] == "done"


def test_batches_of_a_loader_with_workers_come_through_pinned_memory(run) -> None:
    program = """
if __name__ == "__main__":
    data = torch.utils.data.TensorDataset(torch.arange(40.0).reshape(20, 2), torch.arange(20))
    sums = []
    for x, y in torch.utils.data.DataLoader(data, batch_size=4, num_workers=2, pin_memory=True):
        assert x.is_pinned() and y.is_pinned()
        x, y = x.to("npu", non_blocking=True), y.to("npu", non_blocking=True)
        sums.append((x.sum(1) * 100 + y).sum())
    back = torch.empty(5, pin_memory=True).copy_(torch.stack(sums), non_blocking=True)
    torch.npu.synchronize()
    print(back.tolist() == [sum((4 * n + 1) * 100 + n for n in range(b, b + 4)) for b in range(0, 20, 4)])
"""
    assert run(program).splitlines()[-1] == "True"


def test_memory_is_counted_and_comes_back_after_it_ran_out(run) -> None:
    program = """
MIB = 1 << 20
def take(mib):
    return torch.empty(mib * MIB, dtype=torch.uint8, device="npu")
take(1)
torch.npu.empty_cache()
torch.npu.reset_peak_memory_stats()
before, (free, total) = torch.npu.memory_allocated(), torch.npu.mem_get_info()
assert total == 1024 * MIB
tensor = take(32)
assert torch.npu.memory_stats()["allocated_bytes.all.current"] == torch.npu.memory_allocated()
assert 32 * MIB <= torch.npu.memory_allocated() - before < 33 * MIB
assert free - torch.npu.mem_get_info()[0] == torch.npu.memory_reserved() >= 32 * MIB
del tensor
assert torch.npu.memory_allocated() == before and torch.npu.max_memory_allocated() - before >= 32 * MIB
torch.npu.empty_cache()
assert torch.npu.mem_get_info()[0] == free and torch.npu.memory_reserved() == 0
held = []
try:
    while True:
        held.append(take(100))
except torch.OutOfMemoryError as error:
    assert str(error).startswith("NPU out of memory. Tried to allocate")
assert len(held) == 10
held.clear()
assert take(900).fill_(3)[-1].item() == 3
print("done")
"""
    assert run(program).splitlines()[-1] == "done"


def test_streams_race_until_an_event_orders_them(run) -> None:
    program = """
side, matrix = torch.npu.Stream(), torch.randn(700, 700).npu()
def work(is_ordered):
    x, product = torch.zeros(1000, device="npu"), matrix
    torch.npu.synchronize()
    with torch.npu.stream(side):
        for _ in range(40):
            product = product @ matrix / 700
        x.add_(1)
        done = torch.npu.Event()
        done.record()
    was_done = done.query()
    if is_ordered:
        torch.npu.current_stream().wait_event(done)
    seen = x.clone()
    torch.npu.current_stream().synchronize()
    seen = seen.sum().item()
    torch.npu.synchronize()
    return was_done, seen, x.sum().item()
print(work(False), work(True))
"""
    assert run(program).splitlines()[-1] == "(False, 0.0, 1000.0) (False, 1000.0, 1000.0)"


def test_events_tell_how_long_work_took(run) -> None:
    program = """
import time
start, middle, end = (torch.npu.Event(enable_timing=True) for _ in range(3))
matrix = torch.randn(500, 500).npu()
torch.npu.synchronize()
began = time.perf_counter()
start.record()
for _ in range(10):
    matrix @ matrix
middle.record()
end.record()
end.synchronize()
took = (time.perf_counter() - began) * 1e3
assert start.query() and middle.query() and end.query()
assert 0 < start.elapsed_time(middle) <= start.elapsed_time(end) <= took
assert "must be recorded" in raised(lambda: torch.npu.Event(enable_timing=True).elapsed_time(end))
print("done")
"""
    assert run(program).splitlines()[-1] == "done"


def test_a_graph_replays_with_the_inputs_of_each_time(run) -> None:
    program = """
import copy
net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4))
npu, x, graph = copy.deepcopy(net).npu(), torch.zeros(3, 8, device="npu"), torch.npu.NPUGraph()
with torch.no_grad():
    side = torch.npu.Stream()
    with torch.npu.stream(side):
        npu(x)
    torch.npu.current_stream().wait_stream(side)
    with torch.npu.graph(graph):
        y = npu(x)
    for step in range(4):
        given = torch.randn(3, 8)
        x.copy_(given)
        if step == 2:  # what the graph reads is read at each replay
            net[0].bias.fill_(2)
            npu[0].bias.fill_(2)
        graph.replay()
        torch.testing.assert_close(y.cpu(), net(given), rtol=1e-4, atol=1e-5)
print("done")
"""
    assert run(program).splitlines()[-1] == "done"


def test_a_seed_gives_the_same_numbers_again(run) -> None:
    program = """
def draws(seed):
    g = torch.Generator("npu").manual_seed(seed)
    at = {"generator": g, "device": "npu"}
    bernoulli = torch.empty(9, device="npu").bernoulli_(0.5, generator=g)
    few = torch.ones(7, device="npu").multinomial(3, generator=g)
    return torch.cat([torch.randn(50, **at), torch.rand(50, **at), torch.randperm(20, **at), bernoulli, few,
                      torch.randint(0, 9, (9,), **at)]).cpu()
assert torch.equal(draws(3), draws(3)) and not torch.equal(draws(3), draws(4))
torch.manual_seed(5)
first = torch.rand(5, device="npu")
state = torch.npu.get_rng_state()
second = torch.nn.functional.dropout(torch.ones(100, device="npu"))
torch.npu.set_rng_state(state)
assert torch.equal(second, torch.nn.functional.dropout(torch.ones(100, device="npu")))
torch.manual_seed(5)
assert torch.equal(first, torch.rand(5, device="npu"))
print("done")
"""
    assert run(program).splitlines()[-1] == "done"


def test_expandable_segments_join_what_was_freed(run) -> None:
    program = """
held = [torch.full((100 << 18,), float(i), device="npu") for i in range(4)]
assert all(segment["is_expandable"] for segment in torch.npu.memory_snapshot())
reserved = torch.npu.memory_reserved()
del held[1:3]
joined = torch.full((200 << 18,), 7.0, device="npu")
assert torch.npu.memory_reserved() == reserved
assert [held[0].unique().tolist(), held[1].unique().tolist(), joined.unique().tolist()] == [[0.0], [3.0], [7.0]]
del held, joined
torch.npu.empty_cache()
assert torch.npu.mem_get_info()[0] == 1 << 30 and torch.npu.memory_reserved() == 0
print("done")
"""
    assert (
        run(program, start="import torch, torch_npu\n", PYTORCH_NPU_ALLOC_CONF="expandable_segments:True").splitlines()[
            -1
        ]
        == "done"
    )


@pytest.mark.parametrize(("every", "at_least"), [(16, 10), pytest.param(1, 200, marks=pytest.mark.slow)])
def test_torchs_own_tests_of_modules_for_cuda_run_through_transfer_to_npu(run, every: int, at_least: int) -> None:
    program = Path(__file__).with_name("cuda_modules.py").read_text()
    agree, differ = json.loads(run(program, str(every), start="", timeout=600).splitlines()[-1])
    assert differ == {}
    assert agree >= at_least
