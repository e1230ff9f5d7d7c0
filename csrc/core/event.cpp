#include "event.h"

#include "device.h"
#include "error.h"
#include "failures.h"
#include "launch.h"
#include "leaks.h"
#include "poll.h"
#include "recording.h"
#include "sharing.h"
#include "stream.h"

namespace unify {

unify_status make_event(Device& device, uint32_t flags, unify_event* out) noexcept {
  const unify_backend& table = device.table();
  unify_event_args args{};
  args.struct_size = sizeof args;
  args.flags = table.event_elapsed != nullptr ? flags : flags & ~uint32_t{UNIFY_EVENT_TIMING};
  return table.event_create(device.handle(), &args, out);
}

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

void EventPool::give_back(unify_event event, uint32_t generation) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (generation == device_.generation()) idle_.push_back(event);  // else a reset took it away
}

void EventPool::forget() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.clear();
}

Mark::Mark(Stream& stream) : device_(&stream.device()), generation_(device_->generation()), stream_(stream.id()) {
  // One that the backend records ran dry before; what a reset ended counts as dry.
  if (records_natively(stream) || stream.is_dry()) return;
  if (!stream.can_be_asked()) {  // an event would become a part of another library's graph
    unmarked_ = stream.shared_from_this();
    return;
  }
  const unify_status status = device_->events().mark(stream, &event_);
  if (status == UNIFY_OK) return;
  event_ = nullptr;
  device_->failures().note(stream_, status, "marking work");
  if (device_->state() == UNIFY_DEVICE_HEALTHY) unmarked_ = stream.shared_from_this();
}

Mark& Mark::operator=(Mark&& other) noexcept {
  release();
  device_ = other.device_;
  event_ = std::exchange(other.event_, nullptr);
  generation_ = other.generation_;
  stream_ = other.stream_;
  unmarked_ = std::move(other.unmarked_);
  return *this;
}

void Mark::release() noexcept {
  if (event_ != nullptr) device_->events().give_back(std::exchange(event_, nullptr), generation_);
}

bool Mark::has_passed() noexcept {
  if (unmarked_ != nullptr) {
    if (!unmarked_->is_dry()) return false;
    unmarked_.reset();
  }
  if (event_ == nullptr) return true;
  if (generation_ == device_->generation()) {  // else a reset ended what it stood for
    const unify_status status = device_->table().event_query(event_);
    if (status == UNIFY_NOT_READY) return false;
    if (status != UNIFY_OK) device_->failures().note(stream_, status, "work that memory waited for");
  }
  release();
  return true;
}

bool Mark::is_held_up() const noexcept { return unmarked_ != nullptr && !unmarked_->can_be_asked(); }

bool Mark::is_orphan() const noexcept {
  return unmarked_ != nullptr && device_->table().stream_query(unmarked_->handle()) == UNIFY_INVALID_ARGUMENT;
}

unify_status Mark::hold_back(Stream& stream) const noexcept {
  if (event_ == nullptr || generation_ != device_->generation()) return UNIFY_OK;
  return device_->table().stream_wait_event(stream.handle(), event_);
}

std::shared_ptr<Event> Event::create(const std::shared_ptr<Device>& device, bool timing, bool is_shared) {
  if (is_shared) require_sharing(*device, "a shared event");
  if (timing && is_shared) {
    throw Error(ErrorKind::kInvalidArgument, device->name() + ": an event is shared or has timing, not both.");
  }
  const char* caller = leaks::caller();
  device->require_usable();
  std::shared_ptr<Event> event(new Event);
  event->device_ = device;
  event->flags_ = timing ? UNIFY_EVENT_TIMING : is_shared ? UNIFY_EVENT_IPC : 0;
  const auto call = device->call();
  event->generation_ = device->generation();
  check(*device, nullptr, make_event(*device, event->flags_, &event->handle_), "making an event");
  leaks::held(event.get(), leaks::Kind::kEvent, *device, 0, caller);
  return event;
}

std::shared_ptr<Event> Event::create_over(const std::shared_ptr<Device>& device, unify_event handle,
                                          uint32_t generation, std::shared_ptr<void> import) {
  std::shared_ptr<Event> event(new Event);
  event->device_ = device;
  event->handle_ = handle;
  event->flags_ = UNIFY_EVENT_IPC;
  event->generation_ = generation;
  event->import_ = std::move(import);
  return event;
}

Event::~Event() {
  leaks::let_go(this);
  if (is_imported()) return;
  const auto call = device_->call();
  if (handle_ == nullptr || generation_ != device_->generation()) return;
  device_->table().event_destroy(handle_);
}

void Event::record(Stream& stream) {
  if (&stream.device() != device_.get()) {
    throw Error(ErrorKind::kDeviceMismatch,
                "event of " + device_->name() + " cannot be recorded on a stream of " + stream.device().name() + ".");
  }
  device_->require_usable();
  const std::lock_guard<std::mutex> lock(stream.mutex());
  stream.require_current();
  const std::lock_guard<std::mutex> mark(mutex_);
  require_current();
  const bool is_of_other_graph = stream.goes_into_other_graph_locked(false);
  if (is_shared() && (stream.recording() != nullptr || is_of_other_graph)) {
    throw Error(ErrorKind::kGraph, device_->name() + ", " + stream.name() +
                                       ": cannot record a shared event into a graph: it would mark nothing for other "
                                       "processes. Record it after the graph's launch.");
  }
  is_of_graph_ = stream.recording() != nullptr;
  is_of_other_graph_ = is_of_other_graph;
  recording_.reset();
  time_.reset();
  if (is_of_graph_) {
    recording_ = record_event(*stream.recording(), stream, shared_from_this());
    return;
  }
  device_->operations().push(
      {device_->operations().next_number(), Operation::Kind::kRecord, stream.id(), nullptr, {}, 0});
  HostTime time;
  if (has_timing() && device_->table().event_elapsed == nullptr) {
    check(*device_, &stream, read_clock(stream, &time), "reading the clock for an event");
  }
  check(*device_, &stream, device_->table().event_record(handle_, stream.handle()), "recording an event");
  time_ = std::move(time);
  used_on(stream);
}

void Event::used_on(Stream& stream) {
  if (is_imported()) stream.keep_alive_locked(import_);
}

void Event::require_current() const { device_->require_generation(generation_, "this event"); }

bool Event::is_of_graph() {
  const std::lock_guard<std::mutex> mark(mutex_);
  return is_of_graph_;
}

void Event::require_no_graph(const char* what) {
  {
    const std::lock_guard<std::mutex> mark(mutex_);
    if (!is_of_graph_ && !is_of_other_graph_) return;
  }
  throw Error(ErrorKind::kGraph, device_->name() + ": " + what +
                                     " an event that was recorded into a graph: it marks nothing outside of it. "
                                     "Record another event after the graph's launch.");
}

void Event::synchronize(double timeout_s) {
  if (timeout_s >= 0) {
    poll_until(timeout_s, device_->name(), "the event", [&] { return query(); });
    return;
  }
  require_no_graph("cannot wait for");
  const auto call = device_->call();
  require_current();
  check(*device_, nullptr, device_->table().event_synchronize(handle_), "waiting for an event");
}

bool Event::query() {
  require_no_graph("cannot ask");
  const auto call = device_->call();
  require_current();
  const unify_status status = device_->table().event_query(handle_);
  if (status == UNIFY_NOT_READY) return false;
  check(*device_, nullptr, status, "asking an event");
  return true;
}

void Event::throw_no_time(const char* why) const {
  throw Error(ErrorKind::kInvalidArgument, device_->name() + ": elapsed_ms: an event " + why);
}

unify_status Event::host_time(int64_t* out) {
  const std::lock_guard<std::mutex> mark(mutex_);
  if (time_ == nullptr) throw_no_time("was never recorded.");
  const unify_status status = device_->table().event_query(handle_);
  if (status == UNIFY_OK && (*out = *time_) == 0) throw_no_time("has no time. Record it again.");
  return status;
}

unify_status Event::elapsed(Event& later, int64_t* out) {
  const unify_backend& table = device_->table();
  if (table.event_elapsed != nullptr) return table.event_elapsed(handle_, later.handle_, out);
  int64_t begin = 0;
  int64_t end = 0;
  unify_status status = host_time(&begin);
  if (status == UNIFY_OK) status = later.host_time(&end);
  *out = end - begin;
  return status;
}

double Event::elapsed_ms(Event& later) {
  if (later.device_ != device_) {
    throw Error(ErrorKind::kDeviceMismatch, "elapsed_ms: the events are of " + device_->name() + " and " +
                                                later.device_->name() + ", whose clocks differ.");
  }
  for (Event* event : {this, &later}) {
    event->require_no_graph("cannot tell the time of");
    if (!event->has_timing()) throw_no_time("was made without timing. Make both with unify.event(timing=True).");
  }
  const auto call = device_->call();
  require_current();
  later.require_current();
  int64_t nanoseconds = 0;
  const unify_status status = elapsed(later, &nanoseconds);
  if (status == UNIFY_NOT_READY) {
    throw_no_time("was not passed yet. Call synchronize() on it first.");
  }
  check(*device_, nullptr, status, "the time between two events");
  return static_cast<double>(nanoseconds) * 1e-6;
}

}  // namespace unify
