"""Each of torch's own samples of its operators on `npu` and on the CPU. A program: it runs in torch_npu's environment.

Arguments: a number and how many, for a part of them; or names. Prints a line of JSON for each operator and dtype:
{"name", "dtype", "result", "why"}; result: "agrees", "host" (agrees, and torch_npu ran a part of it on the CPU),
"differs", "fails", "none" (torch has no samples). An operator runs in a child of fork: what it breaks is its own.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
import torch_npu  # noqa: F401 - makes "npu" a device
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten, tree_map

DTYPES = (torch.float32, torch.bfloat16)
FALLEN = re.compile(r"operator '([\w:.]+)' is not currently supported on the NPU backend and will fall back")
SAMPLES = 12  # of each operator and dtype: the first ones are the plainest
LIMIT_S = 60.0
# Of two computations that sum in another order; torch's own for float32, a little over a rounding for bfloat16.
TOLERANCES = {torch.float32: (1e-4, 1e-5), torch.bfloat16: (2e-2, 2e-2)}
# Their results are memory as it happens to be, or random numbers.
UNEQUAL = {
    "empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided", "resize_", "resize_as_",
    "bernoulli", "multinomial", "normal", "rand_like", "randint", "randint_like", "randn", "randn_like", "uniform",
    "exponential", "cauchy", "geometric", "log_normal", "nn.functional.dropout", "nn.functional.dropout2d",
    "nn.functional.dropout3d", "nn.functional.alpha_dropout", "nn.functional.feature_alpha_dropout",
    "nn.functional.fractional_max_pool2d", "nn.functional.fractional_max_pool3d", "nn.functional.rrelu",
    "pca_lowrank", "svd_lowrank", "nn.functional.multi_head_attention_forward",
    "nn.functional.scaled_dot_product_attention_dropout",
}  # fmt: skip


def moved(value: Any) -> Any:
    """A sample's argument for the device: its tensors there, and "cpu" renamed."""
    if isinstance(value, torch.Tensor):
        return value.detach().npu()
    if isinstance(value, torch.device) or (isinstance(value, str) and value == "cpu"):
        return torch.device("npu")
    return value


def tensors(value: Any) -> list[torch.Tensor]:
    return [each for each in tree_flatten(value)[0] if isinstance(each, torch.Tensor)]


def compare(found: Any, expected: Any, dtype: torch.dtype, only_shapes: bool) -> None:
    here, there = tensors(found), tensors(expected)
    assert len(here) == len(there), f"{len(here)} tensors for {len(there)}"
    rtol, atol = TOLERANCES[dtype]
    for one, other in zip(here, there, strict=True):
        assert one.device.type in ("npu", "cpu")
        if only_shapes:
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
        else:
            torch.testing.assert_close(one.cpu(), other, rtol=rtol, atol=atol, equal_nan=True)


def said_of_both(op: Any, sample: Any, found: Any, expected: Any, dtype: torch.dtype) -> str:
    """How far bfloat16 results are from float32's: the device's, and the CPU's own. Empty where there is no telling."""
    if dtype != torch.bfloat16:
        return ""

    def widened(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value

    input_, args, kwargs = tree_map(widened, (sample.input, sample.args, sample.kwargs))
    exact = tensors(op(input_, *args, **kwargs))

    def off(results: Any) -> float:
        pairs = zip(tensors(results), exact, strict=True)
        return max(float((one.cpu().float() - other).abs().max()) for one, other in pairs if other.is_floating_point())

    try:
        return f"Off from float32's result by {off(found):.2g}, torch's on the CPU by {off(expected):.2g}. "
    except (RuntimeError, ValueError):
        return ""


def tried(op: Any, dtype: torch.dtype) -> tuple[str, str]:
    """The result, and why."""
    if dtype not in op.supported_dtypes("cpu"):
        return "none", "torch's CPU operator has no such dtype"
    count = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
        given = tree_map(moved, (sample.input, sample.args, sample.kwargs))
        with torch.no_grad():
            expected = op(sample.input, *sample.args, **sample.kwargs)
            found = op(given[0], *given[1], **given[2])
        try:
            compare(found, expected, dtype, op.name in UNEQUAL or bool(sample.kwargs.get("dropout_p")))
        except AssertionError as error:
            return "differs", said_of_both(op, sample, found, expected, dtype) + str(error)
        count += 1
        if count == SAMPLES:
            break
    return ("agrees", "") if count else ("none", "torch has no samples")


def in_child(op: Any, dtype: torch.dtype) -> tuple[str, str]:
    with tempfile.TemporaryFile() as log:
        result, why = answered(op, dtype, log.fileno())
        log.seek(0)
        fallen = FALLEN.search(log.read().decode(errors="replace"))
    if result == "agrees" and fallen:
        return "host", f"{fallen[1]} runs on the host"
    return result, why


def answered(op: Any, dtype: torch.dtype, log: int) -> tuple[str, str]:
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(log, 2)  # torch_npu says there, and once, what it runs on the CPU
        try:
            answer = tried(op, dtype)
        except BaseException as error:
            answer = "fails", f"{type(error).__name__}: {error}" + ("" if str(error) else traceback.format_exc())
        os.write(writes, json.dumps((answer[0], answer[1][:1500])).encode())
        os._exit(0)
    os.close(writes)
    text, end = b"", time.monotonic() + LIMIT_S
    os.set_blocking(reads, False)
    while time.monotonic() < end:
        try:
            part = os.read(reads, 65536)
        except BlockingIOError:
            time.sleep(0.002)
            continue
        if not part:
            break
        text += part
    else:
        os.kill(child, 9)
    os.close(reads)
    status = os.waitpid(child, 0)[1]
    if text:
        result, why = json.loads(text)
        return str(result), str(why)
    return "fails", f"its process ended with status {status}" if time.monotonic() < end else f"not done in {LIMIT_S} s"


def chosen(arguments: list[str]) -> Iterator[Any]:
    if arguments and arguments[0].isdecimal():
        part, parts = map(int, arguments)
        yield from op_db[part::parts]
    else:
        yield from (op for op in op_db if not arguments or name_of(op) in arguments or op.name in arguments)


def name_of(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def main() -> None:
    torch.set_num_threads(1)
    for op in chosen(sys.argv[1:]):
        for dtype in DTYPES:
            result, why = in_child(op, dtype)
            line = {"name": name_of(op), "dtype": str(dtype).removeprefix("torch."), "result": result, "why": why}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
