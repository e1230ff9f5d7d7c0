// Layers stand between the core and a backend: the same table of functions, which look at a call before they pass it
// on. They are for finding mistakes and cost a lock a call. A program switches them on, in any order.
#pragma once

#include <unify/backend.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace unify {

// Each wraps `table` in place and passes on to what it held. Throws Unsupported when kSlots tables are wrapped already.
void add_validation(unify_backend& table);  // refuses calls that break the ABI's rules, and says so on stderr
void add_leaks(unify_backend& table);       // says what a device that is closed still had, and switches on leaks.h
void add_trace(unify_backend& table);       // writes each call and operation into a file: trace_file.h
void add_faults(unify_backend& table);      // fails calls on demand, by the device option "fail"

// For the layer "trace", nothing without it. As the core calls a stream:
void name_traced_stream(unify_stream stream, const std::string& name);
// What was passed by now stands in the file afterwards.
void flush_trace();

namespace layers {

// The ABI's functions carry no pointer of ours, so a layer finds itself by a number that is part of the function.
constexpr size_t kSlots = 16;
template <typename Layer>
inline std::array<Layer*, kSlots> by_slot{};

// The function at `Place` of a table, as a call of `Method` of the layer in this slot.
template <auto Place, auto Method, size_t Slot>
struct Entry;
template <typename Layer, typename Result, typename... Arguments, Result (*unify_backend::*Place)(Arguments...),
          Result (Layer::*Method)(Arguments...), size_t Slot>
struct Entry<Place, Method, Slot> {
  static Result call(Arguments... arguments) {
    Layer& layer = *by_slot<Layer>[Slot];
    layer.begin();
    return (layer.*Method)(arguments...);
  }
};

// Puts `layer` in the next free slot and lets it install its functions. False when there is none.
template <typename Layer, size_t... Slots>
bool install(Layer* layer, unify_backend& table, std::index_sequence<Slots...>) {
  static size_t next = 0;
  if (next == kSlots) return false;
  by_slot<Layer>[next] = layer;
  using Installer = void (*)(unify_backend&);
  constexpr Installer kInstallers[] = {&Layer::template install<Slots>...};
  kInstallers[next++](table);
  return true;
}

enum class Kind { kDevice, kStream, kEvent, kModule, kFunction, kGraph, kMemory };

constexpr Kind kind_of(unify_device) { return Kind::kDevice; }
constexpr Kind kind_of(unify_stream) { return Kind::kStream; }
constexpr Kind kind_of(unify_event) { return Kind::kEvent; }
constexpr Kind kind_of(unify_module) { return Kind::kModule; }
constexpr Kind kind_of(unify_function) { return Kind::kFunction; }
constexpr Kind kind_of(unify_graph) { return Kind::kGraph; }
constexpr Kind kind_of(unify_address) { return Kind::kMemory; }

// A handle or address, whatever its type.
struct Thing {
  template <typename Handle>
  Thing(Handle* handle) : kind(kind_of(handle)), value(reinterpret_cast<uintptr_t>(handle)) {}  // NOLINT: meant
  Thing(unify_address address) : kind(Kind::kMemory), value(address) {}                         // NOLINT: meant
  Kind kind;
  uint64_t value;
  bool operator<(const Thing& other) const { return kind != other.kind ? kind < other.kind : value < other.value; }
};

}  // namespace layers
}  // namespace unify
