"""Arrays of torch that are no memory to share, or whose gradient would be lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unify as un
from unify import ops


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of what is new or old there
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.empty(3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.ones(3, dtype=torch.complex64),
    ],
    ids=["sparse", "csr", "meta", "quantized", "complex"],
)
def test_what_is_no_plain_array_of_numbers_is_an_error_of_unify(make) -> None:
    with pytest.raises(un.InvalidArgument):
        un.asarray(make())
    with pytest.raises(un.InvalidArgument):
        ops.rms_norm(make(), torch.ones(3))


def test_a_tensor_that_requires_a_gradient_is_refused_while_gradients_are_recorded() -> None:
    weight = torch.ones(64, requires_grad=True)
    x = torch.randn(5, 64)
    for call in (lambda: un.asarray(weight), lambda: un.asarray(torch.nn.Parameter(x))):
        with pytest.raises(
            un.InvalidArgument, match=r"asarray|array: the tensor requires a gradient.*detach\(\).*no_grad"
        ):
            call()
    with pytest.raises(un.InvalidArgument, match=r"rms_norm: weight: the tensor requires a gradient.*detach\(\)"):
        ops.rms_norm(x, weight)
    expected = torch.nn.functional.rms_norm(x, (64,), weight, 1e-6).detach()
    torch.testing.assert_close(ops.rms_norm(x, weight.detach()), expected)
    with torch.no_grad():
        torch.testing.assert_close(ops.rms_norm(x, weight), expected)
        assert un.asarray(weight).address == weight.data_ptr()
    with torch.inference_mode():
        assert not ops.rms_norm(x, weight).requires_grad


def test_a_kernel_takes_tensors_that_require_a_gradient_as_triton_does() -> None:
    import triton.language as tl

    @un.jit
    def doubled(x, out, BLOCK: tl.constexpr = 16):
        i = tl.arange(0, BLOCK)
        tl.store(out + i, tl.load(x + i) * 2)

    x, out = torch.ones(16, requires_grad=True), torch.zeros(16)
    doubled[(1,)](x, out)
    np.testing.assert_array_equal(out.numpy(), np.full(16, 2, np.float32))
