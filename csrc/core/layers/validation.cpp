// The layer that refuses what the ABI forbids: handles that do not live, ranges beyond their allocation, memory freed
// before the streams that use it have passed, two calls on one stream at once, sizes beyond the device's. A refused
// call does nothing and answers INVALID_ARGUMENT with its name and values; stderr says so too, since the core does not
// look at the answer of everything that it takes back.
//
// Not seen: what a kernel's pointers touch, and memory of other libraries, which is as good as the host's own where the
// host can see the device's.
#include <algorithm>
#include <cstdio>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>

#include "../error.h"
#include "layer.h"

namespace unify {
namespace {

using layers::Thing;

constexpr const char* kKinds[] = {"device", "stream", "event", "module", "function", "graph", "memory"};

struct Live {
  unify_device device = nullptr;
  const void* module = nullptr;  // functions
  unify_device_info info{};      // devices
  // streams: calls are counted, so that "passed" can be compared
  uint64_t enqueued = 0;
  uint64_t passed = 0;
  bool is_enqueuing = false;
  bool is_capturing = false;
  // events: what the last record marked
  unify_stream stream = nullptr;
  uint64_t mark = 0;
};

struct Allocation {
  size_t bytes = 0;
  unify_device device = nullptr;
  unify_memory_kind kind = UNIFY_MEMORY_DEVICE;
  std::map<unify_stream, uint64_t> used;  // by copies and fills: up to which call of the stream
};

struct Refusal {
  const void* layer = nullptr;
  std::string message;
};
thread_local Refusal refusal;

// A range as errors call it: "dst 0x7f00+4096".
std::string text_of(const char* name, unify_address address, size_t bytes) {
  std::ostringstream text;
  text << name << " 0x" << std::hex << address << std::dec << '+' << bytes;
  return text.str();
}

class Validation {
 public:
  explicit Validation(const unify_backend& table) : below_(table) {}

  void begin() { refusal.layer = nullptr; }
  template <size_t Slot>
  static void install(unify_backend& table);

  // ---- devices

  unify_status device_open(const unify_device_open_args* args, unify_device* out_device) {
    const unify_status status = below_.device_open(args, out_device);
    if (status != UNIFY_OK) return status;
    Live live;
    live.device = *out_device;
    live.info.struct_size = sizeof live.info;
    (void)below_.device_info(*out_device, &live.info);
    const std::lock_guard<std::mutex> lock(mutex_);
    live_[*out_device] = live;
    return status;
  }
  void device_close(unify_device device) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!is_live("device_close", device)) return;
      for (const auto& [thing, live] : live_) {
        if (live.device == device && thing.kind != layers::Kind::kDevice) {
          report("device_close: a " + std::string(kKinds[static_cast<int>(thing.kind)]) + " of it was not destroyed");
        }
      }
      forget(device);
      live_.erase(device);
    }
    below_.device_close(device);
  }
  unify_status device_reset(unify_device device) {
    if (!check("device_reset", device)) return UNIFY_INVALID_ARGUMENT;
    const unify_status status = below_.device_reset(device);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status == UNIFY_OK) forget(device);
    return status;
  }
  unify_status device_synchronize(unify_device device) {
    std::map<unify_stream, uint64_t> reached;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!is_live("device_synchronize", device)) return UNIFY_INVALID_ARGUMENT;
      for (const auto& [thing, live] : live_) {
        if (thing.kind == layers::Kind::kStream && live.device == device) {
          reached[reinterpret_cast<unify_stream>(static_cast<uintptr_t>(thing.value))] = live.enqueued;
        }
      }
    }
    const unify_status status = below_.device_synchronize(device);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [stream, count] : reached) pass(stream, count);
    return status;
  }

  // ---- memory

  unify_status memory_allocate(unify_device device, const unify_allocate_args* args, unify_address* out_address) {
    if (!check("memory_allocate", device)) return UNIFY_INVALID_ARGUMENT;
    if (args->bytes == 0) return refuse("memory_allocate: 0 bytes");
    const unify_status status = below_.memory_allocate(device, args, out_address);
    if (status != UNIFY_OK) return status;
    const std::lock_guard<std::mutex> lock(mutex_);
    allocations_[*out_address] = {args->bytes, device, args->kind, {}};
    return status;
  }
  unify_status memory_free(unify_device device, unify_memory_kind kind, unify_address address) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!is_live("memory_free", device)) return UNIFY_INVALID_ARGUMENT;
      const auto found = allocations_.find(address);
      if (found == allocations_.end()) {
        return refuse("memory_free: " + text_of("address", address, 0) + " is not allocated, or not any more");
      }
      const Allocation& allocation = found->second;
      if (allocation.device != device || allocation.kind != kind) {
        return refuse("memory_free: " + text_of("address", address, allocation.bytes) +
                      " was allocated with another kind or device");
      }
      for (const auto& [stream, count] : allocation.used) {
        const auto owner = live_.find(stream);
        if (owner == live_.end() || owner->second.passed >= count || owner->second.is_capturing) continue;
        if (below_.stream_query(stream) != UNIFY_NOT_READY) continue;
        return refuse("memory_free: " + text_of("address", address, allocation.bytes) +
                      " is still used by a copy or fill that nobody waited for");
      }
      allocations_.erase(found);
    }
    return below_.memory_free(device, kind, address);
  }

  // ---- work on streams

  unify_status copy(unify_stream stream, const unify_copy_args* args) {
    const Turn turn(*this, "copy", stream);
    if (!turn) return UNIFY_INVALID_ARGUMENT;
    if (args->bytes == 0) return refuse("copy: 0 bytes");
    if (!check_range("copy: dst", stream, args->dst_device, args->dst, args->bytes) ||
        !check_range("copy: src", stream, args->src_device, args->src, args->bytes)) {
      return UNIFY_INVALID_ARGUMENT;
    }
    const bool overlaps = args->dst < args->src + args->bytes && args->src < args->dst + args->bytes;
    if (args->dst_device == args->src_device && overlaps) {
      return refuse("copy: " + text_of("dst", args->dst, args->bytes) + " overlaps " +
                    text_of("src", args->src, args->bytes));
    }
    return below_.copy(stream, args);
  }
  unify_status fill(unify_stream stream, const unify_fill_args* args) {
    const Turn turn(*this, "fill", stream);
    if (!turn) return UNIFY_INVALID_ARGUMENT;
    if (args->count == 0 || (args->value_bytes != 1 && args->value_bytes != 2 && args->value_bytes != 4)) {
      return refuse("fill: " + std::to_string(args->count) + " values of " + std::to_string(args->value_bytes) +
                    " bytes; a value has 1, 2 or 4, and there is at least one");
    }
    if (args->dst % args->value_bytes != 0) {
      return refuse("fill: " + text_of("dst", args->dst, args->count) + " is not aligned to " +
                    std::to_string(args->value_bytes));
    }
    if (!check_range("fill: dst", stream, turn.device(), args->dst, args->count * args->value_bytes)) {
      return UNIFY_INVALID_ARGUMENT;
    }
    return below_.fill(stream, args);
  }
  unify_status launch(unify_stream stream, unify_function function, const unify_launch_args* args) {
    const Turn turn(*this, "launch", stream);
    if (!turn) return UNIFY_INVALID_ARGUMENT;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!is_live("launch", function)) return UNIFY_INVALID_ARGUMENT;
      if (live_.at(function).device != turn.device()) return refuse("launch: function and stream are of two devices");
      const unify_device_info& info = live_.at(turn.device()).info;
      for (int axis = 0; axis < 3; ++axis) {
        if (args->grid[axis] == 0 || args->grid[axis] > info.max_grid[axis]) {
          return refuse("launch: grid[" + std::to_string(axis) + "] is " + std::to_string(args->grid[axis]) +
                        ", possible are 1 to " + std::to_string(info.max_grid[axis]));
        }
      }
      if (args->threads == 0 || args->threads > info.max_threads) {
        return refuse("launch: " + std::to_string(args->threads) + " threads, possible are 1 to " +
                      std::to_string(info.max_threads));
      }
      if (args->shared_bytes > info.shared_bytes) {
        return refuse("launch: " + std::to_string(args->shared_bytes) + " bytes of scratch memory, at most " +
                      std::to_string(info.shared_bytes) + " are there");
      }
    }
    if (args->args == nullptr && args->args_bytes > 0) return refuse("launch: arguments are null");
    return below_.launch(stream, function, args);
  }
  unify_status host_call(unify_stream stream, unify_host_function function, void* user) {
    const Turn turn(*this, "host_call", stream);
    if (!turn) return UNIFY_INVALID_ARGUMENT;
    if (function == nullptr) return refuse("host_call: no function");
    return below_.host_call(stream, function, user);
  }
  unify_status stream_wait_event(unify_stream stream, unify_event event) {
    const Turn turn(*this, "stream_wait_event", stream);
    if (!turn || !check("stream_wait_event", event)) return UNIFY_INVALID_ARGUMENT;
    const unify_status status = below_.stream_wait_event(stream, event);
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto marked = live_.find(live_[event].stream);
    if (marked != live_.end() && marked->second.is_capturing) live_[stream].is_capturing = true;  // drawn in
    return status;
  }
  unify_status event_record(unify_event event, unify_stream stream) {
    const Turn turn(*this, "event_record", stream);
    if (!turn || !check("event_record", event)) return UNIFY_INVALID_ARGUMENT;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Live& live = live_.at(event);
      if (live.device != turn.device()) return refuse("event_record: event and stream are of two devices");
      live.stream = stream;
      live.mark = live_.at(stream).enqueued;
    }
    return below_.event_record(event, stream);
  }
  unify_status graph_launch(unify_graph graph, unify_stream stream) {
    const Turn turn(*this, "graph_launch", stream);
    if (!turn || !check("graph_launch", graph)) return UNIFY_INVALID_ARGUMENT;
    return below_.graph_launch(graph, stream);
  }
  unify_status capture_begin(unify_stream stream) {
    const Turn turn(*this, "capture_begin", stream);
    if (!turn) return UNIFY_INVALID_ARGUMENT;
    const unify_status status = below_.capture_begin(stream);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status == UNIFY_OK) live_[stream].is_capturing = true;
    return status;
  }
  unify_status capture_end(unify_stream stream, unify_graph* out_graph) {
    const Turn turn(*this, "capture_end", stream);
    if (!turn) return UNIFY_INVALID_ARGUMENT;
    const unify_status status = below_.capture_end(stream, out_graph);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [thing, live] : live_) {  // those that were drawn in too
      if (live.device == turn.device()) live.is_capturing = false;
    }
    if (status == UNIFY_OK) live_[*out_graph].device = turn.device();
    return status;
  }

  // ---- streams and events

  unify_status stream_create(unify_device device, unify_stream_args* args, unify_stream* out_stream) {
    if (!check("stream_create", device)) return UNIFY_INVALID_ARGUMENT;
    return made(device, *out_stream, below_.stream_create(device, args, out_stream));
  }
  unify_status stream_destroy(unify_stream stream) {
    return destroyed("stream_destroy", stream) ? below_.stream_destroy(stream) : UNIFY_INVALID_ARGUMENT;
  }
  unify_status stream_synchronize(unify_stream stream) {
    return passing("stream_synchronize", stream, below_.stream_synchronize);
  }
  unify_status stream_query(unify_stream stream) { return passing("stream_query", stream, below_.stream_query); }
  unify_status event_create(unify_device device, const unify_event_args* args, unify_event* out_event) {
    if (!check("event_create", device)) return UNIFY_INVALID_ARGUMENT;
    return made(device, *out_event, below_.event_create(device, args, out_event));
  }
  unify_status event_destroy(unify_event event) {
    return destroyed("event_destroy", event) ? below_.event_destroy(event) : UNIFY_INVALID_ARGUMENT;
  }
  unify_status event_synchronize(unify_event event) {
    return passing("event_synchronize", event, below_.event_synchronize);
  }
  unify_status event_query(unify_event event) { return passing("event_query", event, below_.event_query); }
  unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out_nanoseconds) {
    if (!check("event_elapsed", start) || !check("event_elapsed", stop)) return UNIFY_INVALID_ARGUMENT;
    return below_.event_elapsed(start, stop, out_nanoseconds);
  }

  // ---- modules and graphs

  unify_status module_load(unify_device device, const unify_module_args* args, unify_module* out_module) {
    if (!check("module_load", device)) return UNIFY_INVALID_ARGUMENT;
    if (args->image == nullptr || args->bytes == 0) return refuse("module_load: there is no image");
    return made(device, *out_module, below_.module_load(device, args, out_module));
  }
  unify_status module_unload(unify_module module) {
    if (!destroyed("module_unload", module)) return UNIFY_INVALID_ARGUMENT;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto it = live_.begin(); it != live_.end();) {
        it = it->second.module == module ? live_.erase(it) : std::next(it);
      }
    }
    return below_.module_unload(module);
  }
  unify_status function_get(unify_module module, unify_function_args* args, unify_function* out_function) {
    if (!check("function_get", module)) return UNIFY_INVALID_ARGUMENT;
    const unify_status status = below_.function_get(module, args, out_function);
    if (status != UNIFY_OK) return status;
    const std::lock_guard<std::mutex> lock(mutex_);
    Live& live = live_[*out_function];
    live.device = live_.at(module).device;
    live.module = module;
    return status;
  }
  unify_status graph_destroy(unify_graph graph) {
    return destroyed("graph_destroy", graph) ? below_.graph_destroy(graph) : UNIFY_INVALID_ARGUMENT;
  }

  void last_error(unify_error* out) {
    if (refusal.layer != this) {
      below_.last_error(out);
      return;
    }
    const size_t size = out->struct_size;
    *out = {};
    out->struct_size = size;
    out->status = UNIFY_INVALID_ARGUMENT;
    out->message = refusal.message.c_str();
    out->advice = "This breaks a rule of unify/backend.h: a mistake in unify's core, not in the backend.";
  }

 private:
  // One call that enqueues on a stream: at most one at a time.
  class Turn {
   public:
    Turn(Validation& layer, const char* function, unify_stream stream) : layer_(layer), stream_(stream) {
      const std::lock_guard<std::mutex> lock(layer.mutex_);
      if (!layer.is_live(function, stream)) return;
      Live& live = layer.live_.at(stream);
      if (live.is_enqueuing) {
        layer.refuse(std::string(function) + ": another thread is in a call on the same stream");
        return;
      }
      live.is_enqueuing = has_it_ = true;
      device_ = live.device;
      ++live.enqueued;
    }
    ~Turn() {
      if (!has_it_) return;
      const std::lock_guard<std::mutex> lock(layer_.mutex_);
      const auto live = layer_.live_.find(stream_);
      if (live != layer_.live_.end()) live->second.is_enqueuing = false;
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    explicit operator bool() const { return has_it_; }
    [[nodiscard]] unify_device device() const { return device_; }

   private:
    Validation& layer_;
    unify_stream stream_;
    unify_device device_ = nullptr;
    bool has_it_ = false;
  };

  void report(const std::string& what) const {
    std::fprintf(stderr, "unify validation: %s: %s\n", below_.name, what.c_str());
  }
  unify_status refuse(std::string message) {
    report(message);
    refusal = {this, std::move(message)};
    return UNIFY_INVALID_ARGUMENT;
  }

  // With the lock.
  bool is_live(const char* function, Thing thing) {
    if (live_.count(thing) != 0) return true;
    std::ostringstream text;
    text << function << ": no " << kKinds[static_cast<int>(thing.kind)] << " 0x" << std::hex << thing.value
         << " of this backend lives";
    refuse(text.str());
    return false;
  }
  bool check(const char* function, Thing thing) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return is_live(function, thing);
  }
  template <typename Handle>
  unify_status made(unify_device device, Handle& handle, unify_status status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status == UNIFY_OK) live_[handle] = Live{};
    if (status == UNIFY_OK) live_[handle].device = device;
    return status;
  }
  bool destroyed(const char* function, Thing thing) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return is_live(function, thing) && live_.erase(thing) == 1;
  }
  void pass(Thing stream, uint64_t count) {
    const auto found = live_.find(stream);
    if (found != live_.end()) found->second.passed = std::max(found->second.passed, count);
  }
  void forget(unify_device device) {
    for (auto it = live_.begin(); it != live_.end();) {
      const bool goes = it->second.device == device && it->first.kind != layers::Kind::kDevice;
      it = goes ? live_.erase(it) : std::next(it);
    }
    for (auto it = allocations_.begin(); it != allocations_.end();) {
      const bool goes = it->second.device == device && it->second.kind != UNIFY_MEMORY_PINNED;
      it = goes ? allocations_.erase(it) : std::next(it);
    }
  }

  // Waiting for a stream or an event, or asking it.
  template <typename Handle>
  unify_status passing(const char* function, Handle handle, unify_status (*call)(Handle)) {
    unify_stream stream = nullptr;
    uint64_t count = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!is_live(function, handle)) return UNIFY_INVALID_ARGUMENT;
      const Live& live = live_.at(handle);
      if (live.is_capturing) return refuse(std::string(function) + ": the stream records a graph");
      if constexpr (std::is_same_v<Handle, unify_stream>) {
        stream = handle;
        count = live.enqueued;
      } else {
        stream = live.stream;
        count = live.mark;
      }
    }
    const unify_status status = call(handle);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status != UNIFY_NOT_READY) pass(stream, count);
    return status;
  }

  // A range that begins in an allocation must end in it. What begins in none is the host's own where that can see it.
  bool check_range(const char* what, unify_stream stream, unify_device device, unify_address address, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (device != nullptr && !is_live(what, device)) return false;
    if (address == 0 || address + bytes < address) {
      refuse(text_of(what, address, bytes) + " is no range");
      return false;
    }
    const bool is_host = device == nullptr || (live_.at(device).info.flags & UNIFY_DEVICE_HOST_VISIBLE) != 0;
    auto found = allocations_.upper_bound(address);
    if (found != allocations_.begin()) --found;
    const bool is_inside =
        found != allocations_.end() && found->first <= address && address < found->first + found->second.bytes;
    if (!is_inside) {
      if (!is_host) refuse(text_of(what, address, bytes) + " is not allocated, or not any more");
      return is_host;
    }
    Allocation& allocation = found->second;
    if (bytes > found->first + allocation.bytes - address) {
      refuse(text_of(what, address, bytes) + " goes beyond its " +
             text_of("allocation", found->first, allocation.bytes));
      return false;
    }
    const Live& user = live_.at(stream);
    if (!user.is_capturing) allocation.used[stream] = user.enqueued;
    return true;
  }

  const unify_backend below_;
  std::mutex mutex_;
  std::map<Thing, Live> live_;
  std::map<unify_address, Allocation> allocations_;
};

template <size_t Slot>
void Validation::install(unify_backend& table) {
#define ENTRY(function)          \
  if (table.function != nullptr) \
  table.function = layers::Entry<&unify_backend::function, &Validation::function, Slot>::call
  ENTRY(device_open);
  ENTRY(device_close);
  ENTRY(device_reset);
  ENTRY(device_synchronize);
  ENTRY(memory_allocate);
  ENTRY(memory_free);
  ENTRY(copy);
  ENTRY(fill);
  ENTRY(launch);
  ENTRY(host_call);
  ENTRY(stream_create);
  ENTRY(stream_destroy);
  ENTRY(stream_synchronize);
  ENTRY(stream_query);
  ENTRY(stream_wait_event);
  ENTRY(event_create);
  ENTRY(event_destroy);
  ENTRY(event_record);
  ENTRY(event_synchronize);
  ENTRY(event_query);
  ENTRY(event_elapsed);
  ENTRY(module_load);
  ENTRY(module_unload);
  ENTRY(function_get);
  ENTRY(capture_begin);
  ENTRY(capture_end);
  ENTRY(graph_launch);
  ENTRY(graph_destroy);
#undef ENTRY
  // Without begin(), which would forget what it is asked for.
  table.last_error = [](unify_error* out) { layers::by_slot<Validation>[Slot] -> last_error(out); };
}

}  // namespace

void add_validation(unify_backend& table) {
  if (layers::install(new Validation(table), table, std::make_index_sequence<layers::kSlots>{})) return;
  throw Error(ErrorKind::kUnsupported, "layers: too many backends to wrap.");
}

}  // namespace unify
