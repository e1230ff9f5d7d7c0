"""Products of quantised matrices on `npu` against the vendor's formulas on the CPU; a program of test_serving.py."""

import torch
import torch.nn.functional as F
import torch_npu

from tests.simulator.operators.agreement import by_row, int8, product, report, same

ENDS = [3, 3, 8]  # of three experts' rows


def int4(*sizes: int) -> torch.Tensor:
    return torch.randint(-8, 8, sizes, dtype=torch.int32)


def packed(numbers: torch.Tensor) -> torch.Tensor:
    """Eight numbers of 4 bits in an int32, the lowest bits first."""
    shifted = (numbers.to(torch.int32) & 0xF).unflatten(-1, (-1, 8)) << torch.arange(0, 32, 4)
    return shifted.sum(-1).to(torch.int32)


def in_64_bits(scale: torch.Tensor) -> torch.Tensor:
    return scale.contiguous().view(torch.int32).to(torch.int64)


def rows() -> list[slice]:
    return [slice(begin, end) for begin, end in zip([0, *ENDS[:-1]], ENDS, strict=True)]


def check_grouped() -> None:
    x, weight, bias = torch.randn(8, 16).half(), torch.randn(3, 16, 6).half(), torch.randn(3, 6).half()
    ends, counts = torch.tensor(ENDS), torch.tensor([3, 0, 5])
    expected = torch.cat([x[r].float() @ weight[i].float() + bias[i] for i, r in enumerate(rows())]).half()
    one = {"split_item": 3, "group_type": 0}
    for name, listed, kind in (("ends", ends, 0), ("counts", counts, 1)):
        found = torch_npu.npu_grouped_matmul(
            [x.npu()], [weight.npu()], bias=[bias.npu()], group_list=listed.npu(), group_list_type=kind, **one
        )
        same(f"grouped by {name}", found[0], expected, 1e-3)
    found = torch_npu.npu_grouped_matmul(
        [x.npu()], [each.T.contiguous().T for each in weight.npu()], bias=list(bias.npu()), group_list=ends.npu(), **one
    )
    same("a weight for each expert, transposed", found[0], expected, 1e-3)
    found = torch_npu.npu_grouped_matmul(
        [x[r].npu() for r in rows()], list(weight.npu()), bias=list(bias.npu()), split_item=0, group_type=-1
    )
    for i, r in enumerate(rows()):
        same(f"tensors of their own {i}", found[i], expected[r], 1e-3)
    # The depth is split: what a weight's gradient is made of.
    tokens, gradient = torch.randn(8, 4), torch.randn(8, 5)
    expected = torch.stack([tokens[r].T @ gradient[r] for r in rows()])
    found = torch_npu.npu_grouped_matmul(
        [tokens.T.contiguous().npu()], [gradient.npu()], group_list=ends.npu(), split_item=3, group_type=2
    )
    same("grouped along the depth", found[0], expected)
    begun = torch.randn(12, 5)
    added = begun.npu()
    torch_npu.npu_grouped_matmul_add_(
        added, tokens.half().npu(), gradient.half().npu(), ends.npu(), transpose_x=True, transpose_weight=False
    )
    halves = [tokens.half().float()[r].T @ gradient.half().float()[r] for r in rows()]
    same("added to gradients", added, begun + torch.cat(halves), 1e-4)


def check_grouped_quantized() -> None:
    x, weight = int8(8, 16), int8(3, 16, 6)
    scale, x_scale = torch.rand(3, 6) / 100, torch.rand(8)
    bias = torch.randint(-1000, 1000, (3, 6), dtype=torch.int32)
    ends, one = torch.tensor(ENDS).npu(), {"split_item": 2, "group_type": 0}
    sums = torch.cat([product(x[r], weight[i]) + bias[i] for i, r in enumerate(rows())])
    scales = torch.cat([scale[i].expand(len(x[r]), 6) for i, r in enumerate(rows())])
    given = {"bias": [bias.npu()], "scale": [scale.npu()], "group_list": ends}
    found = torch_npu.npu_grouped_matmul(
        [x.npu()], [weight.npu()], per_token_scale=[x_scale.npu()], output_dtype=torch.half, **given, **one
    )
    same("w8a8", found[0], (sums * scales * x_scale.unsqueeze(1)).half(), 1e-3)
    found = torch_npu.npu_grouped_matmul([x.npu()], [weight.npu()], output_dtype=torch.half, act_type=5, **given, **one)
    same("silu behind it", found[0], F.silu(sums * scales).half(), 1e-3)
    given["scale"] = [torch_npu.npu_trans_quant_param(each) for each in scale.npu()]
    found = torch_npu.npu_grouped_matmul(
        [x.npu()], list(weight.npu()), bias=list(bias.npu()), scale=given["scale"], group_list=ends, **one
    )
    cut = (scales.view(torch.int32) & ~0x1FFF).view(torch.float32)
    same("to int8", found[0], (sums * cut).round().clamp(-128, 127).to(torch.int8))
    of_weight, zero, tokens = torch.rand(3, 6).half(), torch.randn(3, 6).half(), torch.randn(8, 16).half()
    stands_for = (weight.float() + zero.float().unsqueeze(1)) * of_weight.float().unsqueeze(1)
    found = torch_npu.npu_grouped_matmul(
        [tokens.npu()], [weight.npu()], antiquant_scale=[of_weight.npu()], antiquant_offset=[zero.npu()],
        group_list=ends, **one,
    )  # fmt: skip
    expected = torch.cat([tokens[r].float() @ stands_for[i] for i, r in enumerate(rows())])
    same("a16w8", found[0], expected.half(), 2e-3)


def check_grouped_int4() -> None:
    """x is int8, the weight of 4 bits with scales of groups; the sums times eight are given."""
    x, weight = int8(8, 16), int4(3, 16, 8)
    scale, x_scale = torch.rand(3, 2, 8), torch.rand(8)
    stands_for = weight * scale.repeat_interleave(8, 1)
    assist = 8 * stands_for.sum(1)
    ends = torch.tensor(ENDS).npu()
    found = torch_npu.npu_grouped_matmul(
        [x.npu()], [packed(weight).npu()], bias=[assist.npu()], scale=[in_64_bits(scale).npu()],
        per_token_scale=[x_scale.view(8, 1).npu()], group_list=ends, split_item=3, group_type=0,
        output_dtype=torch.bfloat16,
    )  # fmt: skip
    expected = torch.cat([x[r].float() @ stands_for[i] for i, r in enumerate(rows())]) * x_scale.unsqueeze(1)
    same("w4a8", found[0], expected.bfloat16(), 1e-2)
    tokens, of_group = torch.randn(8, 16).half(), torch.rand(3, 2, 8).half()
    found = torch_npu.npu_grouped_matmul(
        [tokens.npu()], [packed(weight).npu()], antiquant_scale=[of_group.npu()],
        antiquant_offset=[torch.zeros(3, 2, 8).half().npu()], group_list=ends, split_item=3, group_type=0,
    )  # fmt: skip
    stands_for = weight * of_group.float().repeat_interleave(8, 1)
    expected = torch.cat([tokens[r].float() @ stands_for[i] for i, r in enumerate(rows())])
    same("w4a16", found[0], expected.half(), 2e-3)


def check_fused() -> None:
    x, weight = int8(8, 32), int8(3, 32, 64)
    scale, x_scale, ends = torch.rand(3, 64) / 1000, torch.rand(8) / 10, torch.tensor(ENDS)
    sums = torch.cat([product(x[r], weight[i]) * scale[i] for i, r in enumerate(rows())]) * x_scale.unsqueeze(1)
    numbers, scales = by_row(F.silu(sums[:, :32]) * sums[:, 32:])
    given = [x.npu(), weight.npu(), ends.npu(), scale.npu(), x_scale.npu()]
    found = torch_npu.npu_grouped_matmul_swiglu_quant(*given)
    same("swiglu behind a product", found[0], numbers, 0, 1)
    same("its scales", found[1], scales)
    found = torch_npu.npu_grouped_matmul_swiglu_quant_v2(
        given[0], [given[1]], [given[3]], given[4], torch.tensor([3, 0, 5]).npu(), group_list_type=1,
        quant_dtype=torch.int8,
    )  # fmt: skip
    same("swiglu behind a product, with counts", found[0], numbers, 0, 1)
    # Four tokens of two experts each.
    shared, logit = torch.randn(2, 64).bfloat16(), torch.rand(8)
    to = torch.tensor([0, 2, 3, 1, 0, 3, 2, 1])
    expected = torch.zeros(4, 64).index_add(0, to, sums * logit.unsqueeze(1))
    expected[1:3] += 0.5 * shared.float()
    found = torch_npu.npu_grouped_matmul_finalize_routing(
        given[0], given[1], ends.npu(), scale=given[3], pertoken_scale=given[4], shared_input=shared.npu(),
        logit=logit.npu(), row_index=to.npu(), shared_input_weight=0.5, shared_input_offset=1, output_bs=4,
        group_list_type=0,
    )  # fmt: skip
    same("tokens together behind a product", found, expected, 1e-5)


def check_dense() -> None:
    x, weight, scale, x_scale = int8(5, 32), int8(32, 7), torch.rand(7) / 100, torch.rand(5)
    sums, bias = product(x, weight), torch.randint(-900, 900, (7,), dtype=torch.int32)
    on = [x.npu(), weight.npu()]
    found = torch_npu.npu_quant_matmul(
        *on, scale.npu(), pertoken_scale=x_scale.npu(), bias=bias.npu(), output_dtype=torch.half
    )
    same("quant_matmul by rows", found, ((sums + bias) * scale * x_scale.unsqueeze(1)).half(), 1e-3)
    whole = torch.randn(7)
    found = torch_npu.npu_quant_matmul(
        *on, scale.bfloat16().npu(), pertoken_scale=x_scale.npu(), bias=whole.npu(), output_dtype=torch.bfloat16
    )
    expected = sums * scale.bfloat16().float() * x_scale.unsqueeze(1) + whole
    same("quant_matmul with a bias of reals", found, expected.bfloat16(), 1e-2)
    found = torch_npu.npu_quant_matmul(*on, scale.npu(), offset=torch.full((7,), 3.0).npu(), bias=bias.npu())
    cut = (scale.view(torch.int32) & ~0x1FFF).view(torch.float32)
    same("quant_matmul to int8", found, ((sums + bias) * cut + 3).round().clamp(-128, 127).to(torch.int8), 0, 1)
    transposed = torch_npu.npu_quant_matmul(
        on[0], weight.T.contiguous().npu().T, scale.npu(), pertoken_scale=x_scale.npu(), output_dtype=torch.half
    )
    same("quant_matmul transposed", transposed, (sums * scale * x_scale.unsqueeze(1)).half(), 1e-3)
    four, few = int4(5, 32), int4(32, 8)
    found = torch_npu.npu_quant_matmul(
        packed(four).npu(), packed(few).npu(), torch.ones(8).npu(), pertoken_scale=x_scale.npu(),
        output_dtype=torch.half,
    )  # fmt: skip
    same("quant_matmul of 4 bits", found, (product(four, few) * x_scale.unsqueeze(1)).half(), 1e-3)
    param = torch_npu.npu_trans_quant_param(torch.tensor([1.5, 0.1]).npu(), torch.tensor([-2.0, 300.0]).npu()).cpu()
    bits = torch.tensor([1.5, 0.1]).view(torch.int32).to(torch.int64) & 0xFFFFE000
    same("trans_quant_param", param, bits | 1 << 46 | torch.tensor([-2 & 0x1FF, 255]) << 37)


def check_weight_only() -> None:
    x, weight = torch.randn(5, 64).half(), int8(64, 16)
    scale, zero, bias = torch.rand(16).half(), torch.randn(16).half(), torch.randn(16).half()
    stands_for = (weight.float() + zero.float()) * scale.float()
    expected = (x.float() @ stands_for + bias.float()).half()
    found = torch_npu.npu_weight_quant_batchmatmul(x.npu(), weight.npu(), scale.npu(), zero.npu(), bias=bias.npu())
    same("weight_quant", found, expected, 2e-3)
    found = torch_npu.npu_weight_quant_batchmatmul(
        x.npu(), weight.T.contiguous().npu().T, scale.npu(), zero.npu(), bias=bias.npu(), inner_precise=1
    )
    same("weight_quant transposed", found, expected, 2e-3)
    few, of_group = int4(64, 16), torch.rand(2, 16).half()
    expected = x.float() @ (few * of_group.float().repeat_interleave(32, 0))
    for name, given in (("packed", packed(few).npu()), ("packed, transposed", packed(few.T.contiguous()).npu().T)):
        groups = of_group.npu() if name == "packed" else of_group.T.contiguous().npu().T
        found = torch_npu.npu_weight_quant_batchmatmul(x.npu(), given, groups, antiquant_group_size=32)
        same(f"weight_quant {name}", found, expected.half(), 2e-3)
    rest, weight = torch.randn(5, 96).half(), int8(96, 16)  # the last group has 32 of 64 rows
    found = torch_npu.npu_weight_quant_batchmatmul(rest.npu(), weight.npu(), of_group.npu(), antiquant_group_size=64)
    expected = rest.float() @ (weight * of_group.float().repeat_interleave(64, 0)[:96])
    same("weight_quant with a group that is not full", found, expected.half(), 2e-3)


def check_rows() -> None:
    x, smooth = torch.randn(8, 16), torch.rand(3, 16) + 0.5
    ends = torch.tensor(ENDS, dtype=torch.int32)
    each = torch.cat([smooth[i].expand(len(x[r]), 16) for i, r in enumerate(rows())])
    numbers, scales = by_row(x.half().float() * each.half().float())
    found = torch_npu.npu_dynamic_quant(x.half().npu(), smooth_scales=smooth.half().npu(), group_index=ends.npu())
    same("dynamic_quant of groups", found[0], numbers, 0, 1)
    same("scales of groups", found[1], scales)
    half = x.half().float()
    found = torch_npu.npu_dynamic_quant_asymmetric(x.half().npu())
    scale = (half.amax(1) - half.amin(1)) / 255
    offset = 127 - half.amax(1) / scale
    same(
        "dynamic_quant with offsets",
        found[0],
        (half / scale.view(8, 1) + offset.view(8, 1)).round().to(torch.int8),
        0,
        1,
    )
    same("offsets", found[2], offset, 1e-4)
    found = torch_npu.npu_dynamic_quant(x.half().npu(), quant_mode="perchannel")
    same("dynamic_quant of channels", found[1], half.abs().amax(0) / 127)
    found = torch_npu.npu_dynamic_quant(x.half().npu(), dst_type=torch.quint4x2)
    same("dynamic_quant to 4 bits", found[0], packed((half / (half.abs().amax(1, keepdim=True) / 7)).round()))
    scale, zero = torch.rand(16) + 0.1, torch.randint(-5, 5, (16,), dtype=torch.int8)
    divided = (x / scale + zero).round().clamp(-128, 127).to(torch.int8)
    same("quantize", torch_npu.npu_quantize(x.npu(), scale.npu(), zero.npu(), torch.qint8, -1), divided, 0, 1)
    found = torch_npu.npu_quantize(x.npu(), scale.npu(), zero.float().npu(), torch.qint8, -1, False)
    same("quantize by factors", found, (x * scale + zero).round().to(torch.int8))
    found = torch_npu.npu_quantize(x.npu(), torch.tensor([0.01]).npu(), None, torch.qint32, 0)
    same("quantize to int32", found, (x / 0.01).round().to(torch.int32), 0, 1)
    factor = torch.rand(3, 16) * 20
    each = torch.cat([factor[i].expand(len(x[r]), 16) for i, r in enumerate(rows())])
    found = torch_npu.npu_group_quant(x.npu(), factor.npu(), ends.npu(), offset=torch.tensor([2.0]).npu())
    same("group_quant", found, (x * each + 2).round().clamp(-128, 127).to(torch.int8))
    back = torch_npu.npu_anti_quant(divided.npu(), scale.npu(), offset=zero.float().npu(), dst_dtype=torch.half)
    same("anti_quant", back, ((divided + zero.float()) * scale).half(), 1e-3)
    found = torch_npu.npu_anti_quant(packed(int4(1, 8) * 0 - 3).npu(), torch.tensor([2.0]).npu(), dst_dtype=torch.half)
    same("anti_quant of 4 bits", found, torch.full((1, 8), -6.0).half())
    sums, bias = torch.randint(-900, 900, (8, 16), dtype=torch.int32), torch.randn(16)
    found = torch_npu.npu_dequant_bias(sums.npu(), scale.npu(), torch.rand(8).npu() * 0 + 0.5, bias.npu())
    same("dequant_bias", found, (sums * scale * 0.5 + bias).half(), 1e-3)


def check_gated() -> None:
    x = torch.randn(8, 32)
    counts, ends = torch.tensor([3, 0, 5]), torch.tensor(ENDS, dtype=torch.int32)
    smooth = torch.rand(3, 16) + 0.5
    each = torch.cat([smooth[i].expand(len(x[r]), 16) for i, r in enumerate(rows())])
    unit = F.silu(x[:, 16:]) * x[:, :16]
    numbers, scales = by_row(unit * each)
    found = torch_npu.npu_swiglu_quant(x.npu(), smooth_scales=smooth.npu(), group_index=ends.npu(), quant_mode=1)
    same("swiglu_quant", found[0], numbers, 0, 1)
    same("factors of swiglu_quant", found[1], 1 / scales)
    sums = torch.randint(-9000, 9000, (8, 32), dtype=torch.int32)
    of_weight, of_row = torch.rand(3, 32) / 1000, torch.rand(8)
    wide = torch.cat([of_weight[i].expand(len(x[r]), 32) for i, r in enumerate(rows())])
    reals = sums * wide * of_row.unsqueeze(1)
    numbers, scales = by_row(F.silu(reals[:, :16]) * reals[:, 16:] * each)
    given = {"weight_scale": of_weight.npu(), "activation_scale": of_row.npu(), "group_index": counts.npu()}
    found = torch_npu.npu_dequant_swiglu_quant(
        sums.npu(), quant_scale=smooth.npu(), activate_left=True, quant_mode=1, **given
    )
    same("dequant_swiglu_quant", found[0], numbers, 0, 1)
    same("its scales", found[1], scales)
    gate, linear = reals[:, ::2].clamp(max=1.5), reals[:, 1::2].clamp(-1.5, 1.5)
    numbers, scales = by_row(gate * torch.sigmoid(1.702 * gate) * (linear + 1))
    found = torch_npu.npu_dequant_swiglu_quant(
        sums.npu(), activate_left=True, quant_mode=1, swiglu_mode=1, clamp_limit=1.5, dst_type=torch.int8, **given
    )
    same("a clipped unit", found[0], numbers, 0, 1)
    static, zero = torch.tensor([0.02, 1.0, 0.05]), torch.tensor([1.0, 0.0, -2.0])
    which = torch.tensor([0] * 3 + [2] * 5)
    found = torch_npu.npu_dequant_swiglu_quant(
        sums.npu(), quant_scale=static.npu(), quant_offset=zero.npu(), activate_left=True, quant_mode=0, **given
    )
    expected = F.silu(reals[:, :16]) * reals[:, 16:] / static[which].unsqueeze(1) + zero[which].unsqueeze(1)
    same("static scales", found[0], expected.round().clamp(-128, 127).to(torch.int8), 0, 1)
    found = torch_npu.npu_gelu_quant(x.npu(), approximate="none", quant_mode="dynamic")
    numbers, scales = by_row(F.gelu(x))
    same("gelu_quant", found[0], numbers, 0, 1)
    same("scales of gelu_quant", found[1], scales)


def check_norms() -> None:
    x1, x2, gamma, beta = (torch.randn(*sizes).half() for sizes in ((4, 32), (4, 32), (32,), (32,)))
    scale, zero = (torch.rand(32) + 0.1).half(), torch.randint(-5, 5, (32,), dtype=torch.int8)
    total = x1.float() + x2.float()

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gamma.float()

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x.round().clamp(-128, 127).to(torch.int8)

    on = [x1.npu(), x2.npu(), gamma.npu()]
    given = {"zero_points1": zero.npu().half(), "beta": beta.npu()}
    found = torch_npu.npu_add_rms_norm_quant(*on, scale.npu(), **given, div_mode=False)
    same("add_rms_norm_quant", found[0], rounded((norm(total) + beta) * scale + zero), 0, 1)
    same("its sum", found[2], total.half())
    found = torch_npu.npu_add_rms_norm_dynamic_quant(*on, smooth_scale1=scale.npu(), output_mask=[True, True])
    for i, y in enumerate((norm(total) * scale, norm(total))):
        numbers, scales = by_row(y)
        same(f"add_rms_norm_dynamic_quant {i}", found[i], numbers, 0, 1)
        same(f"scales of add_rms_norm_dynamic_quant {i}", found[3 + i], scales, 1e-4)
    one = norm(x1.float())
    found = torch_npu.npu_rms_norm_quant(on[0], on[2], beta.npu(), scale[:1].npu(), zero[:1].npu())
    same("rms_norm_quant", found, rounded((one + beta) / scale[0].float() + zero[0]), 0, 1)
    found = torch_npu.npu_rms_norm_quant_v2(on[0], on[2], scale.npu(), div_mode=False)
    same("rms_norm_quant_v2", found[0], rounded(one * scale), 0, 1)
    rstd = torch_npu.npu_add_rms_norm_v2(on[0], on[1], on[2])
    same("norm in place", on[0], norm(total).half(), 2e-3)
    same("sum in place", on[1], total.half())
    same("rstd", rstd, torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-6), 1e-4)


report(
    [check_grouped, check_grouped_quantized, check_grouped_int4, check_fused, check_dense, check_weight_only,
     check_rows, check_gated, check_norms]
)  # fmt: skip
