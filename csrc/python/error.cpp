// unify::Error becomes a class of unify._errors, with its fields.
#include "../core/error.h"

#include <array>
#include <exception>
#include <new>

#include "convert.h"

namespace unify::python {
namespace {

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
    case ErrorKind::kNotFound:
      return "InvalidArgument";
    case ErrorKind::kOutOfMemory:
      return "OutOfMemory";
    case ErrorKind::kUnsupported:
      return "UnsupportedError";
    case ErrorKind::kKernelFault:
      return "KernelFault";
    case ErrorKind::kDeviceLost:
      return "DeviceLost";
    case ErrorKind::kTimeout:
      return "TimeoutExpired";
    case ErrorKind::kInternal:
      return "Error";
    case ErrorKind::kShape:
      return "ShapeError";
    case ErrorKind::kDType:
      return "DTypeError";
    case ErrorKind::kLayout:
      return "LayoutError";
    case ErrorKind::kDeviceMismatch:
      return "DeviceMismatchError";
    case ErrorKind::kBackend:
      return "BackendError";
    case ErrorKind::kGraph:
      return "GraphError";
  }
  return "Error";
}

// A backend may name what it found in a damaged image: what is no UTF-8 is replaced.
py::object text_of(const std::string& text) {
  PyObject* made = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

py::object text_or_none(const std::string& text) { return text.empty() ? py::object(py::none()) : text_of(text); }

void set_error(const Error& error) {
  const py::object error_class = py::module_::import("unify._errors").attr(class_name(error.kind));
  py::dict fields;
  fields["device"] = text_or_none(error.device);
  fields["stream"] = text_or_none(error.stream);
  fields["kernel"] = text_or_none(error.kernel);
  fields["native_code"] = error.native_code == 0 ? py::object(py::none()) : py::object(py::int_(error.native_code));
  fields["native_name"] = text_or_none(error.native_name);
  fields["advice"] = text_or_none(error.advice);
  fields["recent"] = text_or_none(error.recent);
  const py::tuple arguments = py::make_tuple(text_of(error.message));
  const auto exception = py::reinterpret_steal<py::object>(
      require(in_python([&] { return PyObject_Call(error_class.ptr(), arguments.ptr(), fields.ptr()); })));
  PyErr_SetObject(error_class.ptr(), exception.ptr());
}

}  // namespace

void set_python_error() noexcept {
  try {
    in_python([] { throw; });  // a thread that CPython ends comes by here too
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const Error& error) {
    try {
      set_error(error);
    } catch (py::error_already_set& second) {
      second.restore();
    } catch (...) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  } catch (...) {
    PyErr_SetString(PyExc_RuntimeError, "unify: an exception of unknown kind left the core; please report it");
  }
}

PyObject* python_function(PyObject*& slot, const char* module, const char* name) {
  if (slot == nullptr) {
    const auto found =
        py::reinterpret_steal<py::object>(require(in_python([&] { return PyImport_ImportModule(module); })));
    slot = require(PyObject_GetAttrString(found.ptr(), name));
  }
  return slot;
}

std::string text_of(PyObject* object) {
  const py::handle handle(object);
  if (PyUnicode_Check(object)) return handle.cast<std::string>();
  return py::reinterpret_steal<py::str>(require(in_python([&] { return PyObject_Repr(object); }))).cast<std::string>();
}

std::string described(PyObject* object) {
  static PyObject* slot = nullptr;
  PyObject* function = python_function(slot, "unify._errors", "described");
  return text_of(py::reinterpret_steal<py::object>(require(in_python([&] {
                   return PyObject_CallOneArg(function, object);
                 }))).ptr());
}

void bind_errors(py::module_&) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    if (!pointer) return;
    try {
      std::rethrow_exception(pointer);
    } catch (const Error&) {
      set_python_error();
    }
  });
}

}  // namespace unify::python
