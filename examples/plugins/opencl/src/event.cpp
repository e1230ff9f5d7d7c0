// Events: the last marker that was enqueued for one, and its time.
#include <memory>

#include "opencl.h"

namespace opencl {
namespace {

// The mark, held for the caller, or null.
cl_event mark_of(unify_event event) {
  const std::lock_guard<std::mutex> lock(event->mutex);
  if (event->mark != nullptr) clRetainEvent(event->mark);
  return event->mark;
}

unify_status state_of(cl_event mark) {
  cl_int state = CL_COMPLETE;
  const cl_int code = clGetEventInfo(mark, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof state, &state, nullptr);
  if (code != CL_SUCCESS) return check(code, "asking an event");
  if (state > CL_COMPLETE) return UNIFY_NOT_READY;
  return state < 0 ? fail(UNIFY_KERNEL_FAULT, "a command before the event failed", state) : UNIFY_OK;
}

unify_status end_of(unify_event event, cl_ulong& out) {
  if ((event->flags & UNIFY_EVENT_TIMING) == 0)
    return fail(UNIFY_INVALID_ARGUMENT, "the event was made without timing");
  cl_event mark = mark_of(event);
  if (mark == nullptr) return fail(UNIFY_INVALID_ARGUMENT, "the event was never recorded");
  unify_status status = state_of(mark);
  if (status == UNIFY_OK) {
    status =
        check(clGetEventProfilingInfo(mark, CL_PROFILING_COMMAND_END, sizeof out, &out, nullptr), "reading a time");
  }
  clReleaseEvent(mark);
  return status;
}

}  // namespace

unify_status event_create(unify_device device, const unify_event_args* args, unify_event* out_event) {
  if (args->flags & UNIFY_EVENT_IPC) return fail(UNIFY_UNSUPPORTED, "OpenCL does not share events between processes");
  auto event = std::make_unique<unify_event_s>();
  event->device = device;
  event->flags = args->flags;
  *out_event = event.release();
  return UNIFY_OK;
}

unify_status event_destroy(unify_event event) {
  if (event->mark != nullptr && !is_forked()) clReleaseEvent(event->mark);
  delete event;
  return UNIFY_OK;
}

unify_status event_record(unify_event event, unify_stream stream) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  if (event->device != stream->device) return fail(UNIFY_INVALID_ARGUMENT, "the event is another device's");
  cl_event mark = nullptr;
  const cl_int code = clEnqueueMarkerWithWaitList(stream->queue, 0, nullptr, &mark);
  if (code != CL_SUCCESS) return check(code, "clEnqueueMarkerWithWaitList");
  clRetainEvent(mark);  // for the stream
  {
    const std::lock_guard<std::mutex> lock(event->mutex);
    std::swap(event->mark, mark);
  }
  const unify_status status = enqueued(stream, code, event->mark, "clEnqueueMarkerWithWaitList");
  if (mark != nullptr) clReleaseEvent(mark);
  return status;
}

unify_status event_synchronize(unify_event event) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  cl_event mark = mark_of(event);
  if (mark == nullptr) return UNIFY_OK;
  clWaitForEvents(1, &mark);  // fails where the command did, as state_of says
  const unify_status status = state_of(mark);
  clReleaseEvent(mark);
  return status;
}

unify_status event_query(unify_event event) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  cl_event mark = mark_of(event);
  if (mark == nullptr) return UNIFY_OK;
  const unify_status status = state_of(mark);
  clReleaseEvent(mark);
  return status;
}

unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out_nanoseconds) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  cl_ulong begin = 0;
  cl_ulong end = 0;
  if (const unify_status status = end_of(start, begin)) return status;
  if (const unify_status status = end_of(stop, end)) return status;
  *out_nanoseconds = static_cast<int64_t>(end - begin);
  return UNIFY_OK;
}

}  // namespace opencl
