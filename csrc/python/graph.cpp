// unify.Graph: work recorded once, launched often.
#include "../core/graph.h"

#include "../core/stream.h"
#include "convert.h"
#include "owner.h"

namespace unify::python {
namespace {

// What `with unify.Graph.capture(stream) as graph:` is between its begin and end.
class Capture {
 public:
  // graph: one to record again, or null for a new one. is_of_default: on the default device, since none was named.
  explicit Capture(std::shared_ptr<Stream> stream, std::shared_ptr<Graph> graph = nullptr, bool is_of_default = false)
      : stream_(std::move(stream)),
        graph_(std::move(graph)),
        is_update_(graph_ != nullptr),
        is_of_default_(is_of_default) {}

  std::shared_ptr<Graph> enter() {
    if (was_entered_) {
      throw Error(ErrorKind::kGraph, "capture: it was entered already; call Graph.capture() once per recording.");
    }
    without_gil([&] {
      if (is_update_) {
        graph_->begin_update(stream_);
      } else {
        graph_ = Graph::begin(stream_);
      }
    });
    was_entered_ = true;
    previous_ = stream_->device().set_current_stream(stream_);
    return graph_;
  }

  void exit(const py::object& exception_class, const py::args&) {
    stream_->device().set_current_stream(std::move(previous_));
    // An error inside the block is what the user must see, not that the recording is incomplete.
    if (exception_class.is_none()) {
      without_gil([&] { graph_->end(); });
    } else {
      without_gil([&] { graph_->abandon(); });
    }
    release_owners();
    if (exception_class.is_none() && is_of_default_ && graph_->size() == 0) throw_nothing_recorded();
  }

 private:
  // Work goes to the device of its arrays, and where that is another one it has run by now.
  [[noreturn]] void throw_nothing_recorded() const {
    throw Error(ErrorKind::kGraph, "capture: nothing was recorded on " + stream_->device().name() +
                                       ", the default device; work on arrays of another device ran at once. Name the "
                                       "device: Graph.capture(\"cuda:0\").");
  }

  std::shared_ptr<Stream> stream_;
  std::shared_ptr<Stream> previous_;
  std::shared_ptr<Graph> graph_;
  bool is_update_;
  bool is_of_default_;
  bool was_entered_ = false;
};

std::shared_ptr<Capture> capture(const py::object& stream, const py::object& device) {
  if (!stream.is_none() && py::isinstance<Stream>(stream)) {
    return std::make_shared<Capture>(stream.cast<std::shared_ptr<Stream>>());
  }
  const bool names_device = py::isinstance<Device>(stream) || py::isinstance<py::str>(stream);
  if (names_device && !device.is_none()) {
    throw Error(ErrorKind::kInvalidArgument, "capture: the device was given twice.");
  }
  const std::shared_ptr<Device> opened = device_from_object(names_device ? stream.ptr() : device.ptr());
  if (!stream.is_none() && !names_device) {
    return std::make_shared<Capture>(stream_from_object(stream.ptr(), *opened));
  }
  return std::make_shared<Capture>(without_gil([&] { return Stream::create(opened); }), nullptr,
                                   stream.is_none() && device.is_none());
}

}  // namespace

void bind_graph(py::module_& module) {
  py::class_<Capture, std::shared_ptr<Capture>>(module, "GraphCapture", "What Graph.capture() returns.")
      .def("__enter__", &Capture::enter)
      .def("__exit__", &Capture::exit);
  py::class_<Graph, std::shared_ptr<Graph>>(module, "Graph", "Work that was recorded once and can be launched often.",
                                            py::release_gil_before_calling_cpp_dtor())
      .def_static(
          "capture", &capture, py::arg("stream") = py::none(), py::kw_only(), py::arg("device") = py::none(),
          "`with Graph.capture() as graph:` records what is enqueued on `stream` (default: a new one of the device, "
          "which is the current one inside) in place of running it. A device may stand in its place. Raises "
          "GraphError where no device was named and nothing went to the default one.")
      .def(
          "update",
          [](const std::shared_ptr<Graph>& graph, const py::object& stream) {
            if (!stream.is_none()) {
              return std::make_shared<Capture>(stream_from_object(stream.ptr(), graph->device()), graph);
            }
            return std::make_shared<Capture>(
                without_gil([&] { return Stream::create(graph->device().shared_from_this()); }), graph);
          },
          py::arg("stream") = py::none(),
          "`with graph.update():` records again: from then on the graph does that. Where only arguments changed the "
          "device takes them over, which costs less than a new graph. After an error it stays as it was.")
      .def(
          "launch",
          [](Graph& graph, const py::object& stream) {
            const std::shared_ptr<Stream> target = py::isinstance<Stream>(stream)
                                                       ? stream.cast<std::shared_ptr<Stream>>()
                                                       : stream_from_object(stream.ptr(), graph.device());
            without_gil([&] { graph.launch(*target); });
          },
          py::arg("stream") = py::none(),
          "Enqueues all of it on `stream` (default: the device's current one). Returns before it is done.")
      .def(
          "replay", [](const py::object& self, const py::object& stream) { self.attr("launch")(stream); },
          py::arg("stream") = py::none(), "The same as launch().")
      .def_property_readonly("is_native", &Graph::is_native,
                             "Whether the device replays it, or the core launches the recorded work again.")
      .def("__len__", &Graph::size)
      .def("describe", &Graph::describe, "What was recorded, a line for each operation.")
      .def("__repr__", [](const Graph& graph) { return "unify.Graph(" + graph.summary() + ")"; });
}

}  // namespace unify::python
