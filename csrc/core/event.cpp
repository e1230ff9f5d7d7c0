#include "event.h"

#include "device.h"
#include "error.h"
#include "graph.h"
#include "launch.h"
#include "poll.h"
#include "stream.h"

namespace unify {

namespace {

unify_status make_event(Device& device, uint32_t flags, unify_event* out) noexcept {
  unify_event_args args{};
  args.struct_size = sizeof args;
  args.flags = flags;
  return device.table().event_create(device.handle(), &args, out);
}

}  // namespace

EventPool::~EventPool() {
  for (const unify_event event : idle_) device_.table().event_destroy(event);
}

unify_status EventPool::mark(Stream& stream, unify_event* out) noexcept {
  unify_event event = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      event = idle_.back();
      idle_.pop_back();
    }
  }
  if (event == nullptr) {
    const unify_status made = make_event(device_, 0, &event);
    if (made != UNIFY_OK) return made;
  }
  const unify_status recorded = device_.table().event_record(event, stream.handle());
  if (recorded == UNIFY_OK) {
    *out = event;
  } else {
    device_.table().event_destroy(event);
  }
  return recorded;
}

void EventPool::give_back(unify_event event) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(event);
}

void EventPool::forget() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.clear();
}

std::shared_ptr<Event> Event::create(const std::shared_ptr<Device>& device, bool timing) {
  device->require_usable();
  std::shared_ptr<Event> event(new Event);
  event->device_ = device;
  if (timing) event->flags_ = UNIFY_EVENT_TIMING;
  event->generation_ = device->generation();
  check(*device, nullptr, make_event(*device, event->flags_, &event->handle_), "making an event");
  return event;
}

Event::~Event() {
  if (handle_ == nullptr || generation_ != device_->generation()) return;
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
