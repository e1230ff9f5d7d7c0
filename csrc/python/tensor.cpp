// The type unify.Tensor: its object, attributes and conversions to Python's own types. Written against CPython
// directly, since every op makes tensors and reads their attributes.
#include "tensor.h"

#include <structmember.h>

#include <vector>

#include "arguments.h"
#include "call_stream.h"
#include "convert.h"
#include "dtype.h"
#include "owner.h"

namespace unify::python {

PyTypeObject* tensor_type = nullptr;

namespace {

TensorObject* as_object(PyObject* self) { return reinterpret_cast<TensorObject*>(self); }
const Tensor& tensor_of(PyObject* self) { return as_object(self)->tensor; }

void deallocate(PyObject* self) {
  TensorObject* object = as_object(self);
  if (object->weakrefs != nullptr) PyObject_ClearWeakRefs(self);
  object->tensor.~Tensor();
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
  release_owners();  // the array that a foreign tensor kept goes now, not at the next call
}

PyObject* int_tuple(const int64_t* values, int count) {
  PyObject* tuple = PyTuple_New(count);
  if (tuple == nullptr) return nullptr;
  for (int i = 0; i < count; ++i) {
    PyObject* value = PyLong_FromLongLong(values[i]);
    if (value == nullptr) {
      Py_DECREF(tuple);
      return nullptr;
    }
    PyTuple_SET_ITEM(tuple, i, value);
  }
  return tuple;
}

PyObject* new_reference(PyObject* object) {
  Py_XINCREF(object);
  return object;
}

PyObject* get_shape(PyObject* self, void*) { return int_tuple(tensor_of(self).shape.data(), tensor_of(self).ndim); }
PyObject* get_strides(PyObject* self, void*) { return int_tuple(tensor_of(self).strides.data(), tensor_of(self).ndim); }
PyObject* get_ndim(PyObject* self, void*) { return PyLong_FromLong(tensor_of(self).ndim); }
PyObject* get_size(PyObject* self, void*) { return PyLong_FromLongLong(tensor_of(self).size()); }
PyObject* get_nbytes(PyObject* self, void*) { return PyLong_FromUnsignedLongLong(tensor_of(self).bytes()); }
PyObject* get_itemsize(PyObject* self, void*) { return PyLong_FromUnsignedLong(itemsize(tensor_of(self).dtype)); }
PyObject* get_dtype(PyObject* self, void*) { return new_reference(dtype_object(tensor_of(self).dtype)); }
PyObject* get_device(PyObject* self, void*) {
  return guarded([self] { return new_reference(device_object(tensor_of(self).storage->device_ptr())); });
}
PyObject* get_transposed(PyObject* self, void*) { return tensor_transposed(self); }
PyObject* get_matrix_transposed(PyObject* self, void*) { return tensor_matrix_transposed(self); }
PyObject* get_address(PyObject* self, void*) { return PyLong_FromUnsignedLongLong(tensor_of(self).address()); }
PyObject* get_is_contiguous(PyObject* self, void*) { return PyBool_FromLong(tensor_of(self).is_contiguous()); }
PyObject* get_is_readonly(PyObject* self, void*) { return PyBool_FromLong(as_object(self)->is_readonly); }

// The description that NumPy (version 3) and CUDA (version 3) share.
py::dict array_interface(PyObject* self) {
  const Tensor& tensor = tensor_of(self);
  const char* format = buffer_format(tensor.dtype);
  if (format == nullptr) {
    PyErr_Format(PyExc_AttributeError, "%s has no array interface; view it as uint%u first", name(tensor.dtype),
                 itemsize(tensor.dtype) * 8);
    throw_python();
  }
  const char kind = tensor.dtype == DType::kBool ? 'b'
                    : is_floating(tensor.dtype)  ? 'f'
                    : is_signed(tensor.dtype)    ? 'i'
                                                 : 'u';
  const uint32_t width = itemsize(tensor.dtype);
  py::tuple strides(static_cast<size_t>(tensor.ndim));
  for (int i = 0; i < tensor.ndim; ++i) {
    const auto axis = static_cast<size_t>(i);
    strides[axis] = tensor.strides[axis] * static_cast<int64_t>(width);
  }
  py::dict result;
  result["shape"] = py::reinterpret_steal<py::object>(require(get_shape(self, nullptr)));
  result["strides"] = strides;
  result["typestr"] = std::string(width == 1 ? "|" : "<") + kind + std::to_string(width);
  result["data"] = py::make_tuple(tensor.address(), as_object(self)->is_readonly);
  result["version"] = 3;
  return result;
}

PyObject* get_array_interface(PyObject* self, void*) {
  return guarded([self]() -> PyObject* {
    const Tensor& tensor = tensor_of(self);
    if (!tensor.device().is_host_visible()) {
      PyErr_Format(PyExc_AttributeError, "the host cannot see the memory of %s; use .numpy(), which copies",
                   tensor.device().name().c_str());
      return nullptr;
    }
    host_tensor(tensor);
    return array_interface(self).release().ptr();
  });
}

PyObject* get_cuda_array_interface(PyObject* self, void*) {
  return guarded([self]() -> PyObject* {
    const Tensor& tensor = tensor_of(self);
    if (tensor.device().info().dlpack_type != 2) {
      PyErr_Format(PyExc_AttributeError, "a tensor on %s has no __cuda_array_interface__",
                   tensor.device().name().c_str());
      return nullptr;
    }
    py::dict result = array_interface(self);
    const auto stream = reinterpret_cast<uintptr_t>(current_stream(tensor.device())->native());
    result["stream"] = stream == 0 ? uintptr_t{1} : stream;
    return result.release().ptr();
  });
}

PyObject* scalar_of(const Tensor& tensor) {
  if (tensor.size() != 1) {
    throw Error(ErrorKind::kShape, "item: one element is needed, the shape is " + shape_text(tensor) +
                                       ". Index it, or use .numpy() or .tolist().");
  }
  const Tensor host = host_tensor(tensor);
  const auto* data = reinterpret_cast<const void*>(host.address());
  switch (host.dtype) {
    case DType::kBool:
      return PyBool_FromLong(*static_cast<const uint8_t*>(data));
    case DType::kInt8:
      return PyLong_FromLong(*static_cast<const int8_t*>(data));
    case DType::kInt16:
      return PyLong_FromLong(*static_cast<const int16_t*>(data));
    case DType::kInt32:
      return PyLong_FromLong(*static_cast<const int32_t*>(data));
    case DType::kInt64:
      return PyLong_FromLongLong(*static_cast<const int64_t*>(data));
    case DType::kUInt8:
      return PyLong_FromUnsignedLong(*static_cast<const uint8_t*>(data));
    case DType::kUInt16:
      return PyLong_FromUnsignedLong(*static_cast<const uint16_t*>(data));
    case DType::kUInt32:
      return PyLong_FromUnsignedLong(*static_cast<const uint32_t*>(data));
    case DType::kUInt64:
      return PyLong_FromUnsignedLongLong(*static_cast<const uint64_t*>(data));
    default: {
      double value = 0;
      convert(DType::kFloat64, &value, 1, host.dtype, data, 1, 1);
      return PyFloat_FromDouble(value);
    }
  }
}

PyObject* item(PyObject* self, PyObject*) {
  return guarded([self] { return scalar_of(tensor_of(self)); });
}

// By way of the Python scalar, so that int(t) rounds and overflows as int() does.
PyObject* convert_scalar(PyObject* self, PyObject* (*convert)(PyObject*)) {
  return guarded([&]() -> PyObject* {
    const auto scalar = py::reinterpret_steal<py::object>(require(scalar_of(tensor_of(self))));
    return convert(scalar.ptr());
  });
}
PyObject* to_int(PyObject* self) { return convert_scalar(self, PyNumber_Long); }
PyObject* to_float(PyObject* self) { return convert_scalar(self, PyNumber_Float); }
PyObject* to_index(PyObject* self) {
  const Tensor& tensor = tensor_of(self);
  if (is_floating(tensor.dtype) || tensor.size() != 1) {
    PyErr_Format(PyExc_TypeError, "only a tensor of one integer can be an index, this is %s %s", name(tensor.dtype),
                 shape_text(tensor).c_str());
    return nullptr;
  }
  return convert_scalar(self, PyNumber_Index);
}
int to_bool(PyObject* self) {
  const auto scalar = py::reinterpret_steal<py::object>(item(self, nullptr));
  return scalar ? PyObject_IsTrue(scalar.ptr()) : -1;
}

Py_ssize_t length(PyObject* self) {
  if (tensor_of(self).ndim == 0) {
    PyErr_SetString(PyExc_TypeError, "a tensor without axes has no length");
    return -1;
  }
  return static_cast<Py_ssize_t>(tensor_of(self).shape[0]);
}

PyObject* iterate(PyObject* self) {
  if (tensor_of(self).ndim == 0) {
    PyErr_SetString(PyExc_TypeError, "a tensor without axes cannot be iterated; use .item()");
    return nullptr;
  }
  return PySeqIter_New(self);
}

// Arithmetic is for ops and kernels; with an array of another library it is that library's.
PyObject* refuse_arithmetic(PyObject* left, PyObject* right) {
  for (PyObject* operand : {left, right}) {
    if (tensor_from_pyobject(operand) != nullptr || PyLong_CheckExact(operand) || PyFloat_CheckExact(operand)) continue;
    Py_RETURN_NOTIMPLEMENTED;
  }
  PyErr_SetString(PyExc_TypeError,
                  "unify.Tensor has no arithmetic: use unify.ops, a kernel of your own (unify.jit), or .numpy()");
  return nullptr;
}

// What needs NumPy or many branches is written in Python.
PyObject* call_python(const char* function, PyObject* self) {
  return guarded([&] {
    const py::object found = py::module_::import("unify._tensor").attr(function);
    return in_python([&] { return PyObject_CallOneArg(found.ptr(), self); });
  });
}
PyObject* repr(PyObject* self) { return call_python("format_tensor", self); }
PyObject* to_numpy(PyObject* self, PyObject*) { return call_python("to_numpy", self); }
PyObject* to_list(PyObject* self, PyObject*) { return call_python("to_list", self); }
PyObject* reduce(PyObject* self, PyObject*) { return call_python("reduce_tensor", self); }

// Part of `with numpy:`'s protocol; implicit, so it never copies from a device.
PyObject* to_array(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    static const Signature<2> signature{"__array__", 2, 0, {"dtype", "copy"}};
    const auto [dtype, copy] = parse_arguments(signature, args, nargs, keywords);
    if (!tensor_of(self).device().is_host_visible()) {
      throw Error(ErrorKind::kDeviceMismatch, "__array__: the tensor is on " + tensor_of(self).device().name() +
                                                  ", NumPy needs host memory. Use .numpy(), which copies.");
    }
    const py::object function = py::module_::import("unify._tensor").attr("to_array");
    PyObject* kind = is_given(dtype) ? dtype : Py_None;
    PyObject* may_copy = copy == nullptr ? Py_None : copy;
    return in_python([&] { return PyObject_CallFunctionObjArgs(function.ptr(), self, kind, may_copy, nullptr); });
  });
}

PyGetSetDef attributes[] = {
    {"shape", get_shape, nullptr, "shape -> tuple[int, ...]\n\nElements per axis.", nullptr},
    {"strides", get_strides, nullptr, "strides -> tuple[int, ...]\n\nSteps per axis, in elements.", nullptr},
    {"ndim", get_ndim, nullptr, "ndim -> int\n\nHow many axes.", nullptr},
    {"size", get_size, nullptr, "size -> int\n\nHow many elements.", nullptr},
    {"nbytes", get_nbytes, nullptr, "nbytes -> int\n\nsize times itemsize.", nullptr},
    {"itemsize", get_itemsize, nullptr, "itemsize -> int\n\nBytes per element.", nullptr},
    {"dtype", get_dtype, nullptr, "dtype -> DType\n\nIts element type.", nullptr},
    {"device", get_device, nullptr, "device -> Device\n\nWhere its memory is.", nullptr},
    {"T", get_transposed, nullptr, "T -> Tensor\n\nAll axes in reverse.", nullptr},
    {"mT", get_matrix_transposed, nullptr, "mT -> Tensor\n\nThe last two axes swapped.", nullptr},
    {"address", get_address, nullptr, "address -> int\n\nOf its first element, in the device's memory.", nullptr},
    {"is_contiguous", get_is_contiguous, nullptr,
     "is_contiguous -> bool\n\nWhether elements follow each other, last axis fastest.", nullptr},
    {"is_readonly", get_is_readonly, nullptr,
     "is_readonly -> bool\n\nWhether it was made from memory that must not be written.", nullptr},
    {"__array_interface__", get_array_interface, nullptr, "__array_interface__ -> dict[str, object]\n\nNumPy's.",
     nullptr},
    {"__cuda_array_interface__", get_cuda_array_interface, nullptr,
     "__cuda_array_interface__ -> dict[str, object]\n\nCuPy's and Numba's.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyMethodDef own_methods[] = {
    {"item", item, METH_NOARGS, "item(self) -> bool | int | float\n\nThe only element. Waits for the current stream."},
    {"tolist", to_list, METH_NOARGS, "tolist(self) -> object\n\nNested lists. Waits for the current stream."},
    {"numpy", to_numpy, METH_NOARGS,
     "numpy(self) -> numpy.ndarray\n\n"
     "Shares memory where the host can see it, else copies. Waits for the device's current stream."},
    {"__array__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(to_array)), METH_FASTCALL | METH_KEYWORDS,
     "__array__(self, dtype: object = None, copy: bool | None = None) -> numpy.ndarray"},
    {"__reduce__", reduce, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

std::vector<PyMethodDef>& all_methods() {
  static auto* methods = [] {
    auto* all = new std::vector<PyMethodDef>;
    for (PyMethodDef* part : {own_methods, view_methods(), copy_methods(), dlpack_methods(), sharing_methods()}) {
      for (; part->ml_name != nullptr; ++part) all->push_back(*part);
    }
    all->push_back({nullptr, nullptr, 0, nullptr});
    return all;
  }();
  return *methods;
}

PyMemberDef members[] = {{"__weaklistoffset__", T_PYSSIZET, offsetof(TensorObject, weakrefs), READONLY, nullptr},
                         {nullptr, 0, 0, 0, nullptr}};

void make_type() {
  PyType_Slot slots[] = {
      {Py_tp_doc,
       const_cast<char*>("Elements of one type on a device: a shape over shared memory. Views share it. Made by "
                         "unify.empty, zeros, asarray …")},
      {Py_tp_dealloc, reinterpret_cast<void*>(deallocate)},
      {Py_tp_getset, attributes},
      {Py_tp_methods, all_methods().data()},
      {Py_tp_members, members},
      {Py_tp_repr, reinterpret_cast<void*>(repr)},
      {Py_tp_iter, reinterpret_cast<void*>(iterate)},
      {Py_mp_length, reinterpret_cast<void*>(length)},
      {Py_mp_subscript, reinterpret_cast<void*>(tensor_subscript)},
      {Py_mp_ass_subscript, reinterpret_cast<void*>(tensor_assign_subscript)},
      {Py_sq_item, reinterpret_cast<void*>(tensor_item_at)},
      {Py_nb_bool, reinterpret_cast<void*>(to_bool)},
      {Py_nb_int, reinterpret_cast<void*>(to_int)},
      {Py_nb_float, reinterpret_cast<void*>(to_float)},
      {Py_nb_index, reinterpret_cast<void*>(to_index)},
      {Py_nb_add, reinterpret_cast<void*>(refuse_arithmetic)},
      {Py_nb_subtract, reinterpret_cast<void*>(refuse_arithmetic)},
      {Py_nb_multiply, reinterpret_cast<void*>(refuse_arithmetic)},
      {Py_nb_true_divide, reinterpret_cast<void*>(refuse_arithmetic)},
      {Py_nb_matrix_multiply, reinterpret_cast<void*>(refuse_arithmetic)},
      {Py_bf_getbuffer, reinterpret_cast<void*>(tensor_get_buffer)},
      {Py_bf_releasebuffer, reinterpret_cast<void*>(tensor_release_buffer)},
      {0, nullptr}};
  PyType_Spec spec = {"unify.Tensor", sizeof(TensorObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                      slots};
  tensor_type = reinterpret_cast<PyTypeObject*>(require(PyType_FromSpec(&spec)));
}

}  // namespace

PyObject* tensor_to_pyobject(Tensor tensor, bool is_readonly) {
  TensorObject* object = PyObject_New(TensorObject, tensor_type);
  if (object == nullptr) throw_python();
  object->weakrefs = nullptr;
  object->is_readonly = is_readonly;
  new (&object->tensor) Tensor(std::move(tensor));
  return reinterpret_cast<PyObject*>(object);
}

uint64_t set_contiguous(Tensor& tensor, const std::vector<int64_t>& shape) {
  uint64_t bytes = itemsize(tensor.dtype);
  bool fits = shape.size() <= kMaxDims;
  for (const int64_t length : shape) {
    // At most 2^62 bytes: offsets and strides stay within int64_t.
    fits = fits && length >= 0 && (length == 0 || bytes <= (uint64_t{1} << 62) / static_cast<uint64_t>(length));
    if (fits) bytes *= static_cast<uint64_t>(length);
  }
  if (!fits) {
    std::string text;
    for (const int64_t length : shape) text += (text.empty() ? "" : ", ") + std::to_string(length);
    throw Error(ErrorKind::kShape, "shape [" + text + "]: at most " + std::to_string(kMaxDims) +
                                       " axes, none negative, and less than 2^62 bytes are possible.");
  }
  tensor.ndim = static_cast<int>(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    tensor.shape[i] = shape[i];
    tensor.strides[i] = stride;
    stride *= shape[i] == 0 ? 1 : shape[i];
  }
  return bytes;
}

std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.ndim; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(tensor.shape[static_cast<size_t>(i)]);
  }
  return text + "]";
}

void require_writable(PyObject* self, const char* what) {
  if (as_object(self)->is_readonly) {
    throw Error(ErrorKind::kInvalidArgument,
                std::string(what) + ": the tensor shares memory that is read-only. Write to a .copy() of it.");
  }
  const Tensor& tensor = as_object(self)->tensor;
  for (size_t i = 0; i < static_cast<size_t>(tensor.ndim); ++i) {
    if (tensor.strides[i] != 0 || tensor.shape[i] <= 1 || tensor.size() == 0) continue;
    throw Error(ErrorKind::kLayout, std::string(what) + ": axis " + std::to_string(i) + " of the tensor of shape " +
                                        shape_text(tensor) + " is broadcast: its " + std::to_string(tensor.shape[i]) +
                                        " elements are one in memory. Write to what was broadcast, or to a .copy().");
  }
}

void bind_tensor(py::module_& module) {
  make_type();
  py::object type = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(tensor_type));
  // On the type, as DLPack 1.3 has it: consumers look there once per type.
  py::setattr(type, "__dlpack_c_exchange_api__", py::reinterpret_steal<py::object>(dlpack_exchange_api()));
  module.add_object("Tensor", type);
  for (PyMethodDef* functions : {creation_functions(), import_functions(), call_stream_functions()}) {
    if (PyModule_AddFunctions(module.ptr(), functions) != 0) throw_python();
  }
}

}  // namespace unify::python
