// What the program holds of a device, and the line of it that asked for each: for the layer "leaks". What the core
// keeps for itself is not among it: cached blocks, pooled events, the default streams.
//
// A leak is what is still held when the program has ended and its interpreter has let go of everything: something
// counts it that nobody can reach, or it is held by what the core keeps alive for it, such as a graph that holds itself
// by one of its host calls. What the garbage collector frees from reference cycles at the end is told apart: a program
// that runs on would have held it until then, and the collector does not know how large it is.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace unify {

class Device;

namespace leaks {

enum class Kind : uint8_t { kTensor, kPinned, kStream, kEvent, kGraph, kModule };

inline std::atomic<bool> is_on{false};
[[nodiscard]] inline bool is_watching() noexcept { return is_on.load(std::memory_order_relaxed); }

void start();

// Returns an interned "file:line in function", or null. Called by whoever holds no lock, nor the GIL.
void set_caller_hook(const char* (*hook)());

void note_held(const void* thing, Kind kind, const Device& device, uint64_t bytes, const char* caller);
void note_let_go(const void* thing) noexcept;
[[nodiscard]] const char* ask_caller();

// Costs one branch while nobody watches.
[[nodiscard]] inline const char* caller() { return is_watching() ? ask_caller() : nullptr; }
inline void held(const void* thing, Kind kind, const Device& device, uint64_t bytes, const char* caller) {
  if (is_watching()) note_held(thing, kind, device, bytes, caller);
}
inline void let_go(const void* thing) noexcept {
  if (is_watching()) note_let_go(thing);
}

// What is let go of in between is what the garbage collector frees.
void begin_collection();
void end_collection();

// A line for each line of the program and device, the most bytes first; empty if nothing leaked. In a child that was
// forked always empty: what it holds is its parent's.
[[nodiscard]] std::string report();

}  // namespace leaks
}  // namespace unify
