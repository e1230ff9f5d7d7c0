// A trace: spans of what ran on each stream and of the host program, as JSON that Perfetto opens.
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "host_time.h"

namespace unify {

class Stream;

class Trace {
 public:
  static Trace& instance();
  // Starts collecting; at most `max_events`, later ones are counted and dropped. False when a trace is on already.
  [[nodiscard]] bool start(size_t max_events = 1'000'000);
  // Waits for the work that was traced and returns the trace (Chrome trace event format: a process for each device
  // with a thread for each stream, and one for the host with its threads). What ran on a device that was reset
  // meanwhile has no times any more, and is counted as dropped.
  std::string stop();
  [[nodiscard]] bool is_on() const noexcept { return on_.load(std::memory_order_relaxed); }
  // A span of the calling thread ("prefill"). Times in ns of the monotonic clock.
  void span(const std::string& name, const char* category, int64_t begin_ns, int64_t end_ns);

 private:
  std::atomic<bool> on_{false};
};

// Where a span begins or ends on a device.
struct SpanMark {
  unify_event event = nullptr;
  HostTime time;  // where the backend tells no times
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
  SpanMark begin_;
  uint32_t generation_ = 0;  // of the device
  uint32_t trace_ = 0;       // the number of the one in which it began
};

}  // namespace unify
