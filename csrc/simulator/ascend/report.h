// What this process does on the simulated devices, for who started it.
//
// UNIFY_SIMULATED_REPORT=FOLDER: FOLDER/<pid>.json is there from the first call on, and written anew five times a
// second, for a process that is killed. Its `ended` is 1 once the process ended by exit or a return from main.
// UNIFY_SIMULATED_TRACE=FOLDER: trace.h.
#pragma once

#include <atomic>
#include <cstdint>

#include "simulator/copy.h"
#include "simulator/observer.h"

namespace unify::simulator {

// Begins, if the environment asks for it, once for a process. With the mutex.
void start_report();

inline std::atomic<bool> is_reporting{false};

void add_call(const char* name);
void add_failure(const char* call, Result result);

// A call that reached the driver, and one that failed.
inline void count_call(const char* name) {
  if (is_reporting.load(std::memory_order_relaxed)) add_call(name);
}
inline void count_failure(const char* call, Result result) {
  if (is_reporting.load(std::memory_order_relaxed)) add_failure(call, result);
}
// Does what a call does at once, beside the streams of the context. Returns what came of it. Without the mutex.
Result watch(const Context& context, const Operation& operation);

}  // namespace unify::simulator
