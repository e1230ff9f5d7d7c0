// A stream: work on it runs in the order in which it was enqueued. Usable from any thread.
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

namespace unify {

class Device;
class Event;
class Recording;

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  // A new stream, or with `native` one that wraps a vendor's (e.g. torch's current stream) without owning it.
  static std::shared_ptr<Stream> create(const std::shared_ptr<Device>& device, int priority = 0, void* native = nullptr,
                                        bool is_default = false);
  ~Stream();
  Stream(const Stream&) = delete;  // it owns the backend's handle
  Stream& operator=(const Stream&) = delete;

  [[nodiscard]] Device& device() const noexcept { return *device_; }
  [[nodiscard]] const std::shared_ptr<Device>& device_ptr() const noexcept { return device_; }
  [[nodiscard]] unify_stream handle() const noexcept { return handle_; }
  [[nodiscard]] void* native() const noexcept { return native_; }
  [[nodiscard]] uint32_t id() const noexcept { return id_; }  // 0 is the default stream
  [[nodiscard]] std::string name() const;                     // "stream 2"
  [[nodiscard]] int priority() const noexcept { return priority_; }

  // Throws DeviceLost when the stream was made before a reset of its device.
  void require_current() const;

  // Waits for everything enqueued so far, at most `timeout_s` (negative: for ever; else polls, throws Timeout).
  void synchronize(double timeout_s = -1);
  [[nodiscard]] bool query();  // true when it has run dry
  void wait(Event& event);     // later work waits for the event's last record
  void wait(Stream& other);    // later work waits for everything that `other` holds now
  void host_call(std::function<void()> function);

  // Keeps `owner` alive until everything enqueued so far has run. For memory that the allocator does not own.
  void keep_alive(std::shared_ptr<void> owner);

  // What is being recorded on this stream, or null. Launches and copies go there in place of the backend.
  [[nodiscard]] Recording* recording() const noexcept { return recording_.load(std::memory_order_acquire); }
  void set_recording(Recording* recording) noexcept { recording_.store(recording, std::memory_order_release); }

  // Calls that enqueue hold it: the backend takes one at a time per stream.
  std::mutex& mutex() noexcept { return mutex_; }

 private:
  Stream() = default;
  std::shared_ptr<Device> device_;
  unify_stream handle_ = nullptr;
  void* native_ = nullptr;
  std::atomic<Recording*> recording_{nullptr};
  uint32_t id_ = 0;
  uint32_t generation_ = 0;  // of the device when it was made
  int priority_ = 0;
  std::mutex mutex_;
  struct Held;
  std::unique_ptr<Held> held_;
};

}  // namespace unify
