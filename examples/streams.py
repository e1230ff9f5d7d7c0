"""Streams, events and a graph: copying in while computing, then a step that is recorded once and launched often.

python examples/streams.py
"""

from __future__ import annotations

import time

import numpy as np
import triton.language as tl

import unify as un

CHUNK = 1 << 20
BLOCK = 4096
GRID = (CHUNK // BLOCK,)


@un.jit
def add_squares(total, x, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i)
    tl.store(total + i, tl.load(total + i) + value * value)


@un.jit
def decay(x, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i) * factor)


def sum_of_squares(chunks):
    """Adds up the squares of arrays in host memory, with two buffers: one is filled while the other is read."""
    copying, computing = un.stream(), un.stream()
    total = un.zeros(CHUNK)
    buffers = [un.empty(CHUNK), un.empty(CHUNK)]
    filled = [un.event(), un.event()]
    read = [un.event(), un.event()]  # counts as passed until it is recorded
    computing.wait(un.current_stream())  # which fills `total` with zeros
    for number, chunk in enumerate(chunks):
        turn = number % 2
        copying.wait(read[turn])
        buffers[turn].copy_(chunk, stream=copying)
        filled[turn].record(copying)
        computing.wait(filled[turn])
        add_squares[GRID](total, buffers[turn], BLOCK=BLOCK, stream=computing)
        read[turn].record(computing)
    computing.synchronize()
    return total


def microseconds_a_step(launch, steps=2000):
    """What a step costs the host and the device together."""
    launch()
    un.synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        launch()
    un.synchronize()
    return 1e6 * (time.perf_counter() - begin) / steps


def main():
    rng = np.random.default_rng(0)
    chunks = [rng.standard_normal(CHUNK, dtype=np.float32) for _ in range(6)]
    expected = np.sum(np.square(chunks), axis=0)
    np.testing.assert_allclose(sum_of_squares(chunks).numpy(), expected, rtol=1e-5)
    print(f"{len(chunks)} chunks of {CHUNK:,} copied and squared on two streams")

    # Four launches on a few elements: they cost what launching costs.
    small = un.ones(BLOCK)

    def step():
        for factor in (2.0, 0.5, 4.0, 0.25):
            decay[(1,)](small, factor, BLOCK=BLOCK)

    step()  # compiles; while a graph is recorded nothing runs
    with un.Graph.capture() as graph:
        step()
    print(f"a step of {len(graph)} launches, one by one: {microseconds_a_step(step):.1f} µs")
    print(f"the same as a graph:            {microseconds_a_step(graph.launch):.1f} µs")
    np.testing.assert_array_equal(small.numpy(), 1.0)


if __name__ == "__main__":
    main()
