#include "graph.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <variant>
#include <vector>

#include "allocator.h"
#include "device.h"
#include "error.h"
#include "event.h"
#include "module.h"
#include "stream.h"
#include "trace.h"

namespace unify {

// What was enqueued while recording, in that order: one valid order of the whole graph, since what another stream
// did before an event was enqueued before it. So the emulated replay needs one stream and no events.
class Recording : public std::enable_shared_from_this<Recording> {
 public:
  struct Launch {
    std::shared_ptr<Function> function;
    unify_launch_args args;
    size_t offset;  // of its arguments in `packed`
  };
  using Node = std::variant<Launch, unify_copy_args, unify_fill_args, std::function<void()>>;

  explicit Recording(bool is_native) : is_native(is_native) {}

  const bool is_native;
  std::mutex mutex;  // of what follows: several streams record at once. Taken after a stream's and an event's
  bool is_open = true;
  std::vector<Node> nodes;
  std::vector<char> packed;
  std::vector<std::shared_ptr<void>> owners;
  std::vector<std::shared_ptr<Stream>> streams;  // all that record, the first one first
  std::vector<std::pair<std::shared_ptr<Stream>, std::shared_ptr<Event>>> outside_waits;  // made up for at the end
};

namespace {

[[noreturn]] void throw_graph(const Stream& stream, const std::string& what) {
  throw Error(ErrorKind::kGraph, stream.device().name() + ", " + stream.name() + ": " + what);
}

}  // namespace

void record_launch(Recording& recording, Stream& stream, const std::shared_ptr<Function>& function,
                   const unify_launch_args& args, std::shared_ptr<void>* foreign, size_t foreign_count) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (recording.is_native) {
    check(stream.device(), &stream, stream.device().table().launch(stream.handle(), function->handle, &args),
          "recording a launch");
  }
  constexpr size_t kAlignment = 16;
  const size_t offset = (recording.packed.size() + kAlignment - 1) / kAlignment * kAlignment;
  recording.packed.resize(offset + args.args_bytes);
  if (args.args_bytes > 0) std::memcpy(recording.packed.data() + offset, args.args, args.args_bytes);
  recording.nodes.emplace_back(Recording::Launch{function, args, offset});
  for (size_t i = 0; i < foreign_count; ++i) recording.owners.push_back(foreign[i]);
}

void record_copy(Recording& recording, Stream& stream, const unify_copy_args& args) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (recording.is_native) {
    check(stream.device(), &stream, stream.device().table().copy(stream.handle(), &args), "recording a copy");
  }
  recording.nodes.emplace_back(args);
}

bool record_fill(Recording& recording, Stream& stream, const unify_fill_args& args) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (recording.is_native) {
    const unify_status status = stream.device().table().fill(stream.handle(), &args);
    if (status == UNIFY_UNSUPPORTED) return false;
    check(stream.device(), &stream, status, "recording a fill");
  }
  recording.nodes.emplace_back(args);
  return true;
}

void record_host_call(Recording& recording, Stream& stream, std::function<void()> function) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  recording.nodes.emplace_back(std::move(function));
  if (!recording.is_native) return;
  const unify_backend& table = stream.device().table();
  if (table.host_call == nullptr) throw_graph(stream, "this backend records no host calls.");
  // The graph owns the function and may run it often.
  auto owned = std::make_shared<std::function<void()>>(std::get<std::function<void()>>(recording.nodes.back()));
  recording.owners.push_back(owned);
  const auto run = [](void* user) { (*static_cast<std::function<void()>*>(user))(); };
  check(stream.device(), &stream, table.host_call(stream.handle(), run, owned.get()), "recording a host call");
}

std::weak_ptr<Recording> record_event(Recording& recording, Stream& stream, const std::shared_ptr<Event>& event) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (recording.is_native) {
    check(stream.device(), &stream, stream.device().table().event_record(event->handle(), stream.handle()),
          "recording an event");
  }
  recording.owners.push_back(event);
  return recording.weak_from_this();
}

std::unique_lock<std::mutex> lock_to_record(Stream& stream) {
  const unify_backend& table = stream.device().table();
  for (;;) {
    std::unique_lock<std::mutex> lock(stream.mutex());
    const bool is_ready = table.capture_begin == nullptr || stream.recording() != nullptr ||
                          table.stream_query(stream.handle()) != UNIFY_NOT_READY;
    if (is_ready) return lock;
    lock.unlock();  // a host call on the stream may let go of memory, which takes streams' locks
    check(stream.device(), &stream, table.stream_synchronize(stream.handle()), "waiting for work before a recording");
  }
}

void join_recording(const std::shared_ptr<Recording>& recording, Stream& stream, unify_event event) {
  if (recording == nullptr) throw_graph(stream, "it cannot wait for an event of a graph that is gone.");
  const std::lock_guard<std::mutex> lock(recording->mutex);
  if (!recording->is_open) throw_graph(stream, "it cannot wait for an event of a graph that was recorded already.");
  const bool is_new = stream.recording() != recording.get();
  if (is_new && stream.recording() != nullptr) throw_graph(stream, "it records another graph already.");
  const unify_backend& table = stream.device().table();
  if (recording->is_native) {
    check(stream.device(), &stream, table.stream_wait_event(stream.handle(), event), "recording a wait");
  }
  if (!is_new) return;
  stream.set_recording(recording.get());
  recording->streams.push_back(stream.shared_from_this());
}

void record_outside_wait(Recording& recording, Stream& stream, std::shared_ptr<Event> event) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  recording.outside_waits.emplace_back(stream.shared_from_this(), std::move(event));
}

void record_keep(Recording& recording, std::shared_ptr<void> owner) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  recording.owners.push_back(std::move(owner));
}

bool records_natively(const Stream& stream) noexcept {
  const Recording* recording = stream.recording();
  return recording != nullptr && recording->is_native;
}

struct Graph::Private {
  std::shared_ptr<Device> device;
  std::shared_ptr<Stream> origin;
  std::shared_ptr<void> pool;
  std::shared_ptr<Recording> recording;
  unify_graph native = nullptr;
  bool is_recording = false;
  bool is_whole = false;  // the recording ended well
  uint32_t generation = 0;
  std::vector<std::shared_ptr<Stream>> launched_on;  // what the graph uses is let go after their work

  void stop_recording() noexcept;
};

void Graph::Private::stop_recording() noexcept {
  is_recording = false;
  std::vector<std::shared_ptr<Stream>> streams;
  decltype(recording->outside_waits) waits;
  {
    const std::lock_guard<std::mutex> lock(recording->mutex);
    recording->is_open = false;
    streams.swap(recording->streams);
    waits.swap(recording->outside_waits);
  }
  for (const std::shared_ptr<Stream>& stream : streams) {
    const std::lock_guard<std::mutex> lock(stream->mutex());
    stream->set_recording(nullptr);
  }
  for (const auto& [stream, event] : waits) device->table().stream_wait_event(stream->handle(), event->handle());
  device->allocator().end_private_pool(*origin);
}

Graph::Graph() : private_(std::make_unique<Private>()) {}

std::shared_ptr<Graph> Graph::begin(const std::shared_ptr<Stream>& stream) {
  Device& device = stream->device();
  device.require_usable();
  std::shared_ptr<Graph> graph(new Graph);
  Private& p = *graph->private_;
  p.device = stream->device_ptr();
  p.origin = stream;
  p.generation = device.generation();
  std::unique_lock<std::mutex> lock = lock_to_record(*stream);
  if (stream->recording() != nullptr) throw_graph(*stream, "it records a graph already.");
  const bool is_native = device.table().capture_begin != nullptr;
  if (is_native) {
    check(device, stream.get(), device.table().capture_begin(stream->handle()), "beginning a recording");
  }
  p.recording = std::make_shared<Recording>(is_native);
  p.recording->streams.push_back(stream);
  p.is_recording = true;
  stream->set_recording(p.recording.get());
  lock.unlock();  // the allocator's comes before a stream's
  p.pool = device.allocator().begin_private_pool(*stream);
  return graph;
}

void Graph::end() {
  Private& p = *private_;
  if (!p.is_recording) throw_graph(*p.origin, "nothing is being recorded.");
  unify_status status = UNIFY_OK;
  if (p.recording->is_native) status = p.device->table().capture_end(p.origin->handle(), &p.native);
  p.stop_recording();
  check(*p.device, p.origin.get(), status, "ending a recording");
  for (Recording::Node& node : p.recording->nodes) {
    if (auto* launch = std::get_if<Recording::Launch>(&node)) {
      launch->args.args = p.recording->packed.data() + launch->offset;
    }
  }
  p.is_whole = true;
}

void Graph::abandon() noexcept {
  Private& p = *private_;
  if (!p.is_recording) return;
  if (p.recording->is_native) {
    unify_graph unwanted = nullptr;
    p.device->table().capture_end(p.origin->handle(), &unwanted);
    if (unwanted != nullptr) p.device->table().graph_destroy(unwanted);
  }
  p.stop_recording();
}

namespace {

// Without the lock, as above; an event is asked, since the stream may begin to record.
void wait_for_launches(Stream& stream) noexcept {
  Device& device = stream.device();
  unify_event event = nullptr;
  {
    const std::lock_guard<std::mutex> lock(stream.mutex());
    if (records_natively(stream)) return;                          // dry since it began
    if (device.events().mark(stream, &event) != UNIFY_OK) return;  // lost: nothing runs
  }
  (void)device.table().event_synchronize(event);
  device.events().give_back(event);
}

}  // namespace

Graph::~Graph() {
  abandon();
  Private& p = *private_;
  if (p.generation != p.device->generation()) return;
  for (const auto& stream : p.launched_on) wait_for_launches(*stream);
  if (p.native != nullptr) p.device->table().graph_destroy(p.native);
}

void Graph::launch(Stream& stream) {
  Private& p = *private_;
  if (p.is_recording) throw_graph(*p.origin, "the graph is still being recorded.");
  if (!p.is_whole) throw_graph(*p.origin, "the recording failed; record the graph again.");
  if (&stream.device() != p.device.get()) {
    throw Error(ErrorKind::kDeviceMismatch,
                "a graph of " + p.device->name() + " cannot run on " + stream.device().name() + ".");
  }
  p.device->require_usable();
  if (p.generation != p.device->generation()) throw_graph(stream, "the graph went with a reset. Record it again.");
  OperationRing& operations = p.device->operations();
  const std::lock_guard<std::mutex> lock(stream.mutex());
  if (stream.recording() != nullptr) throw_graph(stream, "a graph cannot be recorded into another one.");
  const auto is_stream = [&](const std::shared_ptr<Stream>& other) { return other.get() == &stream; };
  if (std::none_of(p.launched_on.begin(), p.launched_on.end(), is_stream)) {
    p.launched_on.push_back(stream.shared_from_this());
  }
  const TraceScope span(stream, "graph");
  const unify_backend& table = p.device->table();
  if (p.native != nullptr) {
    operations.push({operations.next_number(), Operation::Kind::kGraph, stream.id(), nullptr, {}, 0});
    check(*p.device, &stream, table.graph_launch(p.native, stream.handle()), "launching a graph");
    return;
  }
  for (Recording::Node& node : p.recording->nodes) {
    unify_status status = UNIFY_OK;
    const char* what = "replaying a graph";
    if (auto* launch = std::get_if<Recording::Launch>(&node)) {
      unify_launch_args& args = launch->args;
      const Grid grid = {args.grid[0], args.grid[1], args.grid[2]};
      args.operation = operations.next_number();
      operations.push({args.operation, Operation::Kind::kLaunch, stream.id(), launch->function->label, grid, 0});
      const TraceScope kernel(stream, launch->function->label);
      status = table.launch(stream.handle(), launch->function->handle, &args);
    } else if (auto* copy = std::get_if<unify_copy_args>(&node)) {
      copy->operation = operations.next_number();
      operations.push({copy->operation, Operation::Kind::kCopy, stream.id(), nullptr, {}, copy->bytes});
      status = table.copy(stream.handle(), copy);
    } else if (auto* fill = std::get_if<unify_fill_args>(&node)) {
      fill->operation = operations.next_number();
      operations.push(
          {fill->operation, Operation::Kind::kFill, stream.id(), nullptr, {}, fill->count * fill->value_bytes});
      status = table.fill(stream.handle(), fill);
    } else if (table.host_call != nullptr) {
      const auto run = [](void* user) { (*static_cast<std::function<void()>*>(user))(); };
      status = table.host_call(stream.handle(), run, &std::get<std::function<void()>>(node));
    } else {
      status = table.stream_synchronize(stream.handle());
      if (status == UNIFY_OK) std::get<std::function<void()>>(node)();
    }
    check(*p.device, &stream, status, what);
  }
}

Device& Graph::device() const noexcept { return *private_->device; }
size_t Graph::size() const noexcept { return private_->recording->nodes.size(); }
bool Graph::is_native() const noexcept { return private_->recording->is_native; }

std::string Graph::describe() const {
  std::string text;
  for (const Recording::Node& node : private_->recording->nodes) {
    if (const auto* launch = std::get_if<Recording::Launch>(&node)) {
      text += std::string("kernel ") + launch->function->label + ", grid " + std::to_string(launch->args.grid[0]) +
              "×" + std::to_string(launch->args.grid[1]) + "×" + std::to_string(launch->args.grid[2]) + "\n";
    } else if (const auto* copy = std::get_if<unify_copy_args>(&node)) {
      text += "copy of " + format_bytes(copy->bytes) + "\n";
    } else if (const auto* fill = std::get_if<unify_fill_args>(&node)) {
      text += "fill of " + format_bytes(fill->count * fill->value_bytes) + "\n";
    } else {
      text += "host call\n";
    }
  }
  return text;
}

}  // namespace unify
