// The trace behind unify.trace().
#include "../core/trace.h"

#include "../core/trace_file.h"
#include "convert.h"
#include "owner.h"

namespace unify::python {

void bind_trace(py::module_& module) {
  module.def(
      "trace_start", [](size_t max_events) { return Trace::instance().start(max_events); },
      py::arg("max_events") = 1'000'000,
      "Starts collecting; later events than `max_events` are counted only. False when a trace is on already.");
  module.def(
      "trace_stop",
      [] {
        std::string trace = without_gil([] { return Trace::instance().stop(); });
        release_owners();
        return trace;
      },
      "Waits for the devices in use and returns the trace as JSON.");
  module.def(
      "trace_is_on", [] { return Trace::instance().is_on() || TraceFile::current() != nullptr; },
      "Whether a trace is being collected.");
  module.def(
      "trace_span",
      [](const std::string& name, int64_t begin_ns, int64_t end_ns) {
        Trace::instance().span(name, "host", begin_ns, end_ns);
        if (TraceFile* file = TraceFile::current()) file->add_host_span(name, "host", begin_ns, end_ns);
      },
      py::arg("name"), py::arg("begin_ns"), py::arg("end_ns"),
      "Adds a span of the host program; times of trace_clock_ns().");
  module.def("trace_clock_ns", &now_ns, "The clock of the trace.");
}

}  // namespace unify::python
