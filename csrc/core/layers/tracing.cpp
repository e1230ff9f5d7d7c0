// The layer that writes down each call, with its thread, its time, what it was given and what it answered, and when
// each operation ran on its device (timeline.h), into the file of trace_file.h.
//
// Where a backend tells no times there are calls only, and none of what a stream records into a graph runs by itself:
// the graph's launch is one span.
#include <array>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>

#include "../error.h"
#include "../host_time.h"
#include "../sizes_text.h"
#include "../trace_file.h"
#include "../trace_json.h"
#include "layer.h"
#include "timeline.h"

namespace unify {
namespace {

constexpr std::array<const char*, 10> kStatuses = {"OK",          "INVALID_ARGUMENT", "OUT_OF_MEMORY", "NOT_READY",
                                                   "UNSUPPORTED", "NOT_FOUND",        "KERNEL_FAULT",  "DEVICE_LOST",
                                                   "TIMEOUT",     "INTERNAL"};

// Members of a JSON object.
class Words {
 public:
  Words& add(const char* name, const std::string& text) { return put(name, '"' + json_escaped(text) + '"'); }
  Words& add(const char* name, uint64_t number) { return put(name, std::to_string(number)); }
  Words& add_address(const char* name, uint64_t address) {
    char text[24];
    std::snprintf(text, sizeof text, "\"0x%llx\"", static_cast<unsigned long long>(address));
    return put(name, text);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  Words& put(const char* name, const std::string& value) {
    text_ += (text_.empty() ? "\"" : ",\"") + std::string(name) + "\":" + value;
    return *this;
  }
  std::string text_;
};

class Tracing {
 public:
  Tracing(const unify_backend& table, TraceFile& file) : below_(table), file_(file), timeline_(below_, file) {}

  void begin() {}
  template <size_t Slot>
  static void install(unify_backend& table);

  layers::Timeline& timeline() { return timeline_; }

  // Every function of the table: a span of the calling thread.
  template <auto Place, typename... Arguments>
  unify_status call(const char* function, Arguments... arguments) {
    Words words;
    (describe(words, arguments), ...);
    const int64_t begin_ns = now_ns();
    const unify_status status = (below_.*Place)(arguments...);
    const int64_t end_ns = now_ns();
    if (status == UNIFY_OK) (describe_made(words, arguments), ...);
    write(function, words, begin_ns, end_ns, status);
    return status;
  }

  // ---- what the timeline has to know

  unify_status device_open(const unify_device_open_args* args, unify_device* out_device) {
    const unify_status status = call<&unify_backend::device_open>("device_open", args, out_device);
    if (status == UNIFY_OK) timeline_.device_opened(*out_device, args->index);
    return status;
  }
  void device_close(unify_device device) {
    timeline_.device_closes(device);
    const int64_t begin_ns = now_ns();
    below_.device_close(device);
    file_.add_host_span("device_close", below_.name, begin_ns, now_ns());
  }
  unify_status device_reset(unify_device device) {
    const unify_status status = call<&unify_backend::device_reset>("device_reset", device);
    if (status == UNIFY_OK) timeline_.device_was_reset(device);
    return status;
  }
  unify_status stream_create(unify_device device, unify_stream_args* args, unify_stream* out_stream) {
    const unify_status status = call<&unify_backend::stream_create>("stream_create", device, args, out_stream);
    if (status == UNIFY_OK) timeline_.stream_made(device, *out_stream, args->is_default != 0);
    return status;
  }
  unify_status stream_destroy(unify_stream stream) {
    Words words;
    describe(words, stream);
    timeline_.stream_goes(stream);  // before another stream gets its handle
    const int64_t begin_ns = now_ns();
    const unify_status status = below_.stream_destroy(stream);
    write("stream_destroy", words, begin_ns, now_ns(), status);
    return status;
  }
  unify_status stream_wait_event(unify_stream stream, unify_event event) {
    const unify_status status = call<&unify_backend::stream_wait_event>("stream_wait_event", stream, event);
    if (status == UNIFY_OK) timeline_.stream_waits(stream, event);
    return status;
  }
  unify_status event_record(unify_event event, unify_stream stream) {
    timeline_.event_recorded(event, stream);
    return call<&unify_backend::event_record>("event_record", event, stream);
  }
  unify_status event_destroy(unify_event event) {
    timeline_.event_goes(event);
    return call<&unify_backend::event_destroy>("event_destroy", event);
  }
  unify_status capture_begin(unify_stream stream) {
    const unify_status status = call<&unify_backend::capture_begin>("capture_begin", stream);
    if (status == UNIFY_OK) timeline_.capture_begins(stream);
    return status;
  }
  unify_status capture_end(unify_stream stream, unify_graph* out_graph) {
    const unify_status status = call<&unify_backend::capture_end>("capture_end", stream, out_graph);
    timeline_.capture_ended(stream);
    return status;
  }
  unify_status capture_update(unify_stream stream, unify_graph graph, unify_graph* out_graph) {
    const unify_status status = call<&unify_backend::capture_update>("capture_update", stream, graph, out_graph);
    timeline_.capture_ended(stream);
    return status;
  }
  unify_status capture_keep(unify_stream stream, unify_host_function release, void* user) {
    if (release == nullptr) return below_.capture_keep(stream, release, user);  // asked before each piece of work
    return call<&unify_backend::capture_keep>("capture_keep", stream, release, user);
  }
  unify_status function_get(unify_module module, unify_function_args* args, unify_function* out_function) {
    const unify_status status = call<&unify_backend::function_get>("function_get", module, args, out_function);
    if (status != UNIFY_OK) return status;
    const std::lock_guard<std::mutex> lock(mutex_);
    functions_[*out_function] = args->name;
    return status;
  }

  // ---- what runs on a device

  unify_status copy(unify_stream stream, const unify_copy_args* args) {
    return operation<&unify_backend::copy>("copy", "copy", args->bytes, stream, stream, args);
  }
  unify_status copy_rows(unify_stream stream, const unify_copy_rows_args* args) {
    return operation<&unify_backend::copy_rows>("copy_rows", "copy", args->bytes * args->rows, stream, stream, args);
  }
  unify_status fill(unify_stream stream, const unify_fill_args* args) {
    return operation<&unify_backend::fill>("fill", "fill", args->count * args->value_bytes, stream, stream, args);
  }
  unify_status launch(unify_stream stream, unify_function function, const unify_launch_args* args) {
    return operation<&unify_backend::launch>("launch", name_of(function), 0, stream, stream, function, args);
  }
  unify_status graph_launch(unify_graph graph, unify_stream stream) {
    return operation<&unify_backend::graph_launch>("graph_launch", "graph", 0, stream, graph, stream);
  }

 private:
  void write(const char* function, Words& words, int64_t begin_ns, int64_t end_ns, unify_status status) {
    words.add("status", static_cast<size_t>(status) < kStatuses.size() ? kStatuses[status] : std::to_string(status));
    file_.add_host_span(function, below_.name, begin_ns, end_ns, words.text());
  }

  template <auto Place, typename... Arguments>
  unify_status operation(const char* function, const std::string& name, uint64_t bytes, unify_stream stream,
                         Arguments... arguments) {
    layers::Timeline::Operation running;
    timeline_.begin(stream, running);
    if (running.begin != nullptr) {
      Words words;
      (describe_work(words, arguments), ...);
      running.name = name;
      running.args = words.text();
      running.bytes = bytes;
    }
    const unify_status status = call<Place>(function, arguments...);
    timeline_.end(stream, running, status == UNIFY_OK);
    return status;
  }

  std::string name_of(unify_function function) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = functions_.find(function);
    return found == functions_.end() ? "kernel" : found->second;
  }

  // What a call was given. What it fills in is left to describe_made().
  void describe(Words& words, unify_device device) { words.add("device", timeline_.name_of(device)); }
  void describe(Words& words, unify_stream stream) { words.add("stream", timeline_.name_of(stream)); }
  void describe(Words& words, unify_function function) { words.add("function", name_of(function)); }
  void describe(Words& words, unify_event event) { words.add_address("event", reinterpret_cast<uintptr_t>(event)); }
  void describe(Words& words, unify_module module) { words.add_address("module", reinterpret_cast<uintptr_t>(module)); }
  void describe(Words& words, unify_graph graph) { words.add_address("graph", reinterpret_cast<uintptr_t>(graph)); }
  void describe(Words& words, unify_address address) { words.add_address("address", address); }
  void describe(Words& words, const char* text) { words.add("text", text == nullptr ? "" : text); }
  void describe(Words& words, unify_memory_kind kind) { words.add("kind", static_cast<uint64_t>(kind)); }
  void describe(Words& words, uint32_t number) { words.add("number", number); }
  void describe(Words& words, const unify_device_open_args* args) { words.add("index", args->index); }
  void describe(Words& words, const unify_allocate_args* args) {
    words.add("kind", static_cast<uint64_t>(args->kind)).add("bytes", args->bytes);
  }
  void describe(Words& words, const unify_event_args* args) { words.add("flags", args->flags); }
  void describe(Words& words, const unify_module_args* args) {
    words.add("name", args->name == nullptr ? "" : args->name).add("bytes", args->bytes);
  }
  void describe(Words& words, unify_function_args* args) {
    words.add("name", args->name == nullptr ? "" : args->name).add("shared_bytes", args->shared_bytes);
  }
  void describe(Words& words, const unify_copy_args* args) {
    words.add_address("dst", args->dst).add_address("src", args->src);
    describe_work(words, args);
  }
  void describe(Words& words, const unify_copy_rows_args* args) {
    words.add_address("dst", args->dst).add_address("src", args->src);
    describe_work(words, args);
  }
  void describe(Words& words, const unify_fill_args* args) {
    words.add_address("dst", args->dst).add("value", args->value);
    describe_work(words, args);
  }
  void describe(Words& words, const unify_launch_args* args) {
    describe_work(words, args);
    words.add("shared_bytes", args->shared_bytes).add("args_bytes", args->args_bytes);
  }
  template <typename Other>
  void describe(Words&, const Other&) {}

  template <typename Handle>
  void describe_made(Words& words, Handle** out) {
    words.add_address("made", reinterpret_cast<uintptr_t>(*out));
  }
  void describe_made(Words& words, unify_address* out) { words.add_address("made", *out); }
  template <typename Other>
  void describe_made(Words&, const Other&) {}

  // Beside what ran on the device.
  void describe_work(Words& words, const unify_copy_args* args) {
    words.add("operation", args->operation);
    describe_way(words, *args);
    words.add("bytes", args->bytes);
  }
  void describe_work(Words& words, const unify_copy_rows_args* args) {
    words.add("operation", args->operation);
    describe_way(words, *args);
    words.add("bytes", args->bytes * args->rows).add("rows", args->rows);
  }
  void describe_work(Words& words, const unify_fill_args* args) {
    words.add("operation", args->operation).add("bytes", args->count * args->value_bytes);
  }
  void describe_work(Words& words, const unify_launch_args* args) {
    words.add("operation", args->operation).add("grid", sizes_text(args->grid)).add("threads", args->threads);
  }
  template <typename Other>
  void describe_work(Words&, const Other&) {}
  template <typename Arguments>
  void describe_way(Words& words, const Arguments& args) {
    words.add("from", timeline_.name_of(args.src_device)).add("to", timeline_.name_of(args.dst_device));
  }

  const unify_backend below_;
  TraceFile& file_;
  layers::Timeline timeline_;
  std::mutex mutex_;
  std::map<unify_function, std::string> functions_;
};

// As layers::Entry, for call(), which needs the function it stands for.
template <auto Place, size_t Slot>
struct Traced;
template <typename... Arguments, unify_status (*unify_backend::*Place)(Arguments...), size_t Slot>
struct Traced<Place, Slot> {
  static inline const char* name = nullptr;
  static unify_status call(Arguments... arguments) {
    return layers::by_slot<Tracing>[Slot] -> template call<Place>(name, arguments...);
  }
};

template <size_t Slot>
void Tracing::install(unify_backend& table) {
#define TRACED(function)                                           \
  if (table.function != nullptr) {                                 \
    Traced<&unify_backend::function, Slot>::name = #function;      \
    table.function = Traced<&unify_backend::function, Slot>::call; \
  }
  TRACED(device_count)
  TRACED(device_info)
  TRACED(device_synchronize)
  TRACED(device_status)
  TRACED(device_set_option)
  TRACED(memory_allocate)
  TRACED(memory_free)
  TRACED(memory_info)
  TRACED(virtual_reserve)
  TRACED(virtual_commit)
  TRACED(virtual_decommit)
  TRACED(virtual_release)
  TRACED(stream_synchronize)
  TRACED(stream_query)
  TRACED(host_call)
  TRACED(event_create)
  TRACED(event_synchronize)
  TRACED(event_query)
  TRACED(event_elapsed)
  TRACED(module_load)
  TRACED(module_unload)
  TRACED(graph_destroy)
  TRACED(peer_access)
  TRACED(ipc_export)
  TRACED(ipc_import)
  TRACED(ipc_close)
#undef TRACED
#define ENTRY(function)          \
  if (table.function != nullptr) \
  table.function = layers::Entry<&unify_backend::function, &Tracing::function, Slot>::call
  ENTRY(device_open);
  ENTRY(device_close);
  ENTRY(device_reset);
  ENTRY(copy);
  ENTRY(copy_rows);
  ENTRY(fill);
  ENTRY(launch);
  ENTRY(stream_create);
  ENTRY(stream_destroy);
  ENTRY(stream_wait_event);
  ENTRY(event_record);
  ENTRY(event_destroy);
  ENTRY(function_get);
  ENTRY(capture_begin);
  ENTRY(capture_end);
  ENTRY(capture_update);
  ENTRY(capture_keep);
  ENTRY(graph_launch);
#undef ENTRY
}

}  // namespace

void add_trace(unify_backend& table) {
  TraceFile& file = TraceFile::open();
  if (layers::install(new Tracing(table, file), table, std::make_index_sequence<layers::kSlots>{})) return;
  throw Error(ErrorKind::kUnsupported, "layers: too many backends to wrap.");
}

void name_traced_stream(unify_stream stream, const std::string& name) {
  if (TraceFile::current() == nullptr) return;
  for (Tracing* layer : layers::by_slot<Tracing>) {
    if (layer != nullptr) layer->timeline().set_name(stream, name);
  }
}

void flush_trace() {
  if (TraceFile::current() == nullptr) return;
  for (Tracing* layer : layers::by_slot<Tracing>) {
    if (layer != nullptr) layer->timeline().settle();
  }
  TraceFile::current()->flush();
}

}  // namespace unify
