"""Weights in the format NZ; a program of test_serving.py."""

import torch
import torch_npu

from tests.simulator.operators.agreement import int8, product, report, same

NZ = 29


def check_weights() -> None:
    torch.npu.config.allow_internal_format = True
    x, weight = int8(5, 64), int8(64, 96)
    scale, x_scale = torch.rand(96) / 100, torch.rand(5)
    there = torch_npu.npu_format_cast(weight.npu(), NZ)
    assert torch_npu.get_npu_format(there) == torch_npu.Format.FRACTAL_NZ
    same("NZ and back", torch_npu.npu_format_cast(there, 2), weight)
    found = torch_npu.npu_quant_matmul(
        x.npu(), there, scale.npu(), pertoken_scale=x_scale.npu(), output_dtype=torch.bfloat16
    )
    expected = product(x, weight) * scale * x_scale.unsqueeze(1)
    same("quant_matmul", found, expected.bfloat16(), 1e-2)
    experts, ends = int8(2, 64, 96), torch.tensor([2, 5])
    found = torch_npu.npu_grouped_matmul(
        [x.npu()], [torch_npu.npu_format_cast(experts.npu(), NZ)], scale=[torch.stack((scale, scale)).npu()],
        per_token_scale=[x_scale.npu()], group_list=ends.npu(), group_type=0, split_item=2, output_dtype=torch.half,
    )[0]  # fmt: skip
    expected = torch.cat((product(x[:2], experts[0]), product(x[2:], experts[1]))) * scale * x_scale.unsqueeze(1)
    same("grouped_matmul", found, expected.half(), 1e-3)
    tokens, of_weight = torch.randn(5, 64).half(), torch.rand(96).half()
    turned = torch.randn(96, 64).half()
    linear = torch.nn.functional.linear(tokens.npu(), torch_npu.npu_format_cast(turned.npu(), NZ))
    same("linear", linear, (tokens.double() @ turned.T.double()).half(), 2e-3)
    found = torch_npu.npu_weight_quant_batchmatmul(tokens.npu(), there, of_weight.npu())
    same("weight_quant_batchmatmul", found, (tokens.float() @ (weight * of_weight.float())).half(), 2e-3)


report([check_weights])
