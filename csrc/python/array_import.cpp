// Other libraries' arrays as tensors, zero-copy. Tried in the order of cost: our own type, DLPack's C table
// (torch ≥ 2.10, …), the buffer protocol (NumPy), DLPack by method, the two array interfaces.
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/registry.h"
#include "arguments.h"
#include "call_stream.h"
#include "convert.h"
#include "dlpack.h"
#include "dtype.h"
#include "owner.h"
#include "tensor.h"

namespace unify::python {
namespace {

struct Reference {  // one that is dropped when an exception passes
  PyObject* object;
  explicit Reference(PyObject* o) : object(o) {}
  ~Reference() { Py_XDECREF(object); }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;
};

std::shared_ptr<Device>& host_device() {
  static auto* device = new std::shared_ptr<Device>;
  if (*device == nullptr) *device = device_from_object(py::str("cpu").ptr());
  return *device;
}

std::vector<std::shared_ptr<Device>>& known_devices() {
  static auto* devices = new std::vector<std::shared_ptr<Device>>;
  return *devices;
}

bool is_host(int32_t dlpack_type) { return dlpack_type == kDLCPU || dlpack_type == kDLCUDAHost; }

// Storage covers what the tensor touches, also where strides run backwards.
void attach_storage(Tensor& tensor, const std::shared_ptr<Device>& device, unify_address first,
                    std::shared_ptr<void> owner) {
  const auto width = static_cast<int64_t>(itemsize(tensor.dtype));
  int64_t low = 0;  // bytes from the first element
  int64_t high = width;
  bool is_empty = false;
  bool fits = true;
  for (size_t i = 0; i < static_cast<size_t>(tensor.ndim); ++i) {
    is_empty = is_empty || tensor.shape[i] == 0;
    int64_t reach = 0;
    fits = fits && tensor.shape[i] >= 0 && !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) &&
           !__builtin_mul_overflow(reach, width, &reach);
    int64_t& end = reach < 0 ? low : high;
    fits = fits && !__builtin_add_overflow(end, reach, &end);
  }
  if (!fits || high - low < 0) {
    throw Error(ErrorKind::kLayout, "array: the shape " + shape_text(tensor) +
                                        " with its strides reaches further than an address can count.");
  }
  if (is_empty) low = high = 0;
  tensor.offset_bytes = static_cast<uint64_t>(-low);
  tensor.storage =
      std::make_shared<Storage>(device, first - tensor.offset_bytes, static_cast<size_t>(high - low), std::move(owner));
}

[[noreturn]] void throw_many_axes(int64_t ndim) {
  throw Error(ErrorKind::kShape, "array: it has " + std::to_string(ndim) + " axes, at most " +
                                     std::to_string(kMaxDims) + " are possible. Reshape it first.");
}

[[noreturn]] void throw_no_dtype(const std::string& name) {
  throw Error(ErrorKind::kDType, "array: unify has no dtype for " + name + ". Convert it first, to one of " +
                                     dtype_names() +
                                     "; complex numbers to two arrays, of their real and imaginary parts.");
}

void describe(Tensor& tensor, const DLTensor& dl) {
  if (dl.ndim < 0 || dl.ndim > kMaxDims) throw_many_axes(dl.ndim);
  if (dl.dtype.lanes != 1 || !dtype_from_dlpack(dl.dtype.code, dl.dtype.bits, &tensor.dtype)) {
    const std::string bits = std::to_string(dl.dtype.bits);
    if (dl.dtype.code == kDLComplex) throw_no_dtype("complex" + bits);
    throw_no_dtype("DLPack's type code " + std::to_string(dl.dtype.code) + " with " + bits + " bits × " +
                   std::to_string(dl.dtype.lanes));
  }
  if (dl.strides == nullptr) {
    set_contiguous(tensor, std::vector<int64_t>(dl.shape, dl.shape + dl.ndim));
    return;
  }
  tensor.ndim = dl.ndim;
  for (size_t i = 0; i < static_cast<size_t>(dl.ndim); ++i) {
    tensor.shape[i] = dl.shape[i];
    tensor.strides[i] = dl.strides[i];
  }
}

// Why a library does not hand out an array: in its words, unless they are ours or the interpreter's.
[[noreturn]] void throw_refusal() {
  const py::error_already_set refusal;
  static PyObject* ours = nullptr;
  const bool is_ours = refusal.matches(python_function(ours, "unify._errors", "Error"));
  const bool is_of_layout = refusal.matches(PyExc_BufferError);  // DLPack's way to say that it cannot be described
  if (is_ours || !(is_of_layout || refusal.matches(PyExc_RuntimeError) || refusal.matches(PyExc_ValueError))) {
    throw refusal;
  }
  const std::string words = py::str(refusal.value()).cast<std::string>();
  throw Error(is_of_layout ? ErrorKind::kDType : ErrorKind::kInvalidArgument,
              "array: its library does not hand it out: " + words.substr(0, words.find('\n')));
}

// ---- DLPack's C table

const DLPackExchangeAPI* table_of(PyTypeObject* type) {
  static auto* known = new std::unordered_map<PyTypeObject*, const DLPackExchangeAPI*>;
  const auto found = known->find(type);
  if (found != known->end()) return found->second;
  const Reference attribute(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__"));
  const DLPackExchangeAPI* table = nullptr;
  if (attribute.object == nullptr) {
    PyErr_Clear();
  } else if (PyCapsule_IsValid(attribute.object, "dlpack_exchange_api") != 0) {
    table = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(attribute.object, "dlpack_exchange_api"));
    if (table->header.version.major != 1) table = nullptr;
  }
  Py_INCREF(type);  // its address must not become another type's
  known->emplace(type, table);
  return table;
}

// What the work on an array is ordered by: the call that it is an argument of, or our current stream.
class Consumer {
 public:
  Consumer(CallStream* call, Device& device) : call_(call != nullptr ? *call : own_) {
    if (call == nullptr) own_ = CallStream(current_stream(device));
  }
  CallStream* operator->() { return &call_; }

 private:
  CallStream own_;
  CallStream& call_;
};

ImportedArray from_table(const DLPackExchangeAPI& table, PyObject* object, CallStream* call) {
  DLManagedTensorVersioned* managed = nullptr;
  if (table.managed_tensor_from_py_object_no_sync(object, &managed) != 0) throw_refusal();
  ImportedArray imported = tensor_from_dlpack(managed);
  Device& device = imported.tensor.device();
  if (!is_host(device.info().dlpack_type)) (void)Consumer(call, device)->take(object, &table, device);
  return imported;
}

// ---- the buffer protocol

bool dtype_from_format(const char* format, Py_ssize_t width, DType* out_dtype) {
  if (*format == '@' || *format == '=' || *format == '<') ++format;  // little endian, as every chip we run on
  if (format[0] == '\0' || format[1] != '\0') return false;
  uint8_t code;
  switch (*format) {
    case '?':
      code = 6;
      break;
    case 'b':
    case 'h':
    case 'i':
    case 'l':
    case 'q':
    case 'n':
      code = 0;
      break;
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
    case 'N':
      code = 1;
      break;
    case 'e':
    case 'f':
    case 'd':
      code = 2;
      break;
    default:
      return false;
  }
  return dtype_from_dlpack(code, static_cast<uint8_t>(width * 8), out_dtype);
}

// In its library's words: NumPy's dtype says more than a buffer's format.
[[noreturn]] void throw_no_dtype(PyObject* object, const char* format) {
  static PyObject* slot = nullptr;
  PyObject* function = python_function(slot, "unify._tensor", "dtype_in_words");
  PyObject* words = in_python([&] { return PyObject_CallFunction(function, "Os", object, format); });
  throw_no_dtype(text_of(py::reinterpret_steal<py::object>(require(words)).ptr()));
}

void describe(Tensor& tensor, const Py_buffer& view) {
  if (view.ndim > kMaxDims) throw_many_axes(view.ndim);
  const char* format = view.format == nullptr ? "B" : view.format;
  if (!dtype_from_format(format, view.itemsize, &tensor.dtype)) throw_no_dtype(view.obj, format);
  if (view.strides == nullptr) {  // ctypes leaves them out, also when asked
    set_contiguous(tensor, std::vector<int64_t>(view.shape, view.shape + view.ndim));
    return;
  }
  tensor.ndim = view.ndim;
  for (size_t i = 0; i < static_cast<size_t>(view.ndim); ++i) {
    if (view.strides[i] % view.itemsize != 0) {
      throw Error(ErrorKind::kLayout, "array: axis " + std::to_string(i) + " steps by " +
                                          std::to_string(view.strides[i]) + " bytes, no multiple of its elements' " +
                                          std::to_string(view.itemsize) + ". Copy it first.");
    }
    tensor.shape[i] = view.shape[i];
    tensor.strides[i] = view.strides[i] / view.itemsize;
  }
}

void release_buffer(void* held) {
  auto* view = static_cast<Py_buffer*>(held);
  PyBuffer_Release(view);
  delete view;
}

// False when the object has no buffer, or none of a format that Python knows (ml_dtypes' bfloat16).
bool from_buffer(PyObject* object, ImportedArray* out_array) {
  if (PyObject_CheckBuffer(object) == 0) return false;
  auto view = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(object, view.get(), PyBUF_RECORDS_RO) != 0) {
    PyErr_Clear();
    return false;
  }
  const Py_buffer* held = view.get();
  // Holding the buffer forbids a bytearray or array.array to move its memory.
  const std::shared_ptr<void> owner = deferred_owner(view.release(), release_buffer);
  describe(out_array->tensor, *held);
  attach_storage(out_array->tensor, host_device(), reinterpret_cast<unify_address>(held->buf), owner);
  out_array->is_readonly = held->readonly != 0;
  return true;
}

// An ndarray cannot move its memory while it is referred to.
bool is_ndarray(PyObject* object) {
  static PyTypeObject* type = nullptr;
  if (type == nullptr && std::strcmp(Py_TYPE(object)->tp_name, "numpy.ndarray") == 0) {
    type = Py_TYPE(object);
    Py_INCREF(type);
  }
  return Py_TYPE(object) == type;
}

bool borrow_ndarray(PyObject* object, BorrowedArray* out_array) {
  Py_buffer view;
  if (PyObject_GetBuffer(object, &view, PyBUF_RECORDS_RO) != 0) {
    PyErr_Clear();
    return false;
  }
  out_array->address = reinterpret_cast<uint64_t>(view.buf);
  out_array->is_readonly = view.readonly != 0;
  out_array->device = host_device().get();
  const bool is_known = dtype_from_format(view.format, view.itemsize, &out_array->dtype);
  PyBuffer_Release(&view);
  return is_known;
}

// ---- DLPack by method

PyObject* call_dlpack(PyObject* object, PyObject* stream) {
  const Reference method(require(PyObject_GetAttrString(object, "__dlpack__")));
  const py::dict keywords;
  if (stream != Py_None) keywords["stream"] = py::handle(stream);
  keywords["max_version"] = py::make_tuple(1, 3);
  const py::tuple none(0);
  const auto call = [&] { return PyObject_Call(method.object, none.ptr(), keywords.ptr()); };
  PyObject* capsule = in_python(call);
  if (capsule != nullptr) return capsule;
  if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) throw_refusal();
  PyErr_Clear();  // written before DLPack 1.0: it knows no max_version
  PyDict_DelItemString(keywords.ptr(), "max_version");
  return require(in_python(call));
}

ImportedArray from_unversioned(DLManagedTensor* managed) {
  const std::shared_ptr<void> owner = deferred_owner(managed, [](void* held) {
    auto* tensor = static_cast<DLManagedTensor*>(held);
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  });
  const DLTensor& dl = managed->dl_tensor;
  ImportedArray imported{{}, false};
  describe(imported.tensor, dl);
  attach_storage(imported.tensor, device_from_dlpack(dl.device.device_type, dl.device.device_id),
                 reinterpret_cast<unify_address>(dl.data) + dl.byte_offset, owner);
  return imported;
}

std::shared_ptr<Device> dlpack_device_of(PyObject* object) {
  const auto where = py::reinterpret_steal<py::object>(
      require(in_python([&] { return PyObject_CallMethod(object, "__dlpack_device__", nullptr); })));
  if (!PyTuple_Check(where.ptr()) || PyTuple_GET_SIZE(where.ptr()) != 2)
    throw_type_error("__dlpack_device__ must return a pair");
  const int type = py::int_(where.cast<py::tuple>()[0]).cast<int>();  // NumPy and torch answer with an enum
  const int id = py::int_(where.cast<py::tuple>()[1]).cast<int>();
  return device_from_dlpack(type, id);
}

// The argument `stream` of __dlpack__: where we order ourselves -1, else the consumer's, after which its library
// orders.
py::object stream_for_producer(PyObject* object, Device& device, CallStream* call) {
  if (is_host(device.info().dlpack_type)) return py::none();
  Consumer consumer(call, device);
  if (consumer->take(object, nullptr, device)) return py::int_(-1);
  const auto native = reinterpret_cast<uintptr_t>(consumer->stream_of(device)->native());
  return native != 0 ? py::object(py::int_(native)) : py::none();
}

ImportedArray from_dlpack_method(PyObject* object, CallStream* call) {
  const py::object stream = stream_for_producer(object, *dlpack_device_of(object), call);
  const Reference capsule(call_dlpack(object, stream.ptr()));
  if (PyCapsule_IsValid(capsule.object, "dltensor_versioned") != 0) {
    auto* managed = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.object, "dltensor_versioned"));
    PyCapsule_SetName(capsule.object, "used_dltensor_versioned");
    return tensor_from_dlpack(managed);
  }
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.object, "dltensor"));
  if (managed == nullptr) throw_python();
  PyCapsule_SetName(capsule.object, "used_dltensor");
  return from_unversioned(managed);
}

// ---- __array_interface__ and __cuda_array_interface__

// A type as NumPy writes it, the order of bytes, the kind and the bytes of an element: "<f4".
bool dtype_from_typestr(const std::string& type, DType* out_dtype) {
  if (type.size() != 3 || type[0] == '>' || type[2] < '1' || type[2] > '8') return false;  // ours have up to 8 bytes
  const char kind = type[1];
  const uint8_t code = kind == 'b' ? 6 : kind == 'i' ? 0 : kind == 'u' ? 1 : kind == 'f' ? 2 : 255;
  return dtype_from_dlpack(code, static_cast<uint8_t>((type[2] - '0') * 8), out_dtype);
}

template <typename Value>
Value member(const py::dict& interface, const char* name) {
  if (interface.contains(name)) {
    try {
      return interface[name].cast<Value>();
    } catch (const py::cast_error&) {  // said below
    }
  }
  throw Error(ErrorKind::kInvalidArgument, std::string("array: its interface has no '") + name + "' as it has to be.");
}

ImportedArray from_interface(PyObject* object, const py::dict& interface, const std::shared_ptr<Device>& device) {
  const auto type = member<std::string>(interface, "typestr");
  const auto lengths = member<std::vector<int64_t>>(interface, "shape");
  const auto [address, is_readonly] = member<std::pair<uint64_t, bool>>(interface, "data");
  ImportedArray imported{{}, is_readonly};
  Tensor& tensor = imported.tensor;
  if (!dtype_from_typestr(type, &tensor.dtype)) throw_no_dtype("'" + type + "'");
  if (lengths.size() > kMaxDims) throw_many_axes(static_cast<int64_t>(lengths.size()));
  set_contiguous(tensor, lengths);
  if (interface.contains("strides") && !interface["strides"].is_none()) {
    const auto strides = member<std::vector<int64_t>>(interface, "strides");
    if (strides.size() != lengths.size()) {
      throw Error(ErrorKind::kShape, "array: its interface has " + std::to_string(lengths.size()) + " lengths and " +
                                         std::to_string(strides.size()) + " strides.");
    }
    const auto width = static_cast<int64_t>(itemsize(tensor.dtype));
    for (size_t i = 0; i < strides.size(); ++i) {
      const int64_t step = strides[i];
      if (step % width != 0)
        throw Error(ErrorKind::kLayout, "array: strides are no multiples of its elements. Copy it first.");
      tensor.strides[i] = step / width;
    }
  }
  attach_storage(tensor, device, address, python_owner(object));
  return imported;
}

ImportedArray from_cuda_interface(PyObject* object, CallStream* call) {
  const auto interface = py::handle(object).attr("__cuda_array_interface__").cast<py::dict>();
  static PyObject* slot = nullptr;  // the interface does not say which device
  const py::object index =
      py::handle(python_function(slot, "unify._libraries", "cuda_device_index"))(py::handle(object));
  const std::shared_ptr<Device> device = device_from_dlpack(kDLCUDA, index.cast<int>());
  ImportedArray imported = from_interface(object, interface, device);
  Consumer consumer(call, *device);
  (void)consumer->take(object, nullptr, *device);
  if (interface.contains("stream") && !interface["stream"].is_none()) {
    consumer->take_work_of(*device, interface["stream"].cast<uintptr_t>());
  }
  return imported;
}

// NumPy arrays of ml_dtypes: as unsigned integers of their width, then viewed. In Python, which may import NumPy.
bool from_ml_dtypes(PyObject* object, ImportedArray* out_array) {
  const py::object type = py::getattr(py::handle(object), "dtype", py::none());
  if (type.is_none() || !py::hasattr(object, "view")) return false;
  const auto type_name = py::str(py::getattr(type, "name", py::str(""))).cast<std::string>();
  if (type_name != "bfloat16" && type_name.rfind("float8", 0) != 0) return false;
  const DType dtype = dtype_from_object(type.ptr());
  const py::object bits = py::handle(object).attr("view")(itemsize(dtype) == 2 ? "uint16" : "uint8");
  if (!from_buffer(bits.ptr(), out_array)) return false;
  out_array->tensor.dtype = dtype;
  return true;
}

}  // namespace

ImportedArray tensor_from_dlpack(DLManagedTensorVersioned* managed) {
  const std::shared_ptr<void> owner = deferred_owner(managed, [](void* held) {
    auto* tensor = static_cast<DLManagedTensorVersioned*>(held);
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  });
  if (managed->version.major != 1) {
    throw Error(ErrorKind::kUnsupported, "array: it speaks DLPack " + std::to_string(managed->version.major) +
                                             ", unify speaks 1.x. Ask its library for max_version=(1, 3).");
  }
  const DLTensor& dl = managed->dl_tensor;
  ImportedArray imported{{}, (managed->flags & kDLFlagReadOnly) != 0};
  describe(imported.tensor, dl);
  attach_storage(imported.tensor, device_from_dlpack(dl.device.device_type, dl.device.device_id),
                 reinterpret_cast<unify_address>(dl.data) + dl.byte_offset, owner);
  return imported;
}

std::shared_ptr<Device> device_from_dlpack(int32_t type, int32_t id) {
  if (is_host(type)) return host_device();
  static auto* known = new std::unordered_map<int64_t, std::shared_ptr<Device>>;
  std::shared_ptr<Device>& slot = (*known)[(static_cast<int64_t>(type) << 32) | id];
  if (slot != nullptr) return slot;
  // Python knows which backends there are. One after the other is opened until one answers to the pair.
  static PyObject* find = nullptr;
  PyObject* function = python_function(find, "unify._device", "device_of_dlpack");
  const auto found = py::reinterpret_steal<py::object>(
      require(in_python([&] { return PyObject_CallFunction(function, "ii", type, id); })));
  slot = found.cast<std::shared_ptr<Device>>();
  known_devices().push_back(slot);
  return slot;
}

const std::vector<std::shared_ptr<Device>>& devices_of_arrays() { return known_devices(); }

bool find_array(PyObject* object, ImportedArray* out_array, CallStream* call) {
  const py::handle handle(object);
  if (const Tensor* own = tensor_from_pyobject(object)) {
    *out_array = {*own, reinterpret_cast<TensorObject*>(object)->is_readonly};
  } else if (const DLPackExchangeAPI* table = table_of(Py_TYPE(object))) {
    *out_array = from_table(*table, object, call);
  } else if (from_buffer(object, out_array) || from_ml_dtypes(object, out_array)) {
    return true;
  } else if (py::hasattr(handle, "__dlpack_device__")) {
    *out_array = from_dlpack_method(object, call);
  } else if (py::hasattr(handle, "__cuda_array_interface__")) {
    *out_array = from_cuda_interface(object, call);
  } else if (py::hasattr(handle, "__array_interface__")) {
    *out_array = from_interface(object, handle.attr("__array_interface__").cast<py::dict>(), host_device());
  } else {
    return false;
  }
  return true;
}

ImportedArray import_array(PyObject* object, CallStream* call) {
  ImportedArray imported{{}, false};
  if (find_array(object, &imported, call)) return imported;
  throw Error(ErrorKind::kInvalidArgument,
              "array: an array is needed, not " + described(object) +
                  ". Give a unify, NumPy, torch or CuPy array, or another that speaks DLPack, the buffer "
                  "protocol or an array interface. unify.asarray() makes one of a real number, or of a list of them.");
}

bool speaks_dlpack_table(PyObject* object) { return table_of(Py_TYPE(object)) != nullptr; }

ArrayPlace place_of_array(PyObject* object, const DLPackExchangeAPI** out_table) {
  const DLPackExchangeAPI* table = *out_table = table_of(Py_TYPE(object));
  if (table != nullptr && table->dltensor_from_py_object_no_sync != nullptr) {
    DLTensor dl{};
    if (table->dltensor_from_py_object_no_sync(object, &dl) == 0) {
      if (is_host(dl.device.device_type)) return {true, nullptr};
      return {true, device_from_dlpack(dl.device.device_type, dl.device.device_id).get()};
    }
    PyErr_Clear();  // the import says why
    return {false, nullptr};
  }
  if (is_ndarray(object) || PyObject_CheckBuffer(object) != 0) return {true, nullptr};
  if (!py::hasattr(py::handle(object), "__dlpack_device__")) return {false, nullptr};
  Device* device = dlpack_device_of(object).get();
  return {true, device->is_host_visible() ? nullptr : device};
}

bool borrow_array(PyObject* object, BorrowedArray* out_array) {
  const DLPackExchangeAPI* table = table_of(Py_TYPE(object));
  if (table == nullptr) return is_ndarray(object) && borrow_ndarray(object, out_array);
  if (table->dltensor_from_py_object_no_sync == nullptr) return false;
  DLTensor dl{};
  if (table->dltensor_from_py_object_no_sync(object, &dl) != 0) {
    PyErr_Clear();  // the whole import says why
    return false;
  }
  out_array->address = reinterpret_cast<uint64_t>(dl.data) + dl.byte_offset;
  out_array->is_readonly = false;
  out_array->device = host_device().get();
  return is_host(dl.device.device_type) && dl.dtype.lanes == 1 &&
         dtype_from_dlpack(dl.dtype.code, dl.dtype.bits, &out_array->dtype);
}

PyObject* export_like(Tensor tensor, PyObject* like) {
  if (tensor_from_pyobject(like) != nullptr) return tensor_to_pyobject(std::move(tensor));
  const auto result = py::reinterpret_steal<py::object>(tensor_to_pyobject(std::move(tensor)));
  const DLPackExchangeAPI* table = table_of(Py_TYPE(like));
  if (table == nullptr) {
    static PyObject* other = nullptr;
    PyObject* function = python_function(other, "unify._tensor", "wrap_like_other");
    return require(in_python([&] { return PyObject_CallFunctionObjArgs(function, result.ptr(), like, nullptr); }));
  }
  Tensor& source = *tensor_from_pyobject(result.ptr());
  Device& device = source.device();
  if (is_host(device.info().dlpack_type)) {
    host_tensor(source);  // its library reads at once
  } else {
    void* native = nullptr;
    if (table->current_work_stream(device.info().dlpack_type, device.info().dlpack_id, &native) != 0) throw_python();
    hand_over(source, *foreign_stream(device, reinterpret_cast<uintptr_t>(native)));
  }
  DLManagedTensorVersioned* managed = dlpack_of(source);
  void* made = nullptr;
  if (table->managed_tensor_to_py_object_no_sync(managed, &made) != 0) throw_python();
  return static_cast<PyObject*>(made);
}

}  // namespace unify::python
