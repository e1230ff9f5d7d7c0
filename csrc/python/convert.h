// What every binding needs: exceptions both ways, and turning Python objects into the core's.
#pragma once

#include <Python.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "../core/device.h"
#include "../core/error.h"
#include "../core/stream.h"
#include "gil.h"

namespace unify::python {

namespace py = pybind11;

// Sets the Python error for the exception being handled: unify::Error becomes its class of unify._errors.
void set_python_error() noexcept;

// The body of a function that CPython calls: no C++ exception leaves it.
template <typename Body>
PyObject* guarded(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}
template <typename Body>
int guarded_status(Body&& body) noexcept {
  try {
    std::forward<Body>(body)();
    return 0;
  } catch (...) {
    set_python_error();
    return -1;
  }
}

// Throws what Python has set.
[[noreturn]] inline void throw_python() { throw py::error_already_set(); }
inline PyObject* require(PyObject* object) {
  if (object == nullptr) throw_python();
  return object;
}

// unify.<module>.<name>, imported at its first use and kept. `slot` is the caller's static variable.
PyObject* python_function(PyObject*& slot, const char* module, const char* name);

std::string text_of(PyObject* object);  // a str as UTF-8, or another object's repr: for messages
std::string described(
    PyObject* object);  // its type and a short repr, "a list, [1.0, 2.0]": for what is of a wrong kind

// The Python object of a device: always the same one.
PyObject* device_object(const std::shared_ptr<Device>& device);  // borrowed
// From a Device, a name, or None for the default device.
std::shared_ptr<Device> device_from_object(PyObject* object);
void set_default_device(std::shared_ptr<Device> device);

// The device's current stream for this thread. Made, if need be, without the GIL.
std::shared_ptr<Stream> current_stream(Device& device);
// From a Stream, None for the current one, or a foreign stream: __cuda_stream__, .native, .cuda_stream,
// .npu_stream, .ptr, or an address. Throws DeviceMismatchError for a stream of another device.
std::shared_ptr<Stream> stream_from_object(PyObject* object, Device& device);
// owner: an object that the vendor's stream may end with, to be kept as long as ours is; or null.
std::shared_ptr<Stream> foreign_stream(Device& device, uintptr_t native, PyObject* owner = nullptr);
// Whether it is CUDA's per-thread stream: one handle, and another stream on each thread. Its thread can order it before
// or after other work; work of ours has no place there, since any thread may come to look after its memory.
bool is_per_thread(const Device& device, const void* native) noexcept;

// Later work of `stream` comes after what `earlier` holds now; waits on the host between backends. Does nothing between
// a graph that another library records and what is outside of it, unless the user asked for it.
void order_after(Stream& stream, Stream& earlier, bool is_asked_for = false);

using PyDevice = py::class_<Device, std::shared_ptr<Device>>;

void bind_errors(py::module_& module);
void bind_device(py::module_& module);
void bind_layers(py::module_& module);
void bind_stream(py::module_& module);
void bind_event(py::module_& module);
void bind_memory(py::module_& module);
void bind_dtype(py::module_& module);
void bind_tensor(py::module_& module);
void bind_graph(py::module_& module);
void bind_trace(py::module_& module);
void bind_kernel(py::module_& module);
void bind_function(py::module_& module);

}  // namespace unify::python
