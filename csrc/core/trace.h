// A trace: spans of what was enqueued and what ran, as JSON that Perfetto opens.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace unify {

class Trace {
 public:
  static Trace& instance();
  // Starts collecting; at most `max_events`, later ones are counted and dropped.
  void start(size_t max_events = 1'000'000);
  // Waits for the devices in use and returns the trace (Chrome trace event format: one process per device, one
  // thread per stream, and the host's calls).
  std::string stop();
  [[nodiscard]] bool is_on() const noexcept { return on_.load(std::memory_order_relaxed); }
  // A span of the host program ("prefill"). Times in ns of the monotonic clock.
  void span(const std::string& name, const char* category, int64_t begin_ns, int64_t end_ns);

 private:
  std::atomic<bool> on_{false};
};

}  // namespace unify
