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
}

void join(std::vector<size_t>& frontier, const std::vector<size_t>& more) {
  frontier.insert(frontier.end(), more.begin(), more.end());
  std::sort(frontier.begin(), frontier.end());
  frontier.erase(std::unique(frontier.begin(), frontier.end()), frontier.end());
}

// Which nodes the end of the origin stream comes after.
std::vector<bool> reached(const Capture& capture) {
  std::vector<bool> is_reached(capture.nodes.size());
  for (const size_t node : capture.origin->frontier) is_reached[node] = true;
  for (size_t i = capture.nodes.size(); i-- > 0;) {
    if (!is_reached[i]) continue;
    for (const size_t before : capture.nodes[i].after) is_reached[before] = true;
  }
  return is_reached;
}

}  // namespace

bool GraphExec::is_of(const Context& context) const {
  return std::any_of(nodes->begin(), nodes->end(),
                     [&](const Node& node) { return node.operation.context.get() == &context; });
}

CUresult begin_capture(Stream& stream, CUstreamCaptureMode mode) {
  if (stream.is_legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream.capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  auto capture = std::make_shared<Capture>();
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = &stream;
  capture->streams.push_back(&stream);
  stream.capture = capture;
  driver().captures.push_back(std::move(capture));
  return CUDA_SUCCESS;
}

CUresult end_capture(Stream& stream, std::shared_ptr<Graph>& out) {
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin != &stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id()) {
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  }
  CUresult result = capture->is_invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS) {
    const std::vector<bool> is_reached = reached(*capture);
    if (!std::all_of(is_reached.begin(), is_reached.end(), [](bool each) { return each; })) {
      result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    }
  }
  leave(*capture);
  if (result == CUDA_SUCCESS) {
    out = std::make_shared<Graph>();
    out->nodes = std::move(capture->nodes);
  }
  capture->nodes.clear();
  return result;
}

CUresult capture(Stream& stream, Operation operation) {
  Capture& capture = *stream.capture;
  if (capture.is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  capture.nodes.push_back({std::move(operation), stream.frontier});
  stream.frontier = {capture.nodes.size() - 1};
  return CUDA_SUCCESS;
}

CUresult capture_record(Stream& stream, Event& event) {
  if (stream.capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  event.capture = stream.capture;
  event.frontier = stream.frontier;
  event.mark = nullptr;
  return CUDA_SUCCESS;
}

CUresult capture_wait(Stream& stream, const Event& event) {
  if (event.capture == nullptr) return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
  if (stream.capture == nullptr) {
    // An event of a capture that is over holds no work that could be waited for.
    if (event.capture->is_over) return CUDA_ERROR_CAPTURED_EVENT;
    if (event.capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream.is_legacy) return invalidate(*event.capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    stream.capture = event.capture;
    stream.capture->streams.push_back(&stream);
  } else if (stream.capture != event.capture) {
    if (!event.capture->is_over) invalidate(*event.capture, CUDA_SUCCESS);
    return invalidate(*stream.capture,
                      event.capture->is_over ? CUDA_ERROR_STREAM_CAPTURE_ISOLATION : CUDA_ERROR_STREAM_CAPTURE_MERGE);
  }
  if (stream.capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  join(stream.frontier, event.frontier);
  return CUDA_SUCCESS;
}

CUresult check_implicit_order(const Stream& stream) {
  if (!stream.is_legacy) return CUDA_SUCCESS;
  for (const auto& other : stream.context->streams) {
    if (other->is_blocking && other->capture != nullptr) {
      return invalidate(*other->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
  }
  return CUDA_SUCCESS;
}

thread_local CUstreamCaptureMode thread_capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

CUresult check_unsafe() {
  if (thread_capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  bool is_forbidden = false;
  for (const auto& capture : driver().captures) {
    const bool is_own = capture->thread == std::this_thread::get_id();
    const bool forbids =
        is_own ? capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED
               : capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && thread_capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (forbids) {
      capture->is_invalid = true;
      is_forbidden = true;
    }
  }
  return is_forbidden ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult invalidate(Capture& capture, CUresult result) {
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

CUresult run_nodes(const Nodes& nodes) {
  for (const Node& node : nodes) run_operation(node.operation);
  return CUDA_SUCCESS;
}

CUgraphExecUpdateResult update(GraphExec& exec, const Graph& graph) {
  const Nodes& before = *exec.nodes;
  if (before.size() != graph.nodes.size()) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  for (size_t i = 0; i < before.size(); ++i) {
    const Operation& old = before[i].operation;
    const Operation& now = graph.nodes[i].operation;
    if (before[i].after != graph.nodes[i].after) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    if (old.kind != now.kind) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
    if (old.context != now.context) return CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE;
    if (old.is_cooperative != now.is_cooperative) return CU_GRAPH_EXEC_UPDATE_ERROR_ATTRIBUTES_CHANGED;
  }
  exec.nodes = std::make_shared<const Nodes>(graph.nodes);
  return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

}  // namespace unify::simulator
