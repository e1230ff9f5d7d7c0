// The driver's functions for captures and graphs.
#include <climits>
#include <system_error>
#include <thread>
#include <utility>

#include "calls.h"
#include "libcuda.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

CUstreamCaptureStatus status_of(const Stream& stream) {
  return stream.capture == nullptr    ? CU_STREAM_CAPTURE_STATUS_NONE
         : stream.capture->is_invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                      : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

// A graph has a handle from the moment that somebody asks for it.
CUgraph handle_of(const std::shared_ptr<Graph>& graph) {
  for (const auto& [handle, each] : driver().graphs) {
    if (each == graph) return reinterpret_cast<CUgraph>(handle);
  }
  return driver().graphs.add<CUgraph>(graph);
}

// What ends with its last reference: the program has a number of them, and a graph one.
struct UserObject {
  UserObject(void* kept, CUhostFn end, unsigned own) : user(kept), destroy(end), references(own) {}
  // On a thread of the driver's own, as the last reference may go anywhere.
  ~UserObject() {
    try {
      std::thread(destroy, user).detach();
    } catch (const std::system_error&) {
      destroy(user);
    }
  }
  UserObject(const UserObject&) = delete;
  UserObject& operator=(const UserObject&) = delete;
  void* user;
  CUhostFn destroy;
  unsigned references;  // of the program
};

Registry<UserObject>& user_objects() {
  static auto* const objects = new Registry<UserObject>{0xa1000000};
  return *objects;
}

void release(CUuserObject handle, UserObject& object, unsigned count) {
  object.references -= count;
  if (object.references == 0) user_objects().remove(handle);
}

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
  exec.kept = graph.kept;
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
    *out = handle_of(graph);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* out) {
  return with_stream("cuStreamIsCapturing", handle, [&](Call&, const Stream& stream) -> Result {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (is_tied_to_capture(stream)) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    *out = status_of(stream);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuStreamGetCaptureInfo_v2(CUstream handle, CUstreamCaptureStatus* out_status,
                                                          uint64_t* out_number, CUgraph* out_graph,
                                                          const CUgraphNode** dependencies, size_t* count) {
  return with_stream("cuStreamGetCaptureInfo", handle, [&](Call&, const Stream& stream) -> Result {
    if (out_status == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (dependencies != nullptr || count != nullptr) return CUDA_ERROR_NOT_SUPPORTED;  // nodes have no handles here
    if (is_tied_to_capture(stream)) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    *out_status = status_of(stream);
    if (*out_status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return CUDA_SUCCESS;
    const CUgraph graph = handle_of(stream.capture->graph);
    if (out_graph != nullptr) *out_graph = graph;
    if (out_number != nullptr) *out_number = reinterpret_cast<uintptr_t>(graph);  // no two captures have one
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuUserObjectCreate(CUuserObject* out, void* user, CUhostFn destroy, unsigned references,
                                                   unsigned flags) {
  return with_driver("cuUserObjectCreate", [&](Call&) {
    if (out == nullptr || destroy == nullptr || references == 0 || references > INT_MAX ||
        flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    *out = user_objects().add<CUuserObject>(std::make_shared<UserObject>(user, destroy, references));
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuUserObjectRelease(CUuserObject handle, unsigned count) {
  return with_driver("cuUserObjectRelease", [&](Call&) {
    const std::shared_ptr<UserObject> object = user_objects().find(handle);
    if (object == nullptr || count == 0 || count > object->references) return CUDA_ERROR_INVALID_VALUE;
    release(handle, *object, count);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuGraphRetainUserObject(CUgraph graph_handle, CUuserObject handle, unsigned count,
                                                        unsigned flags) {
  return with_driver("cuGraphRetainUserObject", [&](Call&) {
    const std::shared_ptr<Graph> graph = driver().graphs.find(graph_handle);
    const std::shared_ptr<UserObject> object = user_objects().find(handle);
    if (graph == nullptr || object == nullptr || count == 0 || (flags & ~CU_GRAPH_USER_OBJECT_MOVE) != 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const bool moves = (flags & CU_GRAPH_USER_OBJECT_MOVE) != 0;
    if (moves && count > object->references) return CUDA_ERROR_INVALID_VALUE;
    graph->kept.push_back(object);
    if (moves) release(handle, *object, count);
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
    exec->kept = graph->kept;
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
