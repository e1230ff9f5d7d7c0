"""A trace of what was enqueued and what ran, for https://ui.perfetto.dev: one layer's worth of operators.

python examples/write_trace.py [trace.json]
"""

from __future__ import annotations

import sys

import numpy as np

import unify as un
from unify import ops

TOKENS, WIDTH, HEADS = 128, 512, 8


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "trace.json"
    rng = np.random.default_rng(0)
    device = un.default_device()
    x = un.asarray(rng.standard_normal((TOKENS, WIDTH), dtype=np.float32), device=device)
    weight = un.asarray(rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH**0.5, device=device)
    scale = un.ones(WIDTH, device=device)

    def layer(x):
        with un.span("attention"):  # a span of the host's: how long it took to enqueue
            normed = ops.rms_norm(x, scale)
            heads = ops.linear(normed, weight).reshape(TOKENS, HEADS, WIDTH // HEADS)
            mixed = ops.attention(heads, heads, heads).reshape(TOKENS, WIDTH)
        with un.span("output"):
            return ops.linear(mixed, weight)

    layer(x)  # compiles: without this the trace would show little else
    un.synchronize()
    with un.trace(path), un.stream():  # on a stream of its own the host runs ahead, as it does on an accelerator
        for _ in range(3):
            with un.span("layer"):
                layer(x)
    print(f"{path}: open it at https://ui.perfetto.dev (it stays on your machine)")


if __name__ == "__main__":
    main()
