#include "simulator.h"

#include <algorithm>
#include <cstring>

#include "driver.h"
#include "graph.h"

namespace unify::simulator {
namespace {

constexpr uint64_t kLeastMemory = uint64_t{4} << 20;
constexpr uint64_t kMostMemory = uint64_t{1} << 40;

thread_local std::string last_error;

bool is_usable() { return !is_forked() && !is_ending() && !is_in_host_call(); }

bool is_in_use(const Driver& state) {
  for (const auto& device : state.devices) {
    if (device->retained > 0 || device->context != nullptr) return true;
  }
  return state.blocks.size() > 0;
}

// Runs `work(device)` with the mutex, unless this process has no driver any more.
template <typename Work>
auto with_device(int number, Work&& work) -> decltype(work(std::declval<Device&>())) {
  if (!is_usable()) return fail_with("the driver is not usable here: in a fork, or at the end");
  const Lock lock(driver().mutex);
  make_devices();
  Device* device = find_device(number);
  if (device == nullptr) {
    return fail_with("no device " + std::to_string(number) + "; there are " + std::to_string(driver().devices.size()));
  }
  return work(*device);
}

int64_t bytes_of(const Device& device, RangeKind kind) {
  uint64_t bytes = 0;
  for (const auto& [address, range] : driver().memory.ranges()) {
    if (range->kind == kind && range->made_on == device.index) bytes += range->bytes;
  }
  return static_cast<int64_t>(bytes);
}

template <typename Object>
int64_t count_of(const Device& device, const Registry<Object>& all) {
  int64_t count = 0;
  for (const auto& [handle, object] : all) count += object->context == device.context ? 1 : 0;
  return count;
}

int64_t busy_streams(const Device& device) {
  if (device.context == nullptr) return 0;
  const auto& all = device.context->streams;
  return std::count_if(all.begin(), all.end(), [](const auto& stream) { return !is_idle(*stream); });
}

int64_t count(const Device& device, const char* what) {
  const Driver& state = driver();
  const auto is = [what](const char* name) { return std::strcmp(what, name) == 0; };
  if (is("bytes")) return static_cast<int64_t>(device.arena.used());
  if (is("peak_bytes")) return static_cast<int64_t>(device.arena.peak());
  if (is("pinned_bytes")) return bytes_of(device, RangeKind::kPinned);
  if (is("managed_bytes")) return bytes_of(device, RangeKind::kManaged);
  if (is("reservations")) return static_cast<int64_t>(state.memory.reservations());
  if (is("graphs")) return static_cast<int64_t>(state.graphs.size());
  if (is("graph_execs")) return static_cast<int64_t>(state.graph_execs.size());
  if (is("streams")) return count_of(device, state.streams);
  if (is("events")) return count_of(device, state.events);
  if (is("modules")) return count_of(device, state.modules);
  if (is("retained")) return device.retained;
  if (is("busy_streams")) return busy_streams(device);
  int64_t found = 0;
  if (is("allocations")) {
    for (const auto& [address, range] : state.memory.ranges()) found += range->device == device.index ? 1 : 0;
    return found;
  }
  if (is("physical")) {
    for (const auto& [handle, block] : state.blocks) found += block->arena.device() == device.index ? 1 : 0;
    return found;
  }
  return fail_with(std::string("nothing is counted as '") + what + "'");
}

}  // namespace

int fail_with(std::string why) {
  last_error = std::move(why);
  return -1;
}

bool are_possible(const Settings& settings, std::string& why) {
  if (settings.count < 0 || settings.count > kMaxDevices) {
    why = "count is " + std::to_string(settings.count) + "; 0 to " + std::to_string(kMaxDevices) +
          " devices are possible";
    return false;
  }
  if (settings.memory_bytes < kLeastMemory || settings.memory_bytes > kMostMemory) {
    why = "memory_bytes is " + std::to_string(settings.memory_bytes) + "; 4 MiB to 1 TiB are possible";
    return false;
  }
  return true;
}

int configure(const Settings& settings) {
  if (!is_usable()) return fail_with("the driver is not usable here: in a fork, or at the end");
  if (std::string why; !are_possible(settings, why)) return fail_with(why);
  Driver& state = driver();
  const Lock lock(state.mutex);
  if (is_in_use(state) && settings == state.settings) return 0;
  if (is_in_use(state)) return fail_with("a context is retained: configure before the first device is opened");
  state.settings = settings;
  retire_devices();
  return 0;
}

}  // namespace unify::simulator

using namespace unify::simulator;

UNIFY_SIMULATOR_EXPORT int unify_simulator_fail(int device, const char* plan) {
  return with_device(device, [plan](Device& found) {
    std::string why;
    return found.faults.add(plan == nullptr ? "" : plan, why) ? 0 : fail_with(why);
  });
}

UNIFY_SIMULATOR_EXPORT int unify_simulator_check(const char* plan) {
  Faults none;
  std::string why;
  return none.add(plan == nullptr ? "" : plan, why) ? 0 : fail_with(why);
}

UNIFY_SIMULATOR_EXPORT int unify_simulator_clear(int device) {
  return with_device(device, [](Device& found) {
    found.faults.clear();
    found.faults.copy_bytes_per_second = 0;
    ++found.faults.releases;
    driver().progress.notify_all();
    return 0;
  });
}

UNIFY_SIMULATOR_EXPORT int unify_simulator_release(int device) {
  return with_device(device, [](Device& found) {
    ++found.faults.releases;
    driver().progress.notify_all();
    return 0;
  });
}

UNIFY_SIMULATOR_EXPORT int unify_simulator_slow(int device, double bytes_per_second) {
  return with_device(device, [bytes_per_second](Device& found) {
    if (!(bytes_per_second >= 0)) return fail_with("bytes_per_second is not a number from 0");
    found.faults.copy_bytes_per_second = bytes_per_second;
    return 0;
  });
}

UNIFY_SIMULATOR_EXPORT int64_t unify_simulator_live(int device, const char* what) {
  int64_t found = -1;
  with_device(device, [&](Device& each) {
    found = what == nullptr ? fail_with("nothing was asked for") : count(each, what);
    return 0;
  });
  return found;
}

UNIFY_SIMULATOR_EXPORT const char* unify_simulator_error() { return last_error.c_str(); }
