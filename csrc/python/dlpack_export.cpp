// Tensors as DLPack: __dlpack__, __dlpack_device__, and the C table that other libraries' C++ code calls.
#include <array>
#include <climits>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "../core/registry.h"
#include "arguments.h"
#include "convert.h"
#include "dlpack.h"
#include "dtype.h"
#include "tensor.h"

namespace unify::python {
namespace {

constexpr DLPackVersion kVersion = {1, 3};

const Tensor& tensor_of(PyObject* self) { return reinterpret_cast<TensorObject*>(self)->tensor; }

void describe(Tensor& tensor, DLTensor* out) {
  const unify_device_info& info = tensor.device().info();
  out->data = tensor.size() == 0 ? nullptr : reinterpret_cast<void*>(tensor.address());
  out->device = {info.dlpack_type, info.dlpack_id};
  out->ndim = tensor.ndim;
  out->dtype = {dlpack_code(tensor.dtype), static_cast<uint8_t>(itemsize(tensor.dtype) * 8), 1};
  out->shape = tensor.shape.data();
  out->strides = tensor.strides.data();
  out->byte_offset = 0;
}

// A DLPack tensor and the tensor it describes. The consumer deletes it, from any thread and without the GIL.
template <typename Managed>
struct Exported {
  Managed managed;
  Tensor tensor;
};

template <typename Managed>
Managed* exported(const Tensor& tensor) {
  auto* result = new Exported<Managed>{{}, tensor};
  describe(result->tensor, &result->managed.dl_tensor);
  result->managed.manager_ctx = result;
  result->managed.deleter = [](Managed* self) { delete static_cast<Exported<Managed>*>(self->manager_ctx); };
  return &result->managed;
}

DLManagedTensorVersioned* exported_versioned(const Tensor& tensor, bool is_readonly, bool is_copy) {
  auto* managed = exported<DLManagedTensorVersioned>(tensor);
  managed->version = kVersion;
  managed->flags = (is_readonly ? uint64_t{kDLFlagReadOnly} : 0) | (is_copy ? uint64_t{kDLFlagIsCopied} : 0);
  return managed;
}

// A capsule that nobody consumed still owns its tensor.
template <typename Managed>
PyObject* capsule(Managed* managed, const char* name) {
  return require(PyCapsule_New(managed, name, [](PyObject* self) {
    const char* current = PyCapsule_GetName(self);
    if (current == nullptr || std::strncmp(current, "used_", 5) == 0) return;
    auto* unused = static_cast<Managed*>(PyCapsule_GetPointer(self, current));
    if (unused != nullptr) unused->deleter(unused);
  }));
}

// A consumer gives its stream by address alone. Memory remembers the streams that it is used on until it is freed, and
// must not remember one that may end before: that of a library that nobody here knows is ordered, and no more, as
// every producer does it.
void hand_over_to(const Tensor& tensor, uintptr_t native) {
  Device& device = tensor.device();
  static PyObject* slot = nullptr;
  PyObject* function = python_function(slot, "unify._libraries", "owner_of_stream");
  const char* kind = device.backend().name.c_str();
  const auto owner = py::reinterpret_steal<py::object>(require(in_python([&] {
    return PyObject_CallFunction(function, "Kis", static_cast<unsigned long long>(native), device.info().dlpack_id,
                                 kind);
  })));
  const std::shared_ptr<Stream> consumer = foreign_stream(device, native, owner.is_none() ? nullptr : owner.ptr());
  if (consumer->needs_owner()) {
    order_after(*consumer, *current_stream(device));
  } else {
    hand_over(tensor, *consumer);
  }
}

// Makes the data ready for the consumer's stream: array API standard, __dlpack__, argument `stream`.
void make_ready(const Tensor& tensor, PyObject* stream) {
  Device& device = tensor.device();
  const std::shared_ptr<Stream> ours = current_stream(device);
  const int32_t type = device.info().dlpack_type;
  if (!is_given(stream)) {
    if (type == kDLCUDA) {
      hand_over(tensor, *foreign_stream(device, 0));  // None: the legacy default stream
    } else {
      without_gil([&] { ours->synchronize(); });
    }
    return;
  }
  const long long number = PyLong_AsLongLong(stream);
  if (number == -1 && PyErr_Occurred() != nullptr) throw_python();
  if (number == -1) return;  // the consumer orders by itself
  if (type == kDLCPU) {
    throw Error(ErrorKind::kInvalidArgument,
                "__dlpack__: cpu memory has no streams, stream " + std::to_string(number) + " was given. Pass None.");
  }
  if (type == kDLCUDA && number <= 2) {  // CUDA's own, that never end: the legacy stream, and the thread's
    hand_over(tensor, *foreign_stream(device, static_cast<uintptr_t>(number)));
  } else {
    hand_over_to(tensor, static_cast<uintptr_t>(number));
  }
}

// An argument that is a pair of small numbers.
std::pair<int, int> pair_of(PyObject* object, const char* name) {
  std::array<int, 2> numbers{};
  bool is_pair = PySequence_Check(object) != 0 && PySequence_Size(object) == 2;
  for (size_t i = 0; i < numbers.size() && is_pair; ++i) {
    const auto item = py::reinterpret_steal<py::object>(PySequence_GetItem(object, static_cast<Py_ssize_t>(i)));
    const long number = item && PyIndex_Check(item.ptr()) != 0 ? PyLong_AsLong(item.ptr()) : -1;
    is_pair = number >= 0 && number <= INT_MAX;
    numbers.at(i) = static_cast<int>(number);
  }
  PyErr_Clear();
  if (!is_pair) throw_type_error(std::string("__dlpack__: ") + name + " is a pair of numbers, not " + text_of(object));
  return {numbers[0], numbers[1]};
}

bool takes_versioned(PyObject* max_version) {
  return is_given(max_version) && pair_of(max_version, "max_version").first >= 1;
}

[[noreturn]] void throw_buffer_error(const std::string& message) {
  PyErr_SetString(PyExc_BufferError, message.c_str());
  throw_python();
}

PyObject* dlpack(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    static const Signature<4> signature{"__dlpack__", 0, 0, {"stream", "max_version", "dl_device", "copy"}};
    const auto [stream, max_version, dl_device, copy] = parse_arguments(signature, args, nargs, keywords);
    const Tensor& tensor = tensor_of(self);
    std::shared_ptr<Device> target = tensor.storage->device_ptr();
    if (is_given(dl_device)) {
      const auto [type, id] = pair_of(dl_device, "dl_device");
      target = device_from_dlpack(type, id);
    }
    const bool must_copy = is_true(copy) || target.get() != &tensor.device();
    if (must_copy && copy == Py_False) {
      throw_buffer_error("the tensor is on " + tensor.device().name() + ", bringing it to " + target->name() +
                         " needs a copy and copy=False forbids it");
    }
    bool is_readonly = reinterpret_cast<TensorObject*>(self)->is_readonly && !must_copy;
    Tensor source = tensor;
    if (must_copy) {
      source = without_gil([&] {
        return empty(*target->current_stream(), {tensor.shape.begin(), tensor.shape.begin() + tensor.ndim},
                     tensor.dtype);
      });
      copy_ordered(source, tensor, nullptr);
    }
    make_ready(source, stream);
    if (takes_versioned(max_version)) {
      return capsule(exported_versioned(source, is_readonly, must_copy), "dltensor_versioned");
    }
    if (is_readonly) {
      throw_buffer_error("the tensor is read-only, which DLPack before 1.0 cannot say; pass max_version=(1, 0)");
    }
    return capsule(exported<DLManagedTensor>(source), "dltensor");
  });
}

PyObject* dlpack_device(PyObject* self, PyObject*) {
  const unify_device_info& info = tensor_of(self).device().info();
  return Py_BuildValue("(ii)", static_cast<int>(info.dlpack_type), static_cast<int>(info.dlpack_id));
}

// The functions of the C table. They are called with the GIL and set Python errors.

int table_allocate(DLTensor* prototype, DLManagedTensorVersioned** out, void* context,
                   void (*set_error)(void*, const char*, const char*)) {
  try {
    const AcquireGil gil;
    const std::shared_ptr<Device> device =
        device_from_dlpack(prototype->device.device_type, prototype->device.device_id);
    DType dtype;
    if (prototype->dtype.lanes != 1 || !dtype_from_dlpack(prototype->dtype.code, prototype->dtype.bits, &dtype)) {
      throw Error(ErrorKind::kDType, "dlpack: no dtype of unify has code " + std::to_string(prototype->dtype.code) +
                                         " and " + std::to_string(prototype->dtype.bits) + " bits.");
    }
    const std::vector<int64_t> shape(prototype->shape, prototype->shape + prototype->ndim);
    const Tensor tensor = without_gil([&] { return empty(*device->current_stream(), shape, dtype); });
    *out = exported_versioned(tensor, false, false);
    return 0;
  } catch (const std::exception& error) {
    set_error(context, "RuntimeError", error.what());
    return -1;
  }
}

int table_export(void* object, DLManagedTensorVersioned** out) {
  return guarded_status([&] {
    auto* self = static_cast<PyObject*>(object);
    *out = exported_versioned(tensor_of(self), reinterpret_cast<TensorObject*>(self)->is_readonly, false);
  });
}

int table_import(DLManagedTensorVersioned* managed, void** out_object) {
  return guarded_status([&] {
    ImportedArray imported = tensor_from_dlpack(managed);
    *out_object = tensor_to_pyobject(std::move(imported.tensor), imported.is_readonly);
  });
}

int table_borrow(void* object, DLTensor* out) {
  return guarded_status([&] { describe(reinterpret_cast<TensorObject*>(object)->tensor, out); });
}

int table_stream(int32_t type, int32_t id, void** out_stream) {
  return guarded_status(
      [&] { *out_stream = type == kDLCPU ? nullptr : current_stream(*device_from_dlpack(type, id))->native(); });
}

}  // namespace

void hand_over(const Tensor& tensor, Stream& consumer) {
  order_after(consumer, *current_stream(tensor.device()));
  if (is_per_thread(consumer.device(), consumer.native())) return;  // ordered, and no more, as for whom nobody knows
  without_gil([&] { tensor.storage->used_on(consumer); });
}

DLManagedTensorVersioned* dlpack_of(const Tensor& tensor) { return exported_versioned(tensor, false, false); }

PyObject* dlpack_exchange_api() {
  static DLPackExchangeAPI table = {{kVersion, nullptr}, table_allocate, table_export,
                                    table_import,        table_borrow,   table_stream};
  return require(PyCapsule_New(&table, "dlpack_exchange_api", nullptr));
}

PyMethodDef* dlpack_methods() {
  static PyMethodDef methods[] = {
      {"__dlpack__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(dlpack)), METH_FASTCALL | METH_KEYWORDS,
       "__dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None, "
       "dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> object\n\n"
       "A DLPack capsule, versioned where `max_version` allows; ready on the consumer's `stream`."},
      {"__dlpack_device__", dlpack_device, METH_NOARGS,
       "__dlpack_device__(self) -> tuple[int, int]\n\n(device_type, device_id) as in DLPack."},
      {nullptr, nullptr, 0, nullptr}};
  return methods;
}

}  // namespace unify::python
