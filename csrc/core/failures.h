// Failures of a device's work that the user was not told of yet.
//
// The core asks streams and events for its own ends, and a backend may report a failure only once. Whatever is found
// that way is kept here for the user's next call that waits for or asks the stream; when that has ended, or none is
// known, for the next one on any stream of the device.
#pragma once

#include <unify/backend.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "error.h"

namespace unify {

class Device;

class Failures {
 public:
  static constexpr uint32_t kNoStream = UINT32_MAX;

  explicit Failures(Device& device) : device_(device) {}
  // What the backend has just answered to the core's own call. `what` is that call, in words.
  void note(uint32_t stream, unify_status status, const char* what) noexcept;
  // The user was told of it: it is not raised again.
  void was_told(const Error& error) noexcept;
  // Throws what was noted for this stream, or for none.
  void raise(uint32_t stream) {
    if (is_any_.load(std::memory_order_acquire)) raise_first(stream, false);
  }
  void raise_any() {
    if (is_any_.load(std::memory_order_acquire)) raise_first(kNoStream, true);
  }
  void stream_ended(uint32_t stream) noexcept;
  void forget() noexcept;  // after a reset

 private:
  struct Entry {
    uint32_t stream;
    Error error;
  };
  void raise_first(uint32_t stream, bool is_any);
  [[nodiscard]] bool is_told(uint64_t operation) const noexcept;

  Device& device_;
  std::atomic<bool> is_any_{false};
  std::mutex mutex_;
  std::vector<Entry> noted_;
  std::array<uint64_t, 64> told_{};  // operations, the last ones
  size_t next_told_ = 0;
};

}  // namespace unify
