// Arguments of a function called by CPython's vectorcall convention (METH_FASTCALL | METH_KEYWORDS). The hot
// functions use it: a pybind11 call costs more than making a tensor.
#pragma once

#include <Python.h>

#include <array>
#include <cstddef>
#include <string>

#include "convert.h"

namespace unify::python {

template <size_t N>
struct Signature {
  const char* function;
  size_t positional;  // how many may be given by position
  size_t required;    // how many must be given
  std::array<const char*, N> names;
};

[[noreturn]] inline void throw_type_error(const std::string& message) {
  PyErr_SetString(PyExc_TypeError, message.c_str());
  throw_python();
}

// The arguments in the signature's order, borrowed; null where one was not given.
template <size_t N>
std::array<PyObject*, N> parse_arguments(const Signature<N>& signature, PyObject* const* args, Py_ssize_t nargs,
                                         PyObject* keywords) {
  std::array<PyObject*, N> values{};
  const auto count = static_cast<size_t>(nargs);
  if (count > signature.positional) {
    throw_type_error(std::string(signature.function) + "() takes at most " + std::to_string(signature.positional) +
                     " positional arguments, " + std::to_string(count) + " were given");
  }
  for (size_t i = 0; i < count; ++i) values[i] = args[i];
  const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t k = 0; k < keyword_count; ++k) {
    PyObject* keyword = PyTuple_GET_ITEM(keywords, k);
    size_t i = 0;
    while (i < N && PyUnicode_CompareWithASCIIString(keyword, signature.names[i]) != 0) ++i;
    if (i == N) {
      throw_type_error(std::string(signature.function) + "() has no argument '" + text_of(keyword) + "'");
    }
    if (values[i] != nullptr) {
      throw_type_error(std::string(signature.function) + "() got '" + signature.names[i] + "' twice");
    }
    values[i] = args[nargs + k];
  }
  for (size_t i = 0; i < signature.required; ++i) {
    if (values[i] == nullptr) {
      throw_type_error(std::string(signature.function) + "() needs the argument '" + signature.names[i] + "'");
    }
  }
  return values;
}

inline bool is_given(PyObject* value) { return value != nullptr && value != Py_None; }
inline bool is_true(PyObject* value, bool otherwise = false) {
  if (!is_given(value)) return otherwise;
  const int truth = PyObject_IsTrue(value);
  if (truth < 0) throw_python();
  return truth != 0;
}

}  // namespace unify::python
