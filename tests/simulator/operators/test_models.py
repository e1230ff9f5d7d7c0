"""Models of torch and transformers on simulated chips, each against the same program on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unify._errors import ModelFileError
from unify.models.fetch import model_path

IMPORTS = "import torch, torch_npu\n"
SMOLLM2 = """
from transformers import AutoModelForCausalLM, AutoTokenizer, StaticCache
from pathlib import Path
path = Path({path!r})
read = dict(pretrained_model_name_or_path=path.parent, gguf_file=path.name)
tokenizer = AutoTokenizer.from_pretrained(**read)
model = AutoModelForCausalLM.from_pretrained(**read, dtype=torch.float32).eval()
given = tokenizer("The three primary colours are", return_tensors="pt")
length = given.input_ids.shape[1]

def generated(device):
    model.to(device)
    return model.generate(**given.to(device), max_new_tokens=64, min_new_tokens=64, do_sample=False).tolist()[0][length:]

def decoded(device):
    "The same by NPUGraph: a token's step is captured once, and replayed on what the replays before left."
    cache = StaticCache(config=model.config, max_cache_len=length + 64)
    ids = given.input_ids.to(device)
    position = torch.arange(length, device=device)
    logits = model(ids, past_key_values=cache, cache_position=position, position_ids=position[None]).logits
    token, position = logits[:, -1].argmax(-1, keepdim=True), torch.full((1,), length, device=device)
    found, places = [token.item()], torch.arange(length + 64, device=device)

    def step():
        seen = (places <= position)[None, None, None]
        how = dict(past_key_values=cache, cache_position=position, position_ids=position[None], attention_mask=seen)
        token.copy_(model(token, **how).logits[:, -1].argmax(-1, keepdim=True))
        position.add_(1)

    states = [each for layer in cache.layers for each in vars(layer).values() if isinstance(each, torch.Tensor)]
    kept = [(state, state.clone()) for state in (*states, token, position)]
    step()  # what is made at the first use is no part of the graph
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        step()
    for state, before in kept:
        state.copy_(before)
    for _ in range(63):
        graph.replay()
        found.append(token.item())
    return found

with torch.no_grad():
    expected = generated("cpu")
    assert generated("npu") == expected
    assert decoded("npu") == expected
    print(tokenizer.decode(expected))
"""


def test_smollm2_writes_the_same_text_also_from_a_graph(run: Callable[..., str]) -> None:
    try:
        path = str(model_path("smollm2-135m"))
    except ModelFileError as error:
        pytest.skip(str(error))
    assert "red, blue, and yellow" in run(SMOLLM2.format(path=path), start=IMPORTS, timeout=600)


TRAINING = """
import copy
from torch import nn
from torch.nn import functional as F

class Block(nn.Module):
    def __init__(self, width, heads, p):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.drop = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.Dropout(p)
    def forward(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.drop(self.out(mixed))
        return x + self.drop(self.down(F.gelu(self.up(self.norms[1](x)), approximate="tanh")))  # as the chip's gelu

class Model(nn.Module):
    def __init__(self, width=64, vocabulary=97, p=0.0):
        super().__init__()
        self.embedding, self.places = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(32, width) / 50)
        self.blocks, self.norm = nn.Sequential(*[Block(width, 4, p) for _ in range(2)]), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
    def forward(self, ids):
        return self.head(self.norm(self.blocks(self.embedding(ids) + self.places)))

def trained(device, model, optimizer, autocast=False, dropout=None):
    "Losses, norms of the gradient before it is clipped, and the last gradients, of five steps."
    model, told = copy.deepcopy(model).to(device), []
    if dropout:
        for each in model.modules():
            if isinstance(each, nn.Dropout):
                dropout(each)
    optimizer = optimizer(model.parameters())
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        ids = torch.randint(0, 97, (4, 32), generator=generator).to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            logits = model(ids)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        told.append([loss.item(), norm.item()])
    return torch.tensor(told), [each.grad.cpu() for each in model.parameters()]

def compare(found, expected, limit):
    torch.testing.assert_close(found[0], expected[0], rtol=limit, atol=0)
    for one, other in zip(found[1], expected[1], strict=True):
        assert (one - other).norm() <= 20 * limit * other.norm(), ((one - other).norm() / other.norm(), one.shape)

torch.manual_seed(0)
model = Model()
for name, optimizer in {
    "foreach": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, foreach=True),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
}.items():
    compare(trained("npu", model, optimizer), trained("cpu", model, optimizer), 1e-5)
    compare(trained("npu", model, optimizer, True), trained("cpu", model, optimizer, True), 2e-3)  # of bfloat16

# With dropout: the CPU drops what the chip dropped.
masks = []
def note(module):
    module.register_forward_hook(lambda self, given, out: masks.append((out != 0).cpu()))
def replay(module):
    module.register_forward_hook(lambda self, given, out: given[0] * masks.pop(0) / (1 - self.p))
optimizer, model = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3), Model(p=0.25)
torch.npu.manual_seed(7)
found = trained("npu", model, optimizer, dropout=note)
kept = torch.cat([mask.flatten() for mask in masks]).double().mean()
assert abs(kept - 0.75) < 0.005, kept
noted = list(masks)
compare(found, trained("cpu", model, optimizer, dropout=replay), 1e-5)
masks.clear()
torch.npu.manual_seed(7)
again = trained("npu", model, optimizer, dropout=note)
assert all(torch.equal(*pair) for pair in zip(masks, noted, strict=True)) and torch.equal(again[0], found[0])
"""


def test_training_steps_agree(run: Callable[..., str]) -> None:
    run(TRAINING, start=IMPORTS)
