#include "graph.h"

#include <algorithm>

#include "driver.h"

namespace unify::simulator {
namespace {

void leave(Capture& capture) {
  capture.is_over = true;
  for (Stream* stream : capture.streams) {
    stream->capture = nullptr;
    stream->frontier.clear();
  }
  capture.streams.clear();
  auto& all = driver().captures;
  all.erase(std::remove_if(all.begin(), all.end(), [&](const auto& each) { return each.get() == &capture; }),
            all.end());
  if (!capture.is_invalid) return;
  driver().graphs.remove_if([&](const Graph& graph) { return &graph == capture.graph.get(); });
  capture.graph.reset();
}

void join(std::vector<size_t>& frontier, const std::vector<size_t>& more) {
  frontier.insert(frontier.end(), more.begin(), more.end());
  std::sort(frontier.begin(), frontier.end());
  frontier.erase(std::unique(frontier.begin(), frontier.end()), frontier.end());
}

// Which nodes the end of the origin stream comes after.
std::vector<bool> reached(const Capture& capture) {
  const Nodes& nodes = capture.graph->nodes;
  std::vector<bool> is_reached(nodes.size());
  for (const size_t node : capture.origin->frontier) is_reached[node] = true;
  for (size_t i = nodes.size(); i-- > 0;) {
    if (!is_reached[i]) continue;
    for (const size_t before : nodes[i].after) is_reached[before] = true;
  }
  return is_reached;
}

}  // namespace

bool GraphExec::is_of(const Context& context) const {
  return std::any_of(nodes->begin(), nodes->end(),
                     [&](const Node& node) { return node.operation.context.get() == &context; });
}

Result begin_capture(Stream& stream, CaptureMode mode) {
  if (stream.capture != nullptr) return kResults.capture_twice;
  auto capture = std::make_shared<Capture>();
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = &stream;
  capture->streams.push_back(&stream);
  stream.capture = capture;
  driver().captures.push_back(std::move(capture));
  return kSuccess;
}

Result end_capture(Stream& stream, std::shared_ptr<Graph>& out) {
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr) return kResults.not_capturing;
  if (capture->origin != &stream) return kResults.capture_of_another_stream;
  if (capture->mode != CaptureMode::kRelaxed && capture->thread != std::this_thread::get_id()) {
    return kResults.capture_of_another_thread;
  }
  Result result = capture->is_invalid ? kResults.capture_is_invalid : kSuccess;
  if (result == kSuccess) {
    const std::vector<bool> is_reached = reached(*capture);
    if (!std::all_of(is_reached.begin(), is_reached.end(), [](bool each) { return each; })) {
      result = kResults.capture_is_not_joined;
    }
  }
  capture->is_invalid = result != kSuccess;
  leave(*capture);
  out = std::move(capture->graph);
  return result;
}

Result capture(Stream& stream, Operation operation) {
  Capture& capture = *stream.capture;
  if (capture.is_invalid) return kResults.capture_is_invalid;
  Nodes& nodes = capture.graph->nodes;
  nodes.push_back({std::move(operation), stream.frontier});
  stream.frontier = {nodes.size() - 1};
  return kSuccess;
}

Result capture_record(Stream& stream, Event& event) {
  if (stream.capture->is_invalid) return kResults.capture_is_invalid;
  event.capture = stream.capture;
  event.frontier = stream.frontier;
  event.mark = nullptr;
  return kSuccess;
}

Result capture_wait(Stream& stream, const Event& event) {
  if (event.capture == nullptr) return invalidate(*stream.capture, kResults.capture_depends_on_others);
  if (stream.capture == nullptr) {
    // An event of a capture that is over holds no work that could be waited for.
    if (event.capture->is_over) return kResults.event_is_captured;
    if (event.capture->is_invalid) return kResults.capture_is_invalid;
    stream.capture = event.capture;
    stream.capture->streams.push_back(&stream);
  } else if (stream.capture != event.capture) {
    if (!event.capture->is_over) invalidate(*event.capture, kSuccess);
    return invalidate(*stream.capture,
                      event.capture->is_over ? kResults.capture_depends_on_others : kResults.captures_would_merge);
  }
  if (stream.capture->is_invalid) return kResults.capture_is_invalid;
  join(stream.frontier, event.frontier);
  return kSuccess;
}

thread_local CaptureMode thread_capture_mode = CaptureMode::kGlobal;

namespace {

bool forbids(const Capture& capture) {
  if (thread_capture_mode == CaptureMode::kRelaxed) return false;
  if (capture.thread == std::this_thread::get_id()) return capture.mode != CaptureMode::kRelaxed;
  return capture.mode == CaptureMode::kGlobal && thread_capture_mode == CaptureMode::kGlobal;
}

}  // namespace

Result check_unsafe() {
  bool is_refused = false;
  for (const auto& capture : driver().captures) {
    if (!forbids(*capture)) continue;
    capture->is_invalid = true;
    is_refused = true;
  }
  return is_refused ? kResults.capture_forbids : kSuccess;
}

bool is_forbidden() {
  const auto& all = driver().captures;
  return std::any_of(all.begin(), all.end(), [](const auto& capture) { return forbids(*capture); });
}

Result invalidate(Capture& capture, Result result) {
  capture.is_invalid = true;
  return result;
}

void invalidate_captures_of(const Context& context) {
  for (const auto& capture : std::vector<std::shared_ptr<Capture>>(driver().captures)) {
    const bool is_touched = std::any_of(capture->streams.begin(), capture->streams.end(),
                                        [&](const Stream* stream) { return stream->context.get() == &context; });
    if (!is_touched) continue;
    capture->is_invalid = true;
    if (capture->origin->context.get() == &context) leave(*capture);
  }
}

void leave_capture(Stream& stream) {
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr) return;
  capture->is_invalid = true;
  if (capture->origin == &stream) {
    leave(*capture);
    return;
  }
  stream.capture = nullptr;
  auto& all = capture->streams;
  all.erase(std::remove(all.begin(), all.end(), &stream), all.end());
}

Result run_nodes(Stream& stream, const Nodes& nodes) {
  for (const Node& node : nodes) run_operation(stream, node.operation);
  return kSuccess;
}

Result launch(Call& call, Stream& stream, GraphExec& exec) {
  Operation operation;
  operation.kind = OperationKind::kGraph;
  operation.run = [nodes = exec.nodes, kept = exec.kept](Stream& on) { return run_nodes(on, *nodes); };
  std::vector<MarkPtr> after;
  if (exec.last != nullptr && !exec.last->is_done) after.push_back(exec.last);
  const bool is_captured = stream.capture != nullptr;
  if (const Result result = submit(call, stream, std::move(operation), std::move(after)); result != kSuccess) {
    return result;
  }
  if (!is_captured) exec.last = stream.tail;
  return kSuccess;
}

}  // namespace unify::simulator
