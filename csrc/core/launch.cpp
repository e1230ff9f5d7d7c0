#include "launch.h"

#include <algorithm>
#include <mutex>
#include <set>

#include "allocator.h"
#include "device.h"
#include "error.h"
#include "module.h"
#include "recording.h"
#include "sizes_text.h"
#include "stream.h"
#include "trace.h"

namespace unify {
namespace {

[[noreturn]] void throw_bad_launch(const Device& device, const Function& function, const std::string& why) {
  Error error(ErrorKind::kInvalidArgument, device.name() + ": kernel " + function.label + ": " + why);
  error.device = device.name();
  error.kernel = function.label;
  throw error;
}

void check_sizes(const Device& device, const Function& function, const Grid& grid, size_t args_bytes,
                 const LaunchShape& shape) {
  const unify_device_info& info = device.info();
  for (size_t axis = 0; axis < grid.size(); ++axis) {
    if (grid[axis] > info.max_grid[axis]) {
      const Grid most = {info.max_grid[0], info.max_grid[1], info.max_grid[2]};
      throw_bad_launch(device, function,
                       "grid " + sizes_text(grid) + " exceeds the device's " + sizes_text(most) + ".");
    }
  }
  if (args_bytes != function.args_bytes && function.args_bytes != Function::kAnyBytes) {
    throw_bad_launch(
        device, function,
        std::to_string(args_bytes) + " bytes of arguments given, " + std::to_string(function.args_bytes) + " needed.");
  }
  if (shape.threads > function.max_threads && function.max_threads != 0) {
    throw_bad_launch(device, function,
                     std::to_string(shape.threads) + " threads a program asked for, at most " +
                         std::to_string(function.max_threads) + " run here.");
  }
}

void set_shape(unify_launch_args& args, const Device& device, const Function& function, const LaunchShape& shape) {
  args.threads = shape.threads;
  args.shared_bytes = shape.shared_bytes;
  if (shape.block[0] == 0 && shape.cluster[0] == 0 && shape.flags == 0) return;
  if (device.table().abi_minor < 1) {
    throw Error(ErrorKind::kUnsupported, device.name() + ": kernel " + function.label +
                                             ": its backend is of version 1.0 of the interface, which has no blocks of "
                                             "several axes, clusters or cooperative launches.");
  }
  for (size_t axis = 0; axis < 3; ++axis) {
    args.block[axis] = shape.block[axis];
    args.cluster[axis] = shape.cluster[axis];
  }
  args.flags = shape.flags;
}

std::string text_of(const Operation& operation) {
  const std::string stream = ", stream " + std::to_string(operation.stream);
  switch (operation.kind) {
    case Operation::Kind::kLaunch:
      return std::string("kernel ") + operation.label + ", grid " + sizes_text(operation.grid) + stream;
    case Operation::Kind::kCopy:
      return "copy of " + format_bytes(operation.bytes) + stream;
    case Operation::Kind::kFill:
      return "fill of " + format_bytes(operation.bytes) + stream;
    case Operation::Kind::kRecord:
      return "event record" + stream;
    case Operation::Kind::kWait:
      return "wait for an event" + stream;
    case Operation::Kind::kHostCall:
      return "host call" + stream;
    case Operation::Kind::kGraph:
      return operation.label + stream;
  }
  return {};
}

void add_once(std::vector<const char*>& labels, const char* label) {
  if (std::find(labels.begin(), labels.end(), label) == labels.end()) labels.push_back(label);
}

}  // namespace

bool launch(Stream& stream, const std::shared_ptr<Function>& function, const Grid& grid, const void* args,
            size_t args_bytes, Storage* const* touched, size_t touched_count, std::shared_ptr<void>* foreign,
            size_t foreign_count, bool may_record, const LaunchShape* shape) {
  Device& device = stream.device();
  device.require_usable();
  if (shape == nullptr) shape = &function->shape;
  check_sizes(device, *function, grid, args_bytes, *shape);
  if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return true;
  if (&function->module->device() != &device) {
    throw_bad_launch(device, *function, "it was loaded on " + function->module->device().name() + ".");
  }
  const bool is_elsewhere = stream.goes_into_other_graph();
  for (size_t i = 0; i < touched_count; ++i) {  // blocks only, which may be noted before
    touched[i]->require_current();
    if (!is_elsewhere) touched[i]->used_on(stream);
  }
  unify_launch_args launch_args{};
  launch_args.struct_size = sizeof launch_args;
  for (size_t axis = 0; axis < grid.size(); ++axis) launch_args.grid[axis] = grid[axis];
  set_shape(launch_args, device, *function, *shape);
  launch_args.args = args;
  launch_args.args_bytes = args_bytes;
  const std::lock_guard<std::mutex> lock(stream.mutex());
  stream.require_current();
  device.require_generation(function->module->generation(), "this kernel");
  if (stream.recording() != nullptr) {
    if (!may_record) return false;
    record_launch(*stream.recording(), stream, function, launch_args, foreign, foreign_count);
    return true;
  }
  if (is_elsewhere) {
    std::vector<std::shared_ptr<void>> owners(foreign, foreign + foreign_count);
    for (size_t i = 0; i < touched_count; ++i) owners.push_back(touched[i]->shared_from_this());
    owners.push_back(function);
    stream.keep_in_other_graph(std::move(owners));
  }
  const Enqueued enqueued(stream, {0, Operation::Kind::kLaunch, stream.id(), function->label, grid, 0});
  launch_args.operation = enqueued.number();
  const TraceScope span(stream, function->label);
  const unify_status status = enqueued.take(device.table().launch(stream.handle(), function->handle, &launch_args));
  if (status != UNIFY_OK) throw_status(device, &stream, status, std::string("launch of ") + function->label);
  for (size_t i = 0; i < foreign_count && !is_elsewhere; ++i) {
    if (foreign[i] != nullptr) stream.keep_alive_locked(std::move(foreign[i]));
  }
  return true;
}

void OperationRing::push(const Operation& operation) noexcept {
  Entry& entry = ring_[operation.number % kSize];
  entry.number.store(0, std::memory_order_release);
  entry.place.store(uint64_t{operation.stream} << 8 | static_cast<uint64_t>(operation.kind), std::memory_order_relaxed);
  entry.label.store(operation.label, std::memory_order_relaxed);
  entry.columns_and_rows.store(uint64_t{operation.grid[1]} << 32 | operation.grid[0], std::memory_order_relaxed);
  entry.layers.store(operation.grid[2], std::memory_order_relaxed);
  entry.bytes.store(operation.bytes, std::memory_order_relaxed);
  entry.number.store(operation.number, std::memory_order_release);
}

constexpr uint64_t kRefused = 0x80;  // in Entry::place, beside the kind

void OperationRing::note_refusal(uint64_t number) noexcept {
  Entry& entry = ring_[number % kSize];
  if (entry.number.load(std::memory_order_acquire) == number) entry.place.fetch_or(kRefused, std::memory_order_relaxed);
}

bool OperationRing::read(uint64_t number, Operation& out) const noexcept {
  const Entry& entry = ring_[number % kSize];
  if (entry.number.load(std::memory_order_acquire) != number) return false;
  const uint64_t place = entry.place.load(std::memory_order_relaxed);
  const uint64_t columns_and_rows = entry.columns_and_rows.load(std::memory_order_relaxed);
  out.number = number;
  out.kind = static_cast<Operation::Kind>(place & (kRefused - 1));
  out.is_refused = (place & kRefused) != 0;
  out.stream = static_cast<uint32_t>(place >> 8);
  out.label = entry.label.load(std::memory_order_relaxed);
  out.grid = {static_cast<uint32_t>(columns_and_rows), static_cast<uint32_t>(columns_and_rows >> 32),
              static_cast<uint32_t>(entry.layers.load(std::memory_order_relaxed))};
  out.bytes = entry.bytes.load(std::memory_order_relaxed);
  return entry.number.load(std::memory_order_acquire) == number;
}

std::string OperationRing::describe(uint64_t number) const {
  Operation operation;
  return number != 0 && read(number, operation) ? text_of(operation) : std::string();
}

OperationRing::Cause OperationRing::cause_among(uint64_t first, uint64_t last,
                                                const std::map<uint32_t, uint64_t>& proven) const {
  constexpr size_t kMost = 8;
  std::vector<Operation> launches;
  std::vector<Operation> copies;
  last = std::min(last, last_number());
  for (uint64_t number = last < kSize ? first : std::max(first, last - kSize + 1); number <= last; ++number) {
    Operation operation;
    if (!read(number, operation) || operation.is_refused) continue;
    const auto stream = proven.find(operation.stream);  // one that is gone ended well
    if (stream == proven.end() || number <= stream->second) continue;
    if (operation.kind == Operation::Kind::kLaunch || operation.kind == Operation::Kind::kGraph) {
      launches.push_back(operation);
    } else if (operation.kind == Operation::Kind::kCopy || operation.kind == Operation::Kind::kFill) {
      copies.push_back(operation);
    }
  }
  const std::vector<Operation>& suspects = launches.empty() ? copies : launches;
  if (suspects.empty()) return {};
  const uint64_t operation = suspects.front().number;
  if (suspects.size() == 1) return {operation, text_of(suspects.front())};
  if (launches.empty()) return {operation, "one of " + std::to_string(copies.size()) + " copies since the last wait"};
  std::vector<const char*> labels;
  for (const Operation& launch : launches) add_once(labels, launch.label);
  std::string text;
  for (size_t i = 0; i < std::min(labels.size(), kMost); ++i) text += (i == 0 ? "" : ", ") + std::string(labels[i]);
  if (labels.size() > kMost) text += " and " + std::to_string(labels.size() - kMost) + " more";
  const std::string count = std::to_string(launches.size()) + " launches since the last wait";
  if (labels.size() > 1) return {operation, "one of " + count + ": " + text};
  const char* const kind = launches.front().kind == Operation::Kind::kLaunch ? "kernel " : "";
  return {operation, kind + text + ", one of its " + count};
}

std::vector<std::string> OperationRing::recent(size_t count) const {
  const uint64_t last = counter_.load(std::memory_order_relaxed);
  const uint64_t first = last > count ? last - count + 1 : 1;
  std::vector<std::string> lines;
  for (uint64_t number = first; number <= last; ++number) {
    std::string line = describe(number);
    if (!line.empty()) lines.push_back("#" + std::to_string(number) + " " + line);
  }
  return lines;
}

Enqueued::Enqueued(Stream& stream, Operation operation)
    : stream_(stream), number_(stream.device().operations().next_number()) {
  operation.number = number_;
  stream.device().operations().push(operation);
}

Enqueued::~Enqueued() { stream_.note_enqueued(number_); }

unify_status Enqueued::take(unify_status status) const noexcept {
  const bool is_refused =
      status == UNIFY_INVALID_ARGUMENT || status == UNIFY_UNSUPPORTED || status == UNIFY_OUT_OF_MEMORY;
  if (is_refused) stream_.device().operations().note_refusal(number_);
  return status;
}

const char* intern(const std::string& text) {
  static std::mutex mutex;
  static auto* texts = new std::set<std::string>;
  const std::lock_guard<std::mutex> lock(mutex);
  return texts->insert(text).first->c_str();
}

const char* graph_label(const std::vector<const char*>& kernels) {
  constexpr size_t kMost = 3;
  std::vector<const char*> names;
  for (const char* kernel : kernels) add_once(names, kernel);
  const size_t named = std::min(names.size(), kMost);
  std::string text = "graph";
  for (size_t i = 0; i < named; ++i) {
    text += (i == 0 ? " of " : i + 1 == names.size() ? " and " : ", ") + std::string(names[i]);
  }
  if (names.size() > named) text += " and " + std::to_string(names.size() - named) + " more kernels";
  return intern(text);
}

}  // namespace unify
