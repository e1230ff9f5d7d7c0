// A stream: work on it runs in the order in which it was enqueued. Usable from any thread.
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "reclaim.h"

namespace unify {

class Device;
class Event;
class Recording;

std::string stream_name(uint32_t id);  // "stream 2"

class Stream : public std::enable_shared_from_this<Stream>, public Reclaimable {
 public:
  // A new stream, or with `native` one that wraps a vendor's (e.g. torch's current stream) without owning it. Nobody
  // waits for its end: it is destroyed once its work has run.
  static std::shared_ptr<Stream> create(const std::shared_ptr<Device>& device, int priority = 0, void* native = nullptr,
                                        bool is_default = false);
  ~Stream() override;
  Stream(const Stream&) = delete;  // it owns the backend's handle
  Stream& operator=(const Stream&) = delete;

  [[nodiscard]] Device& device() const noexcept { return *device_; }
  [[nodiscard]] const std::shared_ptr<Device>& device_ptr() const noexcept { return device_; }
  [[nodiscard]] unify_stream handle() const noexcept { return handle_; }
  [[nodiscard]] void* native() const noexcept { return native_; }
  [[nodiscard]] uint32_t id() const noexcept { return id_; }  // 0 is the default stream
  [[nodiscard]] std::string name() const { return stream_name(id_); }
  [[nodiscard]] int priority() const noexcept { return priority_; }

  // Throws DeviceLost when the stream was made before a reset of its device. Whoever enqueues asks under the mutex,
  // which a reset takes.
  void require_current() const;
  [[nodiscard]] uint32_t generation() const noexcept { return generation_; }
  // Throws GraphError: "cannot `what` while …".
  void require_not_recording(const char* what) const;
  // The same, while another library records it too. Before what waits for the stream, or takes its time over the host.
  void require_not_recorded(const char* what);

  // Waits for everything enqueued so far, at most `timeout_s` (negative: for ever; else polls, throws Timeout).
  void synchronize(double timeout_s = -1);
  void finish();               // the same, at the cost of a question where it has run dry already
  [[nodiscard]] bool query();  // true when it has run dry
  void wait(Event& event);     // later work waits for the event's last record
  void wait(Stream& other);    // later work waits for everything that `other` holds now
  void host_call(std::function<void()> function);

  // Keeps `owner` alive until everything enqueued so far has run, or as long as the graph may run that it became a part
  // of. For memory that the allocator does not own.
  void keep_alive(std::shared_ptr<void> owner);
  void keep_alive_locked(std::shared_ptr<void> owner);  // the caller holds the mutex

  // Whether it is known to have run dry, for the core itself: a failure is kept for the user's next call. Not while the
  // backend records it for us; while another library has it recorded nobody knows. The caller holds what a reset waits
  // for: its mutex, the allocator's, or the device's call().
  [[nodiscard]] bool is_dry() noexcept;
  // Whether it can be asked and marked: not while another library has it recorded, or a stream beside it that forbids
  // it. The caller as for is_dry().
  [[nodiscard]] bool can_be_asked() noexcept;
  // Whether nothing of ours is in use there. The caller holds the device's call().
  [[nodiscard]] bool is_passed() noexcept;

  // As synchronize(), and nothing else: recording or not. `what` for, in words.
  void wait_for_work(const char* what);

  // Another library was told of the vendor's stream, and may use it as long as it likes: it does not end with this, and
  // serves later streams of ours.
  void keep_native() noexcept { is_native_kept_ = !is_wrapped_; }

  // Keeps what the vendor's stream ends with until this is destroyed; one is enough, and none if it is our own. The
  // caller holds what orders such calls.
  [[nodiscard]] bool needs_owner() const noexcept { return is_wrapped_ && native_owner_ == nullptr; }
  void hold(std::shared_ptr<void> native_owner) { native_owner_ = std::move(native_owner); }

  // Whether another library records a graph on this stream, its own or one that waited for it. What is enqueued becomes
  // a part of that graph.
  [[nodiscard]] bool is_recorded_elsewhere();
  // The same; the caller holds what a reset waits for.
  [[nodiscard]] bool is_recorded_elsewhere_locked() noexcept;
  // The same for work that is about to be enqueued. Throws where there is no place for it: as long as another stream is
  // recorded, or, of work that uses memory, in a graph for which the backend keeps none.
  [[nodiscard]] bool goes_into_other_graph();
  [[nodiscard]] bool goes_into_other_graph_locked(bool uses_memory = true);
  // Keeps `owners` as long as that graph, and all that is made of it, may run. The caller as above.
  void keep_in_other_graph(std::vector<std::shared_ptr<void>> owners);
  // What is being recorded on this stream, or null. Launches and copies go there in place of the backend.
  [[nodiscard]] Recording* recording() const noexcept { return recording_.load(std::memory_order_acquire); }
  void set_recording(Recording* recording) noexcept { recording_.store(recording, std::memory_order_release); }

  // The last operation whose enqueuing has returned, and the one up to which all are known to have ended well.
  [[nodiscard]] uint64_t last_enqueued() const noexcept { return last_enqueued_.load(std::memory_order_acquire); }
  void note_enqueued(uint64_t operation) noexcept { last_enqueued_.store(operation, std::memory_order_release); }
  [[nodiscard]] uint64_t proven() const noexcept { return proven_.load(std::memory_order_relaxed); }
  // `last` was last_enqueued() before the stream was found dry.
  void note_proven(uint64_t last) noexcept;

  // Calls that enqueue hold it: the backend takes one at a time per stream.
  std::mutex& mutex() noexcept { return mutex_; }

  bool end() noexcept override;

 private:
  Stream() = default;
  unify_status ask_for_recorder() noexcept;
  [[noreturn]] void throw_recorded_elsewhere(const char* what) const;
  std::shared_ptr<Device> device_;
  unify_stream handle_ = nullptr;
  void* native_ = nullptr;
  std::shared_ptr<void> native_owner_;
  bool is_wrapped_ = false;
  std::atomic<bool> is_native_kept_{false};
  std::atomic<bool> may_be_recorded_elsewhere_{false};
  std::atomic<Recording*> recording_{nullptr};
  uint32_t id_ = 0;
  uint32_t generation_ = 0;  // of the device when it was made
  int priority_ = 0;
  std::atomic<uint64_t> last_enqueued_{0};
  std::atomic<uint64_t> proven_{0};
  std::mutex mutex_;
  struct Held;
  std::unique_ptr<Held> held_;
};

}  // namespace unify
