"""Recurrent networks, as torch_npu calls them for torch.nn, against torch on the CPU."""

from __future__ import annotations

from collections.abc import Callable

NETWORK = """
import copy
torch.manual_seed(0)
T, B, I, H = 5, 3, 4, 6

def weighed(tensor):
    return (tensor.float() * torch.linspace(-1, 1, tensor.numel(), device=tensor.device).view(tensor.shape)).sum()

def ran(network, given, state):
    return network(given, state)

def agrees(network, inputs, tolerance=1e-5, trained=lambda results: results, work=ran):
    "Results, and the gradients of inputs and parameters; `trained`: which results these are of."
    found = []
    for device in ("cpu", "npu"):
        one = copy.deepcopy(network).to(device)
        given = [each.detach().to(device).requires_grad_() for each in inputs]
        states = given[1] if len(given) == 2 else tuple(given[1:])
        out, last = work(one, given[0], states)
        results = [out, *([last] if torch.is_tensor(last) else last)]
        sum(map(weighed, trained(results))).backward()
        leaves = [*given, *one.parameters()]
        results += [leaf.grad for leaf in leaves if leaf.grad is not None]
        found.append([each.detach().cpu() for each in results])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)

def states(kind, layers, directions=1):
    return [torch.randn(layers * directions, B, H) for _ in range(2 if kind is torch.nn.LSTM else 1)]
"""


def test_layers_and_directions(run: Callable[..., str]) -> None:
    run(
        NETWORK
        + """
for kind in (torch.nn.LSTM, torch.nn.GRU):
    for layers, directions, bias in ((1, 1, True), (1, 1, False), (2, 1, True), (1, 2, True), (2, 2, False)):
        network = kind(I, H, layers, bias=bias, bidirectional=directions == 2)
        agrees(network, [torch.randn(T, B, I), *states(kind, layers, directions)])
    agrees(kind(I, H, batch_first=True), [torch.randn(B, T, I), *states(kind, 1)])
    for dtype, tolerance in ((torch.float16, 5e-3), (torch.bfloat16, 4e-2)):  # the CPU rounds each step
        network, given = kind(I, H).to(dtype), [torch.randn(T, B, I), *states(kind, 1)]
        agrees(network, [each.to(dtype) for each in given], tolerance)
    network, given = kind(I, H).eval(), torch.randn(T, B, I)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(network).npu()(given.npu())[0].cpu(), network(given)[0])
"""
    )


def test_cells(run: Callable[..., str]) -> None:
    run(
        NETWORK
        + """
def step(cell, given, state):
    following = cell(given, state)
    return following if len(following) == 2 else (following, following)

for bias in (True, False):
    agrees(torch.nn.LSTMCell(I, H, bias=bias), [torch.randn(B, I), torch.randn(B, H), torch.randn(B, H)], work=step)
"""
    )


def test_sequences_of_several_lengths(run: Callable[..., str]) -> None:
    """The gradients of the sequences, and of the states at a reversed direction's end, torch_npu gets wrong itself."""
    run(
        NETWORK
        + """
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

def packed(network, given, state):
    out, last = network(pack_padded_sequence(given.detach(), torch.tensor([5, 4, 2])), state)
    return pad_packed_sequence(out)[0], last

for layers, directions in ((1, 1), (2, 1), (1, 2), (2, 2)):
    network = torch.nn.LSTM(I, H, layers, bidirectional=directions == 2)
    trained = (lambda results: results) if directions == 1 else (lambda results: results[:1])
    agrees(network, [torch.randn(T, B, I), *states(torch.nn.LSTM, layers, directions)], trained=trained, work=packed)
"""
    )


def test_a_state_with_a_dimension_for_its_layer(run: Callable[..., str]) -> None:
    """torch_npu's own function, whose weights are torch's, transposed."""
    run(
        NETWORK
        + """
network = torch.nn.GRU(I, H)
def work(network, given, state):
    if given.device.type == "cpu":
        return network(given, state)
    weights = [each.t() if each.dim() == 2 else each for each in network.parameters()]
    no_lengths = torch.zeros((), device="npu")
    out, last, *_ = torch_npu.npu_gru(given, state, *weights, no_lengths, True, 1, 0.0, True, False, False)
    return out, last[-1:]
agrees(network, [torch.randn(T, B, I), torch.randn(1, B, H)], work=work)
"""
    )


def test_dropout_between_layers_is_not_applied_as_the_vendor_documents(run: Callable[..., str]) -> None:
    run(
        NETWORK
        + """
for kind in (torch.nn.LSTM, torch.nn.GRU):
    network, given = kind(I, H, 2, dropout=0.9).npu(), torch.randn(T, B, I).npu()
    trained = network(given)[0]
    assert torch.equal(trained, network.eval()(given)[0])
"""
    )


def test_parameters_of_other_layers_are_refused_by_name(run: Callable[..., str]) -> None:
    told = run(
        NETWORK
        + """
os.dup2(1, 2)  # torch_npu writes the vendor's words there
network = torch.nn.GRU(I, H, 2).npu()
given, state = torch.randn(T, B, I).npu(), torch.randn(1, B, H).npu()
print(raised(lambda: torch.gru(given, state, list(network.parameters()), True, 1, 0.0, False, False, False)))
"""
    )
    assert "8 tensors of parameters for 1 layers of 4." in told


def test_an_older_operator_that_is_not_there_is_named(run: Callable[..., str]) -> None:
    told = run(
        """
rois = torch.rand(1, 5, 2).npu()
print(raised(lambda: torch_npu.npu_ps_roi_pooling(torch.rand(1, 8, 4, 4).npu(), rois, 1, 2, 2)))
""",
        TASK_QUEUE_ENABLE="0",  # the error comes at the call
    )
    assert "operator PSROIPoolingV2 is not served by the simulated device; ACLOP(PSROIPoolingV2" in told


def test_an_older_operator_fails_as_planned(run: Callable[..., str]) -> None:
    told = run(
        """
os.dup2(1, 2)  # torch_npu writes the vendor's words there
cell, given = torch.nn.LSTMCell(2, 3).npu(), torch.randn(1, 2).npu()
plan("aclopDynamicRNNV2:1:aicore")
with torch.no_grad():
    cell(given)
    torch.npu.synchronize()
    print(raised(lambda: (cell(given), torch.npu.synchronize())))
"""
    )
    assert "aclopDynamicRNNV2 execute failed, reason=[aicore exception]" in told
