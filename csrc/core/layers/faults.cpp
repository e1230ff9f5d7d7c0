// The layer that fails on demand, so that error paths can be tested on any backend.
//
// device_set_option("fail", "CALL[:N[:STATUS]]") lets the N-th call from now (default: the next) that matches CALL fail
// with STATUS (default: kernel_fault). CALL is an ABI function or a word of its name: "query" is stream_query and
// event_query. After a kernel_fault the device is faulted, after device_lost it is gone: nearly every call fails until
// device_reset. "lost" makes it gone at once, "" withdraws what was asked for.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "../error.h"
#include "layer.h"

namespace unify {
namespace {

using layers::Kind;
using layers::Thing;

struct Plan {
  std::string call;
  uint64_t calls_left = 0;  // 0: nothing is planned
  unify_status status = UNIFY_KERNEL_FAULT;
  unify_device_state state = UNIFY_DEVICE_HEALTHY;
};

struct Refusal {
  const void* layer = nullptr;
  unify_status status = UNIFY_OK;
  std::string message;
  uint64_t operation = 0;
};
thread_local Refusal refusal;

constexpr std::pair<const char*, unify_status> kStatuses[] = {
    {"invalid_argument", UNIFY_INVALID_ARGUMENT},
    {"out_of_memory", UNIFY_OUT_OF_MEMORY},
    {"unsupported", UNIFY_UNSUPPORTED},
    {"not_found", UNIFY_NOT_FOUND},
    {"kernel_fault", UNIFY_KERNEL_FAULT},
    {"device_lost", UNIFY_DEVICE_LOST},
    {"timeout", UNIFY_TIMEOUT},
    {"internal", UNIFY_INTERNAL},
};

// Whether `call` is the function's name or a word of it.
bool is_meant(const std::string& call, const std::string& function) {
  return call == function || ("_" + function + "_").find("_" + call + "_") != std::string::npos;
}

uint64_t operation_of(const unify_copy_args* args) { return args->operation; }
uint64_t operation_of(const unify_copy_rows_args* args) { return args->operation; }
uint64_t operation_of(const unify_fill_args* args) { return args->operation; }
uint64_t operation_of(const unify_launch_args* args) { return args->operation; }
template <typename Other>
uint64_t operation_of(const Other&) {
  return 0;
}

class Faults {
 public:
  explicit Faults(const unify_backend& table) : below_(table) {}

  void begin() { refusal.layer = nullptr; }
  template <size_t Slot>
  static void install(unify_backend& table);

  // Every function whose failure can be asked for. `first` tells the device.
  template <auto Place, typename First, typename... Rest>
  unify_status call(const char* function, First first, Rest... rest) {
    const unify_device device = device_of(first);
    uint64_t operation = 0;
    ((operation += operation_of(rest)), ...);
    if (const unify_status status = due(device, function, operation); status != UNIFY_OK) return status;
    const unify_status status = (below_.*Place)(first, rest...);
    if (status == UNIFY_OK) note_made(device, rest...);
    return status;
  }
  unify_status memory_allocate(unify_device device, const unify_allocate_args* args, unify_address* out_address) {
    const unify_status status = call<&unify_backend::memory_allocate>("memory_allocate", device, args, out_address);
    // Pinned memory survives a reset.
    if (status == UNIFY_OK && args->kind != UNIFY_MEMORY_PINNED) note(device, *out_address);
    return status;
  }
  unify_status virtual_reserve(unify_device device, size_t bytes, unify_address* out_address) {
    const unify_status status = call<&unify_backend::virtual_reserve>("virtual_reserve", device, bytes, out_address);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status == UNIFY_OK) reserved_[*out_address] = {device, bytes};
    return status;
  }
  unify_status virtual_commit(unify_device device, unify_address address, size_t bytes) {
    const unify_status status = call<&unify_backend::virtual_commit>("virtual_commit", device, address, bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status == UNIFY_OK) committed_[address] = {device, bytes};
    return status;
  }
  unify_status virtual_decommit(unify_device device, unify_address address, size_t bytes) {
    const unify_status status = call<&unify_backend::virtual_decommit>("virtual_decommit", device, address, bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status == UNIFY_OK) committed_.erase(address);
    return status;
  }
  unify_status virtual_release(unify_device device, unify_address address, size_t bytes) {
    const unify_status status = call<&unify_backend::virtual_release>("virtual_release", device, address, bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status == UNIFY_OK) reserved_.erase(address);
    return status;
  }
  // Taking back works on a faulted device too.
  template <auto Place, typename Handle>
  unify_status take_back(Handle handle) {
    forget(handle);
    return (below_.*Place)(handle);
  }

  unify_status device_open(const unify_device_open_args* args, unify_device* out_device) {
    const unify_status status = below_.device_open(args, out_device);
    if (status == UNIFY_OK) note_made(*out_device, out_device);
    return status;
  }
  unify_status memory_free(unify_device device, unify_memory_kind kind, unify_address address) {
    forget(address);
    return below_.memory_free(device, kind, address);
  }
  unify_status device_status(unify_device device, unify_device_state* out_state) {
    *out_state = UNIFY_DEVICE_HEALTHY;
    const unify_status status = below_.device_status == nullptr ? UNIFY_OK : below_.device_status(device, out_state);
    const std::lock_guard<std::mutex> lock(mutex_);
    *out_state = std::max(*out_state, plans_[device].state);
    return status;
  }
  unify_status device_reset(unify_device device) {
    if (below_.device_reset == nullptr) {
      clear(device);
    } else if (const unify_status status = below_.device_reset(device); status != UNIFY_OK) {
      return status;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    plans_.erase(device);
    for (auto it = made_.begin(); it != made_.end();) {
      const bool stays = it->first.kind == Kind::kDevice || it->second != device;
      it = stays ? std::next(it) : made_.erase(it);
    }
    for (Ranges* ranges : {&committed_, &reserved_}) {
      for (auto it = ranges->begin(); it != ranges->end();) {
        it = it->second.first == device ? ranges->erase(it) : std::next(it);
      }
    }
    return UNIFY_OK;
  }
  unify_status device_set_option(unify_device device, const char* key, const char* value) {
    if (std::strcmp(key, "fail") == 0) return plan(device, value);
    if (below_.device_set_option != nullptr) return below_.device_set_option(device, key, value);
    return refuse(UNIFY_INVALID_ARGUMENT, std::string("no option '") + key + "'. Known: fail", 0);
  }
  void last_error(unify_error* out) {
    if (refusal.layer != this) {
      below_.last_error(out);
      return;
    }
    out->status = refusal.status;
    out->native_code = refusal.status;
    out->native_name = "UNIFY_FAULT_ON_DEMAND";
    out->message = refusal.message.c_str();
    out->advice = nullptr;
    out->operation = refusal.operation;
  }

 private:
  unify_status refuse(unify_status status, std::string message, uint64_t operation) {
    refusal = {this, status, std::move(message), operation};
    return status;
  }

  unify_device device_of(Thing thing) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = made_.find(thing);
    return found == made_.end() ? nullptr : found->second;
  }

  unify_status due(unify_device device, const std::string& function, uint64_t operation) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = plans_.find(device);
    if (found == plans_.end()) return UNIFY_OK;
    Plan& plan = found->second;
    if (plan.state == UNIFY_DEVICE_GONE) return refuse(UNIFY_DEVICE_LOST, "the device was told to be lost", 0);
    if (plan.state == UNIFY_DEVICE_FAULTED) return refuse(UNIFY_KERNEL_FAULT, "the device was told to fail earlier", 0);
    if (plan.calls_left == 0 || !is_meant(plan.call, function) || --plan.calls_left > 0) return UNIFY_OK;
    if (plan.status == UNIFY_KERNEL_FAULT) plan.state = UNIFY_DEVICE_FAULTED;
    if (plan.status == UNIFY_DEVICE_LOST) plan.state = UNIFY_DEVICE_GONE;
    return refuse(plan.status, function + " was told to fail", operation);
  }

  unify_status plan(unify_device device, const std::string& text) {
    Plan made;
    std::string count = "1";
    std::string status = "kernel_fault";
    std::istringstream parts(text);
    std::getline(parts, made.call, ':') && std::getline(parts, count, ':') && std::getline(parts, status, ':');
    made.calls_left = made.call.empty() ? 0 : std::strtoull(count.c_str(), nullptr, 10);
    if (made.call == "lost") made.state = UNIFY_DEVICE_GONE;
    const auto known = std::find_if(std::begin(kStatuses), std::end(kStatuses),
                                    [&](const auto& entry) { return entry.first == status; });
    if (known == std::end(kStatuses) || (made.calls_left == 0 && !made.call.empty())) {
      std::string names;
      for (const auto& entry : kStatuses) names += std::string(" ") + entry.first;
      return refuse(UNIFY_INVALID_ARGUMENT,
                    "fail='" + text + "': CALL[:N[:STATUS]] with N from 1 is needed; statuses:" + names, 0);
    }
    made.status = known->second;
    const std::lock_guard<std::mutex> lock(mutex_);
    plans_[device] = made;
    return UNIFY_OK;
  }

  // What a call handed out is its last argument, a pointer.
  template <typename Last>
  void note_made(unify_device device, Last last) {
    if constexpr (std::is_pointer_v<Last>) note_out(device, last);
  }
  template <typename First, typename... Rest>
  void note_made(unify_device device, First, Rest... rest) {
    note_made(device, rest...);
  }
  void note_made(unify_device) {}
  template <typename Handle>
  void note_out(unify_device device, Handle** out) {
    note(device, Thing(*out));
  }
  template <typename Other>
  void note_out(unify_device, const Other*) {}
  void note(unify_device device, Thing thing) {
    const std::lock_guard<std::mutex> lock(mutex_);
    made_[thing] = device;
  }
  void forget(Thing thing) {
    const std::lock_guard<std::mutex> lock(mutex_);
    made_.erase(thing);
  }

  // A reset for a backend that has none: its faults were only ours, so what the device holds can be taken back.
  void clear(unify_device device) {
    (void)below_.device_synchronize(device);
    std::vector<Thing> things;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (const auto& [thing, owner] : made_) {
        if (owner == device) things.push_back(thing);
      }
    }
    const auto as = [](const Thing& thing, auto handle) {
      return reinterpret_cast<decltype(handle)>(static_cast<uintptr_t>(thing.value));
    };
    for (const Thing& thing : things) {
      if (thing.kind == Kind::kStream) (void)below_.stream_destroy(as(thing, unify_stream{}));
      if (thing.kind == Kind::kEvent) (void)below_.event_destroy(as(thing, unify_event{}));
      if (thing.kind == Kind::kModule) (void)below_.module_unload(as(thing, unify_module{}));
      if (thing.kind == Kind::kGraph) (void)below_.graph_destroy(as(thing, unify_graph{}));
      if (thing.kind == Kind::kMemory) (void)below_.memory_free(device, UNIFY_MEMORY_DEVICE, thing.value);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [address, range] : committed_) {
      if (range.first == device) (void)below_.virtual_decommit(device, address, range.second);
    }
    for (const auto& [address, range] : reserved_) {
      if (range.first == device) (void)below_.virtual_release(device, address, range.second);
    }
  }

  const unify_backend below_;
  std::mutex mutex_;
  std::map<unify_device, Plan> plans_;
  std::map<Thing, unify_device> made_;  // what was handed out and not taken back
  using Ranges = std::map<unify_address, std::pair<unify_device, size_t>>;
  Ranges reserved_;
  Ranges committed_;
};

// As layers::Entry, for call() and take_back(), which need the function they stand for.
template <auto Place, size_t Slot>
struct Failing;
template <typename... Arguments, unify_status (*unify_backend::*Place)(Arguments...), size_t Slot>
struct Failing<Place, Slot> {
  static inline const char* name = nullptr;
  static unify_status call(Arguments... arguments) {
    Faults& layer = *layers::by_slot<Faults>[Slot];
    layer.begin();
    return layer.call<Place>(name, arguments...);
  }
};
template <auto Place, size_t Slot>
struct TakingBack;
template <typename Handle, unify_status (*unify_backend::*Place)(Handle), size_t Slot>
struct TakingBack<Place, Slot> {
  static unify_status call(Handle handle) { return layers::by_slot<Faults>[Slot] -> template take_back<Place>(handle); }
};

template <size_t Slot>
void Faults::install(unify_backend& table) {
#define FAILING(function)                                           \
  if (table.function != nullptr) {                                  \
    Failing<&unify_backend::function, Slot>::name = #function;      \
    table.function = Failing<&unify_backend::function, Slot>::call; \
  }
  FAILING(device_synchronize)
  FAILING(memory_info)
  FAILING(copy)
  FAILING(copy_rows)
  FAILING(fill)
  FAILING(stream_create)
  FAILING(stream_synchronize)
  FAILING(stream_query)
  FAILING(stream_wait_event)
  FAILING(host_call)
  FAILING(event_create)
  FAILING(event_record)
  FAILING(event_synchronize)
  FAILING(event_query)
  FAILING(event_elapsed)
  FAILING(module_load)
  FAILING(function_get)
  FAILING(launch)
  FAILING(capture_begin)
  FAILING(capture_end)
  FAILING(graph_launch)
  FAILING(capture_update)
  FAILING(capture_keep)
  FAILING(peer_access)
  FAILING(ipc_export)
  FAILING(ipc_import)
#undef FAILING
#define TAKING_BACK(function) \
  if (table.function != nullptr) table.function = TakingBack<&unify_backend::function, Slot>::call
  TAKING_BACK(stream_destroy);
  TAKING_BACK(event_destroy);
  TAKING_BACK(module_unload);
  TAKING_BACK(graph_destroy);
#undef TAKING_BACK
#define ENTRY(function) table.function = layers::Entry<&unify_backend::function, &Faults::function, Slot>::call
  ENTRY(device_open);
  ENTRY(device_status);
  ENTRY(device_reset);
  ENTRY(device_set_option);
  ENTRY(memory_allocate);
  ENTRY(memory_free);
  if (table.virtual_reserve != nullptr) {
    ENTRY(virtual_reserve);
    ENTRY(virtual_commit);
    ENTRY(virtual_decommit);
    ENTRY(virtual_release);
  }
  // Without begin(), which would forget what it is asked for.
  table.last_error = [](unify_error* out) { layers::by_slot<Faults>[Slot] -> last_error(out); };
#undef ENTRY
}

}  // namespace

void add_faults(unify_backend& table) {
  if (layers::install(new Faults(table), table, std::make_index_sequence<layers::kSlots>{})) return;
  throw Error(ErrorKind::kUnsupported, "layers: too many backends to wrap.");
}

}  // namespace unify
