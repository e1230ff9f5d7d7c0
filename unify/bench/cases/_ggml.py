"""One matrix product through ggml, the library under llama.cpp, by ctypes: no model around it.

The declarations follow ggml.h and ggml-cpu.h of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from typing import Any

TYPES = {"fp32": 0, "q4_0": 2, "q4_1": 3, "q8_0": 8}  # enum ggml_type
_SPARE_BYTES = 1 << 20  # headers of tensors and of the graph


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class _Plan(ctypes.Structure):
    _fields_ = [
        ("work_size", ctypes.c_size_t),
        ("work_data", ctypes.c_void_p),
        ("n_threads", ctypes.c_int),
        ("threadpool", ctypes.c_void_p),
        ("abort_callback", ctypes.c_void_p),
        ("abort_callback_data", ctypes.c_void_p),
        ("use_ref", ctypes.c_bool),
        ("later_versions", ctypes.c_uint8 * 64),  # returned through memory, so room to grow costs nothing
    ]


def _libraries() -> tuple[Any, Any]:
    llama_cpp = importlib.import_module("llama_cpp")
    folder = Path(str(llama_cpp.__file__)).parent / "lib"
    base, cpu = (ctypes.CDLL(str(folder / f"libggml-{part}.so")) for part in ("base", "cpu"))
    pointer = ctypes.c_void_p
    base.ggml_init.argtypes, base.ggml_init.restype = [_InitParams], pointer
    base.ggml_new_tensor_2d.argtypes = [pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    base.ggml_mul_mat.argtypes = [pointer, pointer, pointer]
    base.ggml_new_graph.argtypes = base.ggml_get_data.argtypes = [pointer]
    base.ggml_build_forward_expand.argtypes, base.ggml_build_forward_expand.restype = [pointer, pointer], None
    for function in (base.ggml_new_tensor_2d, base.ggml_mul_mat, base.ggml_new_graph, base.ggml_get_data):
        function.restype = pointer
    cpu.ggml_graph_plan.argtypes, cpu.ggml_graph_plan.restype = [pointer, ctypes.c_int, pointer], _Plan
    cpu.ggml_graph_compute.argtypes, cpu.ggml_graph_compute.restype = [pointer, ctypes.POINTER(_Plan)], ctypes.c_int
    cpu.ggml_cpu_init()
    return base, cpu


class MatrixProduct:
    """x · weightᵀ, computed by each call. raw: the weight's blocks as in a GGUF file, uint8 [n, bytes of a row]."""

    def __init__(self, kind: str, raw: Any, x: Any, threads: int) -> None:
        base, self._cpu = _libraries()
        n, (m, k) = raw.shape[0], x.shape
        size = raw.nbytes + x.nbytes + 4 * m * n + _SPARE_BYTES
        context = base.ggml_init(_InitParams(size, None, False))
        weight = base.ggml_new_tensor_2d(context, TYPES[kind], k, n)
        activations = base.ggml_new_tensor_2d(context, TYPES["fp32"], k, m)
        ctypes.memmove(base.ggml_get_data(weight), raw.ctypes.data, raw.nbytes)
        ctypes.memmove(base.ggml_get_data(activations), x.ctypes.data, x.nbytes)
        product = base.ggml_mul_mat(context, weight, activations)
        self._graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(self._graph, product)
        self._plan = self._cpu.ggml_graph_plan(self._graph, threads, None)
        self._work = ctypes.create_string_buffer(max(1, self._plan.work_size))
        self._plan.work_data = ctypes.addressof(self._work)
        self._values, self._shape = base.ggml_get_data(product), (m, n)

    def __call__(self) -> None:
        """Computes it once; raises RuntimeError if ggml says no."""
        status = self._cpu.ggml_graph_compute(self._graph, ctypes.byref(self._plan))
        if status:
            raise RuntimeError(f"ggml_graph_compute returned {status}")

    def result(self) -> Any:
        """The product as a NumPy array."""
        import numpy as np

        self()
        values = (ctypes.c_float * (self._shape[0] * self._shape[1])).from_address(self._values)
        return np.frombuffer(values, np.float32).reshape(self._shape).copy()
