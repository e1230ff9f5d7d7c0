// unify.Stream: making, ordering, waiting, and accepting other libraries' streams.
#include "../core/stream.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "../core/event.h"
#include "../core/graph.h"
#include "../core/registry.h"
#include "convert.h"
#include "owner.h"

namespace unify::python {
namespace {

using PyStream = py::class_<Stream, std::shared_ptr<Stream>>;

// What each `with stream:` of this thread made current, and what it replaced; innermost last.
struct Entered {
  std::shared_ptr<Stream> stream;
  std::shared_ptr<Stream> replaced;
};
std::vector<Entered>& entered_streams() {
  thread_local std::vector<Entered> streams;
  return streams;
}

std::shared_ptr<Stream> enter(const std::shared_ptr<Stream>& stream) {
  entered_streams().push_back({stream, stream->device().set_current_stream(stream)});
  return stream;
}

// Out of turn too: the next inner one of the device then stands for what this one replaced.
void leave(const std::shared_ptr<Stream>& stream, const py::args&) {
  std::vector<Entered>& streams = entered_streams();
  auto own = streams.end();
  for (auto it = streams.begin(); it != streams.end(); ++it) {
    if (it->stream == stream) own = it;
  }
  if (own == streams.end()) {
    throw Error(ErrorKind::kInvalidArgument,
                stream->name() + ": left on another thread than it was entered on; use one `with` per thread.");
  }
  const auto is_of_device = [&](const Entered& entry) { return &entry.stream->device() == &stream->device(); };
  const auto inner = std::find_if(own + 1, streams.end(), is_of_device);
  if (inner != streams.end()) {
    inner->replaced = std::move(own->replaced);
  } else {
    stream->device().set_current_stream(std::move(own->replaced));
  }
  streams.erase(own);
}

void synchronize(Stream& stream, const std::optional<double> timeout_s) {
  without_gil([&] { stream.synchronize(timeout_s.value_or(-1)); });
  release_owners();
}

// The address of a vendor's stream, or false when `object` is no stream that we know.
bool native_address(const py::handle object, uintptr_t* out_address) {
  if (PyLong_Check(object.ptr())) {
    *out_address = object.cast<uintptr_t>();
    return true;
  }
  if (py::hasattr(object, "__cuda_stream__")) {  // cuda.core's protocol: (version, address)
    const auto answer = object.attr("__cuda_stream__")().cast<py::tuple>();
    *out_address = answer[1].cast<uintptr_t>();
    return true;
  }
  for (const char* name : {"native", "cuda_stream", "npu_stream", "ptr"}) {
    if (!py::hasattr(object, name)) continue;
    *out_address = py::int_(object.attr(name)).cast<uintptr_t>();
    return true;
  }
  return false;
}

void wait(Stream& stream, const py::handle other) {
  if (py::isinstance<Event>(other)) {
    Event& event = other.cast<Event&>();
    without_gil([&] {
      if (&event.device().backend() == &stream.device().backend()) {
        stream.wait(event);
      } else {
        event.synchronize();  // no backend waits for another's events
      }
    });
    return;
  }
  if (py::isinstance<Stream>(other)) {
    order_after(stream, other.cast<Stream&>(), true);
    return;
  }
  // A stream of another library is one of the same device, CUDA's per-thread one too.
  uintptr_t address = 0;
  const bool is_per_threads =
      native_address(other, &address) && is_per_thread(stream.device(), reinterpret_cast<const void*>(address));
  order_after(
      stream,
      is_per_threads ? *foreign_stream(stream.device(), address) : *stream_from_object(other.ptr(), stream.device()),
      true);
}

// Runs a Python callable on a thread of the backend. What it raises cannot reach the caller: it is printed, as
// for a destructor.
void host_call(Stream& stream, const py::function& function) {
  std::shared_ptr<void> owner = python_owner(function.ptr());
  auto call = [owner = std::move(owner)] {
    if (is_interpreter_over()) return;  // nobody is left who could see that it ran
    const AcquireGil gil;
    auto* callable = static_cast<PyObject*>(owner.get());
    PyObject* result = in_python([&] { return PyObject_CallNoArgs(callable); });
    if (result == nullptr) PyErr_WriteUnraisable(callable);
    Py_XDECREF(result);
  };
  without_gil([&] { stream.host_call(std::move(call)); });
  release_owners();
}

std::shared_ptr<Event> record(Stream& stream, const std::shared_ptr<Event>& given) {
  return without_gil([&] {
    const std::shared_ptr<Event> event = given ? given : Event::create(stream.device_ptr(), false);
    event->record(stream);
    return event;
  });
}

py::tuple cuda_stream(const Stream& stream) {
  if (stream.device().info().dlpack_type != 2) {
    throw Error(ErrorKind::kUnsupported, stream.device().name() + " has no CUDA streams; use `.native`.");
  }
  return py::make_tuple(0, reinterpret_cast<uintptr_t>(stream.native()));
}

}  // namespace

std::shared_ptr<Stream> current_stream(Device& device) {
  if (std::shared_ptr<Stream> chosen = device.chosen_stream()) return chosen;
  if (std::shared_ptr<Stream> made = device.made_default_stream()) return made;
  return without_gil([&] { return device.default_stream(); });
}

bool is_per_thread(const Device& device, const void* native) noexcept {
  return device.info().dlpack_type == 2 && reinterpret_cast<uintptr_t>(native) == 2;  // cudaStreamPerThread
}

std::shared_ptr<Stream> foreign_stream(Device& device, uintptr_t native, PyObject* owner) {
  // CUDA's legacy default stream is 0 to its users; 1 is the same stream by name (cudaStreamLegacy).
  if (native == 0 && device.info().dlpack_type == 2) native = 1;
  auto* const handle = reinterpret_cast<void*>(native);
  // One of ours that came back, or a wrapped one that somebody holds: two over one handle would end separately.
  std::shared_ptr<Stream> stream = device.stream_over(handle);
  if (stream == nullptr) {
    stream = without_gil([&] {
      static std::mutex wrapping;  // two threads that come with one stream
      const std::lock_guard<std::mutex> lock(wrapping);
      std::shared_ptr<Stream> others = device.stream_over(handle);
      return others != nullptr ? others : Stream::create(device.shared_from_this(), 0, handle);
    });
  }
  if (owner != nullptr && stream->needs_owner()) stream->hold(python_owner(owner));
  return stream;
}

std::shared_ptr<Stream> stream_from_object(PyObject* object, Device& device) {
  if (object == nullptr || object == Py_None) return current_stream(device);
  const py::handle handle(object);
  if (py::isinstance<Stream>(handle)) {
    auto stream = handle.cast<std::shared_ptr<Stream>>();
    if (&stream->device() != &device) {
      throw Error(ErrorKind::kDeviceMismatch, "stream: " + stream->name() + " belongs to " + stream->device().name() +
                                                  ", the work to " + device.name() + ". Pass a stream of " +
                                                  device.name() + ".");
    }
    return stream;
  }
  uintptr_t address = 0;
  if (native_address(handle, &address)) {
    if (is_per_thread(device, reinterpret_cast<const void*>(address))) {
      throw Error(ErrorKind::kInvalidArgument,
                  "stream: 2 is CUDA's per-thread stream, which is another one on each thread, and no place for work "
                  "whose memory any thread may look after. Use a stream of its own, and its wait(2).");
    }
    return foreign_stream(device, address, PyLong_Check(object) != 0 ? nullptr : object);
  }
  throw Error(ErrorKind::kInvalidArgument,
              "stream: a unify.Stream, None, or another library's stream (one with __cuda_stream__, .native, "
              ".cuda_stream, .npu_stream or .ptr) is needed, not " +
                  text_of(object) + ".");
}

void order_after(Stream& stream, Stream& earlier, bool is_asked_for) {
  if (&stream == &earlier) return;
  without_gil([&] {
    // A graph of another library's cannot come after work outside of it, nor that after its recording.
    if (!is_asked_for && stream.is_recorded_elsewhere() != earlier.is_recorded_elsewhere()) return;
    if (&stream.device().backend() == &earlier.device().backend()) {
      stream.wait(earlier);
    } else {
      earlier.synchronize();
    }
  });
}

void bind_stream(py::module_& module) {
  PyStream(module, "Stream",
           "Work on a stream runs in the order it was enqueued. Usable from any thread; `with stream:` makes it "
           "the calling thread's current stream of its device.",
           py::release_gil_before_calling_cpp_dtor())  // it may wait for work that needs the GIL
      .def(py::init([](const py::object& device, int priority) {
             const std::shared_ptr<Device> opened = device_from_object(device.ptr());
             return without_gil([&] { return Stream::create(opened, priority); });
           }),
           py::arg("device") = py::none(), py::kw_only(), py::arg("priority") = 0,
           "A new stream. Lower priorities run first; see Device.properties for the range.")
      .def_static(
          "from_native",
          [](const py::object& stream, const py::object& device) {
            return stream_from_object(stream.ptr(), *device_from_object(device.ptr()));
          },
          py::arg("stream"), py::arg("device") = py::none(),
          "Another library's stream as one of ours: an object with __cuda_stream__, .native, .cuda_stream, "
          ".npu_stream or .ptr, or an address. It stays its owner's: an object is kept, an address must outlive the "
          "result.")
      .def_property_readonly(
          "device", [](const Stream& s) { return py::reinterpret_borrow<py::object>(device_object(s.device_ptr())); },
          "The device it belongs to.")
      .def_property_readonly("id", &Stream::id, "Its number on the device; 0 is the default stream.")
      .def_property_readonly("name", &Stream::name, "As errors call it: 'stream 2'.")
      .def_property_readonly("priority", &Stream::priority, "Lower runs first.")
      .def_property_readonly(
          "native", [](const Stream& s) { return reinterpret_cast<uintptr_t>(s.native()); },
          "The vendor's stream as an address; 0 where there is none.")
      .def_property_readonly(
          "is_capturing", [](const Stream& s) { return s.recording() != nullptr; },
          "Whether a graph records what is enqueued.")
      .def_property_readonly(
          "is_idle", [](Stream& s) { return without_gil([&] { return s.query(); }); },
          "Whether everything enqueued so far has run. Raises its failures.")
      .def("synchronize", &synchronize, py::arg("timeout_s") = py::none(),
           "Waits for everything enqueued so far. Raises its failures, or TimeoutExpired.")
      .def("wait", &wait, py::arg("other"),
           "Later work waits for an event's last record, or for what another stream holds now. Does not block "
           "unless `other` belongs to another backend.")
      .def("record", &record, py::arg("event") = py::none(),
           "Marks the work enqueued so far in `event`, or in a new one. Returns it.")
      .def("host_call", &host_call, py::arg("function"),
           "Calls `function()` on a thread of the backend after all work so far; later work waits for its "
           "return. It must not wait for this stream. What it raises is printed.")
      .def("__cuda_stream__", &cuda_stream, "(version, address), for other libraries.")
      .def("__enter__", &enter)
      .def("__exit__", &leave)
      .def(
          "__eq__", [](const Stream& s, const Stream& other) { return &s == &other; }, py::is_operator())
      .def(
          "__eq__", [](const Stream&, const py::object&) { return false; }, py::is_operator())
      .def("__hash__", [](const Stream& s) { return reinterpret_cast<uintptr_t>(&s); })
      .def("__repr__", [](const Stream& s) {
        return "unify.Stream(" + s.name() + " of " + s.device().name() +
               (s.priority() != 0 ? ", priority " + std::to_string(s.priority()) : "") + ")";
      });
}

}  // namespace unify::python
