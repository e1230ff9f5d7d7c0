"""How fast are attention, products, a norm and a softmax on a GPU, against torch's? In the device's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import triton
import triton.language as tl
from gpu_common import device_side, on_torch_stream, torch_cuda

import unify as un
from unify.bench import Case, Setup, Side
from unify.bench.case import GIGABYTES_A_SECOND, Unit
from unify.errors import UnsupportedError

TERAFLOPS = Unit("TFLOP/s", 1e-12, is_rate=True)
TOKENS, HEADS, BATCH = 4096, 16, 4
TOLERANCE = 0.02  # bfloat16 keeps 8 bits; both sides sum in float32 and round once

Build = Callable[[Setup], Side]


@triton.jit
def softmax_kernel(x, out, columns, BLOCK: tl.constexpr):
    # One program a row that fits a block, as in Triton's tutorial on fused softmax.
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(x + row * columns + column, mask=inside, other=float("-inf")).to(tl.float32)
    value = tl.exp(value - tl.max(value, axis=0))
    tl.store(out + row * columns + column, value / tl.sum(value, axis=0), mask=inside)


def cases(is_smoke: bool = False) -> list[Case]:
    tokens, size, rows, calls = (64, 64, 16, 1) if is_smoke else (TOKENS, 4096, 8192, 30)
    products = [(size, size, size)] if is_smoke else [(size,) * 3, (2 * size,) * 3, (2 * size, size, 2 * size)]
    return [
        *(attention(tokens, width, causal=causal, calls=calls) for width in (64, 128) for causal in (True, False)),
        *(_product(*shape, calls) for shape in products),
        _rows("rms_norm", rows, size, calls, _our_norm, _torch_norm),
        _rows("softmax", rows, size, calls, _our_softmax, _torch_softmax),
    ]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def on_unify(device: Any, *arrays: np.ndarray) -> list[Any]:
    found = [un.asarray(array, device=device).to(un.bfloat16) for array in arrays]
    device.synchronize()
    return found


def on_torch(torch: Any, setup: Setup, *arrays: np.ndarray) -> list[Any]:
    place = torch.device("cuda", un.device(setup.device).index)
    found = [torch.from_numpy(array).to(place).to(torch.bfloat16) for array in arrays]
    torch.cuda.synchronize()
    return found


def our_side(device: Any, step: Callable[[], Any]) -> Side:
    def result() -> np.ndarray:
        return step().to(un.float32).numpy()

    return device_side(step, device, un.current_stream(device), result=result)


def torch_side(torch: Any, setup: Setup, step: Callable[[], Any]) -> Side:
    device = un.device(setup.device)
    return device_side(step, device, on_torch_stream(torch, device), result=lambda: step().float().cpu().numpy())


# ---------------------------------------------------------------- attention


def attention(tokens: int, width: int, *, causal: bool, calls: int) -> Case:
    batch = 1 if tokens < TOKENS else BATCH
    shape = (batch, tokens, HEADS, width)
    inputs = lambda: [random(*shape, seed=seed) for seed in range(3)]  # noqa: E731

    def ours(setup: Setup) -> Side:
        device = un.device(setup.device)
        q, k, v = on_unify(device, *inputs())
        return our_side(device, lambda: un.ops.attention(q, k, v, causal=causal))

    def peer(backend: str) -> Build:
        def build(setup: Setup) -> Side:
            torch = torch_cuda()
            from torch.nn.attention import SDPBackend, sdpa_kernel

            if not hasattr(SDPBackend, backend):
                raise UnsupportedError(f"torch {torch.__version__} has no {backend}")
            q, k, v = (x.transpose(1, 2).contiguous() for x in on_torch(torch, setup, *inputs()))
            attend = torch.nn.functional.scaled_dot_product_attention

            def step() -> Any:
                with sdpa_kernel(getattr(SDPBackend, backend)):
                    return attend(q, k, v, is_causal=causal)

            try:
                step()
            except RuntimeError as error:
                raise UnsupportedError(f"torch: {backend}: {error}") from None
            side = torch_side(torch, setup, step)
            return replace(side, result=lambda: step().transpose(1, 2).float().cpu().numpy())

        return build

    flops = 4.0 * batch * HEADS * tokens * tokens * width / (2 if causal else 1)
    mask = "causal" if causal else "full"
    name = f"attention-{mask}-{width}" + (f"-{tokens}" if tokens > TOKENS else "")
    return Case(
        name, "attention", f"attention, {mask}, bf16, {tokens} tokens, heads of {width}",
        TERAFLOPS, ours, {"torch-flash": peer("FLASH_ATTENTION"), "torch-cudnn": peer("CUDNN_ATTENTION")},
        work=flops, flops=flops, dtype="bf16", tolerance=TOLERANCE, calls=calls,
    )  # fmt: skip


# ---------------------------------------------------------------- products


def _product(m: int, n: int, k: int, calls: int) -> Case:
    def inputs() -> tuple[np.ndarray, np.ndarray]:
        return random(m, k), random(n, k, seed=1)

    def ours(setup: Setup) -> Side:
        device = un.device(setup.device)
        a, b = on_unify(device, *inputs())
        return our_side(device, lambda: un.ops.matmul(a, b.T))

    def peer(setup: Setup) -> Side:
        torch = torch_cuda()
        a, b = on_torch(torch, setup, *inputs())
        return torch_side(torch, setup, lambda: a @ b.T)

    flops = 2.0 * m * n * k
    return Case(
        f"matmul-{m}x{n}x{k}", "matmul", f"product, bf16, {m} × {n} × {k}, against cuBLAS", TERAFLOPS, ours,
        {"torch": peer}, work=flops, flops=flops, dtype="bf16", tolerance=TOLERANCE, calls=calls,
    )  # fmt: skip


# ---------------------------------------------------------------- rows


def _rows(name: str, rows: int, columns: int, calls: int, ours: Any, peer: Any) -> Case:
    bytes = 2.0 * rows * columns * 2
    return Case(
        f"{name}-{rows}x{columns}", name, f"{name}, bf16, {rows:,} × {columns:,}", GIGABYTES_A_SECOND,
        lambda setup: ours(setup, rows, columns), {"torch": lambda setup: peer(setup, rows, columns)},
        work=bytes, bytes=bytes, dtype="bf16", tolerance=TOLERANCE, calls=calls,
    )  # fmt: skip


def _our_norm(setup: Setup, rows: int, columns: int) -> Side:
    device = un.device(setup.device)
    x, weight = on_unify(device, random(rows, columns), random(columns, seed=1))
    out = un.empty_like(x)
    return our_side(device, lambda: un.ops.rms_norm(x, weight, out=out))


def _torch_norm(setup: Setup, rows: int, columns: int) -> Side:
    torch = torch_cuda()
    x, weight = on_torch(torch, setup, random(rows, columns), random(columns, seed=1))
    norm = torch.nn.functional.rms_norm
    return torch_side(torch, setup, lambda: norm(x, (columns,), weight, 1e-6))


def _our_softmax(setup: Setup, rows: int, columns: int) -> Side:
    device = un.device(setup.device)
    (x,) = on_unify(device, random(rows, columns))
    out, launch = un.empty_like(x), un.jit(softmax_kernel)
    block = triton.next_power_of_2(columns)

    def step() -> Any:
        launch[(rows,)](x, out, columns, BLOCK=block, num_warps=8)
        return out

    return our_side(device, step)


def _torch_softmax(setup: Setup, rows: int, columns: int) -> Side:
    torch = torch_cuda()
    (x,) = on_torch(torch, setup, random(rows, columns))
    return torch_side(torch, setup, lambda: torch.softmax(x, 1))
