"""Linear layers whose weights stay in a GGUF block format: what decoding a token consists of."""

from __future__ import annotations

from typing import Any

from unify import _cost as cost

from ..case import GFLOPS, GIGABYTES_A_SECOND, Case, Setup, Side
from . import _ours, _torch

# SmolLM2's feed-forward layer in the file's format, its output head, and the feed-forward layer for a prompt.
LAYERS = (("q4_1", 1, 1536, 576), ("q8_0", 1, 49152, 576), ("q4_1", 512, 1536, 576))
# ggml rounds activations to 8 bits, a part in 254 of the largest of 32; random errors add over a row of 576.
TOLERANCE = 0.02


def cases() -> list[Case]:
    """One case a layer: in bytes of weights read for a token, in operations for a prompt."""
    return [_layer(*layer) for layer in LAYERS]


def _inputs(kind: str, m: int, n: int, k: int) -> tuple[Any, Any]:
    """Activations, and a weight's blocks as a GGUF file holds them."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    rng = np.random.default_rng(n)
    weight = rng.standard_normal((n, k), np.float32)
    return rng.standard_normal((m, k), np.float32), quants.quantize(weight, GGMLQuantizationType[kind.upper()])


def _layer(kind: str, m: int, n: int, k: int) -> Case:
    size = cost.WEIGHT_BYTES[kind]
    least = cost.linear(m, n, k, weight_bytes=size, itemsize=4)

    def unify_side(setup: Setup) -> Side:
        import unify
        from unify.ops import quant

        x, raw = _inputs(kind, m, n, k)
        tensor, weight = _ours.tensor(setup, x), quant.from_gguf(kind, raw, device=setup.device)
        return _ours.side(setup, lambda: unify.ops.linear(tensor, weight))

    def ggml_side(setup: Setup) -> Side:
        from ._ggml import MatrixProduct

        x, raw = _inputs(kind, m, n, k)
        product = MatrixProduct(kind, raw, x, setup.threads)
        return Side(step=product, result=product.result)

    def torch_side(setup: Setup) -> Side:
        from gguf import GGMLQuantizationType, quants

        torch = _torch.load(setup)
        x, raw = _inputs(kind, m, n, k)
        weight = _torch.tensor(torch, quants.dequantize(raw, GGMLQuantizationType[kind.upper()]))
        tensor = _torch.tensor(torch, x)
        return _torch.side(lambda: torch.nn.functional.linear(tensor, weight))

    is_prompt = m > 1
    return Case(
        name=f"linear-{kind}-{m}" if n < 49152 else f"head-{kind}-{m}",
        subject="quantized",
        about=f"{m} token(s) through a {n} × {k} layer in {kind}; torch has the weights in fp32",
        unit=GFLOPS if is_prompt else GIGABYTES_A_SECOND,
        ours=unify_side,
        peers={"llama.cpp": ggml_side, "torch": torch_side},
        work=least.flops if is_prompt else size * n * k,
        flops=least.flops if is_prompt else 0,
        bytes=least.bytes,
        dtype="int8",
        tolerance=TOLERANCE,
    )
