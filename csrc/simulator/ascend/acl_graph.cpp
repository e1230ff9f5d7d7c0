// ACL's functions for captures, and for the graphs that they make: "model running instances".
#include <cstdio>
#include <utility>

#include "acl.h"
#include "calls.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

// It exists from the beginning of its capture on, and runs from the end of it.
struct AclGraph : GraphExec {
  std::shared_ptr<Context> context;
  uint32_t id = 0;
  bool is_captured = false;
};

uint32_t next_graph = 0;

std::map<const Capture*, aclmdlRI>& captured() {
  static auto* const all = new std::map<const Capture*, aclmdlRI>;
  return *all;
}

std::shared_ptr<AclGraph> find(aclmdlRI handle) {
  return std::static_pointer_cast<AclGraph>(driver().graph_execs.find(handle));
}

// A capture that came to nothing takes its graph along.
void forget(const Capture* capture) {
  const auto found = captured().find(capture);
  if (found == captured().end()) return;
  driver().graph_execs.remove(found->second);
  captured().erase(found);
}

Result execute(Call& call, Stream& stream, aclmdlRI handle) {
  const std::shared_ptr<AclGraph> graph = find(handle);
  if (handle == nullptr || graph == nullptr) return refuse(ACL_ERROR_RT_PARAM_INVALID, "The graph is unknown.");
  if (!graph->is_captured) return refuse(ACL_ERROR_RT_MODEL_CAPTURED, "The graph is still being captured.");
  return launch(call, stream, *graph);
}

const char* name_of(OperationKind kind) {
  switch (kind) {
    case OperationKind::kKernel:
      return "kernel";
    case OperationKind::kCopy:
      return "copy";
    case OperationKind::kFill:
      return "fill";
    case OperationKind::kHostCall:
      return "host function";
    case OperationKind::kGraph:
      return "graph";
    default:
      return "empty";
  }
}

}  // namespace

void unify::simulator::forget_graphs(const Context& context) {
  for (auto it = captured().begin(); it != captured().end();) {
    it = find(it->second)->context.get() == &context ? captured().erase(it) : std::next(it);
  }
  driver().graph_execs.remove_if(
      [&](const GraphExec& graph) { return static_cast<const AclGraph&>(graph).context.get() == &context; });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRICaptureBegin(aclrtStream handle, aclmdlRICaptureMode mode) {
  return with_work("aclmdlRICaptureBegin", handle, [&](Call& call, Stream& stream) -> Result {
    if (handle == nullptr || mode > ACL_MODEL_RI_CAPTURE_MODE_RELAXED) return ACL_ERROR_RT_PARAM_INVALID;
    if (&stream == stream.context->legacy.get()) return ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT;
    if (const Result result = begin_capture(stream, static_cast<CaptureMode>(mode)); result != ACL_SUCCESS) {
      return result;
    }
    auto graph = std::make_shared<AclGraph>();
    graph->nodes = std::make_shared<const Nodes>();
    graph->context = call.context;
    graph->id = next_graph++;
    captured()[stream.capture.get()] = driver().graph_execs.add<aclmdlRI>(std::move(graph));
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRICaptureGetInfo(aclrtStream handle, aclmdlRICaptureStatus* status,
                                                       aclmdlRI* out) {
  return with_stream("aclmdlRICaptureGetInfo", handle, [&](Call&, const Stream& stream) -> Result {
    if (status == nullptr && out == nullptr) return ACL_ERROR_INVALID_PARAM;
    const Capture* capture = stream.capture.get();
    if (out != nullptr) *out = capture == nullptr ? nullptr : captured()[capture];
    if (status == nullptr) return ACL_SUCCESS;
    *status = capture == nullptr    ? ACL_MODEL_RI_CAPTURE_STATUS_NONE
              : capture->is_invalid ? ACL_MODEL_RI_CAPTURE_STATUS_INVALIDATED
                                    : ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRICaptureEnd(aclrtStream handle, aclmdlRI* out) {
  return with_stream("aclmdlRICaptureEnd", handle, [&](Call&, Stream& stream) -> Result {
    if (handle == nullptr || out == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    *out = nullptr;
    const std::shared_ptr<Capture> capture = stream.capture;
    std::shared_ptr<Graph> graph;
    const Result result = end_capture(stream, graph);
    if (result == ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD) leave_capture(stream);  // the vendor's is over then, too
    if (result != ACL_SUCCESS) {
      if (capture != nullptr && capture->is_over) forget(capture.get());
      return result;
    }
    const aclmdlRI made = captured()[capture.get()];
    captured().erase(capture.get());
    const std::shared_ptr<AclGraph> self = find(made);
    self->nodes = std::make_shared<const Nodes>(std::move(graph->nodes));
    self->is_captured = true;
    *out = made;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRICaptureThreadExchangeMode(aclmdlRICaptureMode* mode) {
  return with_driver("aclmdlRICaptureThreadExchangeMode", [&](Call&) -> Result {
    if (mode == nullptr || *mode > ACL_MODEL_RI_CAPTURE_MODE_RELAXED) return ACL_ERROR_RT_PARAM_INVALID;
    const CaptureMode before = std::exchange(thread_capture_mode, static_cast<CaptureMode>(*mode));
    *mode = static_cast<aclmdlRICaptureMode>(before);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRIExecuteAsync(aclmdlRI graph, aclrtStream handle) {
  return with_work("aclmdlRIExecuteAsync", handle,
                   [&](Call& call, Stream& stream) { return execute(call, stream, graph); });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRIExecute(aclmdlRI graph, int32_t timeout) {
  return with_work("aclmdlRIExecute", nullptr, [&](Call& call, Stream& stream) -> Result {
    Deadline until;
    if (!read_timeout(timeout, until)) return ACL_ERROR_RT_PARAM_INVALID;
    if (const Result result = execute(call, stream, graph); result != ACL_SUCCESS) return result;
    return wait_for_work(call.lock, stream, stream.tail, until);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRIDestroy(aclmdlRI handle) {
  return with_driver("aclmdlRIDestroy", [&](Call& call) -> Result {
    const std::shared_ptr<AclGraph> graph = find(handle);
    if (handle == nullptr || graph == nullptr) return refuse(ACL_ERROR_RT_PARAM_INVALID, "The graph is unknown.");
    if (!graph->is_captured) return ACL_ERROR_RT_MODEL_CAPTURED;
    constexpr auto kLongest = std::chrono::seconds(10);  // Context::ModelDestroy of the vendor's runtime
    if (graph->last != nullptr) {
      wait_for(call.lock, graph->last, *graph->context, std::chrono::steady_clock::now() + kLongest);
      if (!graph->last->is_done && result_of(*graph->context) == kSuccess) {
        return refuse(ACL_ERROR_RT_MODEL_RUNNING, "Model is still running and cannot be destroyed.");
      }
    }
    driver().graph_execs.remove(handle);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRIGetId(aclmdlRI handle, uint32_t* out) {
  return with_driver("aclmdlRIGetId", [&](Call&) -> Result {
    const std::shared_ptr<AclGraph> graph = find(handle);
    if (handle == nullptr || graph == nullptr || out == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    *out = graph->id;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclmdlRIDebugPrint(aclmdlRI handle) {
  return with_driver("aclmdlRIDebugPrint", [&](Call&) -> Result {
    const std::shared_ptr<AclGraph> graph = find(handle);
    if (handle == nullptr || graph == nullptr || !graph->is_captured) return ACL_ERROR_RT_PARAM_INVALID;
    for (size_t i = 0; i < graph->nodes->size(); ++i) {
      const Operation& operation = (*graph->nodes)[i].operation;
      std::fprintf(stderr, "graph %u, task %zu: %s %s\n", graph->id, i, name_of(operation.kind),
                   operation.name.c_str());
    }
    return ACL_SUCCESS;
  });
}
