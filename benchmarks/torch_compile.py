"""How fast are models that torch.compile turns into Triton kernels for the CPU? Against Inductor's own C++.

The layers are those of a small language model and of a small image classifier; both sides see the same weights, and
compile the same graph. Matrix products, convolutions and attention call the same library on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unify.bench import Case, Setup, Side
from unify.bench.case import MILLISECONDS
from unify.bench.cases import _torch

# name: what builds the model from unify.testing.torch_models, and the shape of its input
MODELS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "gpt": (lambda m: m.GPTBlock(576, heads=9), (1, 512, 576)),
    "llama": (lambda m: m.LlamaLayer(576, heads=9, kv_heads=3, inner=1536), (1, 512, 576)),
    "resnet": (lambda m: m.ResidualBlock(64), (4, 3, 112, 112)),
    "moe": (lambda m: m.MixtureOfExperts(256, experts=8, inner=512, chosen=2), (256, 256)),
}
OPERATIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "gelu": (lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh") * x, (2048, 2048)),
    "softmax": (lambda torch, x: x.softmax(-1), (2048, 2048)),
    "layer-norm": (lambda torch, x: torch.nn.functional.layer_norm(x, x.shape[-1:]), (2048, 2048)),
    "columns": (lambda torch, x: (x * x).sum(0), (2048, 2048)),
    "transpose": (lambda torch, x: x.T.contiguous() + 1, (2048, 2048)),
}


def cases() -> list[Case]:
    """Operations, then each model forward, then forward and backward."""
    return [
        *(_case(f"compile-{name}", _operation(*spec)) for name, spec in OPERATIONS.items()),
        *(_case(f"compile-{name}", _model(*spec, trains=False)) for name, spec in MODELS.items()),
        *(_case(f"compile-{name}-train", _model(*spec, trains=True)) for name, spec in MODELS.items()),
    ]


def _case(name: str, build: Callable[[Setup, bool], Side]) -> Case:
    return Case(
        name=name,
        subject="torch.compile",
        about=f"{name.removeprefix('compile-')} under torch.compile",
        unit=MILLISECONDS,
        ours=lambda setup: build(setup, True),
        peers={"torch": lambda setup: build(setup, False)},
        tolerance=1e-4,
        repeats=9,
    )


def _load(setup: Setup, is_triton: bool) -> Any:
    torch = _torch.load(setup)
    if is_triton:
        import unify.triton

        unify.triton.use_in_torch_compile()
    torch.manual_seed(0)
    return torch


def _operation(function: Callable[..., Any], shape: tuple[int, ...]) -> Callable[[Setup, bool], Side]:
    def build(setup: Setup, is_triton: bool) -> Side:
        torch = _load(setup, is_triton)
        x = torch.randn(shape)
        compiled = torch.compile(lambda x: function(torch, x), fullgraph=True)
        return _torch.side(lambda: compiled(x))

    return build


def _model(make: Callable[[Any], Any], shape: tuple[int, ...], *, trains: bool) -> Callable[[Setup, bool], Side]:
    def build(setup: Setup, is_triton: bool) -> Side:
        torch = _load(setup, is_triton)
        from unify.testing import torch_models

        compiled = torch.compile(make(torch_models), fullgraph=True)
        x = torch.randn(shape, requires_grad=trains)

        def train() -> Any:
            x.grad = None
            with torch.enable_grad():
                compiled(x).square().sum().backward()
            return x.grad

        return _torch.side(train if trains else lambda: compiled(x))

    return build
