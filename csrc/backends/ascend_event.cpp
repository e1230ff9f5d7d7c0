// Events.
#include <cmath>

#include "ascend_backend.h"

namespace unify::ascend {
namespace {

bool has_shared_events() {
  return driver.aclrtIpcGetEventHandle != nullptr && driver.aclrtIpcOpenEventHandle != nullptr;
}

unify_status event_create(unify_device handle, const unify_event_args* args, unify_event* out) {
  Device& device = *of(handle);
  auto event = std::make_unique<Event>();
  event->device = &device;
  event->has_timing = (args->flags & UNIFY_EVENT_TIMING) != 0;
  uint32_t flags = ACL_EVENT_SYNC | (event->has_timing ? ACL_EVENT_TIME_LINE : 0);
  if ((args->flags & UNIFY_EVENT_IPC) != 0) {
    if (event->has_timing) return refuse(UNIFY_UNSUPPORTED, "an event for other processes has no times");
    if (!has_shared_events()) return refuse(UNIFY_UNSUPPORTED, "this CANN has no events for other processes");
    flags = ACL_EVENT_IPC;  // ACL takes it with no other
  }
  const unify_status status = run(device, [&] { return driver.aclrtCreateEventExWithFlag(&event->handle, flags); });
  if (status == UNIFY_OK) *out = reinterpret_cast<unify_event>(event.release());
  return status;
}

unify_status event_destroy(unify_event handle) {
  const std::unique_ptr<Event> event(of(handle));
  return run(*event->device, [&] { return driver.aclrtDestroyEvent(event->handle); });
}

unify_status event_record(unify_event event, unify_stream stream) {
  bool records = false;
  const unify_status status = run(*of(stream)->device, [&] {
    const aclError code = may_be_recorded(*of(stream)) ? is_recording(*of(stream), records) : ACL_SUCCESS;
    return code != ACL_SUCCESS ? code : driver.aclrtRecordEvent(of(event)->handle, of(stream)->handle);
  });
  if (status != UNIFY_OK) return status;
  of(event)->is_recorded = true;
  of(event)->is_captured = records;
  return status;
}

// To ask it, or to wait for it, would break the recording.
unify_status refuse_captured() { return refuse(UNIFY_INVALID_ARGUMENT, "the event is a part of a graph"); }

unify_status event_synchronize(unify_event handle) {
  Event& event = *of(handle);
  if (!event.is_recorded.load()) return UNIFY_OK;
  if (event.is_captured.load()) return refuse_captured();
  return wait(*event.device, [&] { return driver.aclrtSynchronizeEvent(event.handle); });
}

unify_status event_query(unify_event handle) {
  Event& event = *of(handle);
  if (!event.is_recorded.load()) return UNIFY_OK;
  if (event.is_captured.load()) return refuse_captured();
  int state = ACL_EVENT_RECORDED_STATUS_NOT_READY;
  const unify_status status = ask(*event.device, [&] { return driver.aclrtQueryEventStatus(event.handle, &state); });
  if (status != UNIFY_OK) return status;
  return state == ACL_EVENT_RECORDED_STATUS_COMPLETE ? UNIFY_OK : UNIFY_NOT_READY;
}

// Older versions refuse a time below zero.
aclError elapsed(const Event& start, const Event& stop, float& out_milliseconds) {
  aclError code = driver.aclrtEventElapsedTime(&out_milliseconds, start.handle, stop.handle);
  if (code != ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL) return code;
  code = driver.aclrtEventElapsedTime(&out_milliseconds, stop.handle, start.handle);
  out_milliseconds = -out_milliseconds;
  return code;
}

unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out_nanoseconds) {
  *out_nanoseconds = 0;
  for (const unify_event one : {start, stop}) {
    if (!of(one)->has_timing) return refuse(UNIFY_INVALID_ARGUMENT, "the event was made without times");
    if (!of(one)->is_recorded.load()) return refuse(UNIFY_INVALID_ARGUMENT, "the event was never recorded");
    if (const unify_status status = event_query(one); status != UNIFY_OK) return status;
  }
  float milliseconds = 0;
  const unify_status status = run(*of(start)->device, [&] { return elapsed(*of(start), *of(stop), milliseconds); });
  *out_nanoseconds = std::llround(static_cast<double>(milliseconds) * 1e6);
  return status;
}

}  // namespace

void add_events(unify_backend& table) {
  table.event_create = event_create;
  table.event_destroy = event_destroy;
  table.event_record = event_record;
  table.event_synchronize = event_synchronize;
  table.event_query = event_query;
  table.event_elapsed = event_elapsed;
}

}  // namespace unify::ascend
