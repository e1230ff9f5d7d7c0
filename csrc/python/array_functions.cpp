// The functions by which ops and users take arrays of any library: asarray, as_tensor, wrap_like.
#include "arguments.h"
#include "call_stream.h"
#include "convert.h"
#include "dtype.h"
#include "owner.h"
#include "tensor.h"

namespace unify::python {
namespace {

const Tensor& tensor_of(PyObject* object) { return reinterpret_cast<TensorObject*>(object)->tensor; }

// Of its other ways torch hands out no tensor that requires a gradient: what is done to it here would be missing in the
// gradient. Its table does not ask.
void require_no_gradient(PyObject* array) {
  static PyObject* const name = PyUnicode_InternFromString("requires_grad");
  if (!speaks_dlpack_table(array)) return;
  const auto required = py::reinterpret_steal<py::object>(PyObject_GetAttr(array, name));
  if (!required) return PyErr_Clear();
  if (required.ptr() != Py_True || !py::module_::import("torch").attr("is_grad_enabled")().cast<bool>()) return;
  throw Error(ErrorKind::kInvalidArgument,
              "array: the tensor requires a gradient, which unify does not follow. Give .detach() of it, or call under "
              "torch.no_grad().");
}

py::object as_tensor_object(PyObject* array, CallStream* call = nullptr) {
  if (tensor_from_pyobject(array) != nullptr) return py::reinterpret_borrow<py::object>(array);
  require_no_gradient(array);
  ImportedArray imported = import_array(array, call);
  release_owners();
  return py::reinterpret_steal<py::object>(tensor_to_pyobject(std::move(imported.tensor), imported.is_readonly));
}

std::string argument_name(PyObject* name) { return is_given(name) ? text_of(name) : std::string("array"); }

// `wanted` is a dtype or a tuple of them. Each op asks this of each array: the text is made for an error only.
void require_dtype(const Tensor& tensor, PyObject* wanted, PyObject* name) {
  const bool is_one = PyTuple_Check(wanted) == 0;
  const Py_ssize_t count = is_one ? 1 : PyTuple_GET_SIZE(wanted);
  const auto candidate = [&](Py_ssize_t i) { return dtype_from_object(is_one ? wanted : PyTuple_GET_ITEM(wanted, i)); };
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (candidate(i) == tensor.dtype) return;
  }
  std::string known;
  for (Py_ssize_t i = 0; i < count; ++i) {
    known += (i == 0 ? "" : i + 1 == count ? " or " : ", ") + std::string(unify::name(candidate(i)));
  }
  throw Error(ErrorKind::kDType, argument_name(name) + ": must be " + known + ", not " + unify::name(tensor.dtype) +
                                     " (shape " + shape_text(tensor) +
                                     "). Convert it with .to(), a NumPy array with .astype().");
}

void require_device(const Tensor& tensor, const Device& wanted, PyObject* name) {
  if (&tensor.device() == &wanted) return;
  throw Error(ErrorKind::kDeviceMismatch, argument_name(name) + ": is on " + tensor.device().name() + ", the work on " +
                                              wanted.name() + ". Bring it there with .to('" + wanted.name() + "').");
}

void require_ndim(const Tensor& tensor, PyObject* wanted, PyObject* name) {
  const long ndim = PyLong_AsLong(wanted);
  if (ndim == -1 && PyErr_Occurred() != nullptr) throw_python();
  if (ndim == tensor.ndim) return;
  throw Error(ErrorKind::kShape, argument_name(name) + ": must have " + std::to_string(ndim) + " axes, its shape is " +
                                     shape_text(tensor) + ".");
}

void require_contiguous(const Tensor& tensor, PyObject* name) {
  if (tensor.is_contiguous()) return;
  std::string strides;
  for (int i = 0; i < tensor.ndim; ++i) {
    strides += (i == 0 ? "" : ", ") + std::to_string(tensor.strides[static_cast<size_t>(i)]);
  }
  throw Error(ErrorKind::kLayout, argument_name(name) + ": must be contiguous; its shape is " + shape_text(tensor) +
                                      ", its strides are [" + strides + "]. Pass .contiguous() of it.");
}

PyObject* as_tensor(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<6> signature{"as_tensor", 1, 1, {"array", "name", "dtype", "device", "ndim", "contiguous"}};
    const auto [array, name, dtype, device, ndim, contiguous] = parse_arguments(signature, args, nargs, keywords);
    py::object result;
    try {
      result = as_tensor_object(array);
    } catch (Error& error) {
      if (!is_given(name)) throw;
      constexpr char kPlaceholder[] = "array: ";
      if (error.message.rfind(kPlaceholder, 0) == 0) error.message.erase(0, sizeof(kPlaceholder) - 1);
      error.message = text_of(name) + ": " + error.message;
      throw;
    }
    const Tensor& tensor = tensor_of(result.ptr());
    if (is_given(dtype)) require_dtype(tensor, dtype, name);
    // A device has one object; to compare it costs less than to cast it.
    if (is_given(device) && device != device_object(tensor.storage->device_ptr())) {
      require_device(tensor, *device_from_object(device), name);
    }
    if (is_given(ndim)) require_ndim(tensor, ndim, name);
    if (is_true(contiguous)) require_contiguous(tensor, name);
    return result.release().ptr();
  });
}

bool is_array(PyObject* object) {
  if (tensor_from_pyobject(object) != nullptr) return true;
  if (PyList_Check(object) || PyTuple_Check(object) || PyLong_Check(object) || PyFloat_Check(object)) return false;
  return true;
}

// Where numbers go: to the device named, else the stream's, else the default one, as those of unify.zeros.
std::shared_ptr<Device> device_for_numbers(PyObject* device, PyObject* stream) {
  if (!is_given(device) && is_given(stream) && py::isinstance<Stream>(stream)) {
    return py::handle(stream).cast<Stream&>().device_ptr();
  }
  return device_from_object(device);
}

PyObject* asarray(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    static const Signature<5> signature{"asarray", 3, 1, {"object", "dtype", "device", "copy", "stream"}};
    const auto [object, dtype, device, copy, stream] = parse_arguments(signature, args, nargs, keywords);
    py::object source;
    std::shared_ptr<Device> target;
    CallStream call = CallStream::of_copy(stream);
    if (is_array(object)) {
      source = as_tensor_object(object, &call);
    } else {
      static PyObject* from_sequence = nullptr;
      PyObject* function = python_function(from_sequence, "unify._tensor", "from_sequence");
      PyObject* kind = dtype == nullptr ? Py_None : dtype;
      source = py::reinterpret_steal<py::object>(
          require(in_python([&] { return PyObject_CallFunctionObjArgs(function, object, kind, nullptr); })));
      target = device_for_numbers(device, stream);
    }
    const Tensor& tensor = tensor_of(source.ptr());
    const bool same_dtype = !is_given(dtype) || dtype_from_object(dtype) == tensor.dtype;
    if (target == nullptr) target = is_given(device) ? device_from_object(device) : tensor.storage->device_ptr();
    const bool same_device = target.get() == &tensor.device();
    const bool must_copy = is_given(copy) && is_true(copy);
    if (same_dtype && same_device && !must_copy) {
      if (call.is_used()) {
        (void)call.begin(false);
        call.end_for_ours();
      }
      return source.release().ptr();
    }
    if (copy == Py_False) {
      throw Error(ErrorKind::kInvalidArgument,
                  std::string("asarray: copy=False, but the array is ") + unify::name(tensor.dtype) + " on " +
                      tensor.device().name() + " and must be " + (same_device ? "" : "moved to " + target->name()) +
                      (same_device || same_dtype ? "" : " and ") + (same_dtype ? "." : "converted."));
    }
    const py::dict options;
    if (is_given(dtype)) options["dtype"] = py::handle(dtype);
    options["device"] = py::handle(device_object(target));
    if (is_given(stream)) options["stream"] = py::handle(stream);
    options["copy"] = true;
    py::object result;
    if (call.is_used()) {
      {
        const CurrentStream current(call.begin(false));
        result = source.attr("to")(**options);
      }
      call.end_for_ours();
    } else {
      result = source.attr("to")(**options);
    }
    source = py::none();
    release_owners();
    return result.inc_ref().ptr();
  });
}

PyObject* wrap_like(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    static const Signature<2> signature{"wrap_like", 2, 2, {"tensor", "like"}};
    const auto [tensor, like] = parse_arguments(signature, args, nargs, keywords);
    if (tensor_from_pyobject(tensor) == nullptr)
      throw_type_error("wrap_like: a unify.Tensor is needed, not " + text_of(tensor));
    if (tensor_from_pyobject(like) != nullptr) {
      Py_INCREF(tensor);
      return tensor;
    }
    return export_like(tensor_of(tensor), like);
  });
}

PyMethodDef function(const char* name, PyObject* (*body)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*),
                     const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(body)), METH_FASTCALL | METH_KEYWORDS, doc};
}

}  // namespace

PyMethodDef* import_functions() {
  static PyMethodDef functions[] = {
      function("asarray", asarray,
               "asarray(object: ArrayLike, dtype: DTypeLike | None = None, device: DeviceLike = None, *, "
               "copy: bool | None = None, stream: StreamLike = None) -> Tensor\n\n"
               "A tensor over any array, list or number: zero-copy where dtype and device allow it.\n"
               "Arrays stay where they are unless `device` says otherwise; lists of floats become float32."),
      function(
          "as_tensor", as_tensor,
          "as_tensor(array: ArrayLike, *, name: str | None = None, dtype: DTypeLike | tuple[DTypeLike, ...] | None = "
          "None, device: DeviceLike = None, ndim: int | None = None, contiguous: bool = False) -> Tensor\n\n"
          "A zero-copy tensor over an argument of an op, which must be as asked: DTypeError, DeviceMismatchError,\n"
          "ShapeError or LayoutError name the argument. Nothing is converted."),
      function(
          "wrap_like", wrap_like,
          "wrap_like(tensor: Tensor, like: object) -> Any\n\n"
          "The tensor as an array of `like`'s library, zero-copy: torch in, torch out. That library may read it at\n"
          "once: what the current stream holds so far is waited for, or ordered before the library's own stream."),
      {nullptr, nullptr, 0, nullptr}};
  return functions;
}

}  // namespace unify::python
