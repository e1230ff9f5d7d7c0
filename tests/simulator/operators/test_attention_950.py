"""torch's attention on a simulated 950, whose operators are newer ones, against torch on the CPU."""

from __future__ import annotations

from collections.abc import Callable

ON_950 = "ascend:950x1,1g"
AGREES = """
import torch.nn.functional as F
torch.manual_seed(0)

def agrees(work, *inputs, tolerance):
    found = []
    for device in ("cpu", "npu"):
        given = [each.detach().to(device).requires_grad_(each.is_floating_point()) for each in inputs]
        out = work(*given)
        (out.float() * torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)).sum().backward()
        found.append([out.detach().cpu()] + [each.grad.cpu() for each in given if each.requires_grad])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)

assert "950" in torch.npu.get_device_name()
"""


def test_forward_and_backward(run: Callable[..., str]) -> None:
    run(
        AGREES
        + """
attend = F.scaled_dot_product_attention
for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)):
    query, key, value = (torch.randn(2, 4, 7, 16).to(dtype) for _ in range(3))
    agrees(attend, query, key, value, tolerance=tolerance)
    agrees(lambda q, k, v: attend(q, k, v, is_causal=True, scale=0.3), query, key, value, tolerance=tolerance)
    mask = torch.rand(7, 7) > 0.3
    mask[:, 0] = True
    agrees(lambda q, k, v, m: attend(q, k, v, attn_mask=m), query, key, value, mask, tolerance=tolerance)
    agrees(lambda q, k, v: attend(q, k, v, enable_gqa=True), query, key[:, :2], value[:, :2], tolerance=tolerance)
query, key, value = (torch.randn(1, 4, 9, 16).half() for _ in range(3))
expected = attend(query, key, value, scale=0.25)
given = [each.npu() for each in (query, key, value)]
infer, infer_v2 = torch_npu.npu_fused_infer_attention_score, torch_npu.npu_fused_infer_attention_score_v2
for found in (
    infer(*given, input_layout="BNSD", num_heads=4, scale=0.25),
    infer_v2(*given, input_layout="BNSD", num_query_heads=4, softmax_scale=0.25),
):
    torch.testing.assert_close(found[0].cpu(), expected, rtol=4e-3, atol=4e-3)
""",
        UNIFY_SIMULATE=ON_950,
    )


def test_the_gradients_drop_what_the_result_dropped(run: Callable[..., str]) -> None:
    """The result is linear in the values: it is the sum of the gradients times them, with the same scores dropped."""
    run(
        AGREES
        + """
query, key, value = (torch.randn(1, 2, 8, 16).npu().requires_grad_() for _ in range(3))
results = []
for _ in range(2):
    out = torch_npu.npu_fusion_attention(query, key, value, 2, "BNSD", keep_prob=0.5)[0]
    (grad,) = torch.autograd.grad(out.sum(), value)
    torch.testing.assert_close((grad * value).sum(), out.sum(), rtol=1e-4, atol=1e-4)
    results.append(out)
assert not torch.equal(*results)
tokens = [each[0].transpose(0, 1).contiguous() for each in (query, key, value)]
ends = {"actual_seq_qlen": [4, 8], "actual_seq_kvlen": [4, 8]}
out = torch_npu.npu_fusion_attention(*tokens, 2, "TND", keep_prob=0.5, **ends)[0]
(grad,) = torch.autograd.grad(out.sum(), tokens[2])
torch.testing.assert_close((grad * tokens[2]).sum(), out.sum(), rtol=1e-4, atol=1e-4)
""",
        UNIFY_SIMULATE=ON_950,
    )
