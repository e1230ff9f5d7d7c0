"""Mixtures of experts on `npu` against the same on the CPU; a program of test_serving.py."""

import torch
import torch.nn.functional as F
import torch_npu

from tests.simulator.operators.agreement import by_row, report, same


def gated(
    logits: torch.Tensor, bias: torch.Tensor, k: int, groups: int, best: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """DeepSeek's: sigmoid shares, groups by their two best, of which the best k; the bias only chooses."""
    shares = logits.sigmoid()
    scores = (shares + bias).unflatten(1, (groups, -1))
    worth = scores.topk(2).values.sum(-1)
    is_shut = torch.ones_like(worth).scatter(1, worth.topk(best).indices, 0).bool()
    experts = scores.masked_fill(is_shut.unsqueeze(-1), -torch.inf).flatten(1).topk(k).indices
    chosen = shares.gather(1, experts)
    return chosen / (chosen.sum(-1, keepdim=True) + 1e-20), experts


def check_gating() -> None:
    logits, bias = torch.randn(6, 16), torch.randn(16)
    expected, experts = gated(logits, bias, 4, 4, 2)
    found = torch_npu.npu_moe_gating_top_k(
        logits.npu(), 4, bias=bias.npu(), k_group=2, group_count=4, group_select_mode=1, norm_type=1,
        routed_scaling_factor=2.5, out_flag=True,
    )  # fmt: skip
    same("shares", found[0], expected * 2.5)
    same("experts", found[1], experts.int())
    same("all shares", found[2], logits.sigmoid())
    found = torch_npu.npu_moe_gating_top_k(logits.npu(), 3)
    largest, places = logits.softmax(-1).topk(3)
    same("softmax shares", found[0], largest)
    same("experts of softmax", found[1], places.int())
    table, tokens = torch.randint(0, 16, (9, 2)), torch.randint(0, 9, (6,))
    found = torch_npu.npu_moe_gating_top_k(logits.npu(), 2, input_ids=tokens.npu(), tid2eid=table.npu(), norm_type=1)
    same("experts of a table", found[1], table[tokens].int())
    chosen = logits.sigmoid().gather(1, table[tokens])
    same("shares of a table", found[0], chosen / chosen.sum(1, keepdim=True))


def check_routing() -> None:
    x, experts = torch.randn(5, 8), torch.tensor([[3, 1], [0, 3], [2, 3], [3, 0], [1, 2]], dtype=torch.int32)
    order = experts.flatten().argsort(stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(10))
    counts = experts.flatten().bincount(minlength=4)
    given = {"active_num": 10, "expert_num": 4, "expert_tokens_num_flag": True, "active_expert_range": [0, 4]}
    for kind, tokens in ((0, counts.cumsum(0)), (1, counts)):
        found = torch_npu.npu_moe_init_routing_v2(
            x.npu(), experts.npu(), expert_tokens_num_type=kind, quant_mode=-1, row_idx_type=0, **given
        )
        same("copies", found[0], x[order // 2])
        same("places of copies", found[1], place.int())
        same(f"tokens of experts {kind}", found[2], tokens)
    found = torch_npu.npu_moe_init_routing_v2(
        x.npu(), experts.npu(), expert_tokens_num_type=2, quant_mode=1, row_idx_type=1, **given
    )
    numbers, scales = by_row(x)
    same("copies as int8", found[0], numbers[order // 2], 0, 1)
    same("copies in the experts' order", found[1], order.int())
    same("experts and their counts", found[2], torch.stack((torch.arange(4), counts), 1))
    same("scales of copies", found[3], scales[order // 2])
    given["active_expert_range"] = [1, 3]
    found = torch_npu.npu_moe_init_routing_v2(
        x.npu(), experts.npu(), expert_tokens_num_type=1, quant_mode=-1, row_idx_type=0, **given
    )
    mine = order[(experts.flatten()[order] >= 1) & (experts.flatten()[order] < 3)]
    same("copies of some experts", found[0][: len(mine)], x[mine // 2])
    where = torch.full((10,), -1).scatter(0, mine, torch.arange(len(mine)))
    same("their places", found[1], where.int())
    same("their counts", found[2], counts[1:3])
    given["active_expert_range"] = [0, 4]
    found = torch_npu.npu_moe_init_routing_v2(
        x.npu(), experts.npu(), expert_tokens_num_type=1, quant_mode=-1, row_idx_type=0, drop_pad_mode=1,
        expert_capacity=3, **given,
    )  # fmt: skip
    padded, where = torch.zeros(4, 3, 8), torch.full((10,), -1, dtype=torch.int32)
    seen = [0] * 4
    for copy in order.tolist():
        expert = int(experts.flatten()[copy])
        if seen[expert] < 3:
            padded[expert, seen[expert]], where[copy] = x[copy // 2], expert * 3 + seen[expert]
        seen[expert] += 1
    same("copies in capacities", found[0], padded)
    same("places in capacities", found[1], where)
    found = torch_npu.npu_moe_init_routing_quant(
        x.npu(), experts.npu(), active_num=0, expert_num=4, expert_tokens_num_mode=2, quant_mode=1
    )
    same("init_routing_quant", found[0], numbers[order // 2], 0, 1)
    same("counts of init_routing_quant", found[2], counts.int())
    rows = torch.randn(10, 8)
    back = torch_npu.npu_moe_finalize_routing(
        rows.npu(), None, None, None, torch.full((5, 2), 0.5).npu(), place.int().npu(), None, drop_pad_mode=2, k=2
    )
    same("copies together", back, rows[place.view(5, 2)].sum(1) / 2)
    rows[0], dropped = torch.inf, torch.tensor([1, -1, 2, 3], dtype=torch.int32)  # a copy that is nowhere adds nothing
    back = torch_npu.npu_moe_finalize_routing(
        rows.npu(), None, None, None, torch.ones(2, 2).npu(), dropped.npu(), None, drop_pad_mode=3
    )
    same("a copy dropped", back, torch.stack((rows[1], rows[2] + rows[3])))


def check_ranks() -> None:
    counts = torch.tensor([[2, 0, 1], [1, 3, 0]])  # of two ranks' tokens for three experts
    tokens, scales = torch.randn(7, 4), torch.rand(7)
    found = torch_npu.npu_moe_re_routing(tokens.half().npu(), counts.npu(), per_token_scales=scales.npu())
    order = torch.tensor([0, 1, 3, 4, 5, 6, 2])
    same("tokens by experts", found[0], tokens.half()[order])
    same("their scales", found[1], scales[order])
    same("their rows", found[2], order.int())
    same("tokens of each expert", found[3], counts.sum(0))


def check_maps() -> None:
    """Both directions, with the shares, and their gradients."""
    routing = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    x, probs, gradient = torch.randn(4, 6), torch.rand(4, 3), torch.randn(4, 6)
    for is_padded, copies in ((False, 8), (True, 6)):
        results = []
        for device in ("cpu", "npu"):
            tokens, shares = (each.to(device).detach().requires_grad_() for each in (x, probs))
            if device == "npu":
                permuted, permuted_shares, rows = torch_npu.npu_moe_token_permute_with_routing_map(
                    tokens, routing.npu(), probs=shares, num_out_tokens=copies, drop_and_pad=is_padded
                )
                back = torch_npu.npu_moe_token_unpermute_with_routing_map(
                    permuted, rows, [4, 6], probs=shares, routing_map=routing.npu(), drop_and_pad=is_padded
                )
            else:
                by_expert = routing.T
                if is_padded:
                    places = [each.int().argsort(descending=True, stable=True)[:2] for each in by_expert]
                else:
                    places = [each.nonzero().squeeze(1) for each in by_expert]
                permuted = torch.cat([tokens[each] for each in places])
                permuted_shares = torch.cat([shares[each, i] for i, each in enumerate(places)])
                back = torch.zeros(4, 6).index_add(0, torch.cat(places), permuted * permuted_shares.unsqueeze(1))
            ((back * gradient.to(device)).sum() + permuted_shares.sum()).backward()
            results.append((permuted, permuted_shares, back, tokens.grad, shares.grad))
        for i, (one, other) in enumerate(zip(*results, strict=True)):
            same(f"with a map, padded {is_padded}: {i}", other, one)


def check_ffn() -> None:
    x, one, two = torch.randn(6, 8).half(), torch.randn(2, 8, 12).half(), torch.randn(2, 12, 8).half()
    bias = torch.randn(2, 12).half()
    found = torch_npu.npu_ffn(
        x.npu(), one.npu(), two.npu(), "silu", expert_tokens=[2, 4], bias1=bias.npu(), inner_precise=1
    )
    parts = []
    for i, rows in enumerate((x[:2], x[2:])):
        parts.append(F.silu(rows.float() @ one[i].float() + bias[i].float()) @ two[i].float())
    same("ffn", found, torch.cat(parts).half(), 5e-3)


def check_layer() -> None:
    """A layer of DeepSeek's kind in int8 (w8a8, dynamic) as vllm-ascend calls it, against the same in float32.

    Each number is off by up to half a step of its row's scale, twice in a row of operators: 3 % of the results' size.
    """
    tokens, size, inner, experts, k = 24, 64, 32, 8, 3
    x, logits, bias = torch.randn(tokens, size), torch.randn(tokens, experts), torch.randn(experts) / 4
    up, down = torch.randn(experts, size, 2 * inner) / 8, torch.randn(experts, inner, size) / 6
    shares, chosen = gated(logits, bias, k, 4, 2)
    expected = torch.zeros(tokens, size)
    for expert in range(experts):
        one, other = (x @ up[expert]).chunk(2, -1)
        weight = (shares * (chosen == expert)).sum(1, keepdim=True)
        expected += weight * (F.silu(one) * other @ down[expert])

    def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        numbers, scales = by_row(weight.transpose(1, 2))
        return numbers.transpose(1, 2).contiguous().npu(), scales.npu()

    (up8, up_scale), (down8, down_scale) = quantized(up), quantized(down)
    on, ids, _ = torch_npu.npu_moe_gating_top_k(
        logits.npu(), k, bias=bias.npu(), k_group=2, group_count=4, group_select_mode=1, norm_type=1
    )
    copies, rows, counts, scales = torch_npu.npu_moe_init_routing_v2(
        x.npu(), ids, active_num=tokens * k, expert_num=experts, expert_tokens_num_type=1,
        expert_tokens_num_flag=True, quant_mode=1, active_expert_range=[0, experts], row_idx_type=0,
    )  # fmt: skip
    grouped = {"group_list": counts, "group_list_type": 1, "group_type": 0, "split_item": 2}
    sums = torch_npu.npu_grouped_matmul([copies], [up8], output_dtype=torch.int32, **grouped)[0]
    hidden, hidden_scales = torch_npu.npu_dequant_swiglu_quant(
        sums, weight_scale=up_scale, activation_scale=scales, group_index=counts, activate_left=True, quant_mode=1
    )
    result = torch_npu.npu_grouped_matmul(
        [hidden], [down8], scale=[down_scale.bfloat16()], per_token_scale=[hidden_scales],
        output_dtype=torch.bfloat16, **grouped,
    )[0]  # fmt: skip
    found = torch_npu.npu_moe_finalize_routing(result, None, None, None, on.bfloat16(), rows, ids, drop_pad_mode=2, k=k)
    error = (found.cpu().float() - expected).norm() / expected.norm()
    same("a layer in int8", error, torch.tensor(0.0), 0, 0.03)


report([check_gating, check_routing, check_ranks, check_maps, check_ffn, check_layer])
