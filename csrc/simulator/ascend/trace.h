// What each stream did when: UNIFY_SIMULATED_TRACE=FOLDER has a line of JSON for each piece of work in
// FOLDER/<pid>.jsonl, with the times of the machine's monotonic clock, in nanoseconds.
#pragma once

#include <atomic>
#include <cstdint>

#include "simulator/observer.h"

namespace unify::simulator {

struct TraceEvent {
  int device;
  int stream;  // -1: a call that did it at once
  const char* name;
  Time begin;
  Time end;
  uint64_t bytes;
  Result result;
};

void start_trace();
// Writes what the threads keep.
void flush_trace();
bool is_tracing() noexcept;
void trace(const TraceEvent& event);

}  // namespace unify::simulator
