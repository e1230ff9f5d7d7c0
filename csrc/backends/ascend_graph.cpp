// Graphs, recorded by ACL where its version does.
#include "ascend_backend.h"

namespace unify::ascend {

Graph::~Graph() {
  if (handle == nullptr || device->context == nullptr) return;
  const Entered entered(*device);
  for (const auto& [stream, event] : launches) driver.aclrtDestroyEvent(event);
  if (!succeeds(driver.aclmdlRIDestroy(handle))) return;  // it runs still, and uses its locks
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

// The event of a stream's last launch of the graph, made at the first one. Those of launches that are over go.
aclError event_for(Graph& graph, const Stream& stream, aclrtEvent& out) {
  for (auto each = graph.launches.begin(); each != graph.launches.end();) {
    int state = ACL_EVENT_RECORDED_STATUS_NOT_READY;
    const bool is_over = each->first != stream.handle && succeeds(driver.aclrtQueryEventStatus(each->second, &state)) &&
                         state == ACL_EVENT_RECORDED_STATUS_COMPLETE;
    if (is_over) driver.aclrtDestroyEvent(each->second);
    each = is_over ? graph.launches.erase(each) : std::next(each);
  }
  const auto found = graph.launches.find(stream.handle);
  if (found != graph.launches.end()) {
    out = found->second;
    return ACL_SUCCESS;
  }
  const aclError code = driver.aclrtCreateEventExWithFlag(&out, ACL_EVENT_SYNC);
  if (code == ACL_SUCCESS) graph.launches[stream.handle] = out;
  return code;
}

unify_status graph_launch(unify_graph handle, unify_stream stream) {
  Graph& graph = *of(handle);
  return enqueue(*of(stream), [&] {
    aclrtEvent event = nullptr;
    aclError code = event_for(graph, *of(stream), event);
    if (code == ACL_SUCCESS) code = driver.aclmdlRIExecuteAsync(graph.handle, of(stream)->handle);
    return code == ACL_SUCCESS ? driver.aclrtRecordEvent(event, of(stream)->handle) : code;
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
