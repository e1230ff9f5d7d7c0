// Streams, host calls and events.
#include <cmath>

#include "cuda_backend.h"

namespace unify::cuda {

Stream::~Stream() {
  if (!is_owned || handle == nullptr || device->context == nullptr) return;
  const Entered entered(*device);
  driver.cuStreamDestroy(handle);
}

CUresult find_capture(const Stream& stream, bool& out_can_wait) {
  int capture = CU_STREAM_CAPTURE_STATUS_NONE;
  const CUresult code = driver.cuStreamIsCapturing(stream.handle, &capture);
  out_can_wait = code == CUDA_SUCCESS && capture == CU_STREAM_CAPTURE_STATUS_NONE;
  return code == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT ? CUDA_SUCCESS : code;
}

namespace {

unify_status stream_create(unify_device handle, unify_stream_args* args, unify_stream* out) {
  Device& device = *of(handle);
  auto stream = std::make_shared<Stream>();
  stream->device = &device;
  if (args->native != nullptr) {
    stream->handle = static_cast<CUstream>(args->native);
    stream->is_owned = false;
  } else {
    int least = 0;
    int greatest = 0;
    unify_status status = run(device, [&] { return driver.cuCtxGetStreamPriorityRange(&least, &greatest); });
    if (status != UNIFY_OK) return status;
    if (args->priority > least || args->priority < greatest) {  // which CUDA would clamp silently
      return refuse(UNIFY_INVALID_ARGUMENT, "priority " + std::to_string(args->priority) + " is not between " +
                                                std::to_string(greatest) + " and " + std::to_string(least));
    }
    // The null stream would serialise us with the host program's own CUDA work.
    status = run(device, [&] {
      return driver.cuStreamCreateWithPriority(&stream->handle, CU_STREAM_NON_BLOCKING, args->priority);
    });
    if (status != UNIFY_OK) return status;
  }
  args->native = stream->handle;
  const std::lock_guard<std::mutex> lock(device.mutex);
  *out = reinterpret_cast<unify_stream>(stream.get());
  device.streams.insert(std::move(stream));
  return UNIFY_OK;
}

// A thread that waits for the whole device may still hold it.
unify_status stream_destroy(unify_stream handle) {
  const std::shared_ptr<Stream> stream = of(handle)->shared_from_this();
  Device& device = *stream->device;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    device.streams.erase(stream);
  }
  return status_of(&device, device.fault.load());
}

unify_status stream_synchronize(unify_stream handle) {
  Stream& stream = *of(handle);
  const uint64_t pieces = stream.work.pieces();
  const unify_status status = wait(*stream.device, [&] { return driver.cuStreamSynchronize(stream.handle); });
  if (status == UNIFY_OK) stream.work.prove(pieces);
  return status;
}

unify_status ask_stream(Stream& stream) {
  const uint64_t pieces = stream.work.pieces();
  const unify_status status = ask(*stream.device, [&] { return driver.cuStreamQuery(stream.handle); });
  if (status == UNIFY_OK) stream.work.prove(pieces);
  return status;
}

// What its owner has destroyed runs dry all the same, and has, where no work of ours was left.
bool has_ended(const Stream& stream, CUresult code) {
  return code == CUDA_ERROR_INVALID_HANDLE && !stream.is_owned && stream.work.is_proven();
}

unify_status stream_query(unify_stream handle) {
  Stream& stream = *of(handle);
  if (stream.is_owned && !stream.is_drawn_in.load()) return ask_stream(stream);
  bool can_ask = false;
  bool is_over = false;
  const unify_status status = ask(*stream.device, [&] {
    const CUresult code = find_capture(stream, can_ask);
    is_over = has_ended(stream, code);
    return is_over ? CUDA_SUCCESS : code;
  });
  if (status != UNIFY_OK || is_over) return status;
  if (can_ask) return ask_stream(stream);
  return refuse(UNIFY_UNSUPPORTED, "another library records the stream, or one that orders itself with it");
}

unify_status stream_wait_event(unify_stream handle, unify_event event) {
  Stream& stream = *of(handle);
  return run(*stream.device, [&] {
    const CUresult code = driver.cuStreamWaitEvent(stream.handle, of(event)->handle, 0);
    if (code != CUDA_SUCCESS || !stream.is_owned || stream.is_drawn_in.load()) return code;
    int capture = CU_STREAM_CAPTURE_STATUS_NONE;
    driver.cuStreamIsCapturing(stream.handle, &capture);
    if (capture != CU_STREAM_CAPTURE_STATUS_NONE) stream.is_drawn_in = true;
    return code;
  });
}

unify_status host_call(unify_stream handle, unify_host_function function, void* user) {
  Stream& stream = *of(handle);
  Device& device = *stream.device;
  int capture = CU_STREAM_CAPTURE_STATUS_NONE;
  unify_status status = run(device, [&] { return driver.cuStreamIsCapturing(stream.handle, &capture); });
  if (status != UNIFY_OK) return status;
  if (capture != CU_STREAM_CAPTURE_STATUS_NONE) {  // which may run often
    return run(device, [&] { return driver.cuLaunchHostFunc(stream.handle, function, user); });
  }
  void* call = device.calls.add(stream.handle, function, user);
  status = enqueue(stream, [&] { return driver.cuLaunchHostFunc(stream.handle, StreamCalls::run, call); });
  return status == UNIFY_OK || !device.calls.take_back(call) ? UNIFY_OK : status;
}

unify_status event_create(unify_device handle, const unify_event_args* args, unify_event* out) {
  Device& device = *of(handle);
  unsigned flags = (args->flags & UNIFY_EVENT_TIMING) != 0 ? 0 : CU_EVENT_DISABLE_TIMING;
  if ((args->flags & UNIFY_EVENT_IPC) != 0) {
    if (flags == 0) return refuse(UNIFY_UNSUPPORTED, "an event for other processes has no times");
    flags |= CU_EVENT_INTERPROCESS;
  }
  auto event = std::make_unique<Event>();
  event->device = &device;
  const unify_status status = run(device, [&] { return driver.cuEventCreate(&event->handle, flags); });
  if (status == UNIFY_OK) *out = reinterpret_cast<unify_event>(event.release());
  return status;
}

unify_status event_destroy(unify_event handle) {
  const std::unique_ptr<Event> event(of(handle));
  return run(*event->device, [&] { return driver.cuEventDestroy(event->handle); });
}

unify_status event_record(unify_event event, unify_stream stream) {
  return run(*of(stream)->device, [&] { return driver.cuEventRecord(of(event)->handle, of(stream)->handle); });
}

unify_status event_synchronize(unify_event event) {
  return wait(*of(event)->device, [&] { return driver.cuEventSynchronize(of(event)->handle); });
}

unify_status event_query(unify_event event) {
  return ask(*of(event)->device, [&] { return driver.cuEventQuery(of(event)->handle); });
}

unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out_nanoseconds) {
  float milliseconds = 0;
  const unify_status status = run(*of(start)->device, [&] {
    return driver.cuEventElapsedTime(&milliseconds, of(start)->handle, of(stop)->handle);
  });
  *out_nanoseconds = std::llround(static_cast<double>(milliseconds) * 1e6);
  return status;
}

}  // namespace

void add_streams(unify_backend& table) {
  table.stream_create = stream_create;
  table.stream_destroy = stream_destroy;
  table.stream_synchronize = stream_synchronize;
  table.stream_query = stream_query;
  table.stream_wait_event = stream_wait_event;
  table.host_call = host_call;
  table.event_create = event_create;
  table.event_destroy = event_destroy;
  table.event_record = event_record;
  table.event_synchronize = event_synchronize;
  table.event_query = event_query;
  table.event_elapsed = event_elapsed;
}

}  // namespace unify::cuda
