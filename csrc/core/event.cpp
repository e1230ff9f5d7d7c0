#include "event.h"

#include "device.h"
#include "error.h"
#include "graph.h"
#include "launch.h"
#include "poll.h"
#include "stream.h"

namespace unify {

EventPool::~EventPool() {
  for (auto& events : idle_) {
    for (const unify_event event : events) device_.table().event_destroy(event);
  }
}

unify_event EventPool::acquire(uint32_t flags) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto& idle = idle_[flags & 3];
    if (!idle.empty()) {
      const unify_event event = idle.back();
      idle.pop_back();
      return event;
    }
  }
  unify_event_args args{};
  args.struct_size = sizeof args;
  args.flags = flags;
  unify_event event = nullptr;
  check(device_, nullptr, device_.table().event_create(device_.handle(), &args, &event), "making an event");
  return event;
}

void EventPool::release(unify_event event, uint32_t flags) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_[flags & 3].push_back(event);
}

void EventPool::forget() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& events : idle_) events.clear();
}

std::shared_ptr<Event> Event::create(const std::shared_ptr<Device>& device, bool timing) {
  device->require_usable();
  std::shared_ptr<Event> event(new Event);
  event->device_ = device;
  if (timing) event->flags_ = UNIFY_EVENT_TIMING;
  event->generation_ = device->generation();
  event->handle_ = device->events().acquire(event->flags_);
  return event;
}

Event::~Event() {
  if (handle_ == nullptr || generation_ != device_->generation()) return;
  // Not back to the pool: a new event counts as done and this one carries a record.
  device_->table().event_destroy(handle_);
}

void Event::record(Stream& stream) {
  if (&stream.device() != device_.get()) {
    throw Error(ErrorKind::kDeviceMismatch,
                "event of " + device_->name() + " cannot be recorded on a stream of " + stream.device().name() + ".");
  }
  device_->require_usable();
  device_->require_generation(generation_, "this event");
  stream.require_current();
  const std::lock_guard<std::mutex> lock(stream.mutex());
  const std::lock_guard<std::mutex> mark(mutex_);
  is_of_graph_ = stream.recording() != nullptr;
  recording_.reset();
  if (is_of_graph_) {
    recording_ = record_event(*stream.recording(), stream, shared_from_this());
    return;
  }
  device_->operations().push(
      {device_->operations().next_number(), Operation::Kind::kRecord, stream.id(), nullptr, {}, 0});
  check(*device_, &stream, device_->table().event_record(handle_, stream.handle()), "recording an event");
}

bool Event::is_of_graph() {
  const std::lock_guard<std::mutex> mark(mutex_);
  return is_of_graph_;
}

void Event::require_no_graph(const char* what) {
  if (!is_of_graph()) return;
  throw Error(ErrorKind::kGraph, device_->name() + ": " + what +
                                     " an event that was recorded into a graph: it marks nothing outside of it. "
                                     "Record another event after the graph's launch.");
}

void Event::synchronize(double timeout_s) {
  device_->require_generation(generation_, "this event");
  require_no_graph("cannot wait for");
  const unify_backend& table = device_->table();
  if (timeout_s < 0) {
    check(*device_, nullptr, table.event_synchronize(handle_), "waiting for an event");
  } else {
    poll_until(timeout_s, device_->name(), "the event", [&] { return query(); });
  }
}

bool Event::query() {
  device_->require_generation(generation_, "this event");
  require_no_graph("cannot ask");
  const unify_status status = device_->table().event_query(handle_);
  if (status == UNIFY_NOT_READY) return false;
  check(*device_, nullptr, status, "asking an event");
  return true;
}

double Event::elapsed_ms(Event& later) {
  if (later.device_ != device_) {
    throw Error(ErrorKind::kDeviceMismatch, "elapsed_ms: the events are of " + device_->name() + " and " +
                                                later.device_->name() + ", whose clocks differ.");
  }
  int64_t nanoseconds = 0;
  const unify_status status = device_->table().event_elapsed(handle_, later.handle_, &nanoseconds);
  if (status == UNIFY_NOT_READY) {
    throw Error(ErrorKind::kInvalidArgument,
                device_->name() + ": elapsed_ms of an event that was not passed yet. Call synchronize() on it first.");
  }
  check(*device_, nullptr, status, "the time between two events");
  return static_cast<double>(nanoseconds) * 1e-6;
}

}  // namespace unify
