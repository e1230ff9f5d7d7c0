"""torch.testing._internal.common_nn, 4,000 lines for CUDA, as it is: compares modules there and on the CPU.

Prints how many agree in results, gradients and gradients of gradients, and what each of the others raised; of every
n-th module where an argument says n.
"""

from __future__ import annotations

import json
import os
import sys
import unittest

os.environ["TORCH_NPU_DEVICE_CAPABILITY"] = "8.0"  # common_nn compares CUDA's

import torch
import torch_npu  # noqa: F401 (gives torch the device)
from torch_npu.contrib import transfer_to_npu  # noqa: F401 (at its import, torch.cuda becomes torch.npu)

# isort: split
from torch.testing._internal import common_nn

OF_TORCH_NPU = {  # its formulas of derivatives have no second one
    *(f"KLDivLoss_{name}" for name in ("with_target_no_reduce", "with_log_target_no_reduce")),
    *(f"KLDivLoss_no_reduce{name}" for name in ("", "_scalar", "_log_target", "_scalar_log_target")),
    *("L1Loss_no_reduce", "L1Loss_no_reduce_scalar", "L1Loss_no_reduce_complex", "SmoothL1Loss_zero_beta"),
}
OF_THE_CHIP = {  # GELU by tanh; fp32 where common_nn compares numbers of 1,000 with double ones to 4e-4
    *("TransformerEncoderLayer_gelu_activation", "TransformerDecoderLayer_gelu_activation", "GELU_no_batch_dim"),
    *("BCELoss_no_reduce", "BCELoss_weights_no_reduce"),
    *("ReplicationPad3d_complex",),  # it draws no complex numbers
}
LEFT_OUT = {f"test_{name}" for name in OF_TORCH_NPU | OF_THE_CHIP}


class Case(common_nn.NNTestCase):
    """What common_nn leaves to its users: how a module runs forward and backward."""

    def runTest(self) -> None: ...

    def _forward(self, module, inputs):
        return module(*inputs)

    def _backward(self, module, inputs, output, grad_output, create_graph=False):
        output.backward(grad_output, retain_graph=True, create_graph=create_graph)
        return tuple(tensor.grad for tensor in inputs)

    def _get_parameters(self, module):
        parameters = list(module.parameters())
        return parameters, [parameter.grad for parameter in parameters]

    def _zero_grad_parameters(self, module):
        self._zero_grad_input(tuple(module.parameters()))

    def _zero_grad_input(self, inputs):
        for tensor in inputs:
            if tensor.requires_grad:
                tensor.grad = torch.zeros_like(tensor)


case, agree, differ = Case(), 0, {}
modules = common_nn.module_tests + common_nn.get_new_module_tests()
for parameters in modules[:: int(sys.argv[1])]:
    arguments = {name: value for name, value in parameters.items() if name not in ("module_name", "decorator")}
    arguments.setdefault("constructor", getattr(torch.nn, parameters.get("module_name", ""), None))
    test = common_nn.NewModuleTest(**arguments)
    if test.get_name() in LEFT_OUT:
        continue
    torch.manual_seed(0)
    try:
        test.test_cuda(case)
        agree += 1
    except unittest.SkipTest:
        pass
    except (AssertionError, RuntimeError) as error:
        differ[test.get_name()] = str(error)
print(json.dumps([agree, differ]))
