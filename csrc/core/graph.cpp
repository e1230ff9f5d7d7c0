#include "graph.h"

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <variant>
#include <vector>

#include "allocator.h"
#include "device.h"
#include "error.h"
#include "event.h"
#include "failures.h"
#include "launch.h"
#include "leaks.h"
#include "memory.h"
#include "module.h"
#include "reclaim.h"
#include "recording.h"
#include "sizes_text.h"
#include "stream.h"
#include "trace.h"

namespace unify {

struct Graph::Private : Reclaimable {
  std::shared_ptr<Device> device;
  std::shared_ptr<Stream> origin;
  std::shared_ptr<void> pool;
  std::shared_ptr<Recording> recording;
  unify_graph native = nullptr;
  bool is_recording = false;
  bool is_whole = false;  // the recording ended well
  const char* label = nullptr;
  uint32_t generation = 0;
  std::shared_ptr<Private> before;    // what the graph did before it was recorded again, until the first launch
  bool is_superseded = false;         // the graph was recorded again. Both under `launching`
  std::mutex launching;               // the backend takes one launch of a graph at a time. Before a stream's
  std::mutex mutex;                   // of `launches`. After a stream's
  std::map<uint32_t, Mark> launches;  // by stream: behind the last one

  bool end() noexcept override;
  void finish(Private* older);
  void abandon() noexcept;
  void stop_recording() noexcept;
  void require_launchable(const Stream& stream) const;
  void note_launch(Stream& stream);
  bool launch(Stream& stream, const std::shared_ptr<Private>& self);  // false: it was recorded again
  void launch_natively(Stream& stream, std::shared_ptr<Private>& out_earlier);
  void replay(Stream& stream, std::unique_lock<std::mutex>& turn, std::shared_ptr<Private>& out_earlier);
  unify_status replay_nodes(Stream& stream, std::unique_lock<std::mutex>& turn, std::unique_lock<std::mutex>& lock);
  unify_status wait_for_launches(Stream& stream);
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
    recording->used_by_branches.clear();
  }
  for (const std::shared_ptr<Stream>& stream : streams) {
    const std::lock_guard<std::mutex> lock(stream->mutex());
    stream->set_recording(nullptr);
  }
  for (const auto& [stream, event] : waits) {
    const std::lock_guard<std::mutex> lock(stream->mutex());
    if (stream->generation() != device->generation()) continue;
    const unify_status status = device->table().stream_wait_event(stream->handle(), event->handle());
    if (status != UNIFY_OK) device->failures().note(stream->id(), status, "a wait that followed a recording");
  }
  device->allocator().end_private_pool(*origin);
}

void Graph::Private::abandon() noexcept {
  if (!is_recording) return;
  if (recording->is_native && generation == device->generation()) {
    const std::unique_lock<std::mutex> lock(origin->mutex());
    unify_graph unwanted = nullptr;
    (void)device->table().capture_end(origin->handle(),
                                      &unwanted);  // a failure is of the recording, which nobody wants
    if (unwanted != nullptr) (void)device->table().graph_destroy(unwanted);
  }
  stop_recording();
}

bool Graph::Private::end() noexcept {
  if (device == nullptr) return true;
  abandon();
  const auto call = device->call();
  if (generation != device->generation()) return true;
  for (auto& [stream, mark] : launches) {
    if (!mark.has_passed()) return false;
  }
  if (native != nullptr) (void)device->table().graph_destroy(native);
  return true;
}

namespace {

// Where work is about to be enqueued, under the stream's mutex.
void require_free(const Stream& stream, uint32_t generation) {
  stream.require_current();
  stream.device().require_generation(generation, "this graph");
  if (stream.recording() != nullptr) throw_graph(stream, "a graph cannot be recorded into another one.");
}

}  // namespace

Graph::Graph() = default;
Graph::~Graph() = default;

std::shared_ptr<Graph> Graph::begin(const std::shared_ptr<Stream>& stream) {
  std::shared_ptr<Graph> graph(new Graph);
  graph->private_ = record(stream);
  return graph;
}

std::shared_ptr<Graph::Private> Graph::current() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return private_;
}

void Graph::begin_update(const std::shared_ptr<Stream>& stream) {
  current()->require_launchable(*stream);
  const std::shared_ptr<Private> newer = record(stream);
  std::unique_lock<std::mutex> lock(mutex_);
  if (newer_ == nullptr) {
    newer_ = newer;
    return;
  }
  lock.unlock();
  newer->abandon();
  throw_graph(*stream, "the graph is being recorded already.");
}

std::shared_ptr<Graph::Private> Graph::record(const std::shared_ptr<Stream>& stream) {
  reclaim();
  const char* caller = leaks::caller();
  Device& device = stream->device();
  device.require_usable();
  const std::shared_ptr<Private> made = reclaimed(new Private);
  Private& p = *made;
  std::unique_lock<std::mutex> lock = lock_to_record(*stream);
  stream->require_current();
  if (stream->recording() != nullptr) throw_graph(*stream, "it records a graph already.");
  const bool is_native = device.table().capture_begin != nullptr;
  if (is_native) {
    check(device, stream.get(), device.table().capture_begin(stream->handle()), "beginning a recording");
  }
  p.device = stream->device_ptr();
  p.origin = stream;
  p.generation = device.generation();
  p.recording = std::make_shared<Recording>(is_native);
  p.recording->streams.push_back(stream);
  p.is_recording = true;
  stream->set_recording(p.recording.get());
  lock.unlock();  // the allocator's comes before a stream's
  p.pool = device.allocator().begin_private_pool(*stream);
  p.recording->pool = p.pool.get();
  leaks::held(&p, leaks::Kind::kGraph, device, 0, caller);
  return made;
}

void Graph::end() {
  std::shared_ptr<Private> older;
  std::shared_ptr<Private> newer;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    older = private_;
    newer = std::move(newer_);
  }
  if (newer == nullptr) return older->finish(nullptr);
  const std::lock_guard<std::mutex> turn(older->launching);
  newer->finish(older.get());
  newer->before = older;  // which ends after its launches
  older->is_superseded = true;
  const std::lock_guard<std::mutex> lock(mutex_);
  private_ = newer;
}

// older: a graph that may take the work over; none of its launches begins meanwhile.
void Graph::Private::finish(Private* older) {
  Private& p = *this;
  if (!p.is_recording) throw_graph(*p.origin, "nothing is being recorded.");
  std::optional<Error> failure;  // asked for before the backend's next call
  if (p.recording->is_native && p.generation == p.device->generation()) {
    const unify_backend& table = p.device->table();
    const bool updates = older != nullptr && older->native != nullptr && older->generation == p.generation &&
                         table.capture_update != nullptr;
    const std::unique_lock<std::mutex> lock(p.origin->mutex());
    const unify_status status = updates ? table.capture_update(p.origin->handle(), older->native, &p.native)
                                        : table.capture_end(p.origin->handle(), &p.native);
    if (status != UNIFY_OK) {
      failure = error_of(*p.device, p.origin->name(), status, "ending a recording");
    } else if (updates && p.native == nullptr) {
      std::swap(p.native, older->native);
    }
  }
  p.stop_recording();
  if (failure.has_value()) {
    p.device->failures().was_told(*failure);
    throw *failure;
  }
  p.device->require_generation(p.generation, "this graph");
  std::vector<const char*> kernels;
  for (Recording::Node& node : p.recording->nodes) {
    if (auto* launch = std::get_if<Recording::Launch>(&node)) {
      launch->args.args = p.recording->packed.data() + launch->offset;
      kernels.push_back(launch->function->label);
    }
  }
  p.label = graph_label(kernels);
  p.is_whole = true;
}

void Graph::abandon() noexcept {
  std::shared_ptr<Private> unwanted;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    unwanted = newer_ != nullptr ? std::move(newer_) : private_;
    newer_ = nullptr;
  }
  unwanted->abandon();
}

void Graph::launch(Stream& stream) {
  reclaim();
  for (;;) {
    const std::shared_ptr<Private> now = current();
    now->require_launchable(stream);
    if (now->launch(stream, now)) return;  // else it was recorded again meanwhile
  }
}

bool Graph::Private::launch(Stream& stream, const std::shared_ptr<Private>& self) {
  std::shared_ptr<Private> earlier;  // ends outside of the locks
  std::unique_lock<std::mutex> turn(launching);
  if (is_superseded) return false;
  if (stream.goes_into_other_graph()) stream.keep_alive(self);
  if (native != nullptr) {
    launch_natively(stream, earlier);
  } else {
    replay(stream, turn, earlier);
  }
  return true;
}

void Graph::Private::require_launchable(const Stream& stream) const {
  if (is_recording) throw_graph(*origin, "the graph is still being recorded.");
  if (!is_whole) throw_graph(*origin, "the recording failed; record the graph again.");
  if (&stream.device() != device.get()) {
    throw Error(ErrorKind::kDeviceMismatch,
                "a graph of " + device->name() + " cannot run on " + stream.device().name() + ".");
  }
  device->require_usable();
}

// Under the stream's mutex. An event for each stream: the graph keeps none of them alive.
void Graph::Private::note_launch(Stream& stream) {
  constexpr size_t kMany = 8;
  const std::lock_guard<std::mutex> lock(mutex);
  if (launches.size() >= kMany) {
    for (auto it = launches.begin(); it != launches.end();) {
      it = it->second.has_passed() ? launches.erase(it) : std::next(it);
    }
  }
  launches[stream.id()] = Mark(stream);  // moves the last one
}

void Graph::Private::launch_natively(Stream& stream, std::shared_ptr<Private>& out_earlier) {
  const std::lock_guard<std::mutex> lock(stream.mutex());
  require_free(stream, generation);
  if (before != nullptr) {
    check(*device, &stream, before->wait_for_launches(stream), "waiting for launches of the graph");
    out_earlier = std::move(before);
  }
  const TraceScope span(stream, "graph");
  const Enqueued enqueued(stream, {0, Operation::Kind::kGraph, stream.id(), label, {}, 0});
  const unify_status status = enqueued.take(device->table().graph_launch(native, stream.handle()));
  if (status != UNIFY_OK) throw_status(*device, &stream, status, "launching a graph");
  note_launch(stream);
}

namespace {

// Enqueues a recorded operation again, under a new number. Nodes are shared by threads that replay at once.
struct Replay {
  Stream& stream;
  const unify_backend& table;

  unify_status operator()(const Recording::Launch& node) const {
    unify_launch_args args = node.args;
    const Grid grid = {args.grid[0], args.grid[1], args.grid[2]};
    const Enqueued enqueued(stream, {0, Operation::Kind::kLaunch, stream.id(), node.function->label, grid, 0});
    args.operation = enqueued.number();
    const TraceScope kernel(stream, node.function->label);
    return enqueued.take(table.launch(stream.handle(), node.function->handle, &args));
  }
  unify_status operator()(const unify_copy_args& node) const {
    unify_copy_args args = node;
    const Enqueued enqueued(stream, {0, Operation::Kind::kCopy, stream.id(), nullptr, {}, args.bytes});
    args.operation = enqueued.number();
    const unify_status status = table.copy(stream.handle(), &args);
    return enqueued.take(status == UNIFY_UNSUPPORTED ? through_host(args, &unify_backend::copy, args.bytes) : status);
  }
  unify_status operator()(const unify_copy_rows_args& node) const {
    unify_copy_rows_args args = node;
    const Enqueued enqueued(stream, {0, Operation::Kind::kCopy, stream.id(), nullptr, {}, args.bytes * args.rows});
    args.operation = enqueued.number();
    const unify_status status = table.copy_rows(stream.handle(), &args);
    return enqueued.take(
        status == UNIFY_UNSUPPORTED ? through_host(args, &unify_backend::copy_rows, args.bytes * args.rows) : status);
  }
  unify_status operator()(const unify_fill_args& node) const {
    unify_fill_args args = node;
    const Enqueued enqueued(stream,
                            {0, Operation::Kind::kFill, stream.id(), nullptr, {}, args.count * args.value_bytes});
    args.operation = enqueued.number();
    return enqueued.take(table.fill(stream.handle(), &args));
  }
  // What the backend does not copy within a device was recorded unasked. By two calls of it, then.
  template <typename Args>
  unify_status through_host(Args args, unify_status (*unify_backend::*entry)(unify_stream, const Args*),
                            size_t bytes) const {
    const std::shared_ptr<Storage> staging = allocate_pinned(stream.device_ptr(), bytes);
    Args out = args;
    out.dst = args.src = staging->address();
    out.dst_device = args.src_device = nullptr;
    set_pitch(out, args);
    unify_status status = (table.*entry)(stream.handle(), &out);
    if (status == UNIFY_OK) status = (table.*entry)(stream.handle(), &args);
    stream.keep_alive_locked(staging);
    return status;
  }
  static void set_pitch(unify_copy_args&, unify_copy_args&) {}
  static void set_pitch(unify_copy_rows_args& out, unify_copy_rows_args& in) {
    out.dst_pitch = in.src_pitch = out.bytes;
  }
  unify_status operator()(const std::function<void()>& node) const {
    return table.host_call(stream.handle(), call_on_stream, const_cast<std::function<void()>*>(&node));
  }
};

// Gives way to other users of a stream.
class Unlocked {
 public:
  explicit Unlocked(std::unique_lock<std::mutex>& lock) : lock_(lock) { lock_.unlock(); }
  ~Unlocked() { lock_.lock(); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  std::unique_lock<std::mutex>& lock_;
};

}  // namespace

// Ends at the first node that fails.
unify_status Graph::Private::replay_nodes(Stream& stream, std::unique_lock<std::mutex>& turn,
                                          std::unique_lock<std::mutex>& lock) {
  const TraceScope span(stream, "graph");
  const Replay again{stream, device->table()};
  for (const Recording::Node& node : recording->nodes) {
    const auto* call = std::get_if<std::function<void()>>(&node);
    if (call != nullptr && again.table.host_call == nullptr) {  // emulated, as in Stream::host_call
      const Unlocked given_way(lock);
      const Unlocked other_launches(turn);
      stream.wait_for_work("waiting before a host call of a graph");
      (*call)();
      continue;
    }
    require_free(stream, generation);
    const unify_status status = std::visit(again, node);
    if (status != UNIFY_OK) return status;
  }
  return UNIFY_OK;
}

// As on a chip, one launch of a graph comes after the other: they use the same memory.
unify_status Graph::Private::wait_for_launches(Stream& stream) {
  if (before != nullptr) {
    const unify_status status = before->wait_for_launches(stream);
    if (status != UNIFY_OK) return status;
  }
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [id, launched] : launches) {
    if (id == stream.id()) continue;
    const unify_status status = launched.hold_back(stream);
    if (status != UNIFY_OK) return status;
  }
  return UNIFY_OK;
}

void Graph::Private::replay(Stream& stream, std::unique_lock<std::mutex>& turn, std::shared_ptr<Private>& out_earlier) {
  std::unique_lock<std::mutex> lock(stream.mutex());
  require_free(stream, generation);
  std::exception_ptr failure;
  try {
    unify_status status = wait_for_launches(stream);
    out_earlier = std::move(before);
    if (status == UNIFY_OK) status = replay_nodes(stream, turn, lock);
    if (status != UNIFY_OK) throw_status(*device, &stream, status, "replaying a graph");
  } catch (...) {
    failure = std::current_exception();
  }
  note_launch(stream);  // also of a part
  if (failure != nullptr) std::rethrow_exception(failure);
}

Device& Graph::device() const noexcept { return *current()->device; }
bool Graph::is_native() const noexcept { return current()->recording->is_native; }

size_t Graph::size() const noexcept {
  const std::shared_ptr<Recording> recording = current()->recording;
  const std::lock_guard<std::mutex> lock(recording->mutex);
  return recording->nodes.size();
}

std::string Graph::summary() const {
  using Words = std::pair<const char*, const char*>;  // for one, for many; in the order of Node
  constexpr std::array<Words, std::variant_size_v<Recording::Node>> kWords = {{{"kernel", "kernels"},
                                                                               {"copy", "copies"},
                                                                               {"copy of rows", "copies of rows"},
                                                                               {"fill", "fills"},
                                                                               {"host call", "host calls"}}};
  const std::shared_ptr<Recording> recording = current()->recording;
  const std::lock_guard<std::mutex> lock(recording->mutex);
  std::array<size_t, kWords.size()> counts{};
  for (const Recording::Node& node : recording->nodes) ++counts.at(node.index());
  std::string text;
  for (size_t i = 0; i < kWords.size(); ++i) {
    const auto [one, many] = kWords.at(i);
    const size_t count = counts.at(i);
    if (count > 0) text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + (count == 1 ? one : many);
  }
  return text.empty() ? "empty" : text;
}

std::string Graph::describe() const {
  const std::shared_ptr<Recording> recording = current()->recording;
  const std::lock_guard<std::mutex> lock(recording->mutex);
  std::string text;
  for (const Recording::Node& node : recording->nodes) {
    if (const auto* launch = std::get_if<Recording::Launch>(&node)) {
      text += std::string("kernel ") + launch->function->label + ", grid " + sizes_text(launch->args.grid) + "\n";
    } else if (const auto* copy = std::get_if<unify_copy_args>(&node)) {
      text += "copy of " + format_bytes(copy->bytes) + "\n";
    } else if (const auto* rows = std::get_if<unify_copy_rows_args>(&node)) {
      text += "copy of " + std::to_string(rows->rows) + " rows of " + format_bytes(rows->bytes) + "\n";
    } else if (const auto* fill = std::get_if<unify_fill_args>(&node)) {
      text += "fill of " + format_bytes(fill->count * fill->value_bytes) + "\n";
    } else {
      text += "host call\n";
    }
  }
  return text;
}

}  // namespace unify
