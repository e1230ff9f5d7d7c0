"""What the chip refuses when an operator is prepared: at the line, in the vendor's words, before anything runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

REFUSED = """
def refused(work, call, words):
    said = raised(work)
    assert f"call {call} failed, error code is 161002" in said, said
    assert f"AclNN_Parameter_Error(EZ1001): {words}" in said, said
x = torch.ones(2, 3).npu()
"""


def test_types_are_refused_in_the_words_of_a_chip(run: Callable[..., str]) -> None:
    # The first is diffusers#10820 on a 910B; the chip's list is as long as the version of the vendor's library.
    run(
        REFUSED
        + """
double = torch.ones(2, 3, dtype=torch.float64).npu()
refused(lambda: double.repeat_interleave(2, dim=1), "aclnnRepeatInterleaveIntWithDim",
        "Tensor self not implemented for DT_DOUBLE, should be in dtype support list [DT_FLOAT,DT_FLOAT16,DT_BF16,")
refused(lambda: torch.nn.functional.gelu(double), "aclnnGelu",
        "Tensor self not implemented for DT_DOUBLE, should be in dtype support list [DT_FLOAT,DT_FLOAT16,DT_BF16,].")
for kind, name in ((torch.float64, "DOUBLE"), (torch.int32, "INT32")):
    factor = torch.ones(2, 2, dtype=kind).npu()
    refused(lambda: factor @ factor, "aclnnMatmul", f"Tensor self not implemented for DT_{name}, should be in")
assert (double + double).sum().item() == 12
"""
    )


def test_shapes_that_do_not_go_together_are_refused_before_anything_runs(run: Callable[..., str]) -> None:
    run(
        REFUSED
        + """
refused(lambda: x @ x, "aclnnMatmul", "a and b must have same reduction dim, but got [2, 3] X")
refused(lambda: torch.bmm(x[None], x[None]), "aclnnBatchMatMul", "Expected size for first two dimensions")
refused(lambda: torch.cat([x, x.t()]), "aclnnCat", "Sizes of tensors must match except in dimension 0.")
refused(lambda: torch_npu.npu_rms_norm(x, torch.ones(4).npu()), "aclnnRmsNorm", "Attempting to broadcast a dimension")
counts = torch.tensor([2, 3]).npu()
def grouped(depth):  # whose work depends on values, but not its depth
    rows, weight = torch.ones(5, 8).npu(), torch.ones(2, depth, 4).npu()
    return torch_npu.npu_grouped_matmul([rows.half()], [weight.half()], group_list=counts, split_item=3, group_type=0,
                                        group_list_type=1)[0]
assert grouped(8).unique().tolist() == [8]
refused(lambda: grouped(7), "aclnnGroupedMatmulV5", "x is [5, 8], a weight of [2, 7, 4] needs [rows, 7].")
refused(lambda: torch.ones([1] * 9).npu().abs(), "aclnnAbs", "Tensor self has 9 dimensions; it may have at most 8.")
for _ in range(2):  # also what was refused before
    refused(lambda: x @ x, "aclnnMatmul", "a and b must have same reduction dim")
torch.npu.synchronize()
assert (x @ x.t()).sum().item() == 12
"""
    )


@pytest.mark.parametrize("soc", ["910B3", "950"])
def test_what_the_950_has_more_is_refused_elsewhere(run: Callable[..., str], soc: str) -> None:
    program = """
numbers = torch.tensor([1 + 2j, 3j, 4]).to(torch.complex64).npu()
def pick():
    return numbers[torch.tensor([2, 0]).npu()]
"""
    if soc == "950":
        program += "assert pick().tolist() == [4, 1 + 2j]"
    else:
        program += 'refused(pick, "aclnnIndex", "Tensor self not implemented for DT_COMPLEX64, should be in")'
    run(REFUSED + program, UNIFY_SIMULATE=f"ascend:{soc},1g")


def test_work_whose_shapes_depend_on_values_is_not_refused_by_its_form(run: Callable[..., str]) -> None:
    run(
        """
found = torch.tensor([0, 3, 0, 5]).npu().nonzero()
assert found.flatten().tolist() == [1, 3]
assert torch.tensor([3, 1, 3]).npu().unique().tolist() == [1, 3]
torch.nn.functional.interpolate(torch.zeros(0, 3, 2).npu(), 4)  # a TypeError in torch's own check of its form
words = torch.arange(12.0).reshape(4, 3).npu()
bags = torch.nn.functional.embedding_bag(torch.tensor([0, 1, 3]).npu(), words, torch.tensor([0, 2]).npu(), mode="sum")
assert bags.tolist() == [[3, 5, 7], [9, 10, 11]]
assert "507015" in raised(lambda: torch.gather(words, 1, torch.tensor([[5]]).npu()).cpu())
"""
    )
