// unify.Event: marks in a stream.
#include "../core/event.h"

#include <pybind11/stl.h>

#include <optional>

#include "../core/stream.h"
#include "convert.h"
#include "owner.h"

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

}  // namespace

void bind_event(py::module_& module) {
  py::class_<Event, std::shared_ptr<Event>>(module, "Event",
                                            "A mark in a stream, to wait for or to time. A new event counts as passed.",
                                            py::release_gil_before_calling_cpp_dtor())
      .def(py::init([](const py::object& device, bool timing) {
             const std::shared_ptr<Device> opened = device_from_object(device.ptr());
             return without_gil([&] { return Event::create(opened, timing); });
           }),
           py::arg("device") = py::none(), py::kw_only(), py::arg("timing") = false,
           "A new event; `timing` is needed for elapsed_ms.")
      .def_property_readonly(
          "device",
          [](const Event& e) {
            return py::reinterpret_borrow<py::object>(device_object(e.device().shared_from_this()));
          },
          "The device it belongs to.")
      .def_property_readonly("has_timing", &Event::has_timing, "Whether elapsed_ms can be asked.")
      .def_property_readonly(
          "is_done", [](Event& e) { return without_gil([&] { return e.query(); }); },
          "Whether the mark was passed. Raises the marked work's failure.")
      .def("record", &record, py::arg("stream") = py::none(),
           "Marks the work enqueued so far on `stream` (default: the current one). Moves an earlier mark.")
      .def("synchronize", &synchronize, py::arg("timeout_s") = py::none(),
           "Waits for the mark. Raises the marked work's failure, or TimeoutExpired.")
      .def("elapsed_ms", &elapsed_ms, py::arg("later"),
           "Milliseconds from this mark to `later`, as the device saw it. Both recorded and passed, with timing.")
      .def("__repr__", [](const Event& e) {
        return "unify.Event(" + e.device().name() + (e.has_timing() ? ", timing=True)" : ")");
      });
}

}  // namespace unify::python
