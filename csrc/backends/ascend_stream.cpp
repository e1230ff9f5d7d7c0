// Streams.
#include "ascend_backend.h"

namespace unify::ascend {

Stream::~Stream() {
  if (!is_owned || handle == nullptr || device->context == nullptr) return;
  const Entered entered(*device);
  stop_serving(*this);
  driver.aclrtDestroyStream(handle);
}

aclError is_recording(const Stream& stream, bool& out_is_recording, aclmdlRI* out_graph) {
  int state = ACL_MODEL_RI_CAPTURE_STATUS_NONE;
  aclmdlRI graph = nullptr;
  out_is_recording = false;
  if (driver.aclmdlRICaptureGetInfo == nullptr) return ACL_SUCCESS;
  const aclError code = driver.aclmdlRICaptureGetInfo(stream.handle, &state, &graph);
  if (code == ACL_ERROR_RT_FEATURE_NOT_SUPPORT && !succeeds(code)) return ACL_SUCCESS;
  out_is_recording = state != ACL_MODEL_RI_CAPTURE_STATUS_NONE;
  if (out_graph != nullptr) *out_graph = graph;
  return code;
}

namespace {

bool is_running(const Stream& stream) {
  int state = ACL_STREAM_STATUS_COMPLETE;
  return succeeds(driver.aclrtStreamQuery(stream.handle, &state)) && state == ACL_STREAM_STATUS_NOT_READY;
}

bool is_running(const Graph& graph) {
  return std::any_of(graph.launches.begin(), graph.launches.end(), [](const auto& launch) {
    int state = ACL_EVENT_RECORDED_STATUS_COMPLETE;
    return succeeds(driver.aclrtQueryEventStatus(launch.second, &state)) &&
           state == ACL_EVENT_RECORDED_STATUS_NOT_READY;
  });
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
  if (code == ACL_ERROR_RT_FEATURE_NOT_SUPPORT && !succeeds(code)) return ACL_SUCCESS;
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

// Neither to ask a stream that is being recorded nor to wait for it is allowed: the recording would fail (the vendor's
// FAQ on ACL graphs, "submission restrictions during capture"). What its owner has destroyed has ended, where no work
// of ours was left.
unify_status require_not_recorded(Stream& stream, bool& out_is_over) {
  out_is_over = false;
  if (!may_be_recorded(stream)) return UNIFY_OK;
  bool records = false;
  const unify_status status = ask(*stream.device, [&] {
    const aclError code = is_recording(stream, records);
    out_is_over = code == ACL_ERROR_RT_INVALID_HANDLE && !stream.is_owned && stream.work.is_proven();
    return out_is_over && !succeeds(code) ? ACL_SUCCESS : code;
  });
  return records ? refuse(UNIFY_UNSUPPORTED, "another library records the stream") : status;
}

unify_status stream_synchronize(unify_stream handle) {
  Stream& stream = *of(handle);
  bool is_over = false;
  unify_status status = require_not_recorded(stream, is_over);
  if (is_over || (status != UNIFY_OK && status != UNIFY_NOT_READY)) return status;
  const uint64_t pieces = stream.work.pieces();
  status = wait(*stream.device, [&] { return driver.aclrtSynchronizeStream(stream.handle); });
  if (status == UNIFY_OK) stream.work.prove(pieces);
  return status;
}

unify_status stream_query(unify_stream handle) {
  Stream& stream = *of(handle);
  bool is_over = false;
  unify_status status = require_not_recorded(stream, is_over);
  if (status != UNIFY_OK || is_over) return status;
  const uint64_t pieces = stream.work.pieces();
  int state = ACL_STREAM_STATUS_COMPLETE;
  status = ask(*stream.device, [&] { return driver.aclrtStreamQuery(stream.handle, &state); });
  if (status != UNIFY_OK) return status;
  if (state == ACL_STREAM_STATUS_NOT_READY) return UNIFY_NOT_READY;
  stream.work.prove(pieces);
  return UNIFY_OK;
}

// ACL refuses to wait for an event that was never recorded.
unify_status stream_wait_event(unify_stream handle, unify_event event) {
  Stream& stream = *of(handle);
  if (!of(event)->is_recorded.load()) return UNIFY_OK;
  const unify_status status =
      run(*stream.device, [&] { return driver.aclrtStreamWaitEvent(stream.handle, of(event)->handle); });
  if (status == UNIFY_OK && of(event)->is_captured.load()) stream.is_drawn_in = true;
  return status;
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
