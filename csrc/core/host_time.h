// Times by the host's clock, where a backend has none of its own (no event_elapsed).
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace unify {

class Stream;

// Nanoseconds of the monotonic clock.
int64_t now_ns();

// When a stream had run its work; 0 until then, and for ever where that never came to pass. Nobody waits for it: an
// event recorded behind it tells.
using HostTime = std::shared_ptr<const std::atomic<int64_t>>;

// Has the clock read once the work of `stream` so far has run; waits for that work where the backend makes no host
// calls. The caller holds the stream's mutex, and nothing is recorded on it.
[[nodiscard]] unify_status read_clock(Stream& stream, HostTime* out) noexcept;

}  // namespace unify
