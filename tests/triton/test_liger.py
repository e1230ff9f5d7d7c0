"""A library nobody here wrote: liger-kernel as it comes from PyPI, on CPU tensors, against torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

# Its autotuning of experts compiles a hundred variants; this is the library's own switch, read when it is imported.
os.environ.setdefault("LIGER_FUSED_MOE_AUTOTUNE", "0")
import liger_kernel.ops as ops
import liger_kernel.transformers.functional as liger
from liger_kernel.ops.experimental.mm_int8int2 import matmul as matmul_int8_int2, pack_weights

DTYPES = (torch.float32, torch.bfloat16)
# Sums of some hundred terms around 1: float32 in another order, and a few of bfloat16's roundings (2⁻⁸ each).
TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 5e-2},
}
ROWS, VOCABULARY = 24, 777
IGNORED = -100

pytestmark = pytest.mark.usefixtures("triton_on_cpu")
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def compare(
    ours: Callable[..., Any], theirs: Callable[..., Any], *inputs: Tensor, dtype: torch.dtype, **tolerance: float
) -> None:
    """Results and gradients: ours in `dtype`, theirs by torch in float32 from the same, rounded numbers."""
    rounded = [x.to(dtype) for x in inputs]
    results, gradients = run(ours, rounded)
    expected, expected_gradients = run(theirs, [x.float() for x in rounded])
    bounds = {**TOLERANCE[dtype], **tolerance}
    for one, other in zip(results + gradients, expected + expected_gradients, strict=True):
        torch.testing.assert_close(one.float(), other, **bounds)


def run(function: Callable[..., Any], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What `function` gives, and the gradients of its inputs for a fixed gradient of each result."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    results = function(*[leaf * 1 for leaf in leaves])  # some write into their inputs, which a leaf forbids
    results = list(results) if isinstance(results, tuple) else [results]
    kept = [result.detach().clone() for result in results]  # and some into what they returned, in backward
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in results]
    torch.autograd.backward(results, directions)
    return kept, [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]


def labels(rows: int = ROWS, classes: int = VOCABULARY) -> Tensor:
    """A class for each row, some rows ignored."""
    chosen = torch.randint(classes, (rows,))
    chosen[::7] = IGNORED
    return chosen


# Norms.


@both_dtypes
@pytest.mark.parametrize("columns", [64, 300])
def test_rms_norm(dtype: torch.dtype, columns: int) -> None:
    compare(
        lambda x, w: liger.liger_rms_norm(x, w, 1e-6, casting_mode="gemma"),
        lambda x, w: F.rms_norm(x, (columns,), w, 1e-6),
        torch.randn(3, 7, columns), torch.randn(columns), dtype=dtype,
    )  # fmt: skip


@both_dtypes
def test_rms_norm_in_the_casts_of_llama_over_many_rows(dtype: torch.dtype) -> None:
    compare(
        lambda x, w: liger.liger_rms_norm(x, w, 1e-6, offset=1.0),
        lambda x, w: F.rms_norm(x, (128,), w + 1, 1e-6),
        torch.randn(400, 128), torch.randn(128), dtype=dtype, atol=0.3 if dtype == torch.bfloat16 else 1e-4,
    )  # fmt: skip


@both_dtypes
def test_fused_add_rms_norm(dtype: torch.dtype) -> None:
    def theirs(x: Tensor, residual: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        total = (x + residual).to(dtype).float()
        return F.rms_norm(total, (96,), w, 1e-6), total

    def ours(x: Tensor, residual: Tensor, w: Tensor) -> Any:
        return liger.liger_fused_add_rms_norm(x, residual, w, 1e-6, in_place=False)

    compare(ours, theirs, torch.randn(9, 96), torch.randn(9, 96), torch.randn(96), dtype=dtype)


@both_dtypes
def test_modulated_rms_norm(dtype: torch.dtype) -> None:
    compare(
        lambda x, w, scale, shift: liger.liger_modulated_rms_norm(x, w, scale, shift, casting_mode="gemma"),
        lambda x, w, scale, shift: F.rms_norm(x, (96,), w, 1e-6) * (1 + scale[:, None]) + shift[:, None],
        torch.randn(2, 5, 96), torch.randn(96), torch.randn(2, 96), torch.randn(2, 96), dtype=dtype,
    )  # fmt: skip


@both_dtypes
def test_layer_norm(dtype: torch.dtype) -> None:
    compare(
        lambda x, w, b: liger.liger_layer_norm(x, w, b, 1e-5),
        lambda x, w, b: F.layer_norm(x, (300,), w, b, 1e-5),
        torch.randn(4, 9, 300), torch.randn(300), torch.randn(300), dtype=dtype,
    )  # fmt: skip


@both_dtypes
def test_group_norm(dtype: torch.dtype) -> None:
    compare(
        lambda x, w, b: liger.liger_group_norm(x, w, b, 12, 3, 1e-5),
        lambda x, w, b: F.group_norm(x, 3, w, b, 1e-5),
        torch.randn(2, 12, 50), torch.randn(12), torch.randn(12), dtype=dtype,
        atol=0.1 if dtype == torch.bfloat16 else 1e-4,
    )  # fmt: skip


@both_dtypes
def test_poly_norm(dtype: torch.dtype) -> None:
    def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return sum(w[i] * F.rms_norm(x ** (3 - i), (96,), None, 1e-6) for i in range(3)) + b  # type: ignore[return-value]

    compare(liger.liger_poly_norm, theirs, torch.randn(6, 96), torch.randn(3), torch.randn(()), dtype=dtype)


@both_dtypes
def test_attention_over_residuals(dtype: torch.dtype) -> None:
    def theirs(values: Tensor, query: Tensor, w: Tensor) -> Tensor:
        keys = F.rms_norm(values, (64,), w, 1e-6)
        return torch.einsum("nbt,nbtd->btd", torch.einsum("d,nbtd->nbt", query, keys).softmax(0), values)

    inputs = torch.randn(4, 2, 5, 64), torch.randn(64) / 8, torch.randn(64)
    compare(liger.liger_attn_res, theirs, *inputs, dtype=dtype)


# Elementwise, and softmax.


@both_dtypes
def test_dyt_forward(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in (torch.randn(7, 96), torch.randn(1), torch.randn(96), torch.randn(96))]
    x, alpha, gamma, beta = inputs
    expected = gamma.float() * torch.tanh(alpha.float() * x.float()) + beta.float()
    torch.testing.assert_close(liger.liger_dyt(*inputs).float(), expected, **TOLERANCE[dtype])


@pytest.mark.xfail(
    strict=True, raises=UnboundLocalError,
    reason="liger_dyt_bwd sets NUM_SMS where its infer_device() says 'cuda', 'xpu' or 'npu', and only there",
)  # fmt: skip
def test_dyt_backward() -> None:
    inputs = torch.randn(7, 96), torch.randn(1), torch.randn(96), torch.randn(96)
    compare(liger.liger_dyt, lambda x, a, w, b: w * torch.tanh(a * x) + b, *inputs, dtype=torch.float32)


def test_swiglu_geglu_and_relu_squared() -> None:
    pairs = [
        (liger.liger_swiglu, lambda a, b: F.silu(a) * b),
        (liger.liger_geglu, lambda a, b: F.gelu(a, approximate="tanh") * b),
    ]
    for dtype in DTYPES:
        for ours, theirs in pairs:
            compare(ours, theirs, torch.randn(3, 5, 200), torch.randn(3, 5, 200), dtype=dtype)
        compare(liger.liger_relu_squared, lambda x: F.relu(x) ** 2, torch.randn(5, 200), dtype=dtype)
        fused = ops.LigerFusedGateUpSiLUMulFunction.apply
        compare(fused, lambda y: F.silu(y.chunk(2, -1)[0]) * y.chunk(2, -1)[1], torch.randn(24, 256), dtype=dtype)


def test_softmax_and_sparsemax() -> None:
    def sparsemax(x: Tensor) -> Tensor:  # Martins & Astudillo 2016, algorithm 1
        ordered = x.sort(-1, descending=True).values
        sums, counts = ordered.cumsum(-1) - 1, torch.arange(1, x.shape[-1] + 1)
        size = (ordered * counts > sums).sum(-1, keepdim=True)
        return (x - sums.gather(-1, size - 1) / size).clamp(min=0)

    for columns in (100, 5000):
        for dtype in DTYPES:
            compare(liger.liger_softmax, lambda x: x.softmax(-1), torch.randn(6, columns), dtype=dtype)
        compare(liger.liger_sparsemax, sparsemax, torch.randn(6, columns), dtype=torch.float32)


# Positions.


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def angles(positions: Tensor, head: int) -> Tensor:
    frequencies = 10000.0 ** (-torch.arange(0, head, 2) / head)
    return (positions[..., None] * frequencies).repeat(*[1] * positions.dim(), 2)


@both_dtypes
def test_rope(dtype: torch.dtype) -> None:
    angle = angles(torch.arange(9.0), 32)[None]
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    compare(
        lambda q, k: liger.liger_rope(q, k, cos, sin),
        lambda q, k: (rotated(q, cos.float(), sin.float()), rotated(k, cos.float(), sin.float())),
        torch.randn(2, 6, 9, 32), torch.randn(2, 2, 9, 32), dtype=dtype,
    )  # fmt: skip


def test_rope_of_qwen2_vl_and_llama_4() -> None:
    angle = angles(torch.randint(50, (3, 2, 9)).float(), 32)
    cos, sin, sections = angle.cos(), angle.sin(), [4, 6, 6]
    parts = [[t.split(sections * 2, -1)[i][i % 3] for i in range(6)] for t in (cos, sin)]
    flat_cos, flat_sin = (torch.cat(part, -1)[:, None] for part in parts)
    queries, keys = torch.randn(2, 6, 9, 32), torch.randn(2, 2, 9, 32)
    compare(
        lambda q, k: liger.liger_qwen2vl_mrope(q, k, cos, sin, sections),
        lambda q, k: (rotated(q, flat_cos, flat_sin), rotated(k, flat_cos, flat_sin)),
        queries, keys, dtype=torch.float32,
    )  # fmt: skip

    turns = torch.polar(torch.ones(9, 16), torch.randn(9, 16))

    def turned(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns[:, None]).flatten(-2)

    compare(
        lambda q, k: ops.LigerLlama4RopeFunction.apply(q, k, turns),
        lambda q, k: (turned(q), turned(k)),
        queries.transpose(1, 2).contiguous(), keys.transpose(1, 2).contiguous(), dtype=torch.float32,
    )  # fmt: skip


# Losses.


@both_dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(dtype: torch.dtype, reduction: str) -> None:
    target, weight = labels(), torch.rand(VOCABULARY)
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": 0.1, "weight": weight}
    compare(
        lambda x: liger.liger_cross_entropy(x, target, **options),
        lambda x: F.cross_entropy(x, target, **options),
        torch.randn(ROWS, VOCABULARY), dtype=dtype,
    )  # fmt: skip


def test_cross_entropy_with_softcap_z_loss_and_predictions() -> None:
    target = labels()

    def ours(x: Tensor) -> tuple[Tensor, Tensor]:
        likeliest = x.argmax(-1)  # x will hold its gradient
        result = liger.liger_cross_entropy(
            x, target, softcap=5.0, lse_square_scale=1e-2, return_z_loss=True, return_predicted_tokens=True
        )
        kept = target != IGNORED
        assert torch.equal(result.predicted_tokens[kept], likeliest[kept])
        return result.loss, result.z_loss.detach() + 0 * x.sum()

    def theirs(x: Tensor) -> tuple[Tensor, Tensor]:
        capped = 5 * torch.tanh(x / 5)
        z_loss = (1e-2 * capped.logsumexp(-1) ** 2)[target != IGNORED].mean()
        return F.cross_entropy(capped, target) + z_loss, z_loss.detach() + 0 * x.sum()

    compare(ours, theirs, torch.randn(ROWS, VOCABULARY) * 3, dtype=torch.float32)


@both_dtypes
def test_fused_linear_cross_entropy(dtype: torch.dtype) -> None:
    target = labels()
    compare(
        lambda x, w, b: liger.liger_fused_linear_cross_entropy(x, w, target, b, reduction="sum"),
        lambda x, w, b: F.cross_entropy(F.linear(x, w, b), target, reduction="sum"),
        torch.randn(ROWS, 64), torch.randn(VOCABULARY, 64) / 8, torch.randn(VOCABULARY), dtype=dtype,
    )  # fmt: skip


@both_dtypes
def test_kl_divergence(dtype: torch.dtype) -> None:
    probabilities = torch.randn(ROWS, VOCABULARY).softmax(-1)
    for reduction, is_log in (("batchmean", False), ("none", True), ("sum", False)):
        target = (probabilities.log() if is_log else probabilities).to(dtype)
        compare(
            lambda x: liger.liger_kl_div(x, target, reduction=reduction, log_target=is_log),  # noqa: B023
            lambda x: F.kl_div(x, target.float(), reduction=reduction, log_target=is_log),  # noqa: B023
            torch.randn(ROWS, VOCABULARY).log_softmax(-1), dtype=dtype,
        )  # fmt: skip


def jensen_shannon(log_q: Tensor, log_p: Tensor, beta: float) -> Tensor:
    log_mean = torch.logaddexp(log_q + torch.tensor(1 - beta).log(), log_p + torch.tensor(beta).log())
    parts = [F.kl_div(log_mean, x, log_target=True, reduction="none") for x in (log_p, log_q)]
    return (beta * parts[0] + (1 - beta) * parts[1]).sum(-1)


@both_dtypes
def test_jensen_shannon_divergence(dtype: torch.dtype) -> None:
    target, chosen = torch.randn(ROWS, VOCABULARY).log_softmax(-1).to(dtype), labels()
    kept = chosen != IGNORED
    compare(
        lambda x: liger.liger_jsd(x, target, chosen, beta=0.3),
        lambda x: jensen_shannon(x, target.float(), 0.3)[kept].sum() / kept.sum(),
        torch.randn(ROWS, VOCABULARY).log_softmax(-1), dtype=dtype,
    )  # fmt: skip


def test_fused_linear_divergences() -> None:
    teacher_x, teacher_w = torch.randn(ROWS, 64), torch.randn(VOCABULARY, 64) / 8
    teacher = F.linear(teacher_x, teacher_w)
    student = torch.randn(ROWS, 32), torch.randn(VOCABULARY, 32) / 6
    compare(
        lambda x, w: liger.liger_fused_linear_jsd(x, w, teacher_x, teacher_w, jsd_beta=0.5, temperature=2.0),
        lambda x, w: jensen_shannon((F.linear(x, w) / 2).log_softmax(-1), (teacher / 2).log_softmax(-1), 0.5).mean(),
        *student, dtype=torch.float32,
    )  # fmt: skip
    target = teacher.softmax(-1)
    compare(
        lambda x, w: liger.liger_fused_linear_kl_div(x, w, target),
        lambda x, w: F.kl_div(F.linear(x, w).log_softmax(-1), target, reduction="batchmean"),
        *student, dtype=torch.float32,
    )  # fmt: skip


@both_dtypes
def test_total_variation_distance(dtype: torch.dtype) -> None:
    target = torch.randn(ROWS, VOCABULARY).softmax(-1).to(dtype)
    compare(
        lambda p: liger.liger_tvd(p, target, reduction="batchmean"),
        lambda p: 0.5 * (p - target.float()).abs().sum() / ROWS,
        torch.randn(ROWS, VOCABULARY).softmax(-1), dtype=dtype,
    )  # fmt: skip


def test_cross_entropy_fused_with_total_variation() -> None:
    target, teacher = labels(), torch.randn(ROWS, VOCABULARY)
    kept = (target != IGNORED).float()
    compare(
        lambda x: ops.LigerFusedCETVDFunction.apply(x, teacher, target, IGNORED),
        lambda x: (
            F.cross_entropy(x, target, reduction="none"),
            0.5 * (x.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) * kept,
        ),
        torch.randn(ROWS, VOCABULARY), dtype=torch.float32,
    )  # fmt: skip


def test_the_loss_of_grpo() -> None:
    batch, length, beta, low, high = 3, 8, 0.04, 0.2, 0.3
    ids, advantages = torch.randint(VOCABULARY, (batch, length)), torch.randn(batch)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[1, 5:] = 0
    old, reference = (-torch.rand(batch, length) * 3 - 5 for _ in range(2))

    def theirs(logits: Tensor) -> Tensor:
        logp = (logits[:, :-1] / 0.9).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        ratio, gain = (logp - old).exp(), advantages[:, None]
        surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - low, 1 + high) * gain)
        distance = (reference - logp).exp() - (reference - logp) - 1
        return (beta * distance - surrogate) * mask

    compare(
        lambda logits: ops.GrpoLossFunction.apply(
            logits.contiguous(), old, reference, ids, advantages, mask, 0.9, beta, low, high, False, "grpo", None, False
        )[0],
        theirs,
        torch.randn(batch, length + 1, VOCABULARY), dtype=torch.float32,
    )  # fmt: skip


# Lookups, products, attention, experts.


@both_dtypes
def test_embedding(dtype: torch.dtype) -> None:
    indices = torch.randint(50, (4, 9))
    compare(
        lambda table: ops.LigerEmbeddingFunction.apply(table, indices),
        lambda table: F.embedding(indices, table),
        torch.randn(50, 96), dtype=dtype,
    )  # fmt: skip


@both_dtypes
def test_multi_token_attention(dtype: torch.dtype) -> None:
    def theirs(scores: Tensor, weight: Tensor) -> Tensor:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return F.conv2d(scores.masked_fill(future, -torch.inf).softmax(-1), weight, padding=1).masked_fill(future, 0)

    compare(
        lambda scores, weight: liger.liger_multi_token_attention(scores, weight, padding=1),
        theirs, torch.randn(2, 4, 24, 24), torch.randn(4, 4, 3, 3) / 6, dtype=dtype
    )  # fmt: skip


@both_dtypes
def test_neighborhood_attention(dtype: torch.dtype) -> None:
    def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        place = torch.arange(q.shape[2])
        near = (place[:, None] - place).abs() <= 3
        return F.scaled_dot_product_attention(q, k, v, attn_mask=near)

    inputs = [torch.randn(1, 2, 40, 32) for _ in range(3)]
    compare(liger.liger_fused_neighborhood_attention, theirs, *inputs, dtype=dtype)


@both_dtypes
def test_hyper_connections(dtype: torch.dtype) -> None:
    streams, channels = 4, 32
    compare(
        lambda x, out, pre, post, mix: liger.liger_mhc_apply(x, out, pre, post, mix, return_x_in=True),
        lambda x, out, pre, post, mix: (
            torch.einsum("noi,nic->noc", mix, x) + post[..., None] * out[:, None],
            torch.einsum("ni,nic->nc", pre, x),
        ),
        torch.randn(10, streams, channels), torch.randn(10, channels), torch.rand(10, streams),
        torch.rand(10, streams), torch.rand(10, streams, streams), dtype=dtype,
    )  # fmt: skip


def test_coefficients_of_hyper_connections() -> None:
    streams, channels = 4, 32

    def theirs(x: Tensor, phi: Tensor, bias: Tensor, pre: Tensor, post: Tensor, res: Tensor) -> tuple[Tensor, ...]:
        flat = x.flatten(-2)
        mixed = F.rms_norm(flat, (flat.shape[-1],), None, 1e-6) @ phi
        scale = torch.cat((pre.expand(streams), post.expand(streams), res.expand(streams * streams)))
        first, second, matrix = (mixed * scale + bias).split([streams, streams, streams * streams], -1)
        doubly = matrix.unflatten(-1, (streams, streams)).softmax(-1) + 1e-6
        doubly = doubly / (doubly.sum(-2, keepdim=True) + 1e-6)
        for _ in range(19):
            doubly = doubly / (doubly.sum(-1, keepdim=True) + 1e-6)
            doubly = doubly / (doubly.sum(-2, keepdim=True) + 1e-6)
        return first.sigmoid(), 2 * second.sigmoid(), doubly

    columns = streams * streams + 2 * streams
    compare(
        lambda *inputs: liger.liger_mhc_coeffs(*inputs, allow_fp32=True),
        theirs,
        torch.randn(10, streams, channels), torch.randn(streams * channels, columns) / 11, torch.randn(columns),
        torch.rand(()), torch.rand(()), torch.rand(()), dtype=torch.float32, atol=1e-4,
    )  # fmt: skip


@both_dtypes
def test_mixture_of_experts(dtype: torch.dtype) -> None:
    experts, hidden, inner, chosen = 4, 64, 96, 2
    index = torch.stack([torch.randperm(experts)[:chosen] for _ in range(20)]).int()

    def theirs(x: Tensor, up: Tensor, down: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for slot in range(chosen):
            gate, value = torch.einsum("th,tnh->tn", x, up[index[:, slot]]).chunk(2, -1)
            out = out + weights[:, slot, None] * torch.einsum("ti,thi->th", F.silu(gate) * value, down[index[:, slot]])
        return out

    compare(
        lambda x, up, down, weights: ops.LigerFusedMoEFunction.apply(x, up, down, index, weights),
        theirs, torch.randn(20, hidden), torch.randn(experts, 2 * inner, hidden) / 8,
        torch.randn(experts, hidden, inner) / 10, torch.rand(20, chosen), dtype=dtype,
    )  # fmt: skip


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="LigerMLP asserts that its inputs are on CUDA")
def test_fused_mlp() -> None:
    weights = torch.randn(96, 64) / 8, torch.randn(96, 64) / 8, torch.randn(64, 96) / 10
    compare(
        ops.LigerMLPFunction.apply,
        lambda x, gate, up, down: F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down),
        torch.randn(32, 64), *weights, dtype=torch.float32,
    )  # fmt: skip


def test_product_of_int8_and_packed_int2() -> None:
    x = torch.randint(-128, 128, (33, 128), dtype=torch.int8)
    weights = torch.randint(-1, 2, (128, 48), dtype=torch.int32)
    packed = pack_weights(weights.clone(), 2)
    assert torch.equal(matmul_int8_int2(x, packed), x.int() @ weights)
