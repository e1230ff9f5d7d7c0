// A device's times on the host's clock: a mark of the device, and when the host saw it passed.
#pragma once

#include <unify/backend.h>

#include <cstdint>

namespace unify {

struct DeviceClock {
  unify_event mark = nullptr;  // with timing, recorded and passed
  int64_t host_ns = 0;
};

// Passes `mark` on a stream that holds nothing else, so that the host's clock can be read at that very time.
[[nodiscard]] bool set_clock(const unify_backend& table, unify_device device, unify_event mark, DeviceClock* out);

// When something between two marks that were passed began, on the host's clock, and how long it took.
[[nodiscard]] bool read_span(const unify_backend& table, const DeviceClock& clock, unify_event begin, unify_event end,
                             int64_t* out_begin_ns, int64_t* out_duration_ns);

}  // namespace unify
