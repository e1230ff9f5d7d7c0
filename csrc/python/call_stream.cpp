#include "call_stream.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "../core/leaks.h"
#include "../core/registry.h"
#include "arguments.h"
#include "dlpack.h"
#include "owner.h"
#include "tensor.h"

namespace unify::python {
namespace {

// What unify/_libraries.py says of one, its functions at hand.
struct Library {
  py::object current_stream;
  py::object address;
  py::object record_use;  // None: it has no such means
};

// Null for a type of a library that has no current stream. Looked for once for each type and kind of device.
const Library* library_of(PyTypeObject* type, const Device& device) {
  struct Entry {
    const Backend* backend;
    std::unique_ptr<Library> library;
  };
  static auto* known = new std::unordered_map<PyTypeObject*, std::vector<Entry>>;
  std::vector<Entry>& entries = (*known)[type];
  for (const Entry& entry : entries) {
    if (entry.backend == &device.backend()) return entry.library.get();
  }
  if (entries.empty()) Py_INCREF(type);  // its address must not become another type's
  static PyObject* function = nullptr;
  const py::object found = py::handle(python_function(function, "unify._libraries", "library_of"))(
      py::handle(reinterpret_cast<PyObject*>(type)), device.backend().name);
  std::unique_ptr<Library> library;
  if (!found.is_none()) {
    library = std::make_unique<Library>(
        Library{found.attr("current_stream"), found.attr("address"), found.attr("record_use")});
  }
  // Python ran meanwhile: the vector may have moved.
  return (*known)[type].emplace_back(Entry{&device.backend(), std::move(library)}).library.get();
}

// Streams that libraries worked on lately: wrapping one takes longer than a launch. `object` is held with a wrapper, as
// some end their stream with it; torch's live as long as the process, and who gives it an ExternalStream sees to that
// stream's life himself. Guarded by the GIL.
std::shared_ptr<Stream> wrapped(Device& device, uintptr_t native, PyObject* object) {
  static auto* lately = new std::array<std::shared_ptr<Stream>, 8>;
  static size_t oldest = 0;
  if (native == 0 && device.info().dlpack_type == kDLCUDA) native = 1;  // as foreign_stream
  auto* const handle = reinterpret_cast<void*>(native);
  for (const std::shared_ptr<Stream>& stream : *lately) {
    if (stream != nullptr && stream->native() == handle && &stream->device() == &device &&
        stream->generation() == device.generation()) {
      return stream;
    }
  }
  const bool is_held = device.stream_over(handle) != nullptr;  // by somebody else, who sees to its life
  std::shared_ptr<Stream> stream = foreign_stream(device, native, object);
  if (is_held) return stream;
  leaks::let_go(stream.get());  // the core's own
  (*lately)[oldest] = stream;
  oldest = (oldest + 1) % lately->size();
  return stream;
}

// What the array's library works on now, or null where nobody knows.
std::shared_ptr<Stream> stream_of_library(PyObject* array, const DLPackExchangeAPI* table, Device& device) {
  const int32_t type = device.info().dlpack_type;
  const int32_t id = device.info().dlpack_id;
  // Through the table it costs a few ns; of devices that DLPack has no streams for a library may answer with null.
  if (table != nullptr && type == kDLCUDA) {
    void* native = nullptr;
    if (table->current_work_stream(type, id, &native) != 0) throw_python();
    return wrapped(device, reinterpret_cast<uintptr_t>(native), nullptr);
  }
  if (const Library* library = library_of(Py_TYPE(array), device)) {
    const py::object stream = library->current_stream(id);
    return wrapped(device, py::int_(stream.attr(library->address)).cast<uintptr_t>(), stream.ptr());
  }
  if (table == nullptr) return nullptr;
  void* native = nullptr;
  if (table->current_work_stream(type, id, &native) != 0) throw_python();
  return wrapped(device, reinterpret_cast<uintptr_t>(native), nullptr);
}

// Besides our reference to the array: its library may free the memory under it (torch's storage.resize_(0)), and hands
// out such memory by what it knows of streams.
void record_use(PyObject* array, Stream& stream) {
  const Library* library = library_of(Py_TYPE(array), stream.device());
  if (library == nullptr || library->record_use.is_none() || stream.recording() != nullptr) return;
  stream.keep_native();
  library->record_use(py::handle(array), reinterpret_cast<uintptr_t>(stream.native()),
                      stream.device().info().dlpack_id);
}

}  // namespace

void CallStream::decide(Device& device, const std::shared_ptr<Stream>& librarys) {
  device_ = &device;
  const bool is_elsewhere = is_copy_ && is_given(named_) && py::isinstance<Stream>(named_) &&
                            &py::handle(named_).cast<Stream&>().device() != &device;
  if (is_given(named_) && !is_elsewhere) {
    stream_ = stream_from_object(named_, device);
    is_named_ = true;
  } else if (std::shared_ptr<Stream> chosen = device.chosen_stream()) {
    stream_ = std::move(chosen);
    is_named_ = true;
  } else if (librarys != nullptr && is_per_thread(device, librarys->native())) {
    stream_ = current_stream(device);
  } else {
    stream_ = librarys;
  }
}

void CallStream::add(std::shared_ptr<Stream> other) { add(std::move(other), *stream_); }

void CallStream::add(std::shared_ptr<Stream> other, Stream& on) {
  if (other.get() == &on || std::find(others_.begin(), others_.end(), other) != others_.end()) return;
  order_after(on, *other);
  others_.push_back(std::move(other));
}

bool CallStream::take(PyObject* array, const DLPackExchangeAPI* table, Device& device) {
  if (device_ != nullptr && device_ != &device) return true;  // which the call refuses
  std::shared_ptr<Stream> librarys = stream_of_library(array, table, device);
  if (stream_ == nullptr) decide(device, librarys);
  device_ = &device;
  if (librarys == nullptr) return false;
  if (is_named_ && librarys != stream_) record_use(array, *stream_);
  add(std::move(librarys));
  return true;
}

std::shared_ptr<Stream> CallStream::stream_of(Device& device) {
  if (stream_ == nullptr) decide(device, nullptr);
  device_ = &device;
  uses_ours_ = uses_ours_ || stream_ == nullptr;
  return stream_ == nullptr ? current_stream(device) : stream_;
}

void CallStream::take_work_of(Device& device, uintptr_t native) {
  const std::shared_ptr<Stream> on =
      stream_of(device);  // our current one, which comes before another that is found yet
  add(foreign_stream(device, native), *on);
}

std::shared_ptr<Stream> CallStream::begin(bool uses_ours) {
  if (stream_ == nullptr) return stream_ = current_stream(*device_);
  if (!is_named_ && (uses_ours || uses_ours_)) add(current_stream(*device_));
  return stream_;
}

void CallStream::end() {
  if (is_named_) return;
  for (const std::shared_ptr<Stream>& other : others_) order_after(*other, *stream_);
}

void CallStream::end_for_ours() {
  end();
  if (!is_named_) order_after(*current_stream(*device_), *stream_);
}

namespace {

// What an argument of an op is, as far as its stream goes.
enum class Part { kNone, kOnHost, kOurs, kTaken };

Part part_of(PyObject* value, CallStream& call) {
  if (const Tensor* tensor = tensor_from_pyobject(value)) {
    return tensor->device().is_host_visible() ? Part::kOnHost : Part::kOurs;
  }
  if (value == Py_None || PyLong_Check(value) || PyFloat_Check(value) || PyUnicode_Check(value)) return Part::kNone;
  const DLPackExchangeAPI* table = nullptr;
  const ArrayPlace place = place_of_array(value, &table);
  if (place.is_array && place.device == nullptr) return Part::kOnHost;
  if (!place.is_array) return Part::kOurs;  // it may hold some
  return place.device->chosen_stream() == nullptr && call.take(value, table, *place.device) ? Part::kTaken
                                                                                            : Part::kNone;
}

// While no array of another library was on a device, to look for one costs more than it is worth: should the first come
// now, the host waits for what was done with it, once.
PyObject* call_with_host_arrays(PyObject* function, PyObject* args, PyObject* kwargs) {
  const auto result =
      py::reinterpret_steal<py::object>(require(in_python([&] { return PyObject_Call(function, args, kwargs); })));
  for (const std::shared_ptr<Device>& device : devices_of_arrays()) {
    if (device->chosen_stream() == nullptr) without_gil([&] { device->current_stream()->synchronize(); });
  }
  return py::object(result).release().ptr();
}

// Runs function(*args, **kwargs) on the stream of the arrays among the arguments, as the current one. The first array
// that is on the host ends the search: then all are.
PyObject* call_on_stream_of_arrays(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    if (count != 3) throw_type_error("call_on_stream_of_arrays() takes a function, its tuple and its dict");
    PyObject* function = given[0];
    PyObject* args = given[1];
    PyObject* kwargs = given[2];
    if (devices_of_arrays().empty()) return call_with_host_arrays(function, args, kwargs);
    CallStream call;
    bool uses_ours = false;
    bool is_on_host = false;
    const auto look_at = [&](PyObject* value) {
      const Part part = part_of(value, call);
      uses_ours = uses_ours || part == Part::kOurs;
      is_on_host = part == Part::kOnHost;
    };
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args) && !is_on_host; ++i) look_at(PyTuple_GET_ITEM(args, i));
    PyObject* name = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t at = 0; !is_on_host && PyDict_Next(kwargs, &at, &name, &value) != 0;) look_at(value);
    const auto run = [&] { return PyObject_Call(function, args, kwargs); };
    if (!call.is_used()) return in_python(run);
    PyObject* result = nullptr;
    {
      const std::shared_ptr<Stream> stream = call.begin(uses_ours);
      const CurrentStream current(stream);
      result = in_python(run);
    }
    const py::object held = py::reinterpret_steal<py::object>(require(result));
    call.end();
    return py::object(held).release().ptr();
  });
}

}  // namespace

PyMethodDef* call_stream_functions() {
  static PyMethodDef functions[] = {
      {"call_on_stream_of_arrays",
       reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_on_stream_of_arrays)), METH_FASTCALL,
       "call_on_stream_of_arrays(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> "
       "Any\n\n"
       "function(*args, **kwargs), on the current stream of the library that the first array on a device is of, "
       "unless a `with stream:` named one."},
      {nullptr, nullptr, 0, nullptr}};
  return functions;
}

}  // namespace unify::python
