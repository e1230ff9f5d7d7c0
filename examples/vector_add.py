"""A kernel of one's own: adds two vectors, checks the sum, and says how fast the memory was read and written.

python examples/vector_add.py [--device cpu] [--n 10000000]
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import triton.language as tl

import unify as un


# One program adds BLOCK neighbouring elements; the mask keeps the last one inside the vectors.
@un.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out + i, tl.load(x + i, mask=inside) + tl.load(y + i, mask=inside), mask=inside)


def add(x, y, out):
    """out = x + y for one-dimensional arrays of any library, on the device that they are on."""
    n, block = len(out), 4096
    add_kernel[(-(-n // block),)](x, y, out, n, BLOCK=block)


def milliseconds(work, device, repeats=15):
    """The median time of `work` on the device, between two events: what a launch costs the host is not in it."""
    work()  # compiles, and touches the memory for the first time
    times = []
    for _ in range(repeats):
        begin, end = un.event(device, timing=True), un.event(device, timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_ms(end))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default=None, help="e.g. cpu or cuda:0; default: unify's")
    parser.add_argument("--n", type=int, default=10_000_000, help="elements of each vector")
    asked = parser.parse_args()
    device = un.device(asked.device)

    rng = np.random.default_rng(0)
    on_host = [rng.standard_normal(asked.n, dtype=np.float32) for _ in range(2)]
    x, y = (un.asarray(array, device=device) for array in on_host)
    out = un.empty_like(x)
    taken = milliseconds(lambda: add(x, y, out), device)
    np.testing.assert_array_equal(out.numpy(), on_host[0] + on_host[1])
    moved = x.nbytes + y.nbytes + out.nbytes
    where = f"{device.name} (simulated)" if device.properties["simulated"] else device.name
    print(f"{asked.n:,} elements on {where}: {taken:.3f} ms, {moved / taken / 1e6:.1f} GB/s")


if __name__ == "__main__":
    main()
