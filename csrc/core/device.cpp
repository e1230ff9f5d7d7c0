#include "device.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <utility>

#include "allocator.h"
#include "error.h"
#include "event.h"
#include "failures.h"
#include "launch.h"
#include "memory.h"
#include "poll.h"
#include "reclaim.h"
#include "registry.h"
#include "stream.h"

namespace unify {

struct Device::Private {
  std::mutex making_mutex;     // for making the default stream
  std::mutex default_mutex;    // of default_stream_
  std::mutex mutex;            // of what follows
  std::string cause;           // of the fault or loss: an operation, or the call that it was found by
  std::optional<Error> error;  // of the fault or loss
  bool is_told = false;        // the user has it
  bool has_failed_reset = false;
  std::shared_mutex calls;
  std::mutex streams_mutex;
  std::set<Stream*> streams;  // all that have a handle, also those whose end waits for their work
  struct Kept {
    int priority;
    unify_stream handle;
    void* native;
  };
  std::vector<Kept> kept;  // of the device's generation
};

namespace {

// Which stream each thread set, by device. Few devices: a linear search is the fastest map.
struct Current {
  const Device* device;
  std::shared_ptr<Stream> stream;
};
thread_local std::vector<Current> current_streams;

}  // namespace

Device::Device(const Backend& backend, uint32_t index, const std::string& options)
    : backend_(backend), table_(backend.table), private_(std::make_unique<Private>()) {
  name_ = backend.device_count > 1 || backend.name != "cpu" ? backend.name + ":" + std::to_string(index) : backend.name;
  operations_ = std::make_unique<OperationRing>();
  failures_ = std::make_unique<Failures>(*this);
  unify_device_open_args args{};
  args.struct_size = sizeof args;
  args.index = index;
  args.options = options.empty() ? nullptr : options.c_str();
  unify_status status = table_->device_open(&args, &handle_);
  if (status != UNIFY_OK) throw_status(*this, nullptr, status, "opening the device");
  info_.struct_size = sizeof info_;
  status = table_->device_info(handle_, &info_);
  if (status != UNIFY_OK) {
    table_->device_close(handle_);
    throw_status(*this, nullptr, status, "asking for its properties");
  }
  // A stand-in for a vendor's library says in the name what it is; the backend over it does not know.
  if (std::strstr(info_.name, "(simulated)") != nullptr) info_.flags |= UNIFY_DEVICE_SIMULATED;
  events_ = std::make_unique<EventPool>(*this);
  allocator_ = std::make_unique<Allocator>(*this);
}

Device::~Device() {
  default_stream_.reset();
  for (const Private::Kept& kept : private_->kept) (void)table_->stream_destroy(kept.handle);
  allocator_.reset();
  events_.reset();
  table_->device_close(handle_);
}

std::vector<std::pair<std::string, std::string>> Device::capabilities() const {
  const unify_backend& t = *table_;
  const auto native_or = [](bool is_native, const char* otherwise) { return is_native ? "native" : otherwise; };
  return {
      {"pinned_memory", native_or(has_pinned_memory(*this), "emulated")},
      {"virtual_memory", native_or(has_virtual_memory(), "absent")},
      {"graphs", native_or(t.capture_begin != nullptr, "emulated")},
      {"host_calls", native_or(t.host_call != nullptr, "emulated")},
      {"peer_access", native_or(t.peer_access != nullptr, "absent")},
      {"ipc", native_or(t.ipc_export != nullptr, "absent")},
      {"reset", native_or(t.device_reset != nullptr, "absent")},
      {"health", native_or(t.device_status != nullptr, "absent")},
      {"options", native_or(t.device_set_option != nullptr, "absent")},
      {"priorities", native_or(info_.priority_least != info_.priority_greatest, "absent")},
      {"timing", native_or(t.event_elapsed != nullptr, "emulated")},
  };
}

std::shared_ptr<Stream> Device::default_stream() {
  if (std::shared_ptr<Stream> made = made_default_stream()) return made;
  const std::lock_guard<std::mutex> making(private_->making_mutex);
  if (std::shared_ptr<Stream> made = made_default_stream()) return made;
  std::shared_ptr<Stream> made = Stream::create(shared_from_this(), 0, nullptr, true);
  const std::lock_guard<std::mutex> lock(private_->default_mutex);
  return default_stream_ = std::move(made);
}

// One that was made while a reset began is as old as those before it.
std::shared_ptr<Stream> Device::made_default_stream() const {
  const std::lock_guard<std::mutex> lock(private_->default_mutex);
  return default_stream_ != nullptr && default_stream_->generation() == generation() ? default_stream_ : nullptr;
}

std::shared_ptr<Stream> Device::chosen_stream() const {
  for (const Current& entry : current_streams) {
    if (entry.device == this) return entry.stream;
  }
  return nullptr;
}

std::shared_ptr<Stream> Device::current_stream() {
  std::shared_ptr<Stream> chosen = chosen_stream();
  return chosen != nullptr ? chosen : default_stream();
}

std::shared_ptr<Stream> Device::set_current_stream(std::shared_ptr<Stream> stream) {
  for (Current& entry : current_streams) {
    if (entry.device != this) continue;
    std::swap(entry.stream, stream);
    return stream;
  }
  current_streams.push_back({this, std::move(stream)});
  return nullptr;
}

std::shared_lock<std::shared_mutex> Device::call() const {
  return std::shared_lock<std::shared_mutex>(private_->calls);
}

std::shared_lock<std::shared_mutex> Device::try_call() const {
  return std::shared_lock<std::shared_mutex>(private_->calls, std::try_to_lock);
}

void Device::synchronize(double timeout_s) {
  reclaim();
  require_usable();
  for (const Current& entry : current_streams) {
    if (entry.device == this && entry.stream != nullptr) entry.stream->require_not_recording("wait for the device");
  }
  if (timeout_s >= 0) {
    Work work = mark_work();
    poll_until(timeout_s, name_, "its work", [&] {
      const auto call = this->call();
      return has_passed(work);
    });
  } else {
    const auto call = this->call();
    check(*this, nullptr, wait_for_streams(), "waiting for the device");
  }
  reclaim();
  require_usable();
  failures_->raise_any();
}

void Device::wait_for_work() noexcept {
  const auto call = this->call();
  const unify_status status = wait_for_streams();
  if (status != UNIFY_OK) failures_->note(Failures::kNoStream, status, "waiting for the device");
}

unify_status Device::wait_for_streams() noexcept {
  std::vector<std::pair<std::shared_ptr<Stream>, uint64_t>> streams;
  {
    const std::lock_guard<std::mutex> lock(private_->streams_mutex);
    for (Stream* stream : private_->streams) {
      if (std::shared_ptr<Stream> held = stream->weak_from_this().lock()) {
        const uint64_t last = held->last_enqueued();
        streams.emplace_back(std::move(held), last);
      }
    }
  }
  const unify_status status = table_->device_synchronize(handle_);
  if (status != UNIFY_OK) return status;
  for (const auto& [stream, last] : streams) stream->note_proven(last);
  return status;
}

std::map<uint32_t, uint64_t> Device::proven() const {
  std::map<uint32_t, uint64_t> numbers;
  const std::lock_guard<std::mutex> lock(private_->streams_mutex);
  for (const Stream* stream : private_->streams) numbers[stream->id()] = stream->proven();
  return numbers;
}

bool Device::takes_fill(uint32_t value_bytes) {
  if (value_bytes == 1) return true;
  std::atomic<int>& known = takes_fill_.at(value_bytes / 2);
  if (known.load(std::memory_order_relaxed) == 0) {
    const std::shared_ptr<Stream> stream = Stream::create(shared_from_this());
    const std::shared_ptr<Storage> memory = allocator_->allocate(value_bytes, *stream);
    unify_fill_args args{};
    args.struct_size = sizeof args;
    args.dst = memory->address();
    args.value_bytes = value_bytes;
    args.count = 1;
    const std::lock_guard<std::mutex> lock(stream->mutex());
    stream->require_current();
    const unify_status status = table_->fill(stream->handle(), &args);
    if (status != UNIFY_UNSUPPORTED) check(*this, stream.get(), status, "a fill to see if it is possible");
    known.store(status == UNIFY_OK ? 1 : 2, std::memory_order_relaxed);
  }
  return known.load(std::memory_order_relaxed) == 1;
}

std::shared_ptr<Stream> Device::stream_over(const void* native) {
  const std::lock_guard<std::mutex> lock(private_->streams_mutex);
  for (Stream* stream : private_->streams) {
    if (stream->native() != native) continue;
    if (std::shared_ptr<Stream> held = stream->weak_from_this().lock()) return held;
  }
  return nullptr;
}

void Device::add_stream(Stream& stream) {
  const std::lock_guard<std::mutex> lock(private_->streams_mutex);
  private_->streams.insert(&stream);
}

void Device::remove_stream(Stream& stream) noexcept {
  const std::lock_guard<std::mutex> lock(private_->streams_mutex);
  private_->streams.erase(&stream);
}

bool Device::keep_stream(int priority, unify_stream handle, void* native) noexcept {
  const std::lock_guard<std::mutex> lock(private_->streams_mutex);
  try {
    private_->kept.push_back({priority, handle, native});
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

bool Device::take_kept_stream(int priority, unify_stream* out_handle, void** out_native) noexcept {
  const std::lock_guard<std::mutex> lock(private_->streams_mutex);
  auto& kept = private_->kept;
  const auto found =
      std::find_if(kept.begin(), kept.end(), [&](const auto& each) { return each.priority == priority; });
  if (found == kept.end()) return false;
  *out_handle = found->handle;
  *out_native = found->native;
  kept.erase(found);
  return true;
}

Device::Work Device::mark_work() {
  Work work;
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard<std::mutex> lock(private_->streams_mutex);
    for (Stream* stream : private_->streams) {
      if (std::shared_ptr<Stream> held = stream->weak_from_this().lock()) {
        streams.push_back(std::move(held));
      } else {
        work.ending.push_back(stream->id());
      }
    }
  }
  for (const std::shared_ptr<Stream>& stream : streams) {
    const std::lock_guard<std::mutex> lock(stream->mutex());
    work.marks.emplace_back(*stream);
  }
  return work;
}

bool Device::has_passed(Work& work) noexcept {
  const auto passes = [](Mark& mark) { return mark.has_passed() || mark.is_orphan(); };
  if (!std::all_of(work.marks.begin(), work.marks.end(), passes)) return false;
  const auto is_orphan = [](const Mark& mark) { return mark.is_orphan(); };
  if (std::any_of(work.marks.begin(), work.marks.end(), is_orphan)) {
    const unify_status status = table_->device_synchronize(handle_);
    if (status != UNIFY_OK) failures_->note(Failures::kNoStream, status, "waiting for the device");
    work.marks.clear();
  }
  const auto is_ending = [&](const Stream* stream) {
    return std::find(work.ending.begin(), work.ending.end(), stream->id()) != work.ending.end();
  };
  const std::lock_guard<std::mutex> lock(private_->streams_mutex);
  return std::none_of(private_->streams.begin(), private_->streams.end(), is_ending);
}

void Device::set_option(const std::string& key, const std::string& value) {
  if (table_->device_set_option == nullptr) {
    throw Error(ErrorKind::kUnsupported, name_ + ": this backend has no options to set.");
  }
  const auto call = this->call();
  check(*this, nullptr, table_->device_set_option(handle_, key.c_str(), value.c_str()), "setting an option");
}

void Device::poison(unify_device_state state, const std::string& what, const Error& error) {
  const std::lock_guard<std::mutex> lock(private_->mutex);
  if (!private_->error.has_value()) {
    private_->cause = error.kernel.empty() ? what : error.kernel;
    private_->error = error;
    private_->is_told = false;
  }
  if (state_.load(std::memory_order_relaxed) != UNIFY_DEVICE_GONE) state_.store(state, std::memory_order_release);
}

void Device::was_told() noexcept {
  const std::lock_guard<std::mutex> lock(private_->mutex);
  private_->is_told = true;
}

void Device::throw_unusable() const {
  const std::lock_guard<std::mutex> lock(private_->mutex);
  if (!private_->error.has_value()) return;  // a reset brought it back meanwhile
  Error error = *private_->error;
  if (!std::exchange(private_->is_told, true)) throw error;
  const bool is_gone = state() == UNIFY_DEVICE_GONE;
  const char* const otherwise = "se another device, or start the process again.";
  std::string text = name_ + (is_gone ? " is lost since " : " is unusable since ") + private_->cause + ": ";
  text += error.reason + ". " + error.advice + (error.advice.empty() ? "" : " ");
  if (table_->device_reset == nullptr) {
    text += std::string("U") + otherwise;
  } else if (private_->has_failed_reset) {
    text += std::string("device.reset() failed. U") + otherwise;
  } else if (is_gone) {
    text += std::string("device.reset() may not bring it back: then u") + otherwise;
  } else {
    text += "device.reset() brings it back without its memory.";
  }
  error.kind = is_gone ? ErrorKind::kDeviceLost : ErrorKind::kKernelFault;
  error.message = std::move(text);
  error.stream.clear();
  error.recent.clear();
  throw error;
}

void Device::throw_outdated(const char* what) const {
  Error error(ErrorKind::kDeviceLost,
              name_ + ": " + what + " was made before a reset of the device, which took it away. Make a new one.");
  error.device = name_;
  throw error;
}

void Device::reset() {
  if (table_->device_reset == nullptr) {
    throw Error(ErrorKind::kUnsupported, name_ + ": this backend cannot reset a device.");
  }
  reclaim();
  // No other call runs meanwhile. Whoever comes next sees the new generation before it uses a handle.
  const std::unique_lock<std::shared_mutex> calls(private_->calls);
  const std::unique_lock<std::mutex> allocating = allocator_->lock();
  const std::vector<Turn> turns = take_turns();
  generation_.fetch_add(1, std::memory_order_acq_rel);
  allocator_->forget();
  events_->forget();
  failures_->forget();
  const unify_status status = table_->device_reset(handle_);
  if (status != UNIFY_OK) {
    const Error error = error_of(*this, {}, status, "reset");
    poison(UNIFY_DEVICE_GONE, "reset", error);
    const std::lock_guard<std::mutex> lock(private_->mutex);
    private_->is_told = private_->has_failed_reset = true;
    throw error;
  }
  const std::lock_guard<std::mutex> lock(private_->mutex);
  private_->error.reset();
  private_->has_failed_reset = false;
  state_.store(UNIFY_DEVICE_HEALTHY, std::memory_order_release);
}

// Every stream's mutex, of those that somebody may still enqueue on.
std::vector<Device::Turn> Device::take_turns() {
  std::vector<Turn> turns;
  std::set<Stream*> streams;
  {
    const std::lock_guard<std::mutex> lock(private_->streams_mutex);
    streams.swap(private_->streams);
    private_->kept.clear();
    for (Stream* stream : streams) {
      if (std::shared_ptr<Stream> held = stream->weak_from_this().lock()) turns.push_back({std::move(held), {}});
    }
  }
  for (Turn& turn : turns) turn.lock = std::unique_lock<std::mutex>(turn.stream->mutex());
  return turns;
}

}  // namespace unify
