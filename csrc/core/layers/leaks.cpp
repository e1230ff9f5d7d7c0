// The layer that says what a device still had when it was closed. What a program holds is seen further up, where blocks
// of memory and their users are known (../leaks.h); adding the layer switches that on.
#include "../leaks.h"

#include <array>
#include <cstdio>
#include <mutex>
#include <string>

#include "../error.h"
#include "layer.h"

namespace unify {
namespace {

using layers::Kind;
using layers::Thing;

class Leaks {
 public:
  explicit Leaks(const unify_backend& table) : below_(table) {}

  void begin() {}
  template <size_t Slot>
  static void install(unify_backend& table);

  void device_close(unify_device device) {
    const std::string left = take(device);
    below_.device_close(device);
    if (!left.empty())
      std::fprintf(stderr, "unify leaks: %s: not destroyed at its close: %s\n", below_.name, left.c_str());
  }
  unify_status device_reset(unify_device device) {
    const unify_status status = below_.device_reset(device);
    if (status == UNIFY_OK) (void)take(device);
    return status;
  }
  unify_status memory_allocate(unify_device device, const unify_allocate_args* args, unify_address* out_address) {
    const unify_status status = below_.memory_allocate(device, args, out_address);
    if (status == UNIFY_OK) note(device, *out_address, args->bytes);
    return status;
  }
  unify_status memory_free(unify_device device, unify_memory_kind kind, unify_address address) {
    forget(address);
    return below_.memory_free(device, kind, address);
  }
  unify_status stream_create(unify_device device, unify_stream_args* args, unify_stream* out_stream) {
    return made(device, out_stream, below_.stream_create(device, args, out_stream));
  }
  unify_status stream_destroy(unify_stream stream) {
    forget(stream);
    return below_.stream_destroy(stream);
  }
  unify_status event_create(unify_device device, const unify_event_args* args, unify_event* out_event) {
    return made(device, out_event, below_.event_create(device, args, out_event));
  }
  unify_status event_destroy(unify_event event) {
    forget(event);
    return below_.event_destroy(event);
  }
  unify_status module_load(unify_device device, const unify_module_args* args, unify_module* out_module) {
    const unify_status status = below_.module_load(device, args, out_module);
    if (status == UNIFY_OK) note(device, *out_module, args->bytes);
    return status;
  }
  unify_status module_unload(unify_module module) {
    forget(module);
    return below_.module_unload(module);
  }
  unify_status capture_end(unify_stream stream, unify_graph* out_graph) {
    const unify_status status = below_.capture_end(stream, out_graph);
    if (status == UNIFY_OK && *out_graph != nullptr) note(device_of(stream), *out_graph, 0);
    return status;
  }
  unify_status capture_update(unify_stream stream, unify_graph graph, unify_graph* out_graph) {
    const unify_status status = below_.capture_update(stream, graph, out_graph);
    if (status == UNIFY_OK && *out_graph != nullptr) note(device_of(stream), *out_graph, 0);  // null: `graph` changed
    return status;
  }
  unify_status graph_destroy(unify_graph graph) {
    forget(graph);
    return below_.graph_destroy(graph);
  }
  unify_status ipc_import(unify_device device, unify_ipc_args* args) {
    const unify_status status = below_.ipc_import(device, args);
    if (status == UNIFY_OK) note(device, imported(*args), 0);
    return status;
  }
  unify_status ipc_close(unify_device device, const unify_ipc_args* args) {
    forget(imported(*args));
    return below_.ipc_close(device, args);
  }

 private:
  static Thing imported(const unify_ipc_args& args) {
    return args.kind == UNIFY_IPC_EVENT ? Thing(args.event) : Thing(args.address);
  }

  struct Entry {
    unify_device device;
    uint64_t bytes;
  };

  void note(unify_device device, Thing thing, uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    things_[thing] = {device, bytes};
  }
  void forget(Thing thing) {
    const std::lock_guard<std::mutex> lock(mutex_);
    things_.erase(thing);
  }
  template <typename Handle>
  unify_status made(unify_device device, Handle* handle, unify_status status) {
    if (status == UNIFY_OK) note(device, *handle, 0);
    return status;
  }
  unify_device device_of(Thing thing) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = things_.find(thing);
    return found == things_.end() ? nullptr : found->second.device;
  }
  // Forgets what the device has, and returns it in words: "2 streams, 1 allocation (4.0 KiB)".
  std::string take(unify_device device) {
    constexpr std::array<const char*, 7> kWords = {"device",   "stream", "event",     "module",
                                                   "function", "graph",  "allocation"};
    std::array<size_t, kWords.size()> counts{};
    uint64_t bytes = 0;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = things_.begin(); it != things_.end();) {
      if (it->second.device != device) {
        ++it;
        continue;
      }
      ++counts.at(static_cast<size_t>(it->first.kind));
      bytes += it->second.bytes;
      it = things_.erase(it);
    }
    std::string text;
    for (size_t kind = 0; kind < kWords.size(); ++kind) {
      const size_t count = counts.at(kind);
      if (count == 0) continue;
      text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + kWords.at(kind) + (count == 1 ? "" : "s");
    }
    return bytes == 0 ? text : text + " (" + format_bytes(bytes) + ")";
  }

  const unify_backend below_;
  std::mutex mutex_;
  std::map<Thing, Entry> things_;
};

template <size_t Slot>
void Leaks::install(unify_backend& table) {
#define ENTRY(function) \
  if (table.function != nullptr) table.function = layers::Entry<&unify_backend::function, &Leaks::function, Slot>::call
  ENTRY(device_close);
  ENTRY(device_reset);
  ENTRY(memory_allocate);
  ENTRY(memory_free);
  ENTRY(stream_create);
  ENTRY(stream_destroy);
  ENTRY(event_create);
  ENTRY(event_destroy);
  ENTRY(ipc_import);
  ENTRY(ipc_close);
  ENTRY(module_load);
  ENTRY(module_unload);
  ENTRY(capture_end);
  ENTRY(capture_update);
  ENTRY(graph_destroy);
#undef ENTRY
}

}  // namespace

void add_leaks(unify_backend& table) {
  if (!layers::install(new Leaks(table), table, std::make_index_sequence<layers::kSlots>{})) {
    throw Error(ErrorKind::kUnsupported, "layers: too many backends to wrap.");
  }
  leaks::start();
}

}  // namespace unify
