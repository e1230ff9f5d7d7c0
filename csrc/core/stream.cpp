#include "stream.h"

#include <atomic>
#include <deque>
#include <vector>

#include "allocator.h"
#include "device.h"
#include "error.h"
#include "event.h"
#include "failures.h"
#include "launch.h"
#include "layers/layer.h"
#include "leaks.h"
#include "poll.h"
#include "recording.h"

namespace unify {

// Owners of memory that enqueued work uses, each with the mark after which it may go.
struct Stream::Held {
  struct Entry {
    Mark mark;
    std::shared_ptr<void> owner;
  };
  std::mutex mutex;
  std::deque<Entry> entries;

  // Dropping an owner takes no lock and calls no backend.
  void let_go() {
    const std::lock_guard<std::mutex> lock(mutex);
    while (!entries.empty() && entries.front().mark.has_passed()) entries.pop_front();
  }
};

namespace {

// A function that a stream's thread calls once. What it captured ends elsewhere.
struct HostCall : Reclaimable {
  explicit HostCall(std::function<void()> f) : function(std::move(f)) {}
  bool end() noexcept override { return true; }
  static void run(void* user) {
    auto* call = static_cast<HostCall*>(user);
    {
      const InHostCall inside;
      call->function();
    }
    reclaim_later(call);
  }
  std::function<void()> function;
};

// Owners of what another library's graph uses. That lets go of it on a thread which must not call the backend.
struct KeptByGraph : Reclaimable {
  explicit KeptByGraph(std::vector<std::shared_ptr<void>> kept) : owners(std::move(kept)) {}
  bool end() noexcept override { return true; }
  static void release(void* self) { reclaim_later(static_cast<KeptByGraph*>(self)); }
  std::vector<std::shared_ptr<void>> owners;
};

}  // namespace

std::shared_ptr<Stream> Stream::create(const std::shared_ptr<Device>& device, int priority, void* native,
                                       bool is_default) {
  // A default stream is no leak, and is made under its device's lock, where the interpreter must not be asked.
  const char* caller = is_default ? nullptr : leaks::caller();
  device->require_usable();
  static std::atomic<uint32_t> next_id{1};
  const std::shared_ptr<Stream> stream = reclaimed(new Stream);
  stream->device_ = device;
  stream->held_ = std::make_unique<Held>();
  stream->priority_ = priority;
  unify_stream_args args{};
  args.struct_size = sizeof args;
  args.priority = priority;
  args.is_default = is_default ? 1 : 0;
  args.native = native;
  const auto call = device->call();
  stream->generation_ = device->generation();
  if (native != nullptr || is_default || !device->take_kept_stream(priority, &stream->handle_, &args.native)) {
    check(*device, nullptr, device->table().stream_create(device->handle(), &args, &stream->handle_),
          "making a stream");
  } else {
    stream->is_native_kept_ = true;
  }
  stream->native_ = args.native;
  stream->is_wrapped_ = native != nullptr;
  stream->may_be_recorded_elsewhere_ = stream->is_wrapped_;
  stream->id_ = is_default ? 0 : next_id.fetch_add(1, std::memory_order_relaxed);
  stream->proven_ = device->operations().last_number();  // of what had its id before
  device->add_stream(*stream);
  name_traced_stream(stream->handle_, stream->name());
  if (!is_default) leaks::held(stream.get(), leaks::Kind::kStream, *device, 0, caller);
  return stream;
}

Stream::~Stream() = default;

bool Stream::end() noexcept {
  if (handle_ == nullptr) return true;  // the backend made none
  const auto call = device_->call();
  if (generation_ == device_->generation()) {
    if (!is_passed()) return false;
    device_->allocator().retire(*this);
    held_->entries.clear();
    const bool is_kept = is_native_kept_ && device_->keep_stream(priority_, handle_, native_);
    const unify_status status = is_kept ? UNIFY_OK : device_->table().stream_destroy(handle_);
    if (status != UNIFY_OK) device_->failures().note(id_, status, "the end of the stream");
    device_->failures().stream_ended(id_);
  }
  device_->remove_stream(*this);
  return true;
}

// Another library's stream may have ended by now, and must not be asked: what it uses of ours has marks of its own.
// Only memory that was allocated for it has none, whose user promised that the stream outlives it.
bool Stream::is_passed() noexcept {
  if (!is_wrapped_) return is_dry();
  held_->let_go();
  return held_->entries.empty() && (!device_->allocator().serves(*this) || is_dry());
}

std::string stream_name(uint32_t id) { return id == 0 ? "default stream" : "stream " + std::to_string(id); }

void Stream::note_proven(uint64_t last) noexcept {
  uint64_t known = proven_.load(std::memory_order_relaxed);
  while (known < last && !proven_.compare_exchange_weak(known, last, std::memory_order_relaxed)) {
  }
}

bool Stream::is_dry() noexcept {
  if (generation_ != device_->generation()) return true;
  const uint64_t last = last_enqueued();
  const unify_status status = device_->table().stream_query(handle_);
  switch (status) {
    case UNIFY_OK:
      note_proven(last);
      return true;
    case UNIFY_NOT_READY:
    case UNIFY_UNSUPPORTED:  // work from before its owner's recording may still run
      return false;
    default:
      device_->failures().note(id_, status, "asking the stream");
      return status != UNIFY_INVALID_ARGUMENT;  // the question was refused; else its work has ended so
  }
}

bool Stream::can_be_asked() noexcept {
  return !may_be_recorded_elsewhere_.load(std::memory_order_relaxed) || generation_ != device_->generation() ||
         device_->table().stream_query(handle_) != UNIFY_UNSUPPORTED;
}

bool Stream::is_recorded_elsewhere() {
  if (!may_be_recorded_elsewhere_.load(std::memory_order_relaxed)) return false;
  const auto call = device_->call();
  return is_recorded_elsewhere_locked();
}

bool Stream::is_recorded_elsewhere_locked() noexcept { return ask_for_recorder() == UNIFY_OK; }

bool Stream::goes_into_other_graph() {
  if (!may_be_recorded_elsewhere_.load(std::memory_order_relaxed)) return false;
  const auto call = device_->call();
  return goes_into_other_graph_locked();
}

bool Stream::goes_into_other_graph_locked(bool uses_memory) {
  const unify_status status = ask_for_recorder();
  if (status == UNIFY_INVALID_ARGUMENT) return false;
  check(*device_, this, status, "work beside what another library records");
  if (uses_memory && device_->table().capture_keep == nullptr) {
    throw Error(ErrorKind::kGraph, device_->name() + ", " + name() +
                                       ": another library records a graph on the stream, for which this backend keeps "
                                       "no memory. Record the work by unify.Graph.capture, or enqueue it outside.");
  }
  return true;
}

// What capture_keep answers to the question.
unify_status Stream::ask_for_recorder() noexcept {
  if (!may_be_recorded_elsewhere_.load(std::memory_order_relaxed) || recording() != nullptr ||
      generation_ != device_->generation()) {
    return UNIFY_INVALID_ARGUMENT;
  }
  const unify_backend& table = device_->table();
  if (table.capture_keep != nullptr) return table.capture_keep(handle_, nullptr, nullptr);
  return can_be_asked() ? UNIFY_INVALID_ARGUMENT : UNIFY_OK;
}

void Stream::keep_in_other_graph(std::vector<std::shared_ptr<void>> owners) {
  auto kept = std::make_unique<KeptByGraph>(std::move(owners));
  check(*device_, this, device_->table().capture_keep(handle_, KeptByGraph::release, kept.get()),
        "keeping what another library's graph uses");
  (void)kept.release();
}

void Stream::require_not_recording(const char* what) const {
  if (recording() == nullptr) return;
  throw Error(ErrorKind::kGraph, device_->name() + ", " + name() + ": cannot " + what +
                                     " while the stream records a graph. End the recording first.");
}

void Stream::require_not_recorded(const char* what) {
  require_not_recording(what);
  if (is_recorded_elsewhere()) throw_recorded_elsewhere(what);
}

void Stream::throw_recorded_elsewhere(const char* what) const {
  throw Error(ErrorKind::kGraph, device_->name() + ", " + name() + ": cannot " + what +
                                     " while another library records a graph on the stream. Do it before or after.");
}

void Stream::require_current() const { device_->require_generation(generation_, "this stream"); }

void Stream::synchronize(double timeout_s) {
  reclaim();
  require_not_recorded("wait");
  device_->require_usable();
  if (timeout_s >= 0) {
    poll_until(timeout_s, device_->name(), name(), [this] { return query(); });
  } else {
    wait_for_work("waiting for the stream");
  }
  {
    const auto call = device_->call();
    held_->let_go();
  }
  reclaim();
  device_->failures().raise(id_);
}

void Stream::finish() {
  {
    const auto call = device_->call();
    if (recording() == nullptr && generation_ == device_->generation() &&
        device_->table().stream_query(handle_) == UNIFY_OK) {
      return;
    }
  }
  synchronize();
}

void Stream::wait_for_work(const char* what) {
  const auto call = device_->call();
  require_current();
  const uint64_t last = last_enqueued();
  check(*device_, this, device_->table().stream_synchronize(handle_), what);
  note_proven(last);
}

bool Stream::query() {
  require_not_recorded("ask");
  const auto call = device_->call();
  require_current();
  const uint64_t last = last_enqueued();
  const unify_status status = device_->table().stream_query(handle_);
  if (status == UNIFY_NOT_READY) return false;
  check(*device_, this, status, "asking the stream");
  note_proven(last);
  device_->failures().raise(id_);
  return true;
}

void Stream::wait(Event& event) {
  device_->require_usable();
  if (&event.device().backend() != &device_->backend()) {
    throw Error(ErrorKind::kUnsupported, device_->name() + ", " + name() + " cannot wait for an event of " +
                                             event.device().name() +
                                             ": another backend. Synchronise the event on the host instead.");
  }
  const std::unique_lock<std::mutex> lock = event.is_of_graph() ? lock_to_record(*this) : std::unique_lock(mutex_);
  require_current();
  const std::lock_guard<std::mutex> mark(event.mutex_);
  event.require_current();
  if (event.is_of_graph_) {
    join_recording(event.recording_.lock(), *this, event.handle());
    return;
  }
  if (records_natively(*this)) {  // work outside of the graph cannot come before a part of it, but before all of it
    record_outside_wait(*recording(), *this, event.shared_from_this());
    return;
  }
  (void)goes_into_other_graph_locked(false);  // or throws, before anything is broken
  device_->operations().push({device_->operations().next_number(), Operation::Kind::kWait, id_, nullptr, {}, 0});
  check(*device_, this, device_->table().stream_wait_event(handle_, event.handle()), "waiting for an event");
  if (event.is_of_other_graph_) may_be_recorded_elsewhere_ = true;  // it is drawn in
  event.used_on(*this);
}

void Stream::wait(Stream& other) {
  if (&other == this) return;
  const std::shared_ptr<Event> event = Event::create(other.device_, false);
  event->record(other);
  wait(*event);
}

void Stream::host_call(std::function<void()> function) {
  reclaim();
  device_->require_usable();
  const unify_backend& table = device_->table();
  std::unique_lock<std::mutex> lock(mutex_);
  require_current();
  if (recording_ != nullptr) {
    record_host_call(*recording_, *this, std::move(function));
    return;
  }
  if (goes_into_other_graph_locked()) {
    if (table.host_call == nullptr) throw_recorded_elsewhere("call the host, for which this backend waits,");
    const auto owned = std::make_shared<std::function<void()>>(std::move(function));
    keep_in_other_graph({owned});
    check(*device_, this, table.host_call(handle_, call_on_stream, owned.get()), "recording a host call");
    return;
  }
  device_->operations().push({device_->operations().next_number(), Operation::Kind::kHostCall, id_, nullptr, {}, 0});
  if (table.host_call == nullptr) {  // emulated: everything before it, then the call
    lock.unlock();                   // it may use this stream, or wait for who does
    wait_for_work("waiting before a host call");
    function();
    return;
  }
  auto call = std::make_unique<HostCall>(std::move(function));
  check(*device_, this, table.host_call(handle_, HostCall::run, call.get()), "enqueuing a host call");
  call.release();
}

void Stream::keep_alive(std::shared_ptr<void> owner) {
  const std::lock_guard<std::mutex> lock(mutex_);
  keep_alive_locked(std::move(owner));
}

void Stream::keep_alive_locked(std::shared_ptr<void> owner) {
  if (recording_ != nullptr) {
    record_keep(*recording_, std::move(owner));
    return;
  }
  if (goes_into_other_graph_locked()) return keep_in_other_graph({std::move(owner)});
  Mark mark(*this);
  held_->let_go();
  if (mark.is_of_nothing()) return;
  const std::lock_guard<std::mutex> lock(held_->mutex);
  held_->entries.push_back({std::move(mark), std::move(owner)});
}

}  // namespace unify
