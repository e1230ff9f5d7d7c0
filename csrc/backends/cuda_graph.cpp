// Graphs, recorded by the driver.
#include "cuda_backend.h"

namespace unify::cuda {
namespace {

// Relaxed: other threads, and the core's own allocations, go on meanwhile. The core sees to what may be recorded.
unify_status capture_begin(unify_stream handle) {
  Stream& stream = *of(handle);
  return run(*stream.device,
             [&] { return driver.cuStreamBeginCapture(stream.handle, CU_STREAM_CAPTURE_MODE_RELAXED); });
}

// What the stream recorded, as a graph that can be launched.
CUresult end_and_instantiate(const Stream& stream, Graph& graph) {
  CUresult code = driver.cuStreamEndCapture(stream.handle, &graph.graph);
  if (code != CUDA_SUCCESS) return code;
  code = driver.cuGraphInstantiateWithFlags(&graph.exec, graph.graph, 0);
  if (code != CUDA_SUCCESS) driver.cuGraphDestroy(graph.graph);
  return code;
}

unify_status capture_end(unify_stream handle, unify_graph* out) {
  *out = nullptr;
  Stream& stream = *of(handle);
  auto graph = std::make_unique<Graph>();
  graph->device = stream.device;
  const unify_status status = run(*stream.device, [&] { return end_and_instantiate(stream, *graph); });
  if (status == UNIFY_OK) *out = reinterpret_cast<unify_graph>(graph.release());
  return status;
}

unify_status capture_update(unify_stream handle, unify_graph target, unify_graph* out) {
  *out = nullptr;
  Stream& stream = *of(handle);
  Graph& old = *of(target);
  auto graph = std::make_unique<Graph>();
  graph->device = stream.device;
  bool is_updated = false;
  const unify_status status = run(*stream.device, [&] {
    CUresult code = driver.cuStreamEndCapture(stream.handle, &graph->graph);
    if (code != CUDA_SUCCESS) return code;
    CUgraphExecUpdateResultInfo result{};
    code = driver.cuGraphExecUpdate(old.exec, graph->graph, &result);
    is_updated = code == CUDA_SUCCESS;
    if (is_updated) {
      std::swap(old.graph, graph->graph);
    } else if (code == CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE) {
      code = driver.cuGraphInstantiateWithFlags(&graph->exec, graph->graph, 0);
    }
    if (is_updated || code != CUDA_SUCCESS) driver.cuGraphDestroy(graph->graph);
    return code;
  });
  if (status == UNIFY_OK && !is_updated) *out = reinterpret_cast<unify_graph>(graph.release());
  return status;
}

unify_status graph_launch(unify_graph handle, unify_stream stream) {
  return enqueue(*of(stream), [&] { return driver.cuGraphLaunch(of(handle)->exec, of(stream)->handle); });
}

unify_status graph_destroy(unify_graph handle) {
  const std::unique_ptr<Graph> graph(of(handle));
  return run(*graph->device, [&] {
    const CUresult code = driver.cuGraphExecDestroy(graph->exec);
    driver.cuGraphDestroy(graph->graph);
    return code;
  });
}

// What a graph keeps. CUDA counts references to it: the graph has one, and whatever is made of the graph.
struct Kept {
  unify_host_function release;
  void* user;
  static void end(void* self) {
    const std::unique_ptr<Kept> kept(static_cast<Kept*>(self));
    if (kept->release != nullptr) kept->release(kept->user);
  }
};

CUresult keep(CUgraph graph, unify_host_function release, void* user) {
  auto kept = std::make_unique<Kept>(Kept{release, user});
  CUuserObject object = nullptr;
  CUresult code = driver.cuUserObjectCreate(&object, kept.get(), Kept::end, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC);
  if (code != CUDA_SUCCESS) return code;
  code = driver.cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE);
  Kept* held = kept.release();
  if (code == CUDA_SUCCESS) return code;
  held->release = nullptr;
  driver.cuUserObjectRelease(object, 1);
  return code;
}

unify_status capture_keep(unify_stream handle, unify_host_function release, void* user) {
  const Stream& stream = *of(handle);
  int capture = CU_STREAM_CAPTURE_STATUS_NONE;
  bool is_tied = false;
  const unify_status status = run(*stream.device, [&]() -> CUresult {
    uint64_t number = 0;
    CUgraph graph = nullptr;
    const CUresult code = driver.cuStreamGetCaptureInfo(stream.handle, &capture, &number, &graph, nullptr, nullptr);
    is_tied = code == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    if (is_tied) return CUDA_SUCCESS;
    if (code != CUDA_SUCCESS || capture == CU_STREAM_CAPTURE_STATUS_NONE || release == nullptr) return code;
    return graph == nullptr ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : keep(graph, release, user);
  });
  if (is_tied) {
    return refuse(UNIFY_UNSUPPORTED, "the legacy stream takes no work while a stream that it waits for is captured");
  }
  if (status != UNIFY_OK || capture != CU_STREAM_CAPTURE_STATUS_NONE) return status;
  return refuse(UNIFY_INVALID_ARGUMENT, "nobody captures the stream");
}

}  // namespace

void add_graphs(unify_backend& table) {
  table.capture_begin = capture_begin;
  table.capture_end = capture_end;
  table.graph_launch = graph_launch;
  table.graph_destroy = graph_destroy;
  if (driver.cuGraphExecUpdate != nullptr) table.capture_update = capture_update;
  const bool can_keep = driver.cuStreamGetCaptureInfo != nullptr && driver.cuUserObjectCreate != nullptr &&
                        driver.cuUserObjectRelease != nullptr && driver.cuGraphRetainUserObject != nullptr;
  if (can_keep) table.capture_keep = capture_keep;
}

}  // namespace unify::cuda
