// A device that was opened: its properties, its streams, its memory, and whether it is still alive.
#pragma once

#include <unify/backend.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "event.h"

namespace unify {

struct Backend;
class Allocator;
class Error;
class Failures;
class OperationRing;
class Stream;

class Device : public std::enable_shared_from_this<Device> {
 public:
  Device(const Backend& backend, uint32_t index, const std::string& options);
  ~Device();
  Device(const Device&) = delete;  // it owns the backend's handle
  Device& operator=(const Device&) = delete;

  [[nodiscard]] const std::string& name() const noexcept { return name_; }  // "cpu", "cuda:0"
  [[nodiscard]] const Backend& backend() const noexcept { return backend_; }
  [[nodiscard]] const unify_backend& table() const noexcept { return *table_; }
  [[nodiscard]] unify_device handle() const noexcept { return handle_; }
  [[nodiscard]] const unify_device_info& info() const noexcept { return info_; }
  [[nodiscard]] bool has_virtual_memory() const noexcept {
    return table_->virtual_reserve != nullptr && info_.virtual_granularity != 0;
  }
  [[nodiscard]] bool is_host_visible() const noexcept { return (info_.flags & UNIFY_DEVICE_HOST_VISIBLE) != 0; }

  // What it can do: "pinned_memory", "virtual_memory", "graphs", "host_calls", "peer_access", "ipc", "reset",
  // "health", "priorities", "timing", each "native", "emulated" or "absent".
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> capabilities() const;

  // The stream that work goes to when nobody names one. Made at its first use, and anew after a reset: who uses it
  // holds it meanwhile.
  std::shared_ptr<Stream> default_stream();
  // The same, or null before that first use. Calls no backend, and waits for nobody who does.
  [[nodiscard]] std::shared_ptr<Stream> made_default_stream() const;
  // The calling thread's: what `with stream:` set, or the default stream.
  std::shared_ptr<Stream> current_stream();
  // The same, or null where it would be the default stream.
  [[nodiscard]] std::shared_ptr<Stream> chosen_stream() const;
  // Returns the previous one. Null restores the default stream.
  std::shared_ptr<Stream> set_current_stream(std::shared_ptr<Stream> stream);

  Allocator& allocator() noexcept { return *allocator_; }
  EventPool& events() noexcept { return *events_; }
  OperationRing& operations() noexcept { return *operations_; }
  Failures& failures() noexcept { return *failures_; }

  // Held around calls of the backend that happen under neither a stream's nor the allocator's mutex: a reset waits for
  // all three. Taken before them.
  [[nodiscard]] std::shared_lock<std::shared_mutex> call() const;
  // The same without waiting for a reset under way: owns nothing then.
  [[nodiscard]] std::shared_lock<std::shared_mutex> try_call() const;

  // Whether the backend repeats a value of this many bytes. Asked once, by a fill of memory that nobody uses.
  [[nodiscard]] bool takes_fill(uint32_t value_bytes);

  // Our stream over this vendor's stream, or null.
  [[nodiscard]] std::shared_ptr<Stream> stream_over(const void* native);
  void add_stream(Stream& stream);
  void remove_stream(Stream& stream) noexcept;
  // Handles of streams whose vendor's stream must outlive them, for later ones of the same priority. The caller holds
  // the device's call().
  [[nodiscard]] bool keep_stream(int priority, unify_stream handle, void* native) noexcept;  // false: no memory
  [[nodiscard]] bool take_kept_stream(int priority, unify_stream* out_handle, void** out_native) noexcept;
  // Marks behind the work of all streams so far, also of those that nobody holds any more.
  struct Work {
    std::vector<Mark> marks;
    std::vector<uint32_t> ending;  // ids of streams
  };
  [[nodiscard]] Work mark_work();
  // Asks, and waits only where nobody can be asked: for the device, after streams that their owners destroyed.
  [[nodiscard]] bool has_passed(Work& work) noexcept;
  // For each stream, the operation up to which all are known to have ended well.
  [[nodiscard]] std::map<uint32_t, uint64_t> proven() const;

  // Waits for all work so far, at most `timeout_s` (negative: for ever; else polls, throws Timeout).
  void synchronize(double timeout_s = -1);
  void wait_for_work() noexcept;  // for the core itself: what failed is kept for the user's next call
  void set_option(const std::string& key, const std::string& value);

  // Healthy until a fault or a loss was reported; then every use throws KernelFault or DeviceLost naming the
  // operation that caused it, until reset() brought it back.
  [[nodiscard]] unify_device_state state() const noexcept { return state_.load(std::memory_order_acquire); }
  // `error` is what the backend said to the call `what`. The first one stays the device's cause: if nobody was told of
  // it, the next use throws it whole.
  void poison(unify_device_state state, const std::string& what, const Error& error);
  void was_told() noexcept;
  void require_usable() const {
    if (state() != UNIFY_DEVICE_HEALTHY) throw_unusable();
  }
  // Forgets all streams, events, modules and blocks (their owners get errors when they use them) and resets the
  // chip. `generation` tells old handles from new ones. Waits for calls under way, also for those that wait for work.
  void reset();
  // Throws DeviceLost for what was made before a reset. `what` in words: "this stream".
  void require_generation(uint32_t made_in, const char* what) const {
    if (made_in != generation()) throw_outdated(what);
  }
  [[nodiscard]] uint32_t generation() const noexcept { return generation_.load(std::memory_order_acquire); }

 private:
  void throw_unusable() const;
  [[noreturn]] void throw_outdated(const char* what) const;
  struct Turn {
    std::shared_ptr<Stream> stream;
    std::unique_lock<std::mutex> lock;
  };
  std::vector<Turn> take_turns();
  unify_status wait_for_streams() noexcept;

  const Backend& backend_;
  const unify_backend* table_;
  unify_device handle_ = nullptr;
  unify_device_info info_{};
  std::string name_;
  std::unique_ptr<OperationRing> operations_;
  std::unique_ptr<Failures> failures_;
  std::unique_ptr<EventPool> events_;
  std::unique_ptr<Allocator> allocator_;
  std::shared_ptr<Stream> default_stream_;
  std::atomic<unify_device_state> state_{UNIFY_DEVICE_HEALTHY};
  std::atomic<uint32_t> generation_{0};
  std::array<std::atomic<int>, 3> takes_fill_{};  // of 1, 2 and 4 bytes: 0 unknown, 1 yes, 2 no
  struct Private;
  std::unique_ptr<Private> private_;
};

}  // namespace unify
