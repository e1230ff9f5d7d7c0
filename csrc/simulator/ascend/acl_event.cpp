// ACL's functions for events.
//
// One of aclrtCreateEventExWithFlag is recorded as often as the program likes: whoever waits, waits for the record
// before; for none if there was none. One of aclrtCreateEvent or aclrtCreateEventWithFlag is a flag in the chip: who
// waits before it is recorded waits for the next record, and aclrtResetEvent takes it down.
#include <algorithm>

#include "acl.h"
#include "calls.h"
#include "simulator/graph.h"
#include "simulator/shared_event.h"

using namespace unify::simulator;

namespace {

// A call on an event: `work(call, event)`. It works from any context; that of the event must be well.
template <typename Work>
aclError with_event(const char* name, aclrtEvent handle, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    if (handle == nullptr) return ACL_ERROR_INVALID_PARAM;
    const std::shared_ptr<Event> event = driver().events.find(handle);
    if (event == nullptr) return refuse(ACL_ERROR_RT_INVALID_HANDLE, "The event is unknown or was destroyed.");
    if (const Result result = admit(call, event->context); result != ACL_SUCCESS) return result;
    return work(call, of(*event));
  });
}

bool is_capturing(const Event& event) { return event.capture != nullptr && !event.capture->is_over; }

// As of a stream: the capture fails.
Result refuse_captured(const Event& event) { return invalidate(*event.capture, ACL_ERROR_RT_EVENT_CAPTURED); }

Result make(Call& call, aclrtEvent* out, uint32_t flags, bool is_new) {
  constexpr uint32_t kKnown = ACL_EVENT_SYNC | ACL_EVENT_CAPTURE_STREAM_PROGRESS | ACL_EVENT_TIME_LINE |
                              ACL_EVENT_DEVICE_USE_ONLY | ACL_EVENT_EXTERNAL | ACL_EVENT_IPC;
  if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
  if (flags == 0 || (flags & ~kKnown) != 0) return refuse(ACL_ERROR_RT_PARAM_INVALID, "Event flag.");
  if ((flags & (ACL_EVENT_DEVICE_USE_ONLY | ACL_EVENT_EXTERNAL)) != 0) {
    return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Events for the device alone or for updates of graphs.");
  }
  const bool is_shared = (flags & ACL_EVENT_IPC) != 0;
  if (is_shared && (flags != ACL_EVENT_IPC || !is_new)) return ACL_ERROR_RT_PARAM_INVALID;
  auto event = std::make_shared<AclEvent>();
  event->context = call.context;
  event->flags = flags;
  event->is_new = is_new;
  event->id = acl().next_event++;
  if (is_shared && (event->shared = make_shared_event()) == nullptr) return ACL_ERROR_RT_NO_EVENT_RESOURCE;
  *out = driver().events.add<aclrtEvent>(std::move(event));
  return ACL_SUCCESS;
}

bool has_time(const AclEvent& event) {
  // aclrtCreateEvent asks for all that an event can do.
  return (event.flags & ACL_EVENT_TIME_LINE) != 0;
}

bool is_waitable(const AclEvent& event) { return (event.flags & (ACL_EVENT_SYNC | ACL_EVENT_IPC)) != 0; }

// Work that waits for a record to come, of an event that is a flag.
Run wait_for_record(const std::shared_ptr<AclEvent>& event, const std::shared_ptr<Context>& context, Deadline until) {
  return [event, context, until](Stream& on) -> Result {
    Lock lock(driver().mutex);
    while (event->mark == nullptr || !event->mark->is_done) {
      if (result_of(*context) != kSuccess || of(on).is_aborting) return ACL_SUCCESS;
      if (std::chrono::steady_clock::now() >= until) return ACL_ERROR_RT_TASK_TIMEOUT;
      driver().progress.wait_until(lock, Clock::now() + std::chrono::milliseconds(20));
      apply_due_faults(*context->device);
    }
    return ACL_SUCCESS;
  };
}

// Work that fails if a mark is not reached in time.
Run wait_until(const MarkPtr& mark, const std::shared_ptr<Context>& context, Deadline until) {
  return [mark, context, until](Stream& on) -> Result {
    Lock lock(driver().mutex);
    while (!mark->is_done && result_of(*context) == kSuccess && !of(on).is_aborting) {
      if (std::chrono::steady_clock::now() >= until) return ACL_ERROR_RT_TASK_TIMEOUT;
      driver().progress.wait_until(lock, Clock::now() + std::chrono::milliseconds(20));
    }
    return ACL_SUCCESS;
  };
}

Result wait_in_stream(Call& call, Stream& stream, aclrtEvent handle, uint64_t timeout_s) {
  const auto event = std::static_pointer_cast<AclEvent>(driver().events.find(handle));
  if (handle == nullptr || event == nullptr) return refuse(ACL_ERROR_RT_INVALID_HANDLE, "The event is unknown.");
  if (!is_waitable(*event))
    return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "The event was made without ACL_EVENT_SYNC.");
  if (is_capturing(*event)) {
    if (&stream == call.context->legacy.get()) return invalidate(*event->capture, ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT);
    return capture_wait(stream, *event);
  }
  if (stream.capture != nullptr) {
    if (!event->is_new || event->shared != nullptr) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
    // A record outside of the graph is out of its reach; without one there is nothing to wait for.
    return event->mark != nullptr || event->capture != nullptr ? ACL_ERROR_RT_CAPTURE_DEPENDENCY : ACL_SUCCESS;
  }
  const Deadline until = timeout_s == 0 ? kForever : std::chrono::steady_clock::now() + std::chrono::seconds(timeout_s);
  Operation wait;
  wait.context = stream.context;
  std::vector<MarkPtr> after;
  if (event->shared != nullptr) {
    wait.run = wait_for_shared(event->shared, stream.context);
  } else if (event->mark == nullptr) {
    if (event->is_new) return ACL_SUCCESS;
    wait.run = wait_for_record(event, stream.context, until);
  } else if (timeout_s != 0) {
    wait.run = wait_until(event->mark, stream.context, until);
  } else {
    after.push_back(event->mark);
  }
  if (const Result result = submit(call, stream, std::move(wait), std::move(after)); result != ACL_SUCCESS) {
    return result;
  }
  auto& waits = event->waits;
  waits.erase(std::remove_if(waits.begin(), waits.end(), [](const auto& mark) { return mark->is_done; }), waits.end());
  waits.push_back(stream.tail);
  return ACL_SUCCESS;
}

bool is_done(const AclEvent& event) {
  if (event.shared != nullptr) return is_shared_done(*event.shared);
  return event.mark == nullptr ? event.is_new : event.mark->is_done;
}

Result synchronize(Call& call, const AclEvent& event, Deadline until) {
  if (is_capturing(event)) return refuse_captured(event);
  const std::shared_ptr<Context> context = call.context;
  if (const Result result = result_of(*context); result != ACL_SUCCESS) return result;
  if (event.shared != nullptr) {
    const std::shared_ptr<SharedEvent> shared = event.shared;
    call.lock.unlock();
    const Result result = wait_on_host(*shared, *context);
    call.lock.lock();
    return result != kSuccess ? result : result_of(*context);
  }
  const MarkPtr mark = event.mark;  // the event may be recorded anew meanwhile
  if (mark == nullptr) return ACL_SUCCESS;
  const uint64_t aborts = of(*context).aborts;
  const Result result = wait_for(call.lock, mark, *context, until);
  if (of(*context).aborts != aborts) return ACL_ERROR_RT_DEVICE_TASK_ABORT;
  if (result != kSuccess) return result;
  return mark->is_done ? ACL_SUCCESS : ACL_ERROR_RT_EVENT_SYNC_TIMEOUT;
}

Result check_time(const AclEvent& event) {
  if (is_capturing(event)) return refuse_captured(event);
  if (event.shared != nullptr) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
  if (event.mark == nullptr) return refuse(ACL_ERROR_RT_INTERNAL_ERROR, "The event was not recorded.");
  return has_time(event) && event.mark->is_done ? ACL_SUCCESS : ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateEvent(aclrtEvent* out) {
  return with_context("aclrtCreateEvent",
                      [&](Call& call) { return make(call, out, ACL_EVENT_SYNC | ACL_EVENT_TIME_LINE, false); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateEventWithFlag(aclrtEvent* out, uint32_t flags) {
  return with_context("aclrtCreateEventWithFlag", [&](Call& call) { return make(call, out, flags, false); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateEventExWithFlag(aclrtEvent* out, uint32_t flags) {
  return with_context("aclrtCreateEventExWithFlag", [&](Call& call) { return make(call, out, flags, true); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDestroyEvent(aclrtEvent handle) {
  return with_driver("aclrtDestroyEvent", [&](Call&) -> Result {
    if (handle == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (driver().events.find(handle) == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    driver().events.remove(handle);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream_handle) {
  return with_work("aclrtRecordEvent", stream_handle, [&](Call& call, Stream& stream) -> Result {
    const std::shared_ptr<Event> event = driver().events.find(handle);
    if (handle == nullptr || event == nullptr) return refuse(ACL_ERROR_RT_INVALID_HANDLE, "The event is unknown.");
    if (event->context->device != stream.context->device) return ACL_ERROR_RT_STREAM_CONTEXT;
    if (stream.capture != nullptr) {
      if (!of(*event).is_new || event->shared != nullptr) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
      return capture_record(stream, *event);
    }
    Operation record;
    SharedRecord shared;
    if (event->shared != nullptr) shared = record_shared(event->shared);
    record.run = shared.run;
    if (const Result result = submit(call, stream, std::move(record)); result != ACL_SUCCESS) return result;
    if (event->shared != nullptr) shared.count();
    event->mark = stream.tail;
    event->capture = nullptr;
    event->frontier.clear();
    driver().progress.notify_all();  // who waits for a record to come
    return ACL_SUCCESS;
  });
}

// What waits in streams for the record before it keeps its mark: a reset is for the next one.
UNIFY_SIMULATOR_EXPORT aclError aclrtResetEvent(aclrtEvent handle, aclrtStream stream_handle) {
  return with_work("aclrtResetEvent", stream_handle, [&](Call&, Stream& stream) -> Result {
    const std::shared_ptr<Event> event = driver().events.find(handle);
    if (handle == nullptr || event == nullptr) return refuse(ACL_ERROR_RT_INVALID_HANDLE, "The event is unknown.");
    if (of(*event).is_new || (event->flags & ACL_EVENT_SYNC) == 0) {
      return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
                    "Only an event of aclrtCreateEventWithFlag with ACL_EVENT_SYNC is reset.");
    }
    if (stream.capture != nullptr) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
    event->mark = nullptr;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtStreamWaitEvent(aclrtStream stream_handle, aclrtEvent handle) {
  return with_work("aclrtStreamWaitEvent", stream_handle, [&](Call& call, Stream& stream) {
    return wait_in_stream(call, stream, handle, acl().wait_timeout_s);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtStreamWaitEventWithTimeout(aclrtStream stream_handle, aclrtEvent handle,
                                                                int32_t seconds) {
  return with_work("aclrtStreamWaitEventWithTimeout", stream_handle, [&](Call& call, Stream& stream) -> Result {
    if (seconds < 0) return ACL_ERROR_RT_PARAM_INVALID;
    return wait_in_stream(call, stream, handle, static_cast<uint64_t>(seconds));
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtQueryEvent(aclrtEvent handle, aclrtEventStatus* out) {
  return with_event("aclrtQueryEvent", handle, [&](Call&, const AclEvent& event) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (event.is_new) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
    if (is_capturing(event)) return refuse_captured(event);
    *out = is_done(event) ? ACL_EVENT_STATUS_COMPLETE : ACL_EVENT_STATUS_NOT_READY;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtQueryEventStatus(aclrtEvent handle, aclrtEventRecordedStatus* out) {
  return with_event("aclrtQueryEventStatus", handle, [&](Call& call, const AclEvent& event) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (is_capturing(event)) return refuse_captured(event);
    if (const Result result = result_of(*call.context); result != ACL_SUCCESS) return result;
    *out = is_done(event) ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtQueryEventWaitStatus(aclrtEvent handle, aclrtEventWaitStatus* out) {
  return with_event("aclrtQueryEventWaitStatus", handle, [&](Call&, const AclEvent& event) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (event.is_new) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
    const bool are_done =
        std::all_of(event.waits.begin(), event.waits.end(), [](const MarkPtr& mark) { return mark->is_done; });
    *out = are_done ? ACL_EVENT_WAIT_STATUS_COMPLETE : ACL_EVENT_WAIT_STATUS_NOT_READY;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeEvent(aclrtEvent handle) {
  return with_event("aclrtSynchronizeEvent", handle,
                    [&](Call& call, const AclEvent& event) { return synchronize(call, event, kForever); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeEventWithTimeout(aclrtEvent handle, int32_t timeout) {
  return with_event("aclrtSynchronizeEventWithTimeout", handle, [&](Call& call, const AclEvent& event) -> Result {
    Deadline until;
    return read_timeout(timeout, until) ? synchronize(call, event, until) : ACL_ERROR_RT_PARAM_INVALID;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtEventElapsedTime(float* out, aclrtEvent start_handle, aclrtEvent end_handle) {
  return with_event("aclrtEventElapsedTime", start_handle, [&](Call&, const AclEvent& start) -> Result {
    const std::shared_ptr<Event> end = driver().events.find(end_handle);
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (end_handle == nullptr || end == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    if (const Result result = check_time(start); result != ACL_SUCCESS) return result;
    if (const Result result = check_time(of(*end)); result != ACL_SUCCESS) return result;
    *out = std::chrono::duration<float, std::milli>(end->mark->when - start.mark->when).count();
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtEventGetTimestamp(aclrtEvent handle, uint64_t* out) {
  return with_event("aclrtEventGetTimestamp", handle, [&](Call&, const AclEvent& event) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (const Result result = check_time(event); result != ACL_SUCCESS) return result;
    const auto since = event.mark->when.time_since_epoch();
    *out = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(since).count());
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetEventId(aclrtEvent handle, uint32_t* out) {
  return with_event("aclrtGetEventId", handle, [&](Call&, const AclEvent& event) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = event.id;
    return ACL_SUCCESS;
  });
}
