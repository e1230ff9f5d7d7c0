// The driver's functions for streams and events.
#include "calls.h"
#include "libcuda.h"
#include "simulator/graph.h"
#include "simulator/shared_event.h"

using namespace unify::simulator;

namespace {

constexpr int kGreatestPriority = -5;

// A call on an event: `work(call, event)`. It works from any context; that of the event must be well.
template <typename Work>
CUresult with_event(const char* name, CUevent handle, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    const std::shared_ptr<Event> event = driver().events.find(handle);
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (const Result result = admit(call, event->context); result != CUDA_SUCCESS) return result;
    return work(call, *event);
  });
}

// Waiting and asking are not allowed for what is captured, nor beside a capture that forbids them.
Result check_event(const Event& event) {
  if (event.capture == nullptr) return check_unsafe();
  if (!event.capture->is_over) invalidate(*event.capture, CUDA_SUCCESS);
  return CUDA_ERROR_CAPTURED_EVENT;
}

Result check_stream(const Stream& stream) {
  if (stream.capture != nullptr) return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  if (const Result result = check_implicit_order(stream); result != CUDA_SUCCESS) return result;
  return check_unsafe();
}

}  // namespace

UNIFY_SIMULATOR_EXPORT CUresult cuStreamCreateWithPriority(CUstream* out, unsigned flags, int priority) {
  return with_context("cuStreamCreateWithPriority", [&](Call& call) {
    if (out == nullptr || (flags & ~CU_STREAM_NON_BLOCKING) != 0) return CUDA_ERROR_INVALID_VALUE;
    const int clamped = priority > 0 ? 0 : priority < kGreatestPriority ? kGreatestPriority : priority;
    const auto stream = std::make_shared<Stream>();
    open_stream(call.context, stream, clamped);
    stream->is_blocking = (flags & CU_STREAM_NON_BLOCKING) == 0;
    stream->handle = driver().streams.add<uintptr_t>(stream);
    *out = reinterpret_cast<CUstream>(stream->handle);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuStreamDestroy_v2(CUstream handle) {
  return with_stream("cuStreamDestroy", handle, [&](Call&, Stream& stream) {
    if (stream.handle == 0) return CUDA_ERROR_INVALID_HANDLE;  // a default stream
    leave_capture(stream);
    driver().streams.remove(handle);
    close_stream(stream);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuStreamSynchronize(CUstream handle) {
  return with_stream("cuStreamSynchronize", handle, [&](Call& call, Stream& stream) -> Result {
    if (const Result result = check_stream(stream); result != CUDA_SUCCESS) return result;
    return wait_for_stream(call.lock, stream);
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuStreamQuery(CUstream handle) {
  return with_stream("cuStreamQuery", handle, [&](Call&, Stream& stream) -> Result {
    if (const Result result = check_stream(stream); result != CUDA_SUCCESS) return result;
    return is_idle(stream) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned flags) {
  return with_stream("cuStreamWaitEvent", handle, [&](Call& call, Stream& stream) -> Result {
    const std::shared_ptr<Event> event = driver().events.find(event_handle);
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (flags != 0) return flags == CU_EVENT_WAIT_EXTERNAL ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_VALUE;
    if (stream.is_legacy && event->capture != nullptr && !event->capture->is_over && !event->capture->is_invalid) {
      return invalidate(*event->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
    if (stream.capture != nullptr || event->capture != nullptr) return capture_wait(stream, *event);
    if (const Result result = check_implicit_order(stream); result != CUDA_SUCCESS) return result;
    Operation wait;
    wait.context = call.context;
    if (event->shared != nullptr) wait.run = wait_for_shared(event->shared, call.context);
    std::vector<MarkPtr> after;
    if (event->shared == nullptr && event->mark != nullptr) after.push_back(event->mark);
    if (after.empty() && wait.run == nullptr) return CUDA_SUCCESS;
    return enqueue(stream, std::move(wait), std::move(after));
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
  return with_stream("cuLaunchHostFunc", handle, [&](Call& call, Stream& stream) -> Result {
    if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
    Operation operation;
    operation.kind = OperationKind::kHostCall;
    operation.run = call_host(function, data);
    return submit(call, stream, std::move(operation));
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuEventCreate(CUevent* out, unsigned flags) {
  return with_context("cuEventCreate", [&](Call& call) {
    constexpr unsigned kKnown = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if (out == nullptr || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
    const bool is_shared = (flags & CU_EVENT_INTERPROCESS) != 0;
    if (is_shared && (flags & CU_EVENT_DISABLE_TIMING) == 0) return CUDA_ERROR_INVALID_VALUE;
    auto event = std::make_shared<Event>();
    event->context = call.context;
    event->flags = flags;
    if (is_shared && (event->shared = make_shared_event()) == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = driver().events.add<CUevent>(std::move(event));
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuEventDestroy_v2(CUevent handle) {
  return with_event("cuEventDestroy", handle, [&](Call&, Event&) {
    driver().events.remove(handle);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuEventRecord(CUevent handle, CUstream stream_handle) {
  return with_stream("cuEventRecord", stream_handle, [&](Call& call, Stream& stream) -> Result {
    const std::shared_ptr<Event> event = driver().events.find(handle);
    if (event == nullptr || event->context != stream.context) return CUDA_ERROR_INVALID_HANDLE;
    if (stream.capture != nullptr) return capture_record(stream, *event);
    Operation record;
    SharedRecord shared;
    if (event->shared != nullptr) shared = record_shared(event->shared);
    record.run = shared.run;
    if (const Result result = submit(call, stream, std::move(record)); result != CUDA_SUCCESS) return result;
    if (event->shared != nullptr) shared.count();
    event->mark = stream.tail;
    event->capture = nullptr;
    event->frontier.clear();
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuEventSynchronize(CUevent handle) {
  return with_event("cuEventSynchronize", handle, [&](Call& call, Event& event) -> Result {
    if (const Result result = check_event(event); result != CUDA_SUCCESS) return result;
    if (event.shared != nullptr) {
      call.lock.unlock();
      const Result result = wait_on_host(*event.shared, *call.context);
      call.lock.lock();
      return result != CUDA_SUCCESS ? result : result_of(*call.context);
    }
    const MarkPtr mark = event.mark;  // the event may be recorded anew meanwhile
    return mark == nullptr ? CUDA_SUCCESS : wait_for(call.lock, mark, *call.context);
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuEventQuery(CUevent handle) {
  return with_event("cuEventQuery", handle, [&](Call&, Event& event) -> Result {
    if (const Result result = check_event(event); result != CUDA_SUCCESS) return result;
    const bool is_done =
        event.shared != nullptr ? is_shared_done(*event.shared) : event.mark == nullptr || event.mark->is_done;
    return is_done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuEventElapsedTime(float* out, CUevent start_handle, CUevent end_handle) {
  return with_event("cuEventElapsedTime", start_handle, [&](Call&, const Event& start) {
    const std::shared_ptr<Event> end = driver().events.find(end_handle);
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (end == nullptr || end->context != start.context) return CUDA_ERROR_INVALID_HANDLE;
    if (((start.flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0) return CUDA_ERROR_INVALID_HANDLE;
    if (start.capture != nullptr || end->capture != nullptr) return CUDA_ERROR_CAPTURED_EVENT;
    if (start.mark == nullptr || end->mark == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (!start.mark->is_done || !end->mark->is_done) return CUDA_ERROR_NOT_READY;
    *out = std::chrono::duration<float, std::milli>(end->mark->when - start.mark->when).count();
    return CUDA_SUCCESS;
  });
}
