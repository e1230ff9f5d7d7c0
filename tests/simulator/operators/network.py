"""Neural networks' operators and their gradients on `npu` against torch's on the CPU; a program of test_network.py.

Prints {name: what differs} of what does not agree.
"""

import json
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torch_npu

Work = Callable[..., torch.Tensor]
differs: dict[str, str] = {}


def check(name: str, work: Work, *given: torch.Tensor, expected: Work | None = None, rtol: float = 1e-4) -> None:
    """The result and the gradients of what is floating-point; `expected` is what the CPU computes in its place."""
    try:
        results = []
        for device, function in (("cpu", expected or work), ("npu", work)):
            inputs = [each.to(device).detach().requires_grad_(each.is_floating_point()) for each in given]
            result = function(*inputs)
            gradient = torch.linspace(-1, 1, result.numel()).reshape(result.shape).to(result.dtype)
            result.backward(gradient.to(device))
            results.append([result, *(each.grad for each in inputs)])
        for one, other in zip(*results, strict=True):
            assert (one is None) == (other is None), "a gradient is missing"
            if one is not None and other is not None:
                torch.testing.assert_close(other.detach().cpu(), one.detach(), rtol=rtol, atol=rtol / 10)
    except Exception as error:
        differs[name] = f"{type(error).__name__}: {error}"[:600]


def same(name: str, found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-4) -> None:
    try:
        torch.testing.assert_close(found.cpu(), expected, rtol=rtol, atol=rtol / 10)
    except Exception as error:
        differs[name] = f"{type(error).__name__}: {error}"[:600]


def rms_norm(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gamma


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    hidden: torch.Tensor | None = None,
    pse: torch.Tensor | None = None,
) -> torch.Tensor:
    """Of BNSD, as the vendor's documentation writes it."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) + (0 if pse is None else pse)
    scores = scores / math.sqrt(q.shape[-1])
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    return torch.softmax(scores, -1) @ v


def check_dropout() -> None:
    """The result is linear in the values: of the identity it is the shares themselves, half of them dropped."""
    q, k = (torch.randn(2, 4, 64, 64).npu() for _ in range(2))
    v = torch.eye(64).expand(2, 4, 64, 64).contiguous().npu().requires_grad_()
    shares = torch_npu.npu_fusion_attention(q, k, v, 4, "BNSD", scale=0.125, keep_prob=0.5)[0]
    gradient = torch.randn(2, 4, 64, 64)
    shares.backward(gradient.npu())
    found = shares.detach().cpu()
    full = (q.cpu() @ k.cpu().transpose(2, 3) * 0.125).softmax(-1)
    same("shares that are kept", found, torch.where(found != 0, 2 * full, 0.0))
    same("gradient under dropout", v.grad.cpu(), found.transpose(2, 3) @ gradient, 1e-3)
    kept = (found != 0).float().mean().item()
    if not 0.45 < kept < 0.55:
        differs["dropout"] = f"{kept} kept"


def check_attention() -> None:
    batch, heads, size, queries, keys = 2, 4, 8, 5, 7
    q, k, v = (torch.randn(batch, n, s, size) for n, s in ((heads, queries), (2, keys), (2, keys)))
    ahead = torch.arange(keys) - torch.arange(queries).unsqueeze(1)
    seen = {0: ahead > 3, 1: ahead > 3, 2: ahead > 0, 3: ahead > 2, 4: (ahead - 2 > 1) | (ahead - 2 < -3)}
    to: dict[str, tuple[Work, Work]] = {
        "BNSD": (lambda x: x, lambda x: x),
        "BSND": (lambda x: x.transpose(1, 2), lambda x: x.transpose(1, 2)),
        "BSH": (lambda x: x.transpose(1, 2).flatten(2), lambda x: x.unflatten(2, (heads, size)).transpose(1, 2)),
        "SBH": (
            lambda x: x.permute(2, 0, 1, 3).flatten(2),
            lambda x: x.unflatten(2, (heads, size)).permute(1, 2, 0, 3),
        ),
    }

    def fused(layout: str, mode: int, mask: torch.Tensor | None) -> Work:
        def work(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pse: torch.Tensor | None = None) -> torch.Tensor:
            into, back = to[layout]
            result = torch_npu.npu_fusion_attention(
                into(q).contiguous(), into(k).contiguous(), into(v).contiguous(), heads, layout,
                pse=pse, atten_mask=None if mask is None else mask.npu(), scale=1 / math.sqrt(size),
                pre_tockens=3, next_tockens=1, sparse_mode=mode,
            )  # fmt: skip
            return back(result[0])

        return work

    for layout in to:
        check(f"attention {layout}", fused(layout, 0, None), q, k, v, expected=attention)
    corner = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
    for mode, hidden in seen.items():
        mask = corner if mode > 1 else hidden
        check(
            f"attention mode {mode}", fused("BNSD", mode, mask), q, k, v,
            expected=lambda q, k, v, hidden=hidden: attention(q, k, v, hidden),
        )  # fmt: skip
    check(
        "attention pse", fused("BNSD", 0, None), q, k, v, torch.randn(batch, heads, queries, keys),
        expected=lambda q, k, v, pse: attention(q, k, v, None, pse),
    )  # fmt: skip

    ends, key_ends = [2, 5], [3, 7]
    tokens = [torch.randn(s, n, size) for s, n in ((5, heads), (7, 2), (7, 2))]

    def sequences(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        parts, begin, key_begin = [], 0, 0
        for end, key_end in zip(ends, key_ends, strict=True):
            part = (q[begin:end], k[key_begin:key_end], v[key_begin:key_end])
            parts.append(attention(*(each.transpose(0, 1).unsqueeze(0) for each in part))[0].transpose(0, 1))
            begin, key_begin = end, key_end
        return torch.cat(parts)

    check(
        "attention TND",
        lambda q, k, v: torch_npu.npu_fusion_attention(
            q, k, v, heads, "TND", scale=1 / math.sqrt(size), actual_seq_qlen=ends, actual_seq_kvlen=key_ends
        )[0],
        *tokens,
        expected=sequences,
    )  # fmt: skip
    for causal in (False, True):
        square = [torch.randn(2, 4, 6, 8) for _ in range(3)]
        check(f"sdpa {causal}", lambda q, k, v, c=causal: F.scaled_dot_product_attention(q, k, v, is_causal=c), *square)
    check_dropout()
    result = torch_npu.npu_fusion_attention(q.npu(), k.npu(), v.npu(), heads, "BNSD", scale=0.5)
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.5
    largest = scores.amax(-1, keepdim=True)
    torch.testing.assert_close(result[1].cpu(), largest.expand(-1, -1, -1, 8), rtol=1e-4, atol=1e-5)
    total = (scores - largest).exp().sum(-1, keepdim=True)
    torch.testing.assert_close(result[2].cpu(), total.expand(-1, -1, -1, 8), rtol=1e-4, atol=1e-5)


def check_norms() -> None:
    x, image = torch.randn(3, 5, 8), torch.randn(2, 6, 5, 4)
    weight, bias = torch.rand(8) + 0.5, torch.randn(8)
    check("layer_norm", lambda x, w, b: F.layer_norm(x, (8,), w, b), x, weight, bias)
    check("layer_norm without weights", lambda x: F.layer_norm(x, (5, 8)), x)
    check("group_norm", lambda x, w, b: F.group_norm(x, 3, w, b), image, weight[:6], bias[:6])
    check("softmax", lambda x: F.softmax(x, 1), x)
    check("log_softmax", lambda x: F.log_softmax(x, -1), x)
    check("npu_rms_norm", lambda x, g: torch_npu.npu_rms_norm(x, g, 1e-6)[0], x, weight, expected=rms_norm)
    check("rms_norm", lambda x, g: F.rms_norm(x, (8,), g, 1e-6), x, weight)
    check("batch_norm", lambda x, w, b: F.batch_norm(x, None, None, w, b, True), image, weight[:6], bias[:6])
    mean, var = torch.randn(6), torch.rand(6) + 0.5
    evaluated = lambda x, w, b: F.batch_norm(x, mean.to(x.device), var.to(x.device), w, b)  # noqa: E731
    check("batch_norm evaluated", evaluated, image, weight[:6], bias[:6])
    here, there = torch.nn.BatchNorm2d(6), torch.nn.BatchNorm2d(6).npu()
    for _ in range(2):
        here(image), there(image.npu())
    torch.testing.assert_close(there.running_mean.cpu(), here.running_mean)
    torch.testing.assert_close(there.running_var.cpu(), here.running_var)


def check_losses() -> None:
    logits, target = torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 3, 2])
    weight, other = torch.rand(5) + 0.5, torch.randn(6, 5)
    share, signs = torch.rand(6, 5), torch.randn(6, 5).sign()
    for reduction in ("none", "mean", "sum"):
        check(f"nll {reduction}", lambda x, r=reduction: F.nll_loss(x, target.to(x.device), reduction=r), logits)
        weighted = lambda x, r=reduction: F.cross_entropy(  # noqa: E731
            x, target.to(x.device), weight.to(x.device), ignore_index=2, reduction=r, label_smoothing=0.1
        )
        check(f"cross_entropy {reduction}", weighted, logits)
        for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
            check(
                f"{name} {reduction}", lambda x, y, f=name, r=reduction: getattr(F, f)(x, y, reduction=r), logits, other
            )
        check(
            f"kl_div {reduction}", lambda x, y, r=reduction: F.kl_div(x.log_softmax(1), y.softmax(1), reduction=r),
            logits, other,
        )  # fmt: skip
        check(
            f"bce {reduction}",
            lambda x, r=reduction: F.binary_cross_entropy(x, share.to(x.device), reduction=r),
            torch.rand(6, 5),
        )
        check(
            f"soft_margin_loss {reduction}",
            lambda x, r=reduction: F.soft_margin_loss(x, signs.to(x.device), reduction=r),
            logits,
        )
        check(
            f"bce with logits {reduction}",
            lambda x, r=reduction: F.binary_cross_entropy_with_logits(
                x, share.to(x.device), pos_weight=weight.to(x.device), reduction=r
            ),
            logits,
        )
    planes = torch.randn(2, 5, 3, 4)
    labels = torch.randint(0, 5, (2, 3, 4))
    check("nll of images", lambda x: F.cross_entropy(x, labels.to(x.device)), planes)
    fused = lambda x: torch_npu.npu_cross_entropy_loss(x, target.npu())[0]  # noqa: E731
    check("npu_cross_entropy_loss", fused, logits, expected=lambda x: F.cross_entropy(x, target).reshape(1))


def check_images() -> None:
    line, image, volume = torch.randn(2, 4, 9), torch.randn(2, 4, 9, 8), torch.randn(1, 2, 6, 5, 4)
    check("conv1d", lambda x, w: F.conv1d(x, w, padding=1), line, torch.randn(3, 4, 3))
    check("conv2d", lambda x, w, b: F.conv2d(x, w, b, 2, 1, 1, 2), image, torch.randn(6, 2, 3, 3), torch.randn(6))
    check("depthwise", lambda x, w: F.conv2d(x, w, groups=4), image, torch.randn(4, 1, 3, 3))
    check("conv3d", lambda x, w: F.conv3d(x, w), volume, torch.randn(3, 2, 2, 2, 2))
    check("conv_transpose2d", lambda x, w: F.conv_transpose2d(x, w, stride=2), image, torch.randn(4, 3, 3, 3))
    check("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), image)
    check("max_pool3d", lambda x: F.max_pool3d(x, 2), volume)
    check("avg_pool1d", lambda x: F.avg_pool1d(x, 3, 2), line)
    check("avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), image)
    check("avg_pool3d", lambda x: F.avg_pool3d(x, 2), volume)
    check("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (3, 2)), image)
    check("adaptive_avg_pool2d of all", lambda x: F.adaptive_avg_pool2d(x, 1), image)
    check("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, (3, 2)), image)
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic"):
        check(mode, lambda x, m=mode: F.interpolate(x, scale_factor=1.5, mode=m), image)
    check("bilinear aligned", lambda x: F.interpolate(x, (5, 12), mode="bilinear", align_corners=True), image)
    check("linear", lambda x: F.interpolate(x, 12, mode="linear"), line)
    check("trilinear", lambda x: F.interpolate(x, (7, 8, 3), mode="trilinear"), volume)
    grid = torch.rand(2, 5, 6, 2) * 2 - 1
    check("grid_sample", lambda x, g: F.grid_sample(x, g, align_corners=False), image, grid)
    check("affine_grid", lambda t: F.affine_grid(t, [2, 3, 4, 5], align_corners=False), torch.randn(2, 2, 3))
    mask = torch.nn.MaxPool2d(3, 2, 1, return_indices=True)(image.npu())[1][..., :20].cpu()
    largest = torch.where(
        mask.bool(), F.unfold(F.pad(image, (1, 1, 1, 1), value=-9.0), 3, stride=2).view(2, 4, 9, 20), -9.0
    )
    torch.testing.assert_close(largest.amax(2).view(2, 4, 5, 4), F.max_pool2d(image, 3, 2, 1))


def rotated(x: torch.Tensor) -> torch.Tensor:
    one, other = x.chunk(2, -1)
    return torch.cat((-other, one), -1)


def check_fused() -> None:
    x, cos, sin = torch.randn(2, 3, 4, 8), torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8)
    check("rotary", torch_npu.npu_rotary_mul, x, cos, sin, expected=lambda x, c, s: x * c + rotated(x) * s)
    check("swiglu", torch_npu.npu_swiglu, x, expected=lambda x: F.silu(x[..., :4]) * x[..., 4:])
    check(
        "geglu", lambda x: torch_npu.npu_geglu(x, -1, 1)[0], x,
        expected=lambda x: x[..., :4] * F.gelu(x[..., 4:], approximate="tanh"),
    )  # fmt: skip
    clipped = torch_npu.npu_clipped_swiglu(x.npu(), limit=1.0)
    gate, linear = x[..., ::2].clamp(max=1.0), x[..., 1::2].clamp(-1.0, 1.0)
    same("clipped_swiglu", clipped, gate * torch.sigmoid(1.702 * gate) * (linear + 1))
    added = torch_npu.npu_add_rms_norm(x.npu(), x.npu(), torch.ones(8).npu(), 1e-6)
    same("add_rms_norm", added[0], rms_norm(x + x, torch.ones(8)))
    same("sum of add_rms_norm", added[2], x + x)

    tokens, logits = torch.randn(5, 6), torch.randn(5, 4)
    shares, experts, rows = torch_npu.npu_moe_gating_top_k_softmax(logits.npu(), None, 2)
    largest, places = logits.softmax(1).topk(2)
    same("shares of experts", shares, largest)
    same("experts", experts, places.int())
    same("rows", rows, torch.arange(10).view(2, 5).t().int())
    expanded = torch_npu.npu_moe_init_routing(tokens.npu(), rows, experts, 5)
    order = places.flatten().argsort(stable=True)
    same("copies of tokens", expanded[0], tokens[order // 2])
    back = torch_npu.npu_moe_finalize_routing(
        expanded[0], tokens.npu(), None, torch.zeros(4, 6).npu(), shares, expanded[1], experts
    )
    same("copies together", back, tokens + (tokens.unsqueeze(1) * largest.unsqueeze(2)).sum(1))


def check_cells() -> None:
    x = torch.randn(3, 5)
    of_input, of_hidden, cell = torch.randn(3, 16), torch.randn(3, 16), torch.randn(3, 4)

    def step(of_input: torch.Tensor, of_hidden: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        i, f, g, o = (of_input + of_hidden).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return torch.cat((o.sigmoid() * cell.tanh(), cell), 1)

    fused = lambda *given: torch.cat(torch.ops.aten._thnn_fused_lstm_cell(*given)[:2], 1)  # noqa: E731
    check("lstm cell", fused, of_input, of_hidden, cell, expected=step)
    found, scale = torch_npu.npu_dynamic_quant(x.half().npu())
    largest = x.half().float().abs().amax(1)
    same("scales", scale, largest / 127)
    same("int8", found, (x.half().float() / (largest / 127).unsqueeze(1)).round().to(torch.int8))


def check_inference() -> None:
    q, k, v = (torch.randn(2, n, s, 16).half() for n, s in ((4, 5), (2, 7), (2, 7)))
    expected = attention(q.float(), k.float(), v.float()).half()
    options = {"input_layout": "BNSD", "num_key_value_heads": 2}
    device = [each.npu() for each in (q, k, v)]
    found = torch_npu.npu_prompt_flash_attention(*device, num_heads=4, scale_value=0.25, **options)
    same("prompt attention", found, expected, 2e-3)
    found, logs = torch_npu.npu_fused_infer_attention_score(
        *device, num_heads=4, scale=0.25, softmax_lse_flag=True, **options
    )
    same("inference attention", found, expected, 2e-3)
    scores = q.float() @ k.float().repeat_interleave(2, 1).transpose(2, 3) / 4
    same("its logarithms", logs, scores.logsumexp(-1, keepdim=True), 1e-3)

    lengths = [5, 7]
    ended = torch.arange(7) >= torch.tensor(lengths).view(2, 1, 1, 1)
    one = attention(q[:, :, :1].float(), k.float(), v.float(), ended)
    found = torch_npu.npu_incre_flash_attention(
        device[0][:, :, :1].contiguous(), device[1], device[2],
        num_heads=4, scale_value=0.25, actual_seq_lengths=lengths, **options,
    )  # fmt: skip
    same("attention of one token", found, one.half(), 2e-3)
    table = torch.tensor([[3, 0], [1, 2]], dtype=torch.int32)
    blocks = torch.zeros(2, 4, 4, 32).half()  # of keys and of values: 4 blocks of 4 rows
    for sequence in range(2):
        for row in range(7):
            for kind, rows in enumerate((k, v)):
                blocks[kind, table[sequence, row // 4], row % 4] = rows[sequence, :, row].flatten()
    found = torch_npu.npu_fused_infer_attention_score(
        device[0][:, :, :1].contiguous(), blocks[0].npu(), blocks[1].npu(), num_heads=4, scale=0.25,
        block_table=table.npu(), block_size=4, actual_seq_lengths_kv=lengths, **options,
    )  # fmt: skip
    same("attention in blocks", found[0], one.half(), 2e-3)


torch.manual_seed(0)
for part in (check_norms, check_losses, check_images, check_attention, check_fused, check_cells, check_inference):
    try:
        part()
    except Exception as error:
        differs[part.__name__] = f"{type(error).__name__}: {error}"[:600]
print(json.dumps(differs))
