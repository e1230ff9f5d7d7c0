"""The backend over OpenCL in examples/plugins builds from the header alone. `make test-opencl` runs the suite on it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import unify as un

SOURCE = Path(__file__).parents[1] / "examples" / "plugins" / "opencl" / "src"


def test_it_includes_unifys_header_and_opencls_and_nothing_else_of_ours() -> None:
    for path in SOURCE.iterdir():
        included = set(re.findall(r'#include ["<]([^">]+/[^">]+)', path.read_text()))
        assert included <= {"CL/cl.h", "unify/backend.h"}, path.name
        assert len(path.read_text().splitlines()) <= 600, path.name


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("c++") is None or not Path("/usr/include/CL/cl.h").exists():
        pytest.skip("no C++ compiler, or no headers of OpenCL: apt install opencl-headers")
    command = [
        "c++",
        "-std=c++17",
        "-O0",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Werror",
        "-shared",
        "-fPIC",
        "-pthread",
    ]
    command += [f"-I{un.get_include()}", "-o", str(tmp_path / "opencl.so"), *map(str, sorted(SOURCE.glob("*.cpp")))]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


HOST_CALL = """
#include <cstdio>
#include "opencl.h"
namespace opencl {
int run() {
  static char event;  // each of them
  const auto an_event = [] { return reinterpret_cast<cl_event>(&event); };
  static const auto made = an_event;
  clEnqueueMarkerWithWaitList = [](cl_command_queue, cl_uint, const cl_event*, cl_event* out) {
    *out = made();
    return CL_SUCCESS;
  };
  clEnqueueBarrierWithWaitList = clEnqueueMarkerWithWaitList;
  clCreateUserEvent = [](cl_context, cl_int* code) { *code = CL_SUCCESS; return made(); };
  clGetEventInfo = [](cl_event, cl_event_info, size_t, void* out, size_t*) {
    *static_cast<cl_int*>(out) = CL_COMPLETE;
    return CL_SUCCESS;
  };
  clWaitForEvents = [](cl_uint, const cl_event*) { return CL_SUCCESS; };
  clSetUserEventStatus = [](cl_event, cl_int) { return CL_SUCCESS; };
  clReleaseEvent = [](cl_event) { return CL_SUCCESS; };
  clFlush = [](cl_command_queue) { return CL_OUT_OF_RESOURCES; };
  unify_device_s device;
  unify_stream_s stream;
  stream.device = &device;
  static std::mutex mutex;
  static std::condition_variable changed;
  static int calls = 0;
  const auto count = [](void*) {
    const std::lock_guard<std::mutex> lock(mutex);
    ++calls;
    changed.notify_one();
  };
  const unify_status status = host_call(&stream, count, nullptr);
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [] { return calls > 0; });
  std::printf("%d", static_cast<int>(status));
  std::fflush(stdout);
  std::_Exit(0);  // the caller's thread is still there
}
}
int main() { return opencl::run(); }
"""


def test_a_host_call_that_will_be_made_is_no_failure(tmp_path: Path) -> None:
    if shutil.which("c++") is None or not Path("/usr/include/CL/cl.h").exists():
        pytest.skip("no C++ compiler, or no headers of OpenCL: apt install opencl-headers")
    (tmp_path / "program.cpp").write_text(HOST_CALL)
    command = ["c++", "-std=c++17", "-O0", "-pthread", f"-I{un.get_include()}", f"-I{SOURCE}", "program.cpp"]
    command += [str(SOURCE / name) for name in ("stream.cpp", "backend.cpp", "device.cpp", "memory.cpp")]
    command += [str(SOURCE / name) for name in ("event.cpp", "kernel.cpp")]
    subprocess.run([*command, "-o", "program", "-ldl"], cwd=tmp_path, check=True)
    finished = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stdout) == (0, "0")  # UNIFY_OK


def test_each_error_of_opencl_has_its_name_once() -> None:
    entries = re.findall(r"^CL_ERROR\((CL_\w+), (-\d+)\)$", (SOURCE / "errors.inc").read_text(), re.MULTILINE)
    assert len(entries) > 60
    assert len({name for name, _ in entries}) == len({number for _, number in entries}) == len(entries)
    header = Path("/usr/include/CL/cl.h")
    if header.exists():
        known = dict(re.findall(r"^#define (CL_\w+)\s+(-\d+)\s*$", header.read_text(), re.MULTILINE))
        assert [name for name, number in entries if known.get(name, number) != number] == []
