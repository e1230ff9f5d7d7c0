// Events of the CPU: marks in its streams.
#include <chrono>

#include "host.h"

namespace unify::host {

// One record of an event. Who waits for it keeps it, so that a later record, on whatever stream, changes nothing.
struct Mark {
  std::mutex mutex;
  std::condition_variable passing;
  std::atomic<bool> is_passed{false};
  int64_t time_ns = 0;                     // when; set before is_passed, as is
  std::shared_ptr<const Failure> failure;  // the stream's, at that time
  const uint32_t generation = fork_generation();

  // Not passed, and nobody is left who would.
  [[nodiscard]] bool is_abandoned() const { return generation != fork_generation() && !is_passed.load(); }
  [[nodiscard]] bool holds() const { return !is_passed.load(std::memory_order_acquire) && !is_abandoned(); }
};

struct Event {
  std::mutex mutex;  // of `newest`
  std::shared_ptr<Mark> newest;
  bool has_timing = false;
};

namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Null when the event was never recorded.
std::shared_ptr<Mark> newest_of(Event& event) {
  const std::lock_guard<std::mutex> lock(event.mutex);
  return event.newest == nullptr || event.newest->is_abandoned() ? nullptr : event.newest;
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

void pass(Mark& mark, Stream& stream) {
  mark.failure = failure_of(stream);
  mark.time_ns = now_ns();
  const std::lock_guard<std::mutex> lock(mark.mutex);
  mark.is_passed.store(true, std::memory_order_release);
  mark.passing.notify_all();
}

void wait_for(Mark& mark) {
  if (!mark.holds()) return;
  std::unique_lock<std::mutex> lock(mark.mutex);
  mark.passing.wait(lock, [&] { return !mark.holds(); });
}

unify_status event_record(unify_event e, unify_stream s) {
  auto mark = std::make_shared<Mark>();
  run_or_enqueue(*of(s), [mark](Stream& stream) { pass(*mark, stream); });
  const std::lock_guard<std::mutex> lock(of(e)->mutex);
  of(e)->newest = std::move(mark);
  return UNIFY_OK;
}

unify_status stream_wait_event(unify_stream s, unify_event e) {
  std::shared_ptr<Mark> mark = newest_of(*of(e));
  if (mark == nullptr || !mark->holds()) return UNIFY_OK;
  enqueue(*of(s), [mark](Stream&) { wait_for(*mark); });
  return UNIFY_OK;
}

unify_status answer_of(const Mark& mark) { return mark.failure == nullptr ? UNIFY_OK : fail(*mark.failure); }

unify_status event_synchronize(unify_event e) {
  const std::shared_ptr<Mark> mark = newest_of(*of(e));
  if (mark == nullptr) return UNIFY_OK;
  wait_for(*mark);
  return answer_of(*mark);
}

unify_status event_query(unify_event e) {
  const std::shared_ptr<Mark> mark = newest_of(*of(e));
  if (mark == nullptr) return UNIFY_OK;
  return mark->holds() ? UNIFY_NOT_READY : answer_of(*mark);
}

unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out) {
  int64_t times[2] = {};
  const unify_event events[2] = {start, stop};
  for (int i = 0; i < 2; ++i) {
    if (!of(events[i])->has_timing) return fail(UNIFY_INVALID_ARGUMENT, "an event was made without timing");
    const std::shared_ptr<Mark> mark = newest_of(*of(events[i]));
    if (mark == nullptr) return fail(UNIFY_INVALID_ARGUMENT, "an event was never recorded");
    if (mark->holds()) return UNIFY_NOT_READY;
    times[i] = mark->time_ns;
  }
  *out = times[1] - times[0];
  return UNIFY_OK;
}

}  // namespace

void add_events(unify_backend& table) {
  table.stream_wait_event = Guarded<stream_wait_event>::call;
  table.event_create = Guarded<event_create>::call;
  table.event_destroy = Guarded<event_destroy>::call;
  table.event_record = Guarded<event_record>::call;
  table.event_synchronize = Guarded<event_synchronize>::call;
  table.event_query = Guarded<event_query>::call;
  table.event_elapsed = Guarded<event_elapsed>::call;
}

}  // namespace unify::host
