// unify.Event: marks in a stream.
#include "../core/event.h"

#include <pybind11/stl.h>

#include <optional>

#include "../core/sharing.h"
#include "../core/stream.h"
#include "convert.h"
#include "owner.h"
#include "sharing.h"

namespace unify::python {
namespace {

void record(Event& event, const py::object& stream) {
  const std::shared_ptr<Stream> target = stream_from_object(stream.ptr(), event.device());
  without_gil([&] { event.record(*target); });
}

void synchronize(Event& event, const std::optional<double> timeout_s) {
  without_gil([&] { event.synchronize(timeout_s.value_or(-1)); });
  release_owners();
}

double elapsed_ms(Event& event, Event& later) {
  return without_gil([&] { return event.elapsed_ms(later); });
}

py::bytes share_event(const Event& event) {
  return bytes_of_token(without_gil([&] { return share(event); }));
}

std::shared_ptr<Event> event_from_shared(const py::object& object, const py::object& device) {
  const std::string token = token_from_object(object.ptr());
  const std::shared_ptr<Device> target = device_for_token(token, device.ptr());
  return without_gil([&] { return open_event(target, token); });
}

std::string repr_of(const Event& event) {
  const char* option = event.has_timing() ? ", timing=True" : event.is_shared() ? ", shared=True" : "";
  return "unify.Event(" + event.device().name() + option + ")";
}

}  // namespace

void bind_event(py::module_& module) {
  py::class_<Event, std::shared_ptr<Event>>(module, "Event",
                                            "A mark in a stream, to wait for or to time. A new event counts as passed.",
                                            py::release_gil_before_calling_cpp_dtor())
      .def(py::init([](const py::object& device, bool timing, bool shared) {
             const std::shared_ptr<Device> opened = device_from_object(device.ptr());
             return without_gil([&] { return Event::create(opened, timing, shared); });
           }),
           py::arg("device") = py::none(), py::kw_only(), py::arg("timing") = false, py::arg("shared") = false,
           "A new event; `timing` is needed for elapsed_ms, `shared` for share. Not both.")
      .def_property_readonly(
          "device",
          [](const Event& e) {
            return py::reinterpret_borrow<py::object>(device_object(e.device().shared_from_this()));
          },
          "The device it belongs to.")
      .def_property_readonly("has_timing", &Event::has_timing, "Whether elapsed_ms can be asked.")
      .def_property_readonly("is_shared", &Event::is_shared, "Whether it is for other processes too, or of one.")
      .def_property_readonly(
          "is_done", [](Event& e) { return without_gil([&] { return e.query(); }); },
          "Whether the mark was passed. Raises the marked work's failure.")
      .def("record", &record, py::arg("stream") = py::none(),
           "Marks the work enqueued so far on `stream` (default: the current one). Moves an earlier mark.")
      .def("synchronize", &synchronize, py::arg("timeout_s") = py::none(),
           "Waits for the mark. Raises the marked work's failure, or TimeoutExpired.")
      .def("elapsed_ms", &elapsed_ms, py::arg("later"),
           "Milliseconds from this mark to `later`, as the device saw it. Both recorded and passed, with timing.")
      .def("share", &share_event,
           "A token by which other processes open this event: `Event.from_shared`. Keep the event until they are done "
           "with it.\n\nRaises InvalidArgument for an event that was made without `shared=True`.")
      .def_static(
          "from_shared", &event_from_shared, py::arg("token"), py::arg("device") = py::none(),
          "The event of another process that called `share`. Each of them may record it, wait for it and ask; a "
          "wait is for what was recorded before the wait was called.\n\n"
          "device: the same chip, where it has another name here than in the other process. Raises "
          "InvalidArgument for what is no such token, or one of this same process.")
      .def("__repr__", &repr_of);
}

}  // namespace unify::python
