"""What an operator of torch_npu costs the host on simulated chips, beside the same operator of torch on the CPU.

    unify simulate ascend -- python benchmarks/npu_operator.py [--elements 6] [--count 5000] [--repeats 9]

An addition of so few elements is all cost of the host: torch's dispatch, torch_npu's queue, the two calls of the
vendor's library, the stream. Times are of this machine; no chip's launch is in them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch_npu  # noqa: F401 - makes "npu" a device


def per_call_us(count: int, work: Callable[[], object], end: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        work()
    end()
    return (time.perf_counter() - begin) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=6)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    here, there = torch.randn(args.elements), torch.randn(args.elements).npu()
    times: dict[str, list[float]] = {"npu": [], "cpu": []}
    for _ in range(args.repeats + 1):
        times["npu"].append(per_call_us(args.count, lambda: there + there, torch.npu.synchronize))
        times["cpu"].append(per_call_us(args.count, lambda: here + here, lambda: None))
    for name, all_us in times.items():
        us = sorted(all_us[1:])  # the first one warms up
        print(
            f"{name}: {statistics.median(us):.2f} us an addition of {args.elements} (from {us[0]:.2f} to {us[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
