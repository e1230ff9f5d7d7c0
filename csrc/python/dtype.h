// unify.DType: one immortal object per element type.
#pragma once

#include <Python.h>

#include "../core/tensor.h"

namespace unify::python {

struct DTypeObject {
  PyObject_HEAD
  DType value;
};

extern PyTypeObject* dtype_type;

PyObject* dtype_object(DType dtype);  // borrowed

// From a DType, a name, bool/int/float, or the dtype of NumPy, torch, ml_dtypes … Throws DTypeError.
DType dtype_from_object(PyObject* object);

inline bool is_dtype(PyObject* object) { return Py_TYPE(object) == dtype_type; }

[[nodiscard]] bool is_floating(DType dtype) noexcept;
[[nodiscard]] bool is_signed(DType dtype) noexcept;

// As in Python's struct module and the buffer protocol; null for those that it does not know.
[[nodiscard]] const char* buffer_format(DType dtype) noexcept;

// DLDataType's code; the width is itemsize().
[[nodiscard]] uint8_t dlpack_code(DType dtype) noexcept;
// False when there is none of ours like it.
[[nodiscard]] bool dtype_from_dlpack(uint8_t code, uint8_t bits, DType* out_dtype) noexcept;

}  // namespace unify::python
