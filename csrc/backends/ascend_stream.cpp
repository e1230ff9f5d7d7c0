// Streams.
#include "ascend_backend.h"

namespace unify::ascend {

Stream::~Stream() {
  if (handle == nullptr || device->context == nullptr) return;
  const Entered entered(*device);
  stop_serving(*this);
  if (is_owned) driver.aclrtDestroyStream(handle);
}

aclError is_recording(const Stream& stream, bool& out_is_recording, aclmdlRI* out_graph) {
  int state = ACL_MODEL_RI_CAPTURE_STATUS_NONE;
  aclmdlRI graph = nullptr;
  out_is_recording = false;
  if (driver.aclmdlRICaptureGetInfo == nullptr) return ACL_SUCCESS;
  const aclError code = driver.aclmdlRICaptureGetInfo(stream.handle, &state, &graph);
  if (code == ACL_ERROR_RT_FEATURE_NOT_SUPPORT) return ACL_SUCCESS;
  out_is_recording = state != ACL_MODEL_RI_CAPTURE_STATUS_NONE;
  if (out_graph != nullptr) *out_graph = graph;
  return code;
}

namespace {

bool is_running(const Stream& stream) {
  int state = ACL_STREAM_STATUS_COMPLETE;
  return driver.aclrtStreamQuery(stream.handle, &state) == ACL_SUCCESS && state == ACL_STREAM_STATUS_NOT_READY;
}

bool is_running(const Graph& graph) {
  int state = ACL_EVENT_RECORDED_STATUS_COMPLETE;
  return graph.last_launch != nullptr && driver.aclrtQueryEventStatus(graph.last_launch, &state) == ACL_SUCCESS &&
         state == ACL_EVENT_RECORDED_STATUS_NOT_READY;
}

// Moves what has come to its end out of a list.
template <typename Owner>
std::vector<Owner> take_finished(std::vector<Owner>& list) {
  const auto running =
      std::stable_partition(list.begin(), list.end(), [](const Owner& one) { return is_running(*one); });
  std::vector<Owner> finished(std::make_move_iterator(running), std::make_move_iterator(list.end()));
  list.erase(running, list.end());
  return finished;
}

// The backend's own streams stop at a failure, as torch_npu's do: by default ACL would go on with the next task.
aclError create(Stream& stream, int32_t priority) {
  constexpr uint32_t kFast = ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC;
  aclError code = driver.aclrtCreateStreamWithConfig(&stream.handle, static_cast<uint32_t>(priority), kFast);
  if (code != ACL_SUCCESS || driver.aclrtSetStreamFailureMode == nullptr) return code;
  code = driver.aclrtSetStreamFailureMode(stream.handle, ACL_STOP_ON_FAILURE);
  if (code == ACL_ERROR_RT_FEATURE_NOT_SUPPORT) return ACL_SUCCESS;
  if (code != ACL_SUCCESS) driver.aclrtDestroyStream(std::exchange(stream.handle, nullptr));
  return code;
}

unify_status stream_create(unify_device handle, unify_stream_args* args, unify_stream* out) {
  Device& device = *of(handle);
  sweep(device);
  auto stream = std::make_shared<Stream>();
  stream->device = &device;
  if (args->native != nullptr) {
    stream->handle = args->native;
    stream->is_owned = false;
  } else {
    int32_t least = 0;
    int32_t greatest = 0;
    if (driver.aclrtDeviceGetStreamPriorityRange != nullptr) {
      driver.aclrtDeviceGetStreamPriorityRange(&least, &greatest);
    }
    if (args->priority > least || args->priority < greatest) {  // which ACL would clamp silently
      return refuse(UNIFY_INVALID_ARGUMENT, "priority " + std::to_string(args->priority) + " is not between " +
                                                std::to_string(greatest) + " and " + std::to_string(least));
    }
    const unify_status status = run(device, [&] { return create(*stream, args->priority); });
    if (status != UNIFY_OK) return status;
  }
  args->native = stream->handle;
  const std::lock_guard<std::mutex> lock(device.mutex);
  *out = reinterpret_cast<unify_stream>(stream.get());
  device.streams.insert(std::move(stream));
  return UNIFY_OK;
}

// aclrtDestroyStream waits for the stream's work: one that still runs is kept until it has come to its end.
unify_status stream_destroy(unify_stream handle) {
  const std::shared_ptr<Stream> stream = of(handle)->shared_from_this();
  Device& device = *stream->device;
  const bool is_broken = device.is_gone.load() || device.fault.load() != ACL_SUCCESS;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    device.streams.erase(stream);
    const Entered entered(device);
    if (stream->is_owned && (is_broken || is_running(*stream))) device.retired_streams.push_back(stream);
  }
  if (!is_broken) sweep(device);
  return status_of(&device, device.fault.load());
}

template <typename Ask>
unify_status wait_or_ask(Stream& stream, Ask ask) {
  const uint64_t last = stream.last_enqueued.load(std::memory_order_relaxed);
  const unify_status status = run_unless_faulted(*stream.device, ask);
  if (status == UNIFY_OK) note_proven(stream, last);
  return status;
}

unify_status stream_synchronize(unify_stream handle) {
  Stream& stream = *of(handle);
  return wait_or_ask(stream, [&] { return driver.aclrtSynchronizeStream(stream.handle); });
}

// To ask a stream that is being captured would break the capture.
unify_status stream_query(unify_stream handle) {
  Stream& stream = *of(handle);
  Device& device = *stream.device;
  if (!stream.is_owned) {
    bool records = false;
    const unify_status status = run(device, [&] { return is_recording(stream, records); });
    if (status != UNIFY_OK) return status;
    if (records) return refuse(UNIFY_UNSUPPORTED, "the stream's owner is recording it");
  }
  const uint64_t last = stream.last_enqueued.load(std::memory_order_relaxed);
  int state = ACL_STREAM_STATUS_COMPLETE;
  const unify_status status =
      run_unless_faulted(device, [&] { return driver.aclrtStreamQuery(stream.handle, &state); });
  if (status != UNIFY_OK) return status;
  if (state == ACL_STREAM_STATUS_NOT_READY) return UNIFY_NOT_READY;
  note_proven(stream, last);
  return UNIFY_OK;
}

// ACL refuses to wait for an event that was never recorded.
unify_status stream_wait_event(unify_stream handle, unify_event event) {
  Stream& stream = *of(handle);
  if (!of(event)->is_recorded.load()) return UNIFY_OK;
  return run(*stream.device, [&] { return driver.aclrtStreamWaitEvent(stream.handle, of(event)->handle); });
}

}  // namespace

void sweep(Device& device) {
  std::vector<std::shared_ptr<Stream>> streams;
  std::vector<std::unique_ptr<Graph>> graphs;
  const std::lock_guard<std::mutex> lock(device.mutex);
  if (device.retired_streams.empty() && device.retired_graphs.empty()) return;
  if (device.is_gone.load() || device.fault.load() != ACL_SUCCESS) return;
  const Entered entered(device);
  streams = take_finished(device.retired_streams);
  graphs = take_finished(device.retired_graphs);
}

void add_streams(unify_backend& table) {
  table.stream_create = stream_create;
  table.stream_destroy = stream_destroy;
  table.stream_synchronize = stream_synchronize;
  table.stream_query = stream_query;
  table.stream_wait_event = stream_wait_event;
  if (has_host_calls()) table.host_call = host_call;
}

}  // namespace unify::ascend
