#include "leaks.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device.h"
#include "error.h"

namespace unify::leaks {
namespace {

constexpr size_t kKinds = 6;
constexpr std::array<std::pair<const char*, const char*>, kKinds> kWords = {{{"tensor", "tensors"},
                                                                             {"pinned tensor", "pinned tensors"},
                                                                             {"stream", "streams"},
                                                                             {"event", "events"},
                                                                             {"graph", "graphs"},
                                                                             {"module", "modules"}}};

struct Thing {
  Kind kind;
  const Device* device;  // the registry keeps them all
  uint64_t bytes;
  const char* caller;
};

struct State {
  std::mutex mutex;
  std::unordered_map<const void*, Thing> held;
  std::vector<Thing> collected;
  bool is_collecting = false;
  int process = 0;
};

State& state() {
  static auto* instance = new State;  // things are let go of until the process ends
  return *instance;
}

std::atomic<const char* (*)()> caller_hook{nullptr};

// Things of one line of the program, or all of them.
struct Group {
  uint64_t bytes = 0;
  std::array<size_t, kKinds> counts{};

  void add(const Thing& thing) {
    bytes += thing.bytes;
    ++counts.at(static_cast<size_t>(thing.kind));
  }
  [[nodiscard]] size_t count() const {
    size_t sum = 0;
    for (const size_t count : counts) sum += count;
    return sum;
  }
  // "8.0 MiB in 2 tensors, 1 stream"
  [[nodiscard]] std::string text() const {
    std::string things;
    for (size_t kind = 0; kind < kKinds; ++kind) {
      const size_t count = counts.at(kind);
      if (count == 0) continue;
      const auto& [one, many] = kWords.at(kind);
      things += (things.empty() ? "" : ", ") + std::to_string(count) + " " + (count == 1 ? one : many);
    }
    return (bytes > 0 ? format_bytes(bytes) + " in " : std::string()) + things;
  }
};

std::string section(const std::string& title, const std::vector<Thing>& things) {
  if (things.empty()) return {};
  Group all;
  std::map<std::pair<std::string, std::string>, Group> by_line;
  for (const Thing& thing : things) {
    all.add(thing);
    by_line[{thing.caller != nullptr ? thing.caller : "no line of Python", thing.device->name()}].add(thing);
  }
  std::vector<std::pair<std::pair<std::string, std::string>, Group>> lines(by_line.begin(), by_line.end());
  std::stable_sort(lines.begin(), lines.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.second.bytes, a.second.count()) > std::make_pair(b.second.bytes, b.second.count());
  });
  std::string text = "unify leaks: " + title + ": " + all.text() + "\n";
  for (const auto& [place, group] : lines) {
    text += "  " + group.text() + " on " + place.second + ", made at " + place.first + "\n";
  }
  return text;
}

}  // namespace

void start() {
  state().process = ::getpid();
  is_on.store(true, std::memory_order_relaxed);
}

void set_caller_hook(const char* (*hook)()) { caller_hook.store(hook, std::memory_order_release); }

const char* ask_caller() {
  const auto hook = caller_hook.load(std::memory_order_acquire);
  return hook != nullptr ? hook() : nullptr;
}

void note_held(const void* thing, Kind kind, const Device& device, uint64_t bytes, const char* caller) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.held[thing] = {kind, &device, bytes, caller};
}

void note_let_go(const void* thing) noexcept {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  const auto found = s.held.find(thing);
  if (found == s.held.end()) return;  // the core's own
  if (s.is_collecting) s.collected.push_back(found->second);
  s.held.erase(found);
}

void begin_collection() {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.is_collecting = true;
}

void end_collection() {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.is_collecting = false;
}

std::string report() {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (s.process != ::getpid()) return {};
  std::vector<Thing> held;
  for (const auto& entry : s.held) held.push_back(entry.second);
  return section("held to the end", held) +
         section("held by reference cycles until the garbage collector ran", s.collected);
}

}  // namespace unify::leaks
