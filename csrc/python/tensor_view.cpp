// Views of a tensor: indexing, and what changes shape, order or element type without moving a byte.
#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "arguments.h"
#include "convert.h"
#include "dtype.h"
#include "tensor.h"

namespace unify::python {
namespace {

const Tensor& tensor_of(PyObject* self) { return reinterpret_cast<TensorObject*>(self)->tensor; }
bool is_readonly(PyObject* self) { return reinterpret_cast<TensorObject*>(self)->is_readonly; }

PyObject* view_of(PyObject* self, Tensor tensor) { return tensor_to_pyobject(std::move(tensor), is_readonly(self)); }

int64_t integer(PyObject* object, const char* what) {
  const auto value = py::reinterpret_steal<py::object>(PyNumber_Index(object));
  if (!value) {
    PyErr_Clear();
    throw Error(ErrorKind::kInvalidArgument,
                std::string(what) + ": an integer is needed, not " + text_of(object) + ".");
  }
  const long long result = PyLong_AsLongLong(value.ptr());
  if (result == -1 && PyErr_Occurred() != nullptr) throw_python();
  return result;
}

// From integers given one by one, or as a tuple or list.
std::vector<int64_t> integers(PyObject* const* args, Py_ssize_t nargs, const char* what) {
  py::object sequence;
  if (nargs == 1 && (PyTuple_Check(args[0]) || PyList_Check(args[0]))) {
    sequence = py::reinterpret_steal<py::object>(require(PySequence_Fast(args[0], what)));
    nargs = PySequence_Fast_GET_SIZE(sequence.ptr());
    args = PySequence_Fast_ITEMS(sequence.ptr());
  }
  std::vector<int64_t> result(static_cast<size_t>(nargs));
  for (size_t i = 0; i < result.size(); ++i) result[i] = integer(args[i], what);
  return result;
}

int axis_index(int64_t axis, int ndim, const char* what) {
  const int64_t normal = axis < 0 ? axis + ndim : axis;
  if (normal < 0 || normal >= ndim) {
    throw Error(ErrorKind::kShape, std::string(what) + ": there is no axis " + std::to_string(axis) +
                                       ", the tensor has " + std::to_string(ndim) + ".");
  }
  return static_cast<int>(normal);
}

[[noreturn]] void throw_index_error(const std::string& message) {
  PyErr_SetString(PyExc_IndexError, message.c_str());
  throw_python();
}

[[noreturn]] void throw_bad_index(PyObject* index) {
  if (PyBool_Check(index) || PyList_Check(index) || tensor_from_pyobject(index) != nullptr ||
      PyObject_HasAttrString(index, "__array__") != 0) {
    throw Error(ErrorKind::kUnsupported,
                "index: an array, list or bool selects elements by copying, which views cannot. Use "
                "unify.ops, or index .numpy().");
  }
  throw_type_error("a tensor is indexed with integers, slices, None and ..., not " + text_of(index));
}

Slice slice_of(PyObject* index, int64_t length, int axis) {
  if (PySlice_Check(index)) {
    Py_ssize_t start, stop, step;
    if (PySlice_Unpack(index, &start, &stop, &step) < 0) throw_python();
    const Py_ssize_t count = PySlice_AdjustIndices(static_cast<Py_ssize_t>(length), &start, &stop, step);
    return {count == 0 ? 0 : start, step, count, false};
  }
  if (PyBool_Check(index) || !PyIndex_Check(index)) throw_bad_index(index);
  const int64_t given = PyNumber_AsSsize_t(index, PyExc_IndexError);
  if (given == -1 && PyErr_Occurred() != nullptr) {
    if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) throw_python();
    PyErr_Clear();  // NumPy's arrays claim to be integers until asked
    throw_bad_index(index);
  }
  const int64_t normal = given < 0 ? given + length : given;
  if (normal < 0 || normal >= length) {
    throw_index_error("index " + std::to_string(given) + " is out of range for axis " + std::to_string(axis) +
                      ", which has " + std::to_string(length));
  }
  return {normal, 1, 1, true};
}

// Puts axes of length 1 where the key said None; `position` counts axes of the result.
Tensor with_new_axes(const Tensor& tensor, const std::vector<size_t>& positions) {
  if (positions.empty()) return tensor;
  if (static_cast<size_t>(tensor.ndim) + positions.size() > kMaxDims) {
    throw Error(ErrorKind::kShape, "index: a tensor has at most " + std::to_string(kMaxDims) + " axes.");
  }
  Tensor result = tensor;
  for (const size_t position : positions) {
    for (auto axis = static_cast<size_t>(result.ndim); axis > position; --axis) {
      result.shape[axis] = result.shape[axis - 1];
      result.strides[axis] = result.strides[axis - 1];
    }
    result.shape[position] = 1;
    result.strides[position] = 1;
    ++result.ndim;
  }
  return result;
}

Tensor subscript(const Tensor& tensor, PyObject* key) {
  PyObject* const* entries = &key;
  Py_ssize_t count = 1;
  if (PyTuple_Check(key)) {
    entries = &PyTuple_GET_ITEM(key, 0);
    count = PyTuple_GET_SIZE(key);
  }
  int consumed = 0;
  int ellipses = 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (entries[i] == Py_Ellipsis) ++ellipses;
    if (entries[i] != Py_Ellipsis && entries[i] != Py_None) ++consumed;
  }
  if (ellipses > 1) throw_index_error("an index has at most one ...");
  if (consumed > tensor.ndim) {
    throw_index_error(std::to_string(consumed) + " indices for " + std::to_string(tensor.ndim) + " axes, shape " +
                      shape_text(tensor));
  }
  std::vector<Slice> slices;
  slices.reserve(static_cast<size_t>(tensor.ndim));
  std::vector<size_t> new_axes;
  size_t kept = 0;  // axes of the result so far
  const auto take_whole = [&](int axes) {
    for (; axes > 0; --axes, ++kept) slices.push_back({0, 1, tensor.shape[slices.size()], false});
  };
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (entries[i] == Py_Ellipsis) {
      take_whole(tensor.ndim - consumed);
    } else if (entries[i] == Py_None) {
      new_axes.push_back(kept++);
    } else {
      slices.push_back(slice_of(entries[i], tensor.shape[slices.size()], static_cast<int>(slices.size())));
      if (!slices.back().drop) ++kept;
    }
  }
  take_whole(tensor.ndim - static_cast<int>(slices.size()));
  return with_new_axes(slice(tensor, slices), new_axes);
}

PyObject* reshape_method(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return guarded([&] { return view_of(self, reshape(tensor_of(self), integers(args, nargs, "reshape"))); });
}

PyObject* permute_method(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return guarded([&] {
    std::vector<int> axes;
    for (const int64_t axis : integers(args, nargs, "permute")) {
      axes.push_back(axis_index(axis, tensor_of(self).ndim, "permute"));
    }
    return view_of(self, permute(tensor_of(self), axes));
  });
}

Tensor with_axes_swapped(const Tensor& tensor, int first, int second) {
  Tensor result = tensor;
  std::swap(result.shape[static_cast<size_t>(first)], result.shape[static_cast<size_t>(second)]);
  std::swap(result.strides[static_cast<size_t>(first)], result.strides[static_cast<size_t>(second)]);
  return result;
}

PyObject* transpose(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(self);
    const std::vector<int64_t> axes = integers(args, nargs, "transpose");
    if (axes.size() != 2) {
      throw Error(ErrorKind::kShape, "transpose: two axes are needed, " + std::to_string(axes.size()) +
                                         " were given. For a new order of all axes use permute().");
    }
    return view_of(self, with_axes_swapped(tensor, axis_index(axes[0], tensor.ndim, "transpose"),
                                           axis_index(axes[1], tensor.ndim, "transpose")));
  });
}

PyObject* squeeze(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(self);
    std::array<bool, kMaxDims> dropped{};
    for (size_t i = 0; i < kMaxDims; ++i) dropped[i] = nargs == 0 && tensor.shape[i] == 1;
    for (const int64_t given : integers(args, nargs, "squeeze")) {
      const auto axis = static_cast<size_t>(axis_index(given, tensor.ndim, "squeeze"));
      if (tensor.shape[axis] != 1) {
        throw Error(ErrorKind::kShape, "squeeze: axis " + std::to_string(given) + " has " +
                                           std::to_string(tensor.shape[axis]) + " elements, not 1; the shape is " +
                                           shape_text(tensor) + ".");
      }
      dropped[axis] = true;
    }
    Tensor result = tensor;
    size_t kept = 0;
    for (size_t i = 0; i < static_cast<size_t>(tensor.ndim); ++i) {
      if (dropped[i]) continue;
      result.shape[kept] = tensor.shape[i];
      result.strides[kept++] = tensor.strides[i];
    }
    result.ndim = static_cast<int>(kept);
    return view_of(self, result);
  });
}

// Whether strides of 0 give `tensor` this shape; `result` has it then. At most 2^62 bytes, as if they were there.
bool broadcast(const Tensor& tensor, const std::vector<int64_t>& shape, Tensor& result) {
  const auto missing = static_cast<ptrdiff_t>(shape.size()) - tensor.ndim;
  if (missing < 0 || shape.size() > kMaxDims) return false;
  int64_t bytes = itemsize(tensor.dtype);
  result.ndim = static_cast<int>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) {
    const ptrdiff_t from = static_cast<ptrdiff_t>(i) - missing;
    const int64_t own = from < 0 ? 1 : tensor.shape[static_cast<size_t>(from)];
    if (own != shape[i] && (own != 1 || shape[i] < 0)) return false;
    const int64_t length = std::max<int64_t>(shape[i], 1);
    if (__builtin_mul_overflow(bytes, length, &bytes) || bytes > int64_t{1} << 62) return false;
    result.shape[i] = shape[i];
    result.strides[i] = own == 1 ? 0 : tensor.strides[static_cast<size_t>(from)];
  }
  return true;
}

PyObject* broadcast_to(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(self);
    const std::vector<int64_t> shape = integers(args, nargs, "broadcast_to");
    Tensor result = tensor;
    if (!broadcast(tensor, shape, result)) {
      std::string wanted;
      for (const int64_t length : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(length);
      throw Error(ErrorKind::kShape, "broadcast_to: the shape is " + shape_text(tensor) + ", [" + wanted +
                                         "] was asked for; axes must be equal or 1, counted from the last, and less "
                                         "than 2^62 bytes are possible.");
    }
    return view_of(self, result);
  });
}

// The same bytes as elements of another type; the last axis shrinks or grows with the width.
Tensor viewed_as(const Tensor& tensor, DType dtype) {
  const int64_t from = itemsize(tensor.dtype);
  const int64_t to = itemsize(dtype);
  Tensor result = tensor;
  result.dtype = dtype;
  if (from == to) return result;
  const auto explain = [&](const std::string& what) {
    return Error(ErrorKind::kLayout, std::string("view: ") + name(tensor.dtype) + " " + shape_text(tensor) + " as " +
                                         name(dtype) + ": " + what + ".");
  };
  if (tensor.ndim == 0) throw explain("a tensor without axes keeps its width");
  const auto last = static_cast<size_t>(tensor.ndim - 1);
  if (tensor.strides[last] != 1 && tensor.shape[last] != 1)
    throw explain("the last axis must be contiguous; use .contiguous()");
  if (tensor.shape[last] * from % to != 0)
    throw explain("the last axis is no multiple of " + std::to_string(to) + " bytes");
  result.shape[last] = tensor.shape[last] * from / to;
  result.strides[last] = 1;
  for (size_t i = 0; i < last; ++i) {
    if (tensor.strides[i] * from % to != 0)
      throw explain("its rows do not start at multiples of " + std::to_string(to) + " bytes");
    result.strides[i] = tensor.strides[i] * from / to;
  }
  if (tensor.address() % static_cast<uint64_t>(to) != 0)
    throw explain("it does not start at a multiple of " + std::to_string(to) + " bytes");
  return result;
}

PyObject* view_method(PyObject* self, PyObject* dtype) {
  return guarded([&] { return view_of(self, viewed_as(tensor_of(self), dtype_from_object(dtype))); });
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

PyObject* tensor_subscript(PyObject* self, PyObject* key) {
  return guarded([&] { return view_of(self, subscript(tensor_of(self), key)); });
}

PyObject* tensor_item_at(PyObject* self, Py_ssize_t index) {
  return guarded([&] {
    const auto key = py::reinterpret_steal<py::object>(require(PyLong_FromSsize_t(index)));
    return view_of(self, subscript(tensor_of(self), key.ptr()));
  });
}

PyObject* tensor_transposed(PyObject* self) {
  return guarded([&] {
    std::vector<int> axes(static_cast<size_t>(tensor_of(self).ndim));
    std::iota(axes.rbegin(), axes.rend(), 0);
    return view_of(self, permute(tensor_of(self), axes));
  });
}

PyObject* tensor_matrix_transposed(PyObject* self) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(self);
    if (tensor.ndim < 2) {
      throw Error(ErrorKind::kShape, "mT: two axes are needed, the shape is " + shape_text(tensor) + ".");
    }
    return view_of(self, with_axes_swapped(tensor, tensor.ndim - 2, tensor.ndim - 1));
  });
}

PyMethodDef* view_methods() {
  static PyMethodDef methods[] = {
      {"reshape", fast(reshape_method), METH_FASTCALL,
       "reshape(self, *shape: int | Sequence[int]) -> Tensor\n\n"
       "The same elements in another shape; one length may be -1. LayoutError if that needs a copy."},
      {"permute", fast(permute_method), METH_FASTCALL,
       "permute(self, *axes: int | Sequence[int]) -> Tensor\n\nThe axes in a new order."},
      {"transpose", fast(transpose), METH_FASTCALL,
       "transpose(self, first: int, second: int) -> Tensor\n\nTwo axes swapped."},
      {"squeeze", fast(squeeze), METH_FASTCALL,
       "squeeze(self, *axes: int) -> Tensor\n\nWithout these axes, or without all, of length 1."},
      {"broadcast_to", fast(broadcast_to), METH_FASTCALL,
       "broadcast_to(self, *shape: int | Sequence[int]) -> Tensor\n\nAxes of length 1 repeated, by a stride of 0."},
      {"view", view_method, METH_O,
       "view(self, dtype: DTypeLike) -> Tensor\n\nThe same bytes as elements of another type."},
      {nullptr, nullptr, 0, nullptr}};
  return methods;
}

}  // namespace unify::python
