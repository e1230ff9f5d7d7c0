// Graphs, recorded by ACL where its version does.
#include "ascend_backend.h"

namespace unify::ascend {

Graph::~Graph() {
  if (handle == nullptr || device->context == nullptr) return;
  const Entered entered(*device);
  driver.aclmdlRIDestroy(handle);
  if (last_launch != nullptr) driver.aclrtDestroyEvent(last_launch);
  for (void* lock : locks) driver.aclrtFree(lock);
}

namespace {

// Relaxed: other threads, and the core's own allocations, go on meanwhile. The core sees to what may be recorded.
unify_status capture_begin(unify_stream handle) {
  Stream& stream = *of(handle);
  return run(*stream.device,
             [&] { return driver.aclmdlRICaptureBegin(stream.handle, ACL_MODEL_RI_CAPTURE_MODE_RELAXED); });
}

unify_status capture_end(unify_stream handle, unify_graph* out) {
  *out = nullptr;
  Stream& stream = *of(handle);
  Device& device = *stream.device;
  auto graph = std::make_unique<Graph>();
  graph->device = &device;
  const unify_status status = run(device, [&] { return driver.aclmdlRICaptureEnd(stream.handle, &graph->handle); });
  if (status != UNIFY_OK) {
    graph->handle = nullptr;
    return status;
  }
  const std::lock_guard<std::mutex> lock(device.mutex);
  const auto found = device.recorded_locks.find(graph->handle);
  if (found != device.recorded_locks.end()) {
    graph->locks = std::move(found->second);
    device.recorded_locks.erase(found);
  }
  *out = reinterpret_cast<unify_graph>(graph.release());
  return UNIFY_OK;
}

// An event tells when the graph can be destroyed: aclmdlRIDestroy waits for a launch under way, for 10 seconds, and
// then refuses.
unify_status graph_launch(unify_graph handle, unify_stream stream) {
  Graph& graph = *of(handle);
  return run(*graph.device, [&] {
    aclError code = ACL_SUCCESS;
    if (graph.last_launch == nullptr) code = driver.aclrtCreateEventExWithFlag(&graph.last_launch, ACL_EVENT_SYNC);
    if (code == ACL_SUCCESS) code = driver.aclmdlRIExecuteAsync(graph.handle, of(stream)->handle);
    return code == ACL_SUCCESS ? driver.aclrtRecordEvent(graph.last_launch, of(stream)->handle) : code;
  });
}

unify_status graph_destroy(unify_graph handle) {
  Device& device = *of(handle)->device;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    device.retired_graphs.emplace_back(of(handle));
  }
  sweep(device);
  return device.is_gone.load() ? status_of(&device, device.fault.load()) : UNIFY_OK;
}

}  // namespace

void add_graphs(unify_backend& table) {
  const bool can_record = driver.aclmdlRICaptureBegin != nullptr && driver.aclmdlRICaptureEnd != nullptr &&
                          driver.aclmdlRICaptureGetInfo != nullptr && driver.aclmdlRIExecuteAsync != nullptr &&
                          driver.aclmdlRIDestroy != nullptr;
  if (!can_record) return;
  table.capture_begin = capture_begin;
  table.capture_end = capture_end;
  table.graph_launch = graph_launch;
  table.graph_destroy = graph_destroy;
}

}  // namespace unify::ascend
