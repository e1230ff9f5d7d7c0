#include "stream.h"

#include <atomic>
#include <deque>
#include <vector>

#include "allocator.h"
#include "device.h"
#include "error.h"
#include "event.h"
#include "graph.h"
#include "launch.h"
#include "poll.h"

namespace unify {

// Owners of memory that enqueued work uses, each with the event after which it may go.
struct Stream::Held {
  struct Entry {
    unify_event event;
    std::shared_ptr<void> owner;
  };
  std::mutex mutex;
  std::deque<Entry> entries;
};

std::shared_ptr<Stream> Stream::create(const std::shared_ptr<Device>& device, int priority, void* native,
                                       bool is_default) {
  device->require_usable();
  static std::atomic<uint32_t> next_id{1};
  std::shared_ptr<Stream> stream(new Stream);
  stream->device_ = device;
  stream->held_ = std::make_unique<Held>();
  stream->generation_ = device->generation();
  stream->priority_ = priority;
  unify_stream_args args{};
  args.struct_size = sizeof args;
  args.priority = priority;
  args.is_default = is_default ? 1 : 0;
  args.native = native;
  check(*device, nullptr, device->table().stream_create(device->handle(), &args, &stream->handle_), "making a stream");
  stream->native_ = args.native;
  stream->id_ = is_default ? 0 : next_id.fetch_add(1, std::memory_order_relaxed);
  return stream;
}

Stream::~Stream() {
  if (handle_ == nullptr || generation_ != device_->generation()) return;
  const unify_backend& table = device_->table();
  device_->allocator().retire(*this);
  if (!held_->entries.empty()) table.stream_synchronize(handle_);
  for (Held::Entry& entry : held_->entries) device_->events().give_back(entry.event);
  table.stream_destroy(handle_);
}

std::string Stream::name() const { return id_ == 0 ? "default stream" : "stream " + std::to_string(id_); }

namespace {

void require_not_recording(const Stream& stream, const char* what) {
  if (stream.recording() == nullptr) return;
  throw Error(ErrorKind::kGraph, stream.device().name() + ", " + stream.name() + ": " + what +
                                     " while the stream records a graph. End the recording first.");
}

}  // namespace

void Stream::require_current() const { device_->require_generation(generation_, "this stream"); }

void Stream::synchronize(double timeout_s) {
  require_current();
  require_not_recording(*this, "cannot wait");
  device_->require_usable();
  if (timeout_s >= 0) {
    poll_until(timeout_s, device_->name(), name(), [this] { return query(); });
    return;
  }
  check(*device_, this, device_->table().stream_synchronize(handle_), "waiting for the stream");
  const std::lock_guard<std::mutex> lock(held_->mutex);
  while (!held_->entries.empty() && device_->table().event_query(held_->entries.front().event) == UNIFY_OK) {
    device_->events().give_back(held_->entries.front().event);
    held_->entries.pop_front();
  }
}

bool Stream::query() {
  require_current();
  require_not_recording(*this, "cannot ask");
  const unify_status status = device_->table().stream_query(handle_);
  if (status == UNIFY_NOT_READY) return false;
  check(*device_, this, status, "asking the stream");
  return true;
}

void Stream::wait(Event& event) {
  device_->require_usable();
  require_current();
  if (&event.device().backend() != &device_->backend()) {
    throw Error(ErrorKind::kUnsupported, device_->name() + ", " + name() + " cannot wait for an event of " +
                                             event.device().name() +
                                             ": another backend. Synchronise the event on the host instead.");
  }
  const std::unique_lock<std::mutex> lock = event.is_of_graph() ? lock_to_record(*this) : std::unique_lock(mutex_);
  const std::lock_guard<std::mutex> mark(event.mutex_);
  if (event.is_of_graph_) {
    join_recording(event.recording_.lock(), *this, event.handle());
    return;
  }
  if (records_natively(*this)) {  // work outside of the graph cannot come before a part of it, but before all of it
    record_outside_wait(*recording(), *this, event.shared_from_this());
    return;
  }
  device_->operations().push({device_->operations().next_number(), Operation::Kind::kWait, id_, nullptr, {}, 0});
  check(*device_, this, device_->table().stream_wait_event(handle_, event.handle()), "waiting for an event");
}

void Stream::wait(Stream& other) {
  if (&other == this) return;
  const std::shared_ptr<Event> event = Event::create(other.device_, false);
  event->record(other);
  wait(*event);
}

void Stream::host_call(std::function<void()> function) {
  device_->require_usable();
  require_current();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (recording_ != nullptr) {
    record_host_call(*recording_, *this, std::move(function));
    return;
  }
  const unify_backend& table = device_->table();
  device_->operations().push({device_->operations().next_number(), Operation::Kind::kHostCall, id_, nullptr, {}, 0});
  if (table.host_call == nullptr) {  // emulated: everything before it, then the call
    check(*device_, this, table.stream_synchronize(handle_), "waiting before a host call");
    function();
    return;
  }
  auto owned = std::make_unique<std::function<void()>>(std::move(function));
  const auto run = [](void* user) {
    const std::unique_ptr<std::function<void()>> call(static_cast<std::function<void()>*>(user));
    (*call)();
  };
  check(*device_, this, table.host_call(handle_, run, owned.get()), "enqueuing a host call");
  owned.release();
}

void Stream::keep_alive(std::shared_ptr<void> owner) {
  const unify_backend& table = device_->table();
  if (recording_ != nullptr) {
    record_keep(*recording_, std::move(owner));
    return;
  }
  if (table.stream_query(handle_) != UNIFY_NOT_READY) return;  // dry already: nothing uses it
  unify_event event = nullptr;
  check(*device_, this, device_->events().mark(*this, &event), "keeping memory alive");
  std::vector<std::shared_ptr<void>> done;  // let go outside the lock
  const std::lock_guard<std::mutex> lock(held_->mutex);
  while (!held_->entries.empty() && table.event_query(held_->entries.front().event) != UNIFY_NOT_READY) {
    device_->events().give_back(held_->entries.front().event);
    done.push_back(std::move(held_->entries.front().owner));
    held_->entries.pop_front();
  }
  held_->entries.push_back({event, std::move(owner)});
}

}  // namespace unify
