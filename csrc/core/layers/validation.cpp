// The layer that refuses what the ABI forbids: arguments that cannot be read, handles that do not live, ranges beyond
// their allocation, memory freed and modules unloaded before the streams that use them have passed, two calls on one
// stream at once, sizes beyond the device's. A refused call does nothing and answers INVALID_ARGUMENT with its name and
// values; stderr says so too, since the core does not look at the answer of everything that it takes back.
//
// Not seen: what a kernel's pointers touch, and memory of other libraries, which is as good as the host's own where the
// host can see the device's.
#include "validation.h"

#include "sizes.h"

namespace unify {
namespace layers {

// ---- devices

unify_status Validation::device_count(uint32_t* out_count) {
  if (!is_there("device_count", "out_count", out_count)) return UNIFY_INVALID_ARGUMENT;
  return below_.device_count(out_count);
}

unify_status Validation::device_open(const unify_device_open_args* args, unify_device* out_device) {
  if (!is_whole("device_open", args) || !is_there("device_open", "out_device", out_device)) {
    return UNIFY_INVALID_ARGUMENT;
  }
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

void Validation::device_close(unify_device device) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!is_live("device_close", device)) return;
    const std::string remains = remains_of(device);
    if (!remains.empty()) report("device_close: not destroyed before: " + remains);
    forget(device);
    live_.erase(device);
    gone_[device] = "device_close";
  }
  below_.device_close(device);
}

unify_status Validation::device_info(unify_device device, unify_device_info* out_info) {
  if (!check("device_info", device) || !is_whole("device_info", out_info)) return UNIFY_INVALID_ARGUMENT;
  return below_.device_info(device, out_info);
}

unify_status Validation::device_status(unify_device device, unify_device_state* out_state) {
  if (!check("device_status", device) || !is_there("device_status", "out_state", out_state)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  return below_.device_status(device, out_state);
}

unify_status Validation::device_set_option(unify_device device, const char* key, const char* value) {
  if (!check("device_set_option", device) || !is_there("device_set_option", "key", key) ||
      !is_there("device_set_option", "value", value)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  return below_.device_set_option(device, key, value);
}

unify_status Validation::device_reset(unify_device device) {
  if (!check("device_reset", device)) return UNIFY_INVALID_ARGUMENT;
  const unify_status status = below_.device_reset(device);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (status == UNIFY_OK) forget(device);
  return status;
}

unify_status Validation::device_synchronize(unify_device device) {
  std::map<unify_stream, uint64_t> reached;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!is_live("device_synchronize", device)) return UNIFY_INVALID_ARGUMENT;
    for (const auto& [thing, live] : live_) {
      if (thing.kind == Kind::kStream && live.device == device) {
        reached[reinterpret_cast<unify_stream>(static_cast<uintptr_t>(thing.value))] = live.enqueued;
      }
    }
  }
  const unify_status status = below_.device_synchronize(device);
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [stream, count] : reached) pass(stream, count);
  return status;
}

// ---- work on streams

unify_status Validation::launch(unify_stream stream, unify_function function, const unify_launch_args* args) {
  const Turn turn(*this, "launch", stream);
  if (!turn || !is_whole("launch", args)) return UNIFY_INVALID_ARGUMENT;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!is_live("launch", function)) return UNIFY_INVALID_ARGUMENT;
    const Live& launched = live_.at(function);
    if (launched.device != turn.device()) return refuse("launch: function and stream are of two devices");
    std::string why = why_wrong_sizes(*args, live_.at(turn.device()).info);
    if (why.empty() && args->struct_size >= sizeof *args) why = why_wrong_shape(*args, below_.abi_minor);
    if (!why.empty()) return refuse("launch: " + why);
    const auto module = live_.find(launched.module);
    const Live& user = live_.at(stream);
    if (module != live_.end() && user.recording == 0) module->second.used[stream] = user.enqueued;
  }
  if (args->args == nullptr && args->args_bytes > 0) return refuse("launch: arguments are null");
  return below_.launch(stream, function, args);
}

unify_status Validation::host_call(unify_stream stream, unify_host_function function, void* user) {
  const Turn turn(*this, "host_call", stream);
  if (!turn) return UNIFY_INVALID_ARGUMENT;
  if (function == nullptr) return refuse("host_call: no function");
  return below_.host_call(stream, function, user);
}

unify_status Validation::stream_wait_event(unify_stream stream, unify_event event) {
  const Turn turn(*this, "stream_wait_event", stream);
  if (!turn || !check("stream_wait_event", event)) return UNIFY_INVALID_ARGUMENT;
  uint64_t recording = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    recording = live_.at(event).recording;
    const uint64_t own = live_.at(stream).recording;
    if (recording != 0 && !is_open(recording)) {
      return refuse("stream_wait_event: the event is part of a graph whose recording has ended");
    }
    if (recording != 0 && own != 0 && own != recording) {
      return refuse("stream_wait_event: the event is part of another recording than the stream");
    }
  }
  const unify_status status = below_.stream_wait_event(stream, event);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (status == UNIFY_OK && recording != 0) live_[stream].recording = recording;  // drawn in
  return status;
}

unify_status Validation::event_record(unify_event event, unify_stream stream) {
  const Turn turn(*this, "event_record", stream);
  if (!turn || !check("event_record", event)) return UNIFY_INVALID_ARGUMENT;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    Live& live = live_.at(event);
    if (live.device != turn.device()) return refuse("event_record: event and stream are of two devices");
    live.stream = stream;
    live.mark = live_.at(stream).enqueued;
    live.recording = live_.at(stream).recording;
  }
  return below_.event_record(event, stream);
}

// ---- streams and events

unify_status Validation::stream_create(unify_device device, unify_stream_args* args, unify_stream* out_stream) {
  if (!check("stream_create", device) || !is_whole("stream_create", args) ||
      !is_there("stream_create", "out_stream", out_stream)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  const unify_status status = below_.stream_create(device, args, out_stream);
  return made(device, *out_stream, status);
}

unify_status Validation::stream_destroy(unify_stream stream) {
  return destroyed("stream_destroy", stream) ? below_.stream_destroy(stream) : UNIFY_INVALID_ARGUMENT;
}

unify_status Validation::stream_synchronize(unify_stream stream) {
  return passing("stream_synchronize", stream, below_.stream_synchronize);
}

unify_status Validation::stream_query(unify_stream stream) {
  return passing("stream_query", stream, below_.stream_query);
}

unify_status Validation::event_create(unify_device device, const unify_event_args* args, unify_event* out_event) {
  if (!check("event_create", device) || !is_whole("event_create", args) ||
      !is_there("event_create", "out_event", out_event)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  constexpr uint32_t kKnown = UNIFY_EVENT_TIMING | UNIFY_EVENT_IPC;
  if ((args->flags & ~kKnown) != 0) {
    return refuse("event_create: flags " + std::to_string(args->flags) + "; known are the bits of " +
                  std::to_string(kKnown));
  }
  if ((args->flags & UNIFY_EVENT_TIMING) != 0 && below_.event_elapsed == nullptr) {
    return refuse("event_create: timing is asked for, and the backend has no event_elapsed");
  }
  const unify_status status = below_.event_create(device, args, out_event);
  return made(device, *out_event, status, args->flags);
}

unify_status Validation::event_destroy(unify_event event) {
  return destroyed("event_destroy", event) ? below_.event_destroy(event) : UNIFY_INVALID_ARGUMENT;
}

unify_status Validation::event_synchronize(unify_event event) {
  return passing("event_synchronize", event, below_.event_synchronize);
}

unify_status Validation::event_query(unify_event event) { return passing("event_query", event, below_.event_query); }

unify_status Validation::event_elapsed(unify_event start, unify_event stop, int64_t* out_nanoseconds) {
  if (!is_there("event_elapsed", "out_nanoseconds", out_nanoseconds)) return UNIFY_INVALID_ARGUMENT;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!is_live("event_elapsed", start) || !is_live("event_elapsed", stop)) return UNIFY_INVALID_ARGUMENT;
    for (const unify_event event : {start, stop}) {
      if ((live_.at(event).flags & UNIFY_EVENT_TIMING) == 0) {
        return refuse("event_elapsed: an event was made without UNIFY_EVENT_TIMING");
      }
      if (live_.at(event).recording != 0) return refuse("event_elapsed: an event is part of a graph");
    }
    if (live_.at(start).device != live_.at(stop).device) return refuse("event_elapsed: events of two devices");
  }
  return below_.event_elapsed(start, stop, out_nanoseconds);
}

// ---- modules and graphs

unify_status Validation::module_load(unify_device device, const unify_module_args* args, unify_module* out_module) {
  if (!check("module_load", device) || !is_whole("module_load", args) ||
      !is_there("module_load", "out_module", out_module)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  if (args->image == nullptr || args->bytes == 0) return refuse("module_load: there is no image");
  const unify_status status = below_.module_load(device, args, out_module);
  return made(device, *out_module, status);
}

unify_status Validation::module_unload(unify_module module) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = live_.find(module);
    if (found != live_.end() && is_in_use(found->second.used)) {
      return refuse("module_unload: a function of it is still running: nobody waited for its launch");
    }
  }
  if (!destroyed("module_unload", module)) return UNIFY_INVALID_ARGUMENT;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = live_.begin(); it != live_.end();) {
      const bool goes = it->first.kind == Kind::kFunction && it->second.module == module;
      if (goes) gone_[it->first] = "module_unload";
      it = goes ? live_.erase(it) : std::next(it);
    }
  }
  return below_.module_unload(module);
}

unify_status Validation::function_get(unify_module module, unify_function_args* args, unify_function* out_function) {
  if (!check("function_get", module) || !is_whole("function_get", args) ||
      !is_there("function_get", "out_function", out_function) || !is_there("function_get", "name", args->name)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  const unify_status status = below_.function_get(module, args, out_function);
  if (status != UNIFY_OK) return status;
  const std::lock_guard<std::mutex> lock(mutex_);
  gone_.erase(*out_function);
  Live& live = live_[*out_function];
  live.device = live_.at(module).device;
  live.module = module;
  return status;
}

unify_status Validation::capture_begin(unify_stream stream) {
  const Turn turn(*this, "capture_begin", stream);
  if (!turn) return UNIFY_INVALID_ARGUMENT;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (live_.at(stream).recording != 0) return refuse("capture_begin: the stream records a graph already");
  }
  const unify_status status = below_.capture_begin(stream);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (status == UNIFY_OK) live_[stream].recording = next_recording_++;
  return status;
}

template <typename End>
unify_status Validation::end_capture(const char* call, unify_stream stream, unify_graph* out_graph, End end) {
  const Turn turn(*this, call, stream);
  if (!turn || !is_there(call, "out_graph", out_graph)) return UNIFY_INVALID_ARGUMENT;
  uint64_t recording = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    recording = live_.at(stream).recording;
    if (recording == 0) return refuse(std::string(call) + ": the stream records nothing");
  }
  const unify_status status = end(turn.device());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [thing, live] : live_) {  // those that were drawn in too
      if (thing.kind == Kind::kStream && live.recording == recording) live.recording = 0;
    }
  }
  return status == UNIFY_OK && *out_graph == nullptr ? status : made(turn.device(), *out_graph, status);
}

unify_status Validation::capture_end(unify_stream stream, unify_graph* out_graph) {
  return end_capture("capture_end", stream, out_graph,
                     [&](unify_device) { return below_.capture_end(stream, out_graph); });
}

unify_status Validation::capture_update(unify_stream stream, unify_graph graph, unify_graph* out_graph) {
  const Turn changing(*this, "capture_update", graph);
  if (!changing) return UNIFY_INVALID_ARGUMENT;
  return end_capture("capture_update", stream, out_graph, [&](unify_device device) {
    if (changing.device() != device) return refuse("capture_update: graph and stream are of two devices");
    return below_.capture_update(stream, graph, out_graph);
  });
}

unify_status Validation::capture_keep(unify_stream stream, unify_host_function release, void* user) {
  if (!check("capture_keep", stream)) return UNIFY_INVALID_ARGUMENT;
  if (release != nullptr && user == nullptr) return refuse("capture_keep: user is null: there is nothing to keep");
  return below_.capture_keep(stream, release, user);
}

unify_status Validation::graph_launch(unify_graph graph, unify_stream stream) {
  const Turn turn(*this, "graph_launch", stream);
  if (!turn) return UNIFY_INVALID_ARGUMENT;
  const Turn launching(*this, "graph_launch", graph);
  if (!launching) return UNIFY_INVALID_ARGUMENT;
  if (launching.device() != turn.device()) return refuse("graph_launch: graph and stream are of two devices");
  return below_.graph_launch(graph, stream);
}

unify_status Validation::graph_destroy(unify_graph graph) {
  return destroyed("graph_destroy", graph) ? below_.graph_destroy(graph) : UNIFY_INVALID_ARGUMENT;
}

template <size_t Slot>
void Validation::install(unify_backend& table) {
#define ENTRY(function) \
  if (table.function != nullptr) table.function = Entry<&unify_backend::function, &Validation::function, Slot>::call
  ENTRY(device_count);
  ENTRY(device_open);
  ENTRY(device_close);
  ENTRY(device_info);
  ENTRY(device_synchronize);
  ENTRY(device_status);
  ENTRY(device_reset);
  ENTRY(device_set_option);
  ENTRY(memory_allocate);
  ENTRY(memory_free);
  ENTRY(memory_info);
  ENTRY(virtual_reserve);
  ENTRY(virtual_commit);
  ENTRY(virtual_decommit);
  ENTRY(virtual_release);
  ENTRY(copy);
  ENTRY(copy_rows);
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
  ENTRY(capture_update);
  ENTRY(capture_keep);
  ENTRY(peer_access);
  ENTRY(ipc_export);
  ENTRY(ipc_import);
  ENTRY(ipc_close);
#undef ENTRY
  // Without begin(), which would forget what it is asked for.
  table.last_error = [](unify_error* out) {
    if (out != nullptr) by_slot<Validation>[Slot] -> last_error(out);
  };
}

}  // namespace layers

void add_validation(unify_backend& table) {
  using Layer = layers::Validation;
  if (layers::install(new Layer(table), table, std::make_index_sequence<layers::kSlots>{})) return;
  throw Error(ErrorKind::kUnsupported, "layers: too many backends to wrap.");
}

}  // namespace unify
