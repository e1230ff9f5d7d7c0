// New tensors: empty, zeros, ones, full.
#include <cstring>
#include <vector>

#include "../core/memory.h"
#include "arguments.h"
#include "convert.h"
#include "dtype.h"
#include "owner.h"
#include "tensor.h"

namespace unify::python {
namespace {

std::vector<int64_t> shape_of(PyObject* object, const char* function) {
  const auto length = [function](PyObject* entry) -> int64_t {
    const Py_ssize_t value = PyNumber_AsSsize_t(entry, PyExc_OverflowError);
    if (value == -1 && PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw Error(ErrorKind::kShape,
                  std::string(function) + ": a shape is one or more integers, not " + text_of(entry) + ".");
    }
    return value;
  };
  std::vector<int64_t> shape;
  if (PyIndex_Check(object) && !PyTuple_Check(object)) {
    shape.push_back(length(object));
  } else {
    const bool is_sequence = PySequence_Check(object) != 0 && !PyUnicode_Check(object) && !PyBytes_Check(object);
    const auto sequence = py::reinterpret_steal<py::object>(is_sequence ? PySequence_Fast(object, "") : nullptr);
    if (!sequence) {
      PyErr_Clear();
      throw Error(ErrorKind::kShape,
                  std::string(function) + ": a shape is one or more integers, not " + text_of(object) + ".");
    }
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence.ptr());
    for (Py_ssize_t i = 0; i < count; ++i) shape.push_back(length(PySequence_Fast_GET_ITEM(sequence.ptr(), i)));
  }
  return shape;
}

DType dtype_or_float32(PyObject* object) { return is_given(object) ? dtype_from_object(object) : DType::kFloat32; }

struct Placed {
  Tensor tensor;
  std::shared_ptr<Stream> stream;
};

Placed make_empty(const char* function, PyObject* shape, PyObject* dtype, PyObject* device, PyObject* stream) {
  std::shared_ptr<Device> target;
  if (!is_given(device) && is_given(stream) && py::isinstance<Stream>(stream)) {
    target = py::handle(stream).cast<Stream&>().device_ptr();
  } else {
    target = device_from_object(device);
  }
  const DType element = dtype_or_float32(dtype);
  const std::vector<int64_t> lengths = shape_of(shape, function);
  std::shared_ptr<Stream> on = stream_from_object(stream, *target);
  release_owners();
  Tensor tensor = without_gil([&] { return empty(*on, lengths, element); });
  return {std::move(tensor), std::move(on)};
}

void fill_bits(Stream& stream, const Tensor& tensor, uint64_t bits) {
  const int64_t count = tensor.size();
  if (count == 0) return;
  without_gil([&] {
    tensor.storage->require_current();
    fill(stream, Place{&tensor.device(), tensor.address()}, bits, itemsize(tensor.dtype), static_cast<size_t>(count));
    tensor.storage->used_on(stream);
  });
}

// NumPy 2's rule: a Python integer that the dtype cannot hold is an error, not a surprise.
uint64_t integer_bits(PyObject* value, DType dtype) {
  const auto number = py::reinterpret_steal<py::object>(require(PyNumber_Index(value)));
  const unsigned width = itemsize(dtype) * 8;
  int overflow = 0;
  const long long small = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  uint64_t bits = static_cast<uint64_t>(small);
  bool fits = overflow == 0;
  if (fits && is_signed(dtype)) {
    fits = width == 64 || (small >= -(1LL << (width - 1)) && small < (1LL << (width - 1)));
  } else if (fits) {
    fits = small >= 0 && (width == 64 || small < (1LL << width));
  } else if (overflow > 0 && dtype == DType::kUInt64) {
    bits = PyLong_AsUnsignedLongLong(number.ptr());
    fits = PyErr_Occurred() == nullptr;
    PyErr_Clear();
  }
  if (!fits) {
    throw Error(ErrorKind::kInvalidArgument, "fill: " + text_of(value) + " does not fit into " + name(dtype) + ".");
  }
  return bits;
}

PyObject* empty_function(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<4> signature{"empty", 3, 1, {"shape", "dtype", "device", "stream"}};
    const auto [shape, dtype, device, stream] = parse_arguments(signature, args, nargs, keywords);
    return tensor_to_pyobject(make_empty("empty", shape, dtype, device, stream).tensor);
  });
}

PyObject* zeros_function(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<4> signature{"zeros", 3, 1, {"shape", "dtype", "device", "stream"}};
    const auto [shape, dtype, device, stream] = parse_arguments(signature, args, nargs, keywords);
    const Placed placed = make_empty("zeros", shape, dtype, device, stream);
    fill_bits(*placed.stream, placed.tensor, 0);
    return tensor_to_pyobject(placed.tensor);
  });
}

PyObject* filled(const char* function, PyObject* shape, PyObject* value, PyObject* dtype, PyObject* device,
                 PyObject* stream) {
  const Placed placed = make_empty(function, shape, dtype, device, stream);
  fill_tensor(*placed.stream, placed.tensor, value);
  return tensor_to_pyobject(placed.tensor);
}

PyObject* ones_function(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<4> signature{"ones", 3, 1, {"shape", "dtype", "device", "stream"}};
    const auto [shape, dtype, device, stream] = parse_arguments(signature, args, nargs, keywords);
    return filled("ones", shape, py::int_(1).ptr(), dtype, device, stream);
  });
}

PyObject* full_function(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<5> signature{"full", 4, 2, {"shape", "value", "dtype", "device", "stream"}};
    const auto [shape, value, dtype, device, stream] = parse_arguments(signature, args, nargs, keywords);
    return filled("full", shape, value, dtype, device, stream);
  });
}

// Host memory for copies to and from `device` that need not stage: a tensor on the cpu, owned by that device's driver.
PyObject* empty_pinned_function(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<3> signature{"empty_pinned", 3, 1, {"shape", "dtype", "device"}};
    const auto [shape, dtype, device] = parse_arguments(signature, args, nargs, keywords);
    const std::shared_ptr<Device> target = device_from_object(device);
    const std::shared_ptr<Device> host = device_from_object(py::str("cpu").ptr());
    Tensor tensor;
    tensor.dtype = dtype_or_float32(dtype);
    const uint64_t bytes = set_contiguous(tensor, shape_of(shape, "empty_pinned"));
    tensor.storage = without_gil([&] {
      std::shared_ptr<Storage> pinned = allocate_pinned(target, bytes);
      const unify_address address = pinned->address();
      return std::make_shared<Storage>(host, address, bytes, std::move(pinned));
    });
    return tensor_to_pyobject(tensor);
  });
}

PyMethodDef method(const char* name, PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*),
                   const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL | METH_KEYWORDS,
          doc};
}

}  // namespace

void fill_tensor(Stream& stream, const Tensor& tensor, PyObject* value) {
  const bool is_number = PyFloat_Check(value) || PyLong_Check(value) || PyNumber_Check(value);
  if (!is_number || PyComplex_Check(value)) {
    throw Error(ErrorKind::kInvalidArgument, "fill: a number is needed, not " + text_of(value) + ".");
  }
  uint64_t bits = 0;
  if (is_floating(tensor.dtype)) {
    const double number = PyFloat_AsDouble(value);
    if (number == -1 && PyErr_Occurred() != nullptr) throw_python();
    convert(tensor.dtype, &bits, 1, DType::kFloat64, &number, 1, 1);
  } else {
    bits = tensor.dtype == DType::kBool ? static_cast<uint64_t>(is_true(value)) : integer_bits(value, tensor.dtype);
  }
  if (tensor.is_contiguous()) return fill_bits(stream, tensor, bits);
  // A single element, broadcast.
  const Tensor element = without_gil([&] { return empty(stream, {}, tensor.dtype); });
  fill_bits(stream, element, bits);
  copy_apart(stream.shared_from_this(), tensor, element);
}

PyMethodDef* creation_functions() {
  static PyMethodDef functions[] = {
      method("empty", empty_function,
             "empty(shape: int | Sequence[int], dtype: DTypeLike | None = None, device: DeviceLike = None, *, "
             "stream: StreamLike = None) -> Tensor\n\n"
             "A new tensor with undefined contents, float32 on the default device if not said otherwise.\n"
             "Its memory is for use on `stream` (default: the current one) at once, elsewhere in its order."),
      method("zeros", zeros_function,
             "zeros(shape: int | Sequence[int], dtype: DTypeLike | None = None, device: DeviceLike = None, *, "
             "stream: StreamLike = None) -> Tensor\n\nA new tensor of zeros, filled on `stream`."),
      method("ones", ones_function,
             "ones(shape: int | Sequence[int], dtype: DTypeLike | None = None, device: DeviceLike = None, *, "
             "stream: StreamLike = None) -> Tensor\n\nA new tensor of ones, filled on `stream`."),
      method(
          "full", full_function,
          "full(shape: int | Sequence[int], value: float, dtype: DTypeLike | None = None, device: DeviceLike = None, "
          "*, stream: StreamLike = None) -> Tensor\n\nA new tensor of one value, filled on `stream`."),
      method("empty_pinned", empty_pinned_function,
             "empty_pinned(shape: int | Sequence[int], dtype: DTypeLike | None = None, device: DeviceLike = None) -> "
             "Tensor\n\nA new tensor on the cpu, in memory that copies to and from `device` need not stage."),
      {nullptr, nullptr, 0, nullptr}};
  return functions;
}

}  // namespace unify::python
