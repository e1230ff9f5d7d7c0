"""Caches of keys and values, rotary embedding and sampling on `npu` against the CPU; a program of test_serving.py."""

import torch
import torch_npu

from tests.simulator.operators.agreement import report, same


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Of the halves."""
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat((-other, one), -1) * sin


def pairs_as_halves(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x[..., ::2], x[..., 1::2]), -1)


def check_rotary() -> None:
    x, cos, sin = torch.randn(2, 3, 4, 64).half(), torch.randn(2, 1, 4, 64).half(), torch.randn(2, 1, 4, 64).half()
    expected = rotated(pairs_as_halves(x).float(), cos.float(), sin.float())
    same("interleave_rope", torch_npu.npu_interleave_rope(x.npu(), cos.npu(), sin.npu()), expected.half(), 2e-3)
    query, key, cache = torch.randn(5, 48), torch.randn(5, 24), torch.randn(9, 8)  # 8 of 12 elements are rotated
    for places, sections in ((torch.tensor([0, 3, 8, 1, 2]), [0, 0, 0]), (torch.randint(0, 9, (3, 5)), [1, 1, 2])):
        if places.dim() == 1:
            cos, sin = cache[places].chunk(2, -1)
        else:
            of_section = torch.tensor([0, 1, 2, 2])  # by which positions each pair is rotated
            cos, sin = (
                torch.stack([each[places[of_section[i]], i] for i in range(4)], 1) for each in cache.chunk(2, -1)
            )
        for mode in ("half", "interleave"):
            found = torch_npu.npu_mrope(
                places.npu(), query.npu(), key.npu(), cache.npu(), 12, mrope_section=sections, rotary_mode=mode
            )
            for name, given, result in (("query", query, found[0]), ("key", key, found[1])):
                heads = given.view(5, -1, 12)
                part, rest = heads[..., :8], heads[..., 8:]
                one, other = part.chunk(2, -1) if mode == "half" else (part[..., ::2], part[..., 1::2])
                c, s = cos.unsqueeze(1), sin.unsqueeze(1)
                turned = (one * c - other * s, other * c + one * s)
                part = torch.cat(turned, -1) if mode == "half" else torch.stack(turned, -1).flatten(-2)
                same(f"mrope {mode} {sections} {name}", result, torch.cat((part, rest), -1).view_as(given))


def check_blocks() -> None:
    key, value = torch.randn(4, 2, 32).half(), torch.randn(4, 2, 16).half()
    slots = torch.tensor([5, 0, -1, 11], dtype=torch.int32)
    caches = torch.randn(3, 4, 2, 32).half(), torch.randn(3, 4, 2, 16).half()  # 3 blocks of 4 rows
    found = [each.npu() for each in caches]
    torch_npu.npu_scatter_pa_kv_cache(key.npu(), value.npu(), *found, slots.npu(), cache_mode="Norm")
    for name, rows, cache, result in zip("kv", (key, value), caches, found, strict=True):
        expected = cache.flatten(0, 1).clone()
        expected[[5, 0, 11]] = rows[[0, 1, 3]]
        same(f"scattered {name}", result, expected.view_as(cache))
    apart = torch.zeros(3, 4, 4, 16).half().npu(), torch.zeros(3, 2, 4, 16).half().npu()  # in NZ: pieces, then rows
    torch_npu.npu_scatter_pa_kv_cache(key.npu(), value.npu(), *apart, slots.npu(), cache_mode="PA_NZ")
    same("scattered in NZ", apart[0][1, :, 1], key[0].view(4, 16))
    same("scattered in NZ, another", apart[1][2, :, 3], value[3].view(2, 16))
    same("nothing elsewhere", apart[0].count_nonzero(), torch.tensor(3 * 64))
    one = torch.zeros(3, 4, 2, 32).half().npu()
    torch_npu.npu_scatter_pa_cache(key.npu(), slots.npu(), key_cache=one)
    same("scattered alone", one[2, 3], key[3])
    table = torch.tensor([[2, 0], [1, 9]], dtype=torch.int32)  # there is no block 9
    back = torch.empty(11, 2, 32).half().npu(), torch.empty(11, 2, 16).half().npu()
    lengths = torch.tensor([5, 6], dtype=torch.int32)
    torch_npu.npu_gather_pa_kv_cache(caches[0].npu(), caches[1].npu(), table.npu(), lengths.npu(), *back)
    for name, cache, result in zip("kv", caches, back, strict=True):
        expected = torch.cat((cache[2], cache[0, :1], cache[1], torch.zeros_like(cache[0, :2])))
        same(f"gathered {name}", result, expected)
    ends = torch.tensor([0, 5, 11], dtype=torch.int32)
    again = torch.empty(11, 2, 32).half().npu(), torch.empty(11, 2, 16).half().npu()
    torch_npu.npu_gather_pa_kv_cache(
        caches[0].npu(), caches[1].npu(), table.npu(), ends.npu(), *again, is_seq_lens_cumsum=True
    )
    same("gathered by ends", again[0], back[0].cpu())


def check_latent() -> None:
    """What multi-head latent attention keeps of a token: 512 normalised and 64 rotated elements."""
    kv, gamma = torch.randn(2, 1, 3, 576).half(), torch.randn(512).half()
    cos, sin = torch.randn(2, 1, 3, 64).half(), torch.randn(2, 1, 3, 64).half()
    latent, rest = kv.float().split([512, 64], -1)
    latent = latent * torch.rsqrt(latent.square().mean(-1, keepdim=True) + 1e-5) * gamma.float()
    rest = rotated(pairs_as_halves(rest), cos.float(), sin.float())
    on = [each.npu() for each in (kv, gamma, cos, sin)]
    index = torch.tensor([7, 0, 3, -1, 4, 1])
    pages = torch.ones(4, 2, 1, 64).half(), torch.ones(4, 2, 1, 512).half()
    given = [each.npu() for each in pages]
    found = torch_npu.npu_kv_rmsnorm_rope_cache(*on, index.npu(), *given, cache_mode="PA_BNSD", is_output_kv=True)
    same("rotated part", found[2], rest.half(), 2e-3)
    same("latent part", found[3], latent.half(), 2e-3)
    for name, rows, page, result in zip(("rotated", "latent"), (rest, latent), pages, found[:2], strict=True):
        expected = page.view(8, -1).clone()
        expected[[7, 0, 3, 4, 1]] = rows.reshape(6, -1).half()[[0, 1, 2, 4, 5]]
        same(f"{name} in pages", result, expected.view_as(page), 2e-3)
    blocks = torch.tensor([2, 6, 0, 4])  # two pages of two rows for each sequence's three tokens
    given = [each.npu() for each in pages]
    found = torch_npu.npu_kv_rmsnorm_rope_cache(*on, blocks.npu(), *given, cache_mode="PA_BLK_BNSD")
    expected = pages[0].view(8, -1).clone()
    expected[[2, 3, 6, 0, 1, 4]] = rest.reshape(6, -1).half()
    same("rotated by pages", found[0], expected.view(4, 2, 1, 64), 2e-3)
    whole = torch.ones(2, 1, 5, 64).half().npu(), torch.ones(2, 1, 5, 512).half().npu()
    where = torch.tensor([[4, 0, 1], [2, -1, 3]])
    found = torch_npu.npu_kv_rmsnorm_rope_cache(*on, where.npu(), *whole, cache_mode="Norm")
    expected = torch.ones(2, 5, 512).half()
    expected[0, [4, 0, 1]], expected[1, [2, 3]] = latent.half()[0, 0], latent.half()[1, 0, [0, 2]]
    same("latent in sequences", found[1], expected.unsqueeze(1), 2e-3)
    scale = torch.rand(64) * 30, torch.rand(512) * 30
    few = torch.zeros(4, 2, 1, 64, dtype=torch.int8).npu(), torch.zeros(4, 2, 1, 512, dtype=torch.int8).npu()
    found = torch_npu.npu_kv_rmsnorm_rope_cache(
        *on, index.npu(), *few, k_rope_scale=scale[0].npu(), c_kv_scale=scale[1].npu(), cache_mode="PA_NZ"
    )
    expected = (rest[1, 0, 1] * scale[0]).round().clamp(-128, 127).to(torch.int8)
    same("rotated as int8, in NZ", found[0].view(4, 2, 2, 32)[2, :, 0], expected.view(2, 32), 0, 1)


def check_sampling() -> None:
    logits, p, k = torch.randn(3, 20), torch.tensor([0.9, 0.5, 1.0]), torch.tensor([20, 8, 3], dtype=torch.int32)
    expected = torch.full_like(logits, -torch.inf)
    for row in range(3):
        values, places = logits[row].topk(int(k[row]))
        shares = values.softmax(0)
        kept = shares.cumsum(0) - shares < p[row]  # until their sum is p
        expected[row, places[kept]] = values[kept]
    same("top_k_top_p", torch_npu.npu_top_k_top_p(logits.npu(), p.npu(), k.npu()), expected)


def check_draws() -> None:
    logits, k, p = torch.randn(4, 30), torch.tensor([5, 0, 30, 2000], dtype=torch.int32), torch.tensor([0.6, 0.3, 1, 1])
    q = torch.empty(4, 30).exponential_()
    found = torch_npu.npu_top_k_top_p_sample(logits.npu(), k.npu(), p.npu(), q=q.npu(), is_need_logits=True)
    selected, drawn = torch.full_like(logits, -torch.inf), []
    for row in range(4):
        if 1 <= k[row] <= 30 or p[row] < 1:
            values, words = logits[row].sort(descending=True, stable=True)
            values, words = (each[: int(k[row]) or 30] for each in (values, words))
            shares = values.softmax(0)
            kept = shares.cumsum(0) - shares < p[row] if p[row] < 1 else shares >= 0
        else:  # no bound: in the vocabulary's order
            words, shares, kept = torch.arange(30), logits[row].softmax(0), torch.ones(30, dtype=torch.bool)
        words, shares = words[kept], shares[kept]
        selected[row, words] = logits[row, words]
        drawn.append(words[(shares / (q[row, : len(words)] + 1e-8)).argmax()])
    same("words drawn", found[0], torch.stack(drawn))
    same("what they are drawn from", found[1], selected)
    many, bounds = logits[:1].expand(2000, 30).contiguous(), torch.full((2000,), 3, dtype=torch.int32)
    words = torch_npu.npu_top_k_top_p_sample(
        many.npu(), bounds.npu(), torch.ones(2000).npu(), min_ps=torch.full((2000,), 0.01).npu(),
        post_sample="multiNomial",
    )[0]  # fmt: skip
    values, places = logits[0].topk(3)
    frequency = torch.bincount(words.cpu(), minlength=30)[places] / 2000
    same("frequency of words", frequency, values.softmax(0), 0, 0.05)  # 4 standard deviations


def check_heads() -> None:
    """Two sequences of three tokens; four heads of queries, two of keys and of values."""
    qkv, gammas = torch.randn(6, 8 * 32).half(), torch.randn(2, 32).half()
    cos, sin = torch.randn(6, 32).half(), torch.randn(6, 32).half()
    slots, scale = torch.tensor([3, 0, -1, 7, 5, 2]), torch.rand(2, 32) + 0.02
    query = torch.zeros(6, 128).half().npu()
    caches = [torch.zeros(2, 2, 4, 32, dtype=torch.int8).npu() for _ in range(2)]
    found = torch_npu.npu_qkv_rms_norm_rope_cache(
        qkv.npu(), *gammas.npu(), cos.npu(), sin.npu(), slots.npu(), query, *caches, qkv_size=[2, 3, 8, 32],
        head_nums=[4, 2, 2], k_scale=scale.npu(), v_scale=scale.npu(), epsilon=1e-6, cache_mode="PA_NZ",
        is_output_qkv=True,
    )  # fmt: skip
    q, k, v = qkv.float().view(6, 8, 32).split([4, 2, 2], 1)
    q, k = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * g for x, g in ((q, gammas[0]), (k, gammas[1])))
    q, k = (rotated(each, cos.float().unsqueeze(1), sin.float().unsqueeze(1)) for each in (q, k))
    same("queries", query, q.half().flatten(1), 2e-3)
    for name, rows, cache, before in zip(("keys", "values"), (k, v), caches, found[1:], strict=True):
        same(name, before, rows.half().flatten(1), 2e-3)
        expected = torch.zeros(8, 2, 32, dtype=torch.int8)
        numbers = (rows / scale).round().clamp(-128, 127).to(torch.int8)
        expected[[3, 0, 7, 5, 2]] = numbers[[0, 1, 3, 4, 5]]
        same(f"{name} in the cache", cache, expected.view(2, 4, 2, 32).transpose(1, 2), 0, 1)


def check_updates() -> None:
    """Two halves of the keys together are attention over all of them."""
    q, k, v = torch.randn(4, 3, 16), torch.randn(4, 10, 16), torch.randn(4, 10, 16)  # [heads, tokens, size]
    scores = q @ k.mT
    halves = [(scores[..., part], v[:, part]) for part in (slice(0, 4), slice(4, 10))]
    expected = scores.softmax(-1) @ v
    logs = [each.logsumexp(-1).flatten().npu() for each, _ in halves]
    parts = [(each.softmax(-1) @ values).flatten(0, 1).npu() for each, values in halves]
    out, log = torch_npu.npu_attention_update(logs, parts, 1)
    same("attention_update", out, expected.flatten(0, 1), 1e-4)
    same("its logarithms", log, scores.logsumexp(-1).flatten(), 1e-4)
    for nothing in (torch.inf, -torch.inf):  # the logarithm of a part that saw no key
        unseen = torch.full_like(logs[1], nothing)
        found = torch_npu.npu_attention_update([logs[0], unseen], parts, 1)
        same(f"a part of {nothing}", found[0], parts[0].cpu(), 1e-4)
        same(f"its logarithms, of {nothing}", found[1], logs[0].cpu(), 1e-4)

    def ring(scores: torch.Tensor, values: torch.Tensor, layout: str) -> list[torch.Tensor]:
        largest = scores.amax(-1)
        total = (scores - largest.unsqueeze(-1)).exp().sum(-1)
        result = scores.softmax(-1) @ values
        if layout == "SBH":  # [1, heads, tokens] and [tokens, 1, heads * size]
            statistics = [each.unsqueeze(0) for each in (largest, total)]
            result = result.transpose(0, 1).flatten(1).unsqueeze(1)
        else:
            statistics = [each.T for each in (largest, total)]
            result = result.transpose(0, 1)
        return [result.contiguous(), *(each.unsqueeze(-1).repeat_interleave(8, -1) for each in statistics)]

    for layout in ("SBH", "TND"):
        given = [each.npu() for half in halves for each in ring(*half, layout)]
        ends = torch.tensor([0, 3]).npu() if layout == "TND" else None
        found = torch_npu.npu_ring_attention_update(
            *given, actual_seq_qlen=ends, input_layout=layout, input_softmax_layout=layout
        )
        for name, one, other in zip(("", "largest", "sums"), found, ring(scores, v, layout), strict=True):
            same(f"ring_attention_update {layout} {name}", one, other, 1e-4)


def check_statistics() -> None:
    """Of sequences one after the other, by default each one's heads lie together; so the next operator reads them."""
    ends, key_ends = [3, 8], [4, 10]
    q, k, v = torch.randn(8, 2, 64), torch.randn(10, 2, 64), torch.randn(10, 2, 64)
    spans = [(slice(0, 3), slice(0, 4)), (slice(3, 8), slice(4, 10))]
    scores = [(q[rows].transpose(0, 1) @ k[keys].permute(1, 2, 0)) / 8 for rows, keys in spans]
    largest = [each.amax(-1) for each in scores]

    def attend(k: torch.Tensor, v: torch.Tensor, key_ends: list[int], layout: str = "") -> tuple[torch.Tensor, ...]:
        return torch_npu.npu_fusion_attention(
            q.npu(), k.npu(), v.npu(), 2, "TND", scale=0.125, softmax_layout=layout, actual_seq_qlen=ends,
            actual_seq_kvlen=key_ends,
        )[:3]  # fmt: skip

    whole = attend(k, v, key_ends)
    same("statistics by sequence", whole[1].flatten()[::8], torch.cat([each.flatten() for each in largest]))
    same("statistics by token", attend(k, v, key_ends, "TND")[1][..., 0], torch.cat([each.T for each in largest]))
    parts = [[0, 1, 4, 5, 6], [2, 3, 7, 8, 9]]  # of the keys, two and three of each sequence
    halves = [attend(k[part], v[part], [2, 5]) for part in parts]
    zero_and_ends = torch.tensor([0, *ends]).npu()
    found = torch_npu.npu_ring_attention_update(
        *halves[0], *halves[1], actual_seq_qlen=zero_and_ends, input_layout="TND"
    )
    for name, one, other in zip(("result", "largest", "sums"), found, whole, strict=True):
        same(f"ring over sequences: {name}", one, other.cpu(), 1e-4)


report(
    [
        check_rotary,
        check_blocks,
        check_latent,
        check_heads,
        check_sampling,
        check_draws,
        check_updates,
        check_statistics,
    ]
)
