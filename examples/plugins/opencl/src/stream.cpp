// Streams: in-order queues, what failed on them, waits for events, and calls of the host.
#include <algorithm>
#include <system_error>
#include <thread>

#include "opencl.h"

namespace opencl {
namespace {

cl_int state_of(cl_event event) {
  cl_int state = CL_COMPLETE;
  const cl_int code = clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof state, &state, nullptr);
  return code == CL_SUCCESS ? state : code;
}

// Lets go of what is done and remembers the first failure. Under the stream's mutex.
void look(unify_stream_s& stream) {
  while (!stream.pending.empty()) {
    const Pending front = stream.pending.front();
    const cl_int state = state_of(front.event);
    if (state > CL_COMPLETE) return;
    // What failed for another command's sake is that one's failure, and its stream's.
    if (state < 0 && state != CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST && stream.failure == CL_SUCCESS) {
      stream.failure = state;
      stream.failed = front;
    }
    clReleaseEvent(front.event);
    stream.pending.pop_front();
  }
}

unify_status report(unify_stream_s& stream, bool is_ended) {
  if (stream.failure == CL_SUCCESS) return UNIFY_OK;
  const cl_int code = stream.failure;
  if (is_ended) stream.failure = CL_SUCCESS;
  return fail(UNIFY_KERNEL_FAULT, "a command failed on the device", code, stream.failed.operation);
}

// What a stream that ends leaves to device_synchronize.
void leave(unify_device_s& device, unify_stream_s& stream) {
  if (stream.pending.empty()) return;
  const std::lock_guard<std::mutex> lock(device.mutex);
  const auto is_done = [](cl_event event) {
    if (state_of(event) > CL_COMPLETE) return false;
    clReleaseEvent(event);
    return true;
  };
  device.left.erase(std::remove_if(device.left.begin(), device.left.end(), is_done), device.left.end());
  clRetainEvent(stream.pending.back().event);
  device.left.push_back(stream.pending.back().event);
  for (const Pending& pending : stream.pending) clReleaseEvent(pending.event);
  stream.pending.clear();
}

void run_calls(const std::shared_ptr<Caller>& caller) {
  std::unique_lock<std::mutex> lock(caller->mutex);
  while (true) {
    caller->changed.wait(lock, [&] { return !caller->calls.empty() || caller->is_closing; });
    if (caller->calls.empty()) return;
    const HostCall call = caller->calls.front();
    caller->calls.pop_front();
    lock.unlock();
    clWaitForEvents(1, &call.before);  // a failure before it does not keep it from running
    call.function(call.user);
    clSetUserEventStatus(call.done, CL_COMPLETE);
    clReleaseEvent(call.before);
    clReleaseEvent(call.done);
    lock.lock();
  }
}

std::shared_ptr<Caller> caller_of(unify_stream_s& stream) {
  if (stream.caller == nullptr) {
    auto caller = std::make_shared<Caller>();
    std::thread(run_calls, caller).detach();
    stream.caller = caller;
  }
  return stream.caller;
}

unify_status wrap(unify_device device, cl_command_queue queue) {
  cl_context context = nullptr;
  cl_device_id id = nullptr;
  cl_command_queue_properties properties = 0;
  cl_int code = clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, nullptr);
  if (code == CL_SUCCESS) code = clGetCommandQueueInfo(queue, CL_QUEUE_DEVICE, sizeof id, &id, nullptr);
  if (code == CL_SUCCESS) {
    code = clGetCommandQueueInfo(queue, CL_QUEUE_PROPERTIES, sizeof properties, &properties, nullptr);
  }
  if (code != CL_SUCCESS) return fail(UNIFY_INVALID_ARGUMENT, "this is no command queue of OpenCL", code);
  if (id != device->id) return fail(UNIFY_INVALID_ARGUMENT, "the queue is another device's");
  if (context != device->context)
    return fail(UNIFY_UNSUPPORTED, "the queue has another context: addresses differ there");
  if (properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) return fail(UNIFY_UNSUPPORTED, "the queue keeps no order");
  return UNIFY_OK;
}

// An event of `context` that follows one of another.
cl_event brought_over(cl_context context, cl_event event, cl_int& code) {
  cl_event user = clCreateUserEvent(context, &code);
  if (code != CL_SUCCESS) return nullptr;
  clRetainEvent(user);
  const auto pass_on = [](cl_event, cl_int, void* waiting) {
    clSetUserEventStatus(static_cast<cl_event>(waiting), CL_COMPLETE);  // failures stay with the stream that failed
    clReleaseEvent(static_cast<cl_event>(waiting));
  };
  code = clSetEventCallback(event, CL_COMPLETE, pass_on, user);
  if (code != CL_SUCCESS) pass_on(nullptr, 0, user);
  return user;
}

}  // namespace

unify_status enqueued(unify_stream stream, cl_int code, cl_event event, const char* what, uint64_t operation) {
  if (code != CL_SUCCESS) return check(code, what, operation);
  {
    const std::lock_guard<std::mutex> lock(stream->mutex);
    look(*stream);
    stream->pending.push_back({event, operation});
  }
  return check(clFlush(stream->queue), "clFlush", operation);  // who asks without waiting must see it end
}

unify_status stream_create(unify_device device, unify_stream_args* args, unify_stream* out_stream) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  if (args->priority != 0) return fail(UNIFY_INVALID_ARGUMENT, "OpenCL's queues have no priorities here; use 0");
  auto stream = std::make_shared<unify_stream_s>();
  stream->device = device;
  if (args->native != nullptr) {
    stream->queue = static_cast<cl_command_queue>(args->native);
    if (const unify_status status = wrap(device, stream->queue)) return status;
    clRetainCommandQueue(stream->queue);
  } else {
    const cl_queue_properties properties[] = {CL_QUEUE_PROPERTIES, CL_QUEUE_PROFILING_ENABLE, 0};
    cl_int code = CL_SUCCESS;
    stream->queue = clCreateCommandQueueWithProperties(device->context, device->id, properties, &code);
    if (code != CL_SUCCESS) return check(code, "making a queue");
  }
  args->native = stream->queue;
  *out_stream = stream.get();
  const std::lock_guard<std::mutex> lock(device->mutex);
  device->open.push_back(std::move(stream));
  return UNIFY_OK;
}

unify_status stream_destroy(unify_stream stream) {
  const unify_device device = stream->device;
  std::shared_ptr<unify_stream_s> kept;  // until the end of this call, and of a device_synchronize that has it
  {
    const std::lock_guard<std::mutex> lock(device->mutex);
    const auto found = std::find_if(device->open.begin(), device->open.end(),
                                    [&](const auto& other) { return other.get() == stream; });
    kept = *found;
    device->open.erase(found);
  }
  if (is_forked()) return UNIFY_OK;
  if (stream->caller != nullptr) {
    const std::lock_guard<std::mutex> lock(stream->caller->mutex);
    stream->caller->is_closing = true;
    stream->caller->changed.notify_one();
  }
  const std::lock_guard<std::mutex> lock(stream->mutex);
  look(*stream);
  leave(*device, *stream);
  clFlush(stream->queue);
  clReleaseCommandQueue(stream->queue);  // what is enqueued still runs
  return report(*stream, true);
}

unify_status stream_synchronize(unify_stream stream) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  cl_event last = nullptr;  // another thread may enqueue more: this waits for what was there
  {
    const std::lock_guard<std::mutex> lock(stream->mutex);
    look(*stream);
    if (stream->pending.empty()) return report(*stream, true);
    last = stream->pending.back().event;
    clRetainEvent(last);
  }
  clWaitForEvents(1, &last);  // fails where the command did: look() says which
  clReleaseEvent(last);
  const std::lock_guard<std::mutex> lock(stream->mutex);
  look(*stream);
  return report(*stream, true);
}

unify_status stream_query(unify_stream stream) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  const std::lock_guard<std::mutex> lock(stream->mutex);
  look(*stream);
  if (!stream->pending.empty()) return UNIFY_NOT_READY;
  return report(*stream, false);
}

unify_status stream_wait_event(unify_stream stream, unify_event event) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  cl_event mark = nullptr;
  {
    const std::lock_guard<std::mutex> lock(event->mutex);
    mark = event->mark;
    if (mark == nullptr) return UNIFY_OK;  // never recorded: does not hold
    clRetainEvent(mark);
  }
  cl_int code = CL_SUCCESS;
  if (event->device->context != stream->device->context) {
    cl_event here = brought_over(stream->device->context, mark, code);
    clReleaseEvent(mark);
    if (code != CL_SUCCESS) return check(code, "waiting for another platform's event");
    mark = here;
  }
  cl_event done = nullptr;
  if (state_of(mark) < 0) {  // a failure is not passed on, and a barrier behind it would fail
    clReleaseEvent(mark);
    return UNIFY_OK;
  }
  code = clEnqueueBarrierWithWaitList(stream->queue, 1, &mark, &done);
  clReleaseEvent(mark);
  return enqueued(stream, code, done, "clEnqueueBarrierWithWaitList");
}

// A callback of OpenCL must not block, and a host call may: a thread of the stream's own waits for what is before the
// call, and an event of the user's holds back what is behind it.
unify_status host_call(unify_stream stream, unify_host_function function, void* user) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  std::shared_ptr<Caller> caller;
  try {
    caller = caller_of(*stream);
  } catch (const std::system_error&) {
    return fail(UNIFY_OUT_OF_MEMORY, "no thread can be started for a host call");
  }
  HostCall call{nullptr, nullptr, function, user};
  cl_int code = clEnqueueMarkerWithWaitList(stream->queue, 0, nullptr, &call.before);
  if (code != CL_SUCCESS) return check(code, "clEnqueueMarkerWithWaitList");
  call.done = clCreateUserEvent(stream->device->context, &code);
  cl_event passed = nullptr;
  if (code == CL_SUCCESS) code = clEnqueueBarrierWithWaitList(stream->queue, 1, &call.done, &passed);
  if (code != CL_SUCCESS) {
    clReleaseEvent(call.before);
    if (call.done != nullptr) clReleaseEvent(call.done);
    return check(code, "holding a queue for a host call");
  }
  // From here on the call will be made, so that this must not fail: the core frees what a failed call was given. A
  // queue that could not be flushed is by clWaitForEvents, and what is wrong with it is its next command's failure.
  (void)enqueued(stream, code, passed, "clEnqueueBarrierWithWaitList");
  const std::lock_guard<std::mutex> lock(caller->mutex);
  caller->calls.push_back(call);
  caller->changed.notify_one();
  return UNIFY_OK;
}

}  // namespace opencl
