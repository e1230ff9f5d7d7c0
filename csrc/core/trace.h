// A trace: spans of what ran on each stream and of the host program, as JSON that Perfetto opens.
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace unify {

class Stream;

class Trace {
 public:
  static Trace& instance();
  // Starts collecting; at most `max_events`, later ones are counted and dropped.
  void start(size_t max_events = 1'000'000);
  // Waits for the work that was traced and returns the trace (Chrome trace event format: a process for each device
  // with a thread for each stream, and one for the host's spans).
  std::string stop();
  [[nodiscard]] bool is_on() const noexcept { return on_.load(std::memory_order_relaxed); }
  // A span of the host program ("prefill"). Times in ns of the monotonic clock.
  void span(const std::string& name, const char* category, int64_t begin_ns, int64_t end_ns);

 private:
  friend class TraceScope;
  void device_span(Stream& stream, const char* name, unify_event begin, int64_t host_begin_ns);

  std::atomic<bool> on_{false};
};

// Marks the device's time around what is enqueued during its life. Costs one load while no trace is taken.
class TraceScope {
 public:
  TraceScope(Stream& stream, const char* name);
  ~TraceScope();
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Stream* stream_ = nullptr;
  const char* name_ = nullptr;
  unify_event begin_ = nullptr;
  int64_t host_begin_ns_ = 0;
};

}  // namespace unify
