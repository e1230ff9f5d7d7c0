"""What does a launch cost the host, and what a node of a graph?

One kernel of 8 arguments, 4 pointers and 4 numbers, one program that returns at once. All but Triton launch one cubin.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_common import cuda_core, cupy_cuda, driver, host_side, torch_cuda
from launch_arguments import kernel_8

import unify as un
from unify.bench import Case, Setup, Side
from unify.bench.case import MICROSECONDS
from unify.errors import UnsupportedError

NODES = 100
NUMBERS = (64, 80, 96, 112)
LAUNCH = "host time of one launch, 8 arguments"
GRAPH = f"one node of a graph of {NODES} kernels, replayed"


def cases(is_smoke: bool = False) -> list[Case]:
    launch_peers = {"c++": _driver, "triton": _triton, "cuda.core": _cuda_core, "cupy": _cupy}
    raw_peers = {name: build for name, build in launch_peers.items() if name != "triton"}
    graph_peers = {"torch": _torch_graph, "cupy": _cupy_graph}
    calls, replays = (20, 2) if is_smoke else (10_000, 200)
    return [
        Case("launch-triton", "launch", LAUNCH + ", Triton", MICROSECONDS, _jit, launch_peers, calls=calls),
        Case("launch-raw", "launch", LAUNCH + ", raw kernel", MICROSECONDS, _raw, raw_peers, calls=calls),
        Case("graph-node", "graph", GRAPH, MICROSECONDS, _graph, graph_peers, calls=replays),
    ]


# ---------------------------------------------------------------- what all launch


@functools.cache
def _binary(device: Any) -> un.compiler.Binary:
    types = dict.fromkeys(["a", "b", "c", "d"], "*i32:16") | dict.fromkeys(["e", "f", "g", "h"], "i32:16")
    return un.compile(un.jit(kernel_8), device.target, types)


@functools.cache
def _arrays(device: Any) -> list[Any]:
    return [un.zeros(64, un.int32, device=device) for _ in range(4)]


def _addresses(device: Any) -> list[int]:
    return [array.address for array in _arrays(device)]


# ---------------------------------------------------------------- launches


def _jit(setup: Setup) -> Side:
    device = un.device(setup.device)
    launch = un.jit(kernel_8)
    arguments = (*_arrays(device), *NUMBERS)
    return host_side(lambda: launch[(1,)](*arguments), device.synchronize)


def _raw(setup: Setup) -> Side:
    device = un.device(setup.device)
    function = un.Module.from_binary(_binary(device), device).function()
    arguments = (*_arrays(device), *NUMBERS)
    return host_side(lambda: function[1](*arguments), device.synchronize)


def _driver(setup: Setup) -> Side:
    device = un.device(setup.device)
    binary, loops = _binary(device), driver(device)
    scratch = [binary.args_bytes - 16, binary.args_bytes - 8]  # Triton's two further pointers
    packed = bytearray(binary.args_bytes)
    for parameter, value in zip(binary.parameters, (*_addresses(device), *NUMBERS), strict=True):
        struct.pack_into("<q" if parameter.type.startswith("*") else "<i", packed, parameter.offset, value)
    offsets = [*(parameter.offset for parameter in binary.parameters), *scratch]
    device.synchronize()
    function = loops.load(binary.image, binary.name)

    def cost(calls: int) -> float:
        once = min(calls, 500)
        rounds = max(1, calls // once)
        launch = functools.partial(
            loops.launch_s, function, bytes(packed), offsets, binary.threads, binary.shared_bytes
        )
        return sum(launch(once) for _ in range(rounds)) / rounds

    return Side(cost=cost)


def _triton(setup: Setup) -> Side:
    torch = torch_cuda()
    index = un.device(setup.device).index
    arrays = [torch.zeros(64, dtype=torch.int32, device=f"cuda:{index}") for _ in range(4)]
    arguments = (*arrays, *NUMBERS)
    return host_side(lambda: kernel_8[(1,)](*arguments), torch.cuda.synchronize)


def _cuda_core(setup: Setup) -> Side:
    core, device = cuda_core(), un.device(setup.device)
    chip = core.Device(device.index)
    chip.set_current()
    stream, binary = chip.create_stream(), _binary(device)
    kernel = core.ObjectCode.from_cubin(binary.image).get_kernel(binary.name)
    config = core.LaunchConfig(grid=1, block=binary.threads, shmem_size=binary.shared_bytes)
    # An int is a pointer to cuda.core; the last two are Triton's own.
    arguments = (*_addresses(device), *map(np.int32, NUMBERS), 0, 0)
    return host_side(lambda: core.launch(stream, config, kernel, *arguments), stream.sync)


def _cupy_function(cupy: Any, device: Any) -> Callable[[], object]:
    binary = _binary(device)
    module = cupy.cuda.Module()
    module.load(binary.image)
    function = module.get_function(binary.name)
    arguments = (*map(np.uint64, _addresses(device)), *map(np.int32, NUMBERS), np.uint64(0), np.uint64(0))
    return lambda: function((1,), (binary.threads,), arguments, shared_mem=binary.shared_bytes)


def _cupy(setup: Setup) -> Side:
    cupy, device = cupy_cuda(), un.device(setup.device)
    step = _cupy_function(cupy, device)
    return host_side(step, cupy.cuda.get_current_stream().synchronize)


# ---------------------------------------------------------------- graphs


def _graph(setup: Setup) -> Side:
    device = un.device(setup.device)
    launch, arguments, stream = un.jit(kernel_8), (*_arrays(device), *NUMBERS), un.stream(device)
    launch[(1,)](*arguments, stream=stream)
    with un.Graph.capture(stream) as graph:
        for _ in range(NODES):
            launch[(1,)](*arguments, stream=stream)
    return _per_node(lambda: graph.launch(stream), stream.synchronize)


def _per_node(replay: Callable[[], object], finish: Callable[[], object]) -> Side:
    from unify.bench.timing import timed

    def cost(calls: int) -> float:
        timed(replay, finish, max(1, calls // 10))
        return timed(replay, finish, calls) / NODES

    return Side(step=replay, finish=finish, cost=cost)


def _torch_graph(setup: Setup) -> Side:
    torch = torch_cuda()
    index = un.device(setup.device).index
    arguments = (*(torch.zeros(64, dtype=torch.int32, device=f"cuda:{index}") for _ in range(4)), *NUMBERS)
    kernel_8[(1,)](*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(NODES):
            kernel_8[(1,)](*arguments)
    return _per_node(graph.replay, torch.cuda.synchronize)


def _cupy_graph(setup: Setup) -> Side:
    cupy, device = cupy_cuda(), un.device(setup.device)
    step, stream = _cupy_function(cupy, device), cupy.cuda.Stream(non_blocking=True)
    if not hasattr(stream, "begin_capture"):
        raise UnsupportedError(f"CuPy {cupy.__version__} records no graphs")
    with stream:
        stream.begin_capture()
        for _ in range(NODES):
            step()
        graph = stream.end_capture()
    return _per_node(lambda: graph.launch(stream), stream.synchronize)
