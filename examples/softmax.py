"""A fused kernel: the softmax of each row in one pass over memory, against NumPy, and torch where it is installed.

    python examples/softmax.py [--rows 4096] [--columns 1000]

The times are of one run on a machine that may be busy. `unify bench softmax --vs torch` measures in pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import triton
import triton.language as tl

import unify as un


# One program a row, which it holds as a whole: it is read once and written once, whatever happens in between.
@un.jit
def softmax_kernel(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(x + row + column, mask=inside, other=-float("inf"))
    value = tl.exp(value - tl.max(value, axis=0))
    tl.store(out + row + column, value / tl.sum(value, axis=0), mask=inside)


def softmax(x):
    """Softmax over the last axis of a contiguous float32 array of any library."""
    x = un.asarray(x)
    out = un.empty_like(x)
    rows, columns = x.shape
    softmax_kernel[(rows,)](x, out, columns, BLOCK=triton.next_power_of_2(columns))
    return out


def numpy_softmax(x):
    """The same in NumPy: each step is a pass over memory of its own."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def milliseconds(work, repeats=9):
    """The median time of `work`, after a call that does not count."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=1000)
    asked = parser.parse_args()

    array = np.random.default_rng(0).standard_normal((asked.rows, asked.columns), dtype=np.float32)
    x = un.asarray(array)
    expected = numpy_softmax(array.astype(np.float64))
    np.testing.assert_allclose(softmax(x).numpy(), expected, rtol=1e-5, atol=1e-7)

    def ours():
        softmax(x)
        un.synchronize()

    peers = {"unify": ours, "NumPy": lambda: numpy_softmax(array)}
    try:
        import torch
    except ImportError:
        pass
    else:
        tensor = torch.from_numpy(array)
        peers["torch"] = lambda: torch.softmax(tensor, dim=1)
        # The kernel takes torch's tensor where it lies, without a copy.
        torch.testing.assert_close(torch.from_dlpack(softmax(tensor)), torch.softmax(tensor, dim=1))
    for name, work in peers.items():
        print(f"{name:6} {milliseconds(work):8.3f} ms")


if __name__ == "__main__":
    main()
