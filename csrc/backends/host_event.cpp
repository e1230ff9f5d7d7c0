// Events of the CPU: marks in its streams.
#include <chrono>

#include "host.h"

namespace unify::host {

// What an event marks; outlives the handle while a stream waits for it.
struct Mark {
  std::mutex mutex;
  std::condition_variable passed;
  uint64_t recorded = 0;  // how often
  uint64_t reached = 0;   // up to which record
  int64_t time_ns = 0;
};

struct Event {
  std::shared_ptr<Mark> mark = std::make_shared<Mark>();
  bool has_timing = false;
};

namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

unify_status event_create(unify_device, const unify_event_args* args, unify_event* out) {
  if ((args->flags & UNIFY_EVENT_IPC) != 0) return fail(UNIFY_UNSUPPORTED, "CPU events do not cross processes");
  auto event = std::make_unique<Event>();
  event->has_timing = (args->flags & UNIFY_EVENT_TIMING) != 0;
  *out = reinterpret_cast<unify_event>(event.release());
  return UNIFY_OK;
}

unify_status event_destroy(unify_event e) {
  delete of(e);
  return UNIFY_OK;
}

void reach(Mark& mark, uint64_t ticket) {
  const std::lock_guard<std::mutex> lock(mark.mutex);
  if (ticket <= mark.reached) return;
  mark.reached = ticket;
  mark.time_ns = now_ns();
  mark.passed.notify_all();
}

unify_status event_record(unify_event e, unify_stream s) {
  const std::shared_ptr<Mark>& mark = of(e)->mark;
  uint64_t ticket = 0;
  {
    const std::lock_guard<std::mutex> lock(mark->mutex);
    ticket = ++mark->recorded;
  }
  if (runs_at_once(*of(s))) {
    reach(*mark, ticket);
  } else {
    enqueue(*of(s), [mark, ticket](Stream&) { reach(*mark, ticket); });
  }
  return UNIFY_OK;
}

void wait_for(Mark& mark, uint64_t ticket) {
  std::unique_lock<std::mutex> lock(mark.mutex);
  mark.passed.wait(lock, [&] { return mark.reached >= ticket; });
}

unify_status stream_wait_event(unify_stream s, unify_event e) {
  const std::shared_ptr<Mark>& mark = of(e)->mark;
  uint64_t ticket = 0;
  {
    const std::lock_guard<std::mutex> lock(mark->mutex);
    ticket = mark->recorded;
    if (mark->reached >= ticket) return UNIFY_OK;
  }
  enqueue(*of(s), [mark, ticket](Stream&) { wait_for(*mark, ticket); });
  return UNIFY_OK;
}

unify_status event_synchronize(unify_event e) {
  Mark& mark = *of(e)->mark;
  std::unique_lock<std::mutex> lock(mark.mutex);
  const uint64_t ticket = mark.recorded;
  mark.passed.wait(lock, [&] { return mark.reached >= ticket; });
  return UNIFY_OK;
}

unify_status event_query(unify_event e) {
  Mark& mark = *of(e)->mark;
  const std::lock_guard<std::mutex> lock(mark.mutex);
  return mark.reached >= mark.recorded ? UNIFY_OK : UNIFY_NOT_READY;
}

unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out) {
  int64_t times[2] = {};
  const unify_event events[2] = {start, stop};
  for (int i = 0; i < 2; ++i) {
    Mark& mark = *of(events[i])->mark;
    const std::lock_guard<std::mutex> lock(mark.mutex);
    if (!of(events[i])->has_timing) return fail(UNIFY_INVALID_ARGUMENT, "an event was made without timing");
    if (mark.recorded == 0) return fail(UNIFY_INVALID_ARGUMENT, "an event was never recorded");
    if (mark.reached < mark.recorded) return UNIFY_NOT_READY;
    times[i] = mark.time_ns;
  }
  *out = times[1] - times[0];
  return UNIFY_OK;
}

}  // namespace

void add_events(unify_backend& table) {
  table.stream_wait_event = stream_wait_event;
  table.event_create = event_create;
  table.event_destroy = event_destroy;
  table.event_record = event_record;
  table.event_synchronize = event_synchronize;
  table.event_query = event_query;
  table.event_elapsed = event_elapsed;
}

}  // namespace unify::host
