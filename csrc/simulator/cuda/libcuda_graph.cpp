// The driver's functions for captures and graphs.
#include <utility>

#include "calls.h"
#include "libcuda.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

// Puts the nodes of `graph` in place of those of `exec` if it differs in parameters only.
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

}  // namespace

UNIFY_SIMULATOR_EXPORT CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  return with_stream("cuStreamBeginCapture", handle, [&](Call&, Stream& stream) -> Result {
    if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    if (stream.is_legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return begin_capture(stream, static_cast<CaptureMode>(mode));
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuStreamEndCapture(CUstream handle, CUgraph* out) {
  return with_stream("cuStreamEndCapture", handle, [&](Call&, Stream& stream) -> Result {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *out = nullptr;
    std::shared_ptr<Graph> graph;
    if (const Result result = end_capture(stream, graph); result != CUDA_SUCCESS) return result;
    *out = driver().graphs.add<CUgraph>(std::move(graph));
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* out) {
  return with_stream("cuStreamIsCapturing", handle, [&](Call&, const Stream& stream) -> Result {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (is_tied_to_capture(stream)) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    *out = stream.capture == nullptr    ? CU_STREAM_CAPTURE_STATUS_NONE
           : stream.capture->is_invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                        : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  return with_driver("cuThreadExchangeStreamCaptureMode", [&](Call&) {
    if (mode == nullptr || *mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const CaptureMode before = std::exchange(thread_capture_mode, static_cast<CaptureMode>(*mode));
    *mode = static_cast<CUstreamCaptureMode>(before);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph handle,
                                                            unsigned long long flags) {
  return with_driver("cuGraphInstantiateWithFlags", [&](Call& call) -> Result {
    constexpr unsigned long long kKnown = 1 | 2 | 4 | 8;
    const std::shared_ptr<Graph> graph = driver().graphs.find(handle);
    if (out == nullptr || graph == nullptr || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
    std::shared_ptr<Context> context = graph->nodes.empty() ? nullptr : graph->nodes.front().operation.context;
    if (context != nullptr) {
      if (const Result result = admit(call, context); result != CUDA_SUCCESS) return result;
    }
    auto exec = std::make_shared<GraphExec>();
    exec->nodes = std::make_shared<const Nodes>(graph->nodes);
    *out = driver().graph_execs.add<CUgraphExec>(std::move(exec));
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
  return with_stream("cuGraphLaunch", stream_handle, [&](Call& call, Stream& stream) -> Result {
    const std::shared_ptr<GraphExec> exec = driver().graph_execs.find(handle);
    if (exec == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return launch(call, stream, *exec);
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuGraphExecUpdate_v2(CUgraphExec exec_handle, CUgraph handle,
                                                     CUgraphExecUpdateResultInfo* out) {
  return with_driver("cuGraphExecUpdate", [&](Call&) {
    const std::shared_ptr<GraphExec> exec = driver().graph_execs.find(exec_handle);
    const std::shared_ptr<Graph> graph = driver().graphs.find(handle);
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *out = {CU_GRAPH_EXEC_UPDATE_ERROR, nullptr, nullptr};
    if (exec == nullptr || graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
    out->result = update(*exec, *graph);
    return out->result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuGraphExecDestroy(CUgraphExec handle) {
  return with_driver("cuGraphExecDestroy", [&](Call&) {
    if (driver().graph_execs.find(handle) == nullptr) return CUDA_ERROR_INVALID_VALUE;
    driver().graph_execs.remove(handle);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuGraphDestroy(CUgraph handle) {
  return with_driver("cuGraphDestroy", [&](Call&) {
    if (driver().graphs.find(handle) == nullptr) return CUDA_ERROR_INVALID_VALUE;
    driver().graphs.remove(handle);
    return CUDA_SUCCESS;
  });
}
