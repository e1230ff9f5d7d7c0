"""torch.compile through Inductor's Triton code for the CPU, against eager."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unify.triton
from unify import models
from unify.testing.torch_models import GPTBlock, LlamaLayer, MixtureOfExperts, ResidualBlock

# max_autotune reads a tensor's storage by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")

TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}
# Gradients of weights are sums over all tokens, of products that were rounded on the way.
TRAINED = {torch.float32: {"rtol": 1e-3, "atol": 1e-4}, torch.bfloat16: {"rtol": 5e-2, "atol": 0.1}}


@pytest.fixture(autouse=True)
def inductor(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Triton kernels for the CPU, caches for this run, all compiled in this process."""
    from torch._inductor import config

    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path_factory.getbasetemp() / "inductor"))
    torch.manual_seed(0)
    torch._dynamo.reset()
    restored = {"cpu_backend": config.cpu_backend, "benchmark_epilogue_fusion": config.benchmark_epilogue_fusion}
    with config.patch(compile_threads=1, **restored):
        unify.triton.use_in_torch_compile()
        yield
    unify.triton.deactivate()


def generated(function: Callable[[], Any]) -> tuple[Any, str]:
    """What a function gives, and the code that Inductor wrote for it."""
    from torch._inductor.utils import run_and_get_code

    result, sources = run_and_get_code(function)
    return result, "\n".join(sources)


def check(function: Callable[..., Any], *inputs: Any, mode: str | None = None) -> str:
    """Compiled agrees with eager, in Triton kernels alone. Returns the code."""
    compiled = torch.compile(function, fullgraph=True, mode=mode)
    result, code = generated(lambda: compiled(*inputs))
    tensors = [x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
    torch.testing.assert_close(result, function(*inputs), **TOLERANCE[tensors[0].dtype])
    assert "@triton.jit" in code
    assert "cpp_fused" not in code
    return code


def test_elementwise_chains_and_reductions_in_one_kernel() -> None:
    def several(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        z = (x.sin() + y).relu() * 2
        return z.sum(-1), z.amax(-1), z.argmin(-1), z.var(-1)

    for dtype in TOLERANCE:
        check(several, torch.randn(33, 300).to(dtype), torch.randn(300).to(dtype))


@pytest.mark.parametrize("columns", [100, 5000])  # one tile a row, and a loop over tiles
def test_softmax_and_layer_norm(columns: int) -> None:
    def both(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.layer_norm(x.softmax(-1) * columns, (columns,), w, b)

    check(both, torch.randn(7, columns), torch.randn(columns), torch.randn(columns))


def test_gather_scan_and_pooling() -> None:
    def several(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = x[index]
        return rows.cumsum(0), F.max_pool2d(rows[None, None], 3, 2, 1), rows.sort(-1).values

    check(several, torch.randn(50, 24), torch.randint(50, (30,)))


def test_max_autotune_may_take_a_triton_matrix_product() -> None:
    from torch._inductor import config

    with config.patch(max_autotune_gemm_backends="TRITON", max_autotune_gemm_search_space="DEFAULT"):
        code = check(
            lambda a, b: (a @ b).relu(), torch.randn(64, 96), torch.randn(96, 80), mode="max-autotune-no-cudagraphs"
        )
    assert "tl.dot" in code


def train(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, the gradients of the input and of all weights, and what the model counts on its way."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    out = model(x)
    out.sin().sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in model.parameters()), *(b.clone() for b in model.buffers())]


def check_training(model: nn.Module, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    """Forward and backward agree with eager for each shape, in code that was compiled once."""
    model = model.to(dtype)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=len(shapes) > 1)
    for shape in shapes:
        x = torch.randn(shape, dtype=dtype)
        with torch._dynamo.config.patch(error_on_recompile=shape != shapes[0]):
            result, code = generated(lambda: train(compiled, x))  # noqa: B023
        torch.testing.assert_close(result, train(model, x), **TRAINED[dtype])
        assert "cpp_fused" not in code


def test_a_gpt_block_is_trained() -> None:
    check_training(GPTBlock(64, heads=4), (2, 17, 64))


SLOW: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "GPT block": (lambda: GPTBlock(128, heads=4), [(2, 33, 128), (3, 50, 128), (1, 7, 128)]),
    "Llama layer": (lambda: LlamaLayer(128, heads=4, kv_heads=2, inner=256), [(2, 33, 128), (3, 50, 128)]),
    "ResNet block": (lambda: ResidualBlock(16), [(2, 3, 24, 24), (3, 3, 40, 32)]),
    "mixture of experts": (lambda: MixtureOfExperts(64, experts=4, inner=96, chosen=2), [(20, 64), (50, 64)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("shapes", ["one shape", "any shape"])
def test_models_are_trained(name: str, shapes: str) -> None:
    build, sizes = SLOW[name]
    check_training(build(), *(sizes if shapes == "any shape" else sizes[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GPT block", "Llama layer"])
def test_models_are_trained_in_bfloat16(name: str) -> None:
    build, sizes = SLOW[name]
    check_training(build(), sizes[0], dtype=torch.bfloat16)


@pytest.mark.slow
def test_smollm2_in_transformers_writes_the_same_text() -> None:
    import transformers

    path = models.model_path("smollm2-135m")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    ).eval()
    prompt = tokenizer("Once upon a time, in a village by the sea, there lived", return_tensors="pt")
    expected = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    model.forward = torch.compile(model.forward, fullgraph=True, dynamic=True)
    assert torch.equal(model.generate(**prompt, max_new_tokens=24, do_sample=False), expected)
