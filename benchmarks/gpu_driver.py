"""The least that a launch or a copy costs on an Nvidia GPU: C++ loops over the driver, and nothing else.

Compiled when first asked for, by c++ against the cuda.h that comes with Triton. It links nothing: libcuda is opened by
its path, which may be that of a simulated one.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from unify.errors import UnsupportedError

SOURCE = r"""
#include <cuda.h>
#include <dlfcn.h>

#include <chrono>

namespace {
void* library;
template <class Function> Function symbol(const char* name) { return reinterpret_cast<Function>(dlsym(library, name)); }
#define DRIVER(name, type) static auto name##_ = symbol<CUresult (*) type>(#name)

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
}  // namespace

extern "C" {
// Makes the device's primary context, which unify and torch use too, current. Returns a CUresult.
int driver_open(const char* path, int index, void** out_stream) {
  library = dlopen(path, RTLD_NOW);
  if (library == nullptr) return CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
  DRIVER(cuInit, (unsigned));
  DRIVER(cuDeviceGet, (CUdevice*, int));
  DRIVER(cuDevicePrimaryCtxRetain, (CUcontext*, CUdevice));
  DRIVER(cuCtxSetCurrent, (CUcontext));
  DRIVER(cuStreamCreateWithPriority, (CUstream*, unsigned, int));
  CUdevice device;
  CUcontext context;
  CUresult code = cuInit_(0);
  if (code == CUDA_SUCCESS) code = cuDeviceGet_(&device, index);
  if (code == CUDA_SUCCESS) code = cuDevicePrimaryCtxRetain_(&context, device);
  if (code == CUDA_SUCCESS) code = cuCtxSetCurrent_(context);
  if (code == CUDA_SUCCESS)
    code = cuStreamCreateWithPriority_(reinterpret_cast<CUstream*>(out_stream), CU_STREAM_NON_BLOCKING, 0);
  return code;
}

int driver_load(const void* image, const char* name, void** out_function) {
  DRIVER(cuModuleLoadData, (CUmodule*, const void*));
  DRIVER(cuModuleGetFunction, (CUfunction*, CUmodule, const char*));
  CUmodule module;
  CUresult code = cuModuleLoadData_(&module, image);
  return code != CUDA_SUCCESS ? code
                              : cuModuleGetFunction_(reinterpret_cast<CUfunction*>(out_function), module, name);
}

int driver_wait(void* stream) {
  DRIVER(cuStreamSynchronize, (CUstream));
  return cuStreamSynchronize_(static_cast<CUstream>(stream));
}

// Launches one program `calls` times; the seconds of all calls, not of the work, below 0 where one fails.
double driver_launch(void* function, void* stream, void** parameters, int threads, int shared_bytes, int calls) {
  using Launch = CUresult (*)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                              CUstream, void**, void**);
  using LaunchEx = CUresult (*)(const CUlaunchConfig*, CUfunction, void**, void**);
  static auto launch = symbol<Launch>("cuLaunchKernel");
  static auto launch_ex = symbol<LaunchEx>("cuLaunchKernelEx");  // all that the simulated driver has
  CUlaunchConfig config = {};
  config.gridDimX = config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.blockDimX = threads;
  config.sharedMemBytes = shared_bytes;
  config.hStream = static_cast<CUstream>(stream);
  int failed = 0;
  auto start = std::chrono::steady_clock::now();
  if (launch != nullptr) {
    for (int i = 0; i < calls; ++i)
      failed |= launch(static_cast<CUfunction>(function), 1, 1, 1, threads, 1, 1, shared_bytes,
                       static_cast<CUstream>(stream), parameters, nullptr);
  } else {
    for (int i = 0; i < calls; ++i)
      failed |= launch_ex(&config, static_cast<CUfunction>(function), parameters, nullptr);
  }
  double seconds = seconds_since(start);
  return failed != 0 ? -1.0 : seconds;
}

// Copies `bytes` `calls` times and waits; the seconds of all, below 0 where one fails. Addresses say which way.
double driver_copy(unsigned long long to, unsigned long long from, size_t bytes, void* stream, int calls) {
  DRIVER(cuMemcpyAsync, (CUdeviceptr, CUdeviceptr, size_t, CUstream));
  int failed = 0;
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) failed |= cuMemcpyAsync_(to, from, bytes, static_cast<CUstream>(stream));
  failed |= driver_wait(stream);
  double seconds = seconds_since(start);
  return failed != 0 ? -1.0 : seconds;
}
}
"""


class Driver:
    """The loops, on a device by its number, with a stream of their own. Raises UnsupportedError without a compiler."""

    def __init__(self, index: int, library: str = "libcuda.so.1") -> None:
        self._loops = _built()
        stream = ctypes.c_void_p()
        self._check(self._loops.driver_open(library.encode(), index, ctypes.byref(stream)), "open")
        self._stream = stream

    def load(self, image: bytes, name: str) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._check(self._loops.driver_load(image, name.encode(), ctypes.byref(function)), "load")
        return function

    def launch_s(
        self, function: Any, packed: bytes, offsets: list[int], threads: int, shared: int, calls: int
    ) -> float:
        """Seconds that the host needs to launch once. packed: the arguments, at `offsets`; at most 500 calls."""
        buffer = ctypes.create_string_buffer(packed, len(packed))
        start = ctypes.addressof(buffer)
        pointers = (ctypes.c_void_p * len(offsets))(*(start + offset for offset in offsets))
        seconds = self._loops.driver_launch(function, self._stream, pointers, threads, shared, calls)
        self._check(self._loops.driver_wait(self._stream), "wait")
        return self._time(seconds, "launch") / calls

    def copy_s(self, to: int, source: int, bytes: int, calls: int) -> float:
        """Seconds of one copy, the wait for the last one counted among them."""
        return self._time(self._loops.driver_copy(to, source, bytes, self._stream, calls), "copy") / calls

    def _check(self, code: int, what: str) -> None:
        if code:
            raise RuntimeError(f"driver: {what} failed with CUDA error {code}.")

    def _time(self, seconds: float, what: str) -> float:
        if seconds < 0:
            raise RuntimeError(f"driver: {what} failed.")
        return seconds


def _built() -> ctypes.CDLL:
    try:
        import triton.backends.nvidia
    except ImportError as error:
        raise UnsupportedError(f"Triton's Nvidia backend, whose cuda.h is needed, is not there: {error}") from None
    headers = Path(triton.backends.nvidia.__path__[0]) / "include"
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "loops.cpp", Path(folder) / "loops.so"
        source.write_text(SOURCE)
        command = [os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-fPIC", "-shared", f"-I{headers}"]
        try:
            subprocess.run([*command, str(source), "-o", str(library), "-ldl"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", b"") or b""
            reason = said.decode(errors="replace").strip()[-300:] or error
            raise UnsupportedError(f"the C++ loop cannot be compiled: {reason}") from None
        loops = ctypes.CDLL(str(library))
    loops.driver_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
    loops.driver_load.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    loops.driver_wait.argtypes = [ctypes.c_void_p]
    loops.driver_launch.restype = loops.driver_copy.restype = ctypes.c_double
    loops.driver_launch.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 3
    loops.driver_copy.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int]
    return loops
