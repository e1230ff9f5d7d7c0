// What moves bytes: copies between tensors and devices, casts, and the host's view of a tensor.
//
// Order. A copy comes after the work that both devices' current streams hold, and before their later work.
// Within one backend that takes events and does not block. Between two backends (say cuda and cpu) no event can
// be waited for, so the host waits: for the source's stream before the copy, and for the copy itself, unless the
// caller named a stream and with it took the second wait on itself.
#include <cstring>
#include <numeric>
#include <vector>

#include "../core/memory.h"
#include "arguments.h"
#include "call_stream.h"
#include "convert.h"
#include "dtype.h"
#include "owner.h"
#include "tensor.h"

namespace unify::python {
namespace {

const Tensor& tensor_of(PyObject* self) { return reinterpret_cast<TensorObject*>(self)->tensor; }

// The lowest and one past the highest byte that a tensor touches.
std::pair<uint64_t, uint64_t> extent(const Tensor& tensor) {
  int64_t low = 0;
  int64_t high = 0;
  for (size_t i = 0; i < static_cast<size_t>(tensor.ndim); ++i) {
    const int64_t reach = (tensor.shape[i] - 1) * tensor.strides[i];
    (reach < 0 ? low : high) += reach;
  }
  const int64_t width = itemsize(tensor.dtype);
  return {tensor.address() + static_cast<uint64_t>(low * width),
          tensor.address() + static_cast<uint64_t>((high + 1) * width)};
}

bool overlap(const Tensor& a, const Tensor& b) {
  if (&a.device() != &b.device() || a.size() == 0 || b.size() == 0) return false;
  const auto [a_begin, a_end] = extent(a);
  const auto [b_begin, b_end] = extent(b);
  return a_begin < b_end && b_begin < a_end;
}

std::vector<int64_t> shape_of(const Tensor& tensor) {
  return {tensor.shape.begin(), tensor.shape.begin() + tensor.ndim};
}

// Which stream carries a copy when the caller named none: that of the device the host cannot see, since its
// driver is the one that can reach both memories.
Device& carrier(const Tensor& dst, const Tensor& src) {
  return dst.device().is_host_visible() && !src.device().is_host_visible() ? src.device() : dst.device();
}

std::shared_ptr<Stream> stream_for(const Tensor& dst, const Tensor& src, PyObject* stream) {
  if (!is_given(stream)) return current_stream(carrier(dst, src));
  if (py::isinstance<Stream>(stream) && &py::handle(stream).cast<Stream&>().device() == &src.device()) {
    return stream_from_object(stream, src.device());
  }
  return stream_from_object(stream, dst.device());
}

// Kernels are Triton's, which need not be installed.
bool has_kernels() {
  static int known = -1;  // guarded by the GIL
  if (known < 0) known = py::module_::import("importlib.util").attr("find_spec")("triton").is_none() ? 0 : 1;
  return known == 1;
}

// By a kernel, where the device has a compiler, and one for such dtypes.
bool copy_by_kernel(const std::shared_ptr<Stream>& stream, const Tensor& dst, const Tensor& src) {
  if (!has_kernels()) return false;
  static PyObject* slot = nullptr;
  PyObject* function = python_function(slot, "unify._copy", "copy_strided");
  auto [to, from] = folded_views(dst, src);
  const auto target = py::reinterpret_steal<py::object>(tensor_to_pyobject(std::move(to)));
  const auto source = py::reinterpret_steal<py::object>(tensor_to_pyobject(std::move(from)));
  const py::object on = py::cast(stream);
  const auto is_done = py::reinterpret_steal<py::object>(require(in_python(
      [&] { return PyObject_CallFunctionObjArgs(function, target.ptr(), source.ptr(), on.ptr(), nullptr); })));
  return is_done.ptr() == Py_True;
}

void copy_on_one_device(const std::shared_ptr<Stream>& stream, const Tensor& dst, const Tensor& src) {
  if (!overlap(dst, src)) return copy_apart(stream, dst, src);
  const Tensor staged = without_gil([&] { return empty(*stream, shape_of(src), src.dtype); });
  copy_apart(stream, staged, src);
  copy_apart(stream, dst, staged);
}

Tensor contiguous_copy(const Tensor& tensor, DType dtype, Device& device, PyObject* stream) {
  const std::shared_ptr<Stream> on =
      &device == &tensor.device() && is_given(stream) ? stream_from_object(stream, device) : current_stream(device);
  const Tensor result = without_gil([&] { return empty(*on, shape_of(tensor), dtype); });
  copy_ordered(result, tensor, stream);
  return result;
}

// A str may name a dtype or a device: dtypes are a closed list, so they are tried first.
bool names_dtype(PyObject* object) {
  if (is_dtype(object)) return true;
  if (PyUnicode_Check(object)) {
    try {
      (void)dtype_from_object(object);
      return true;
    } catch (const Error&) {
      return false;
    }
  }
  return !py::isinstance<Device>(object);
}

PyObject* to(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    static const Signature<6> signature{"to", 2, 0, {"first", "second", "device", "dtype", "stream", "copy"}};
    auto [first, second, device, dtype, stream, copy] = parse_arguments(signature, args, nargs, keywords);
    for (PyObject* given : {first, second}) {
      if (!is_given(given)) continue;
      PyObject*& slot = names_dtype(given) ? dtype : device;
      if (slot != nullptr) throw_type_error("to() got two devices or two dtypes");
      slot = given;
    }
    const Tensor& tensor = tensor_of(self);
    const DType element = is_given(dtype) ? dtype_from_object(dtype) : tensor.dtype;
    const std::shared_ptr<Device> target = is_given(device) ? device_from_object(device) : tensor.storage->device_ptr();
    if (!is_true(copy) && element == tensor.dtype && target.get() == &tensor.device()) {
      Py_INCREF(self);
      return self;
    }
    return tensor_to_pyobject(contiguous_copy(tensor, element, *target, stream));
  });
}

PyObject* copy_method(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<1> signature{"copy", 0, 0, {"stream"}};
    const auto [stream] = parse_arguments(signature, args, nargs, keywords);
    const Tensor& tensor = tensor_of(self);
    return tensor_to_pyobject(contiguous_copy(tensor, tensor.dtype, tensor.device(), stream));
  });
}

PyObject* contiguous(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  if (tensor_of(self).is_contiguous()) {
    Py_INCREF(self);
    return self;
  }
  return copy_method(self, args, nargs, keywords);
}

bool is_number(PyObject* value) { return PyBool_Check(value) || PyLong_Check(value) || PyFloat_Check(value); }

void assign(PyObject* self, const Tensor& dst, PyObject* value, PyObject* stream) {
  require_writable(self, "copy_");
  if (is_number(value)) return fill_tensor(*stream_from_object(stream, dst.device()), dst, value);
  // Lists and NumPy's scalars become arrays in Python.
  static PyObject* asarray = nullptr;
  const Tensor* source = tensor_from_pyobject(value);
  ImportedArray imported{{}, false};
  CallStream call = CallStream::of_copy(stream);
  if (source == nullptr && find_array(value, &imported, &call)) source = &imported.tensor;
  if (call.is_used()) {
    {
      const CurrentStream current(call.begin(true));
      copy_ordered(dst, *source, stream);
    }
    call.end();
    return release_owners();
  }
  py::object converted;
  if (source == nullptr) {
    PyObject* function = python_function(asarray, "unify._tensor", "asarray");
    converted =
        py::reinterpret_steal<py::object>(require(in_python([&] { return PyObject_CallOneArg(function, value); })));
    source = tensor_from_pyobject(converted.ptr());
  }
  copy_ordered(dst, *source, stream);
  release_owners();
}

PyObject* copy_from(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<2> signature{"copy_", 1, 1, {"source", "stream"}};
    const auto [source, stream] = parse_arguments(signature, args, nargs, keywords);
    assign(self, tensor_of(self), source, stream);
    Py_INCREF(self);
    return self;
  });
}

PyObject* fill_method(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<2> signature{"fill_", 1, 1, {"value", "stream"}};
    const auto [value, stream] = parse_arguments(signature, args, nargs, keywords);
    require_writable(self, "fill_");
    fill_tensor(*stream_from_object(stream, tensor_of(self).device()), tensor_of(self), value);
    Py_INCREF(self);
    return self;
  });
}

// What a Py_buffer points to: lengths and steps in bytes.
struct BufferLayout {
  explicit BufferLayout(const Tensor& tensor) {
    for (size_t i = 0; i < static_cast<size_t>(tensor.ndim); ++i) {
      shape[i] = static_cast<Py_ssize_t>(tensor.shape[i]);
      strides[i] = static_cast<Py_ssize_t>(tensor.strides[i] * itemsize(tensor.dtype));
    }
  }
  Py_ssize_t shape[kMaxDims]{};
  Py_ssize_t strides[kMaxDims]{};
};

[[noreturn]] void throw_buffer_error(const std::string& message) {
  PyErr_SetString(PyExc_BufferError, message.c_str());
  throw_python();
}

PyCFunction with_keywords(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

void copy_apart(const std::shared_ptr<Stream>& stream, const Tensor& dst, const Tensor& src) {
  if (without_gil([&] { return copy_directly(*stream, dst, src); })) return;
  if (copy_by_kernel(stream, dst, src)) return;
  without_gil([&] { copy_into(*stream, dst, src); });
}

void copy_ordered(const Tensor& dst, const Tensor& src, PyObject* stream) {
  const std::shared_ptr<Stream> on = stream_for(dst, src, stream);
  if (&dst.device() == &src.device()) return copy_on_one_device(on, dst, src);
  const bool waits = &dst.device().backend() != &src.device().backend() && !is_given(stream);
  if (waits) without_gil([&] { on->require_not_recorded("wait for the copy, as is done without stream=,"); });
  const std::shared_ptr<Stream> dst_stream = current_stream(dst.device());
  const std::shared_ptr<Stream> src_stream = current_stream(src.device());
  order_after(*on, *src_stream);
  order_after(*on, *dst_stream);
  without_gil([&] { copy_into(*on, dst, src); });
  if (&dst.device().backend() == &src.device().backend()) {
    order_after(*dst_stream, *on);
    order_after(*src_stream, *on);
  } else if (waits) {
    without_gil([&] { on->synchronize(); });
  }
}

Tensor host_tensor(const Tensor& tensor) {
  Device& device = tensor.device();
  if (device.is_host_visible()) {
    const std::shared_ptr<Stream> stream = current_stream(device);
    without_gil([&] { stream->synchronize(); });
    return tensor;
  }
  const std::shared_ptr<Device> host = device_from_object(py::str("cpu").ptr());
  return contiguous_copy(tensor, tensor.dtype, *host, nullptr);
}

int tensor_assign_subscript(PyObject* self, PyObject* key, PyObject* value) {
  return guarded_status([&] {
    if (value == nullptr) throw_type_error("elements of a tensor cannot be deleted");
    const auto view = py::reinterpret_steal<py::object>(require(tensor_subscript(self, key)));
    assign(self, tensor_of(view.ptr()), value, nullptr);
  });
}

namespace {

// The flags ask for a layout that the tensor must have, as NumPy reads them.
void require_layout(const Tensor& tensor, int flags) {
  std::vector<int> reversed(static_cast<size_t>(tensor.ndim));
  std::iota(reversed.rbegin(), reversed.rend(), 0);
  const bool is_c = tensor.is_contiguous();
  const bool is_f = permute(tensor, reversed).is_contiguous();
  const auto asks = [flags](int layout) { return (flags & layout) == layout; };
  const bool fits = asks(PyBUF_ANY_CONTIGUOUS) ? is_c || is_f
                    : asks(PyBUF_F_CONTIGUOUS) ? is_f
                    : asks(PyBUF_C_CONTIGUOUS) ? is_c
                                               : asks(PyBUF_STRIDES) || is_c;
  if (!fits) throw_buffer_error("the tensor is not contiguous as was asked for; use .contiguous()");
}

}  // namespace

int tensor_get_buffer(PyObject* self, Py_buffer* view, int flags) {
  view->obj = nullptr;
  return guarded_status([&] {
    const Tensor& tensor = tensor_of(self);
    const char* format = buffer_format(tensor.dtype);
    if (!tensor.device().is_host_visible()) {
      throw_buffer_error("the host cannot see the memory of " + tensor.device().name() +
                         "; use .numpy(), which copies");
    }
    if (format == nullptr) {
      throw_buffer_error(std::string(name(tensor.dtype)) + " has no buffer format; view it as uint" +
                         std::to_string(itemsize(tensor.dtype) * 8) + " first");
    }
    const bool is_readonly = reinterpret_cast<TensorObject*>(self)->is_readonly;
    if ((flags & PyBUF_WRITABLE) != 0 && is_readonly) throw_buffer_error("the tensor is read-only");
    require_layout(tensor, flags);
    host_tensor(tensor);
    auto* layout = new BufferLayout(tensor);
    view->buf = reinterpret_cast<void*>(tensor.address());
    view->len = static_cast<Py_ssize_t>(tensor.bytes());
    view->itemsize = static_cast<Py_ssize_t>(itemsize(tensor.dtype));
    view->readonly = is_readonly ? 1 : 0;
    view->ndim = tensor.ndim;
    view->format = (flags & PyBUF_FORMAT) != 0 ? const_cast<char*>(format) : nullptr;
    view->shape = (flags & PyBUF_ND) != 0 ? layout->shape : nullptr;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? layout->strides : nullptr;
    view->suboffsets = nullptr;
    view->internal = layout;
    view->obj = self;
    Py_INCREF(self);
  });
}

void tensor_release_buffer(PyObject*, Py_buffer* view) { delete static_cast<BufferLayout*>(view->internal); }

PyMethodDef* copy_methods() {
  static PyMethodDef methods[] = {
      {"to", with_keywords(to), METH_FASTCALL | METH_KEYWORDS,
       "to(self, first: DeviceLike | DTypeLike = None, second: DeviceLike | DTypeLike = None, *, device: DeviceLike = "
       "None, "
       "dtype: DTypeLike | None = None, stream: StreamLike = None, copy: bool = False) -> Tensor\n\n"
       "On another device, as another dtype, or both; itself when it is so already and copy is false.\n"
       "Between two backends it returns when the copy is done, or at once if `stream` is given."},
      {"copy", with_keywords(copy_method), METH_FASTCALL | METH_KEYWORDS,
       "copy(self, *, stream: StreamLike = None) -> Tensor\n\nA contiguous copy on the same device."},
      {"contiguous", with_keywords(contiguous), METH_FASTCALL | METH_KEYWORDS,
       "contiguous(self, *, stream: StreamLike = None) -> Tensor\n\nItself if it is contiguous, else a copy that is."},
      {"copy_", with_keywords(copy_from), METH_FASTCALL | METH_KEYWORDS,
       "copy_(self, source: ArrayLike, *, stream: StreamLike = None) -> Tensor\n\n"
       "Overwrites it with `source`, broadcast and cast. Returns itself."},
      {"fill_", with_keywords(fill_method), METH_FASTCALL | METH_KEYWORDS,
       "fill_(self, value: float, *, stream: StreamLike = None) -> Tensor\n\nSets every element. Returns itself."},
      {nullptr, nullptr, 0, nullptr}};
  return methods;
}

}  // namespace unify::python
