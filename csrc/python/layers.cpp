// The layers around the backends, and what they need of Python: the line that asked, and the program's end.
#include <pybind11/stl.h>

#include <cstdio>

#include "../core/allocator.h"
#include "../core/device.h"
#include "../core/launch.h"
#include "../core/layers/layer.h"
#include "../core/leaks.h"
#include "../core/reclaim.h"
#include "../core/registry.h"
#include "../core/trace_file.h"
#include "convert.h"
#include "owner.h"

namespace unify::python {
namespace {

std::string& package_folder() {
  static auto* folder = new std::string;  // with a slash at its end
  return *folder;
}

std::string text_of_name(PyObject* name) {
  const char* text = PyUnicode_AsUTF8(name);
  if (text == nullptr) PyErr_Clear();  // a file name that is no UTF-8
  return text != nullptr ? text : "?";
}

// The innermost line that is not unify's own.
const char* python_caller() {
  if (is_interpreter_over()) return nullptr;
  const AcquireGil gil;
  PyFrameObject* frame = PyEval_GetFrame();
  Py_XINCREF(frame);
  while (frame != nullptr) {
    PyCodeObject* code = PyFrame_GetCode(frame);
    const std::string file = text_of_name(code->co_filename);
    const std::string function = text_of_name(code->co_name);
    Py_DECREF(code);
    if (file.compare(0, package_folder().size(), package_folder()) != 0) {
      const std::string place = file + ":" + std::to_string(PyFrame_GetLineNumber(frame)) + " in " + function;
      Py_DECREF(frame);
      return intern(place);
    }
    PyFrameObject* outer = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    frame = outer;
  }
  return nullptr;
}

// What was let go of ends, and with it what it held: a block keeps the streams that used it until then.
void settle() {
  for (const std::shared_ptr<Device>& device : Registry::instance().open_devices()) {
    (void)device->allocator().statistics();
  }
  reclaim();
}

// Once the interpreter has let go of everything.
void report_at_exit() {
  settle();
  flush_trace();
  const std::string report = leaks::report();
  if (!report.empty()) std::fputs(report.c_str(), stderr);
}

void set_layers(const std::vector<std::string>& layers, const std::string& trace_file, const std::string& package) {
  if (!trace_file.empty()) TraceFile::set_path(trace_file);
  Registry::instance().set_layers(layers);
  if (layers.empty()) return;
  package_folder() = package;
  leaks::set_caller_hook(python_caller);
  static const bool is_registered = Py_AtExit(report_at_exit) == 0;
  (void)is_registered;
}

}  // namespace

void bind_layers(py::module_& module) {
  module.def("set_layers", &set_layers, py::arg("layers"), py::arg("trace_file") = "", py::arg("package") = "",
             "Wraps all backends in layers; before any device is opened. `package`: the folder whose lines of Python "
             "are not the program's.");
  module.def(
      "begin_collection", [] { leaks::begin_collection(); },
      "Before the garbage collector runs for the last time: what it frees was held by reference cycles.");
  module.def(
      "end_collection",
      [] {
        without_gil(settle);
        release_owners();
        leaks::end_collection();
      },
      "After it.");
}

}  // namespace unify::python
