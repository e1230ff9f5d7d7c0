#include "device.h"

#include <algorithm>

#include "driver.h"
#include "graph.h"
#include "kernel.h"

namespace unify::simulator {
namespace {

// NVIDIA's data sheets and the tables of "Compute Capabilities" in the CUDA programming guide.
constexpr Chip kChips[] = {
    {80, "NVIDIA A100-SXM4-80GB", 108, 1410000, 1593000, 5120, 40 << 20, 166912, 2048, 32, 1},
    {86, "NVIDIA A10", 72, 1695000, 6251000, 384, 6 << 20, 101376, 1536, 16, 1},
    {89, "NVIDIA L40S", 142, 2520000, 9001000, 384, 96 << 20, 101376, 1536, 24, 1},
    {90, "NVIDIA H100 80GB HBM3", 132, 1980000, 2619000, 5120, 50 << 20, 232448, 2048, 32, 1},
    {100, "NVIDIA B200", 148, 1965000, 3996000, 8192, 126 << 20, 232448, 2048, 32, 1},
    {120, "NVIDIA GeForce RTX 5090", 170, 2407000, 14001000, 512, 96 << 20, 101376, 1536, 24, 0},
};

constexpr uintptr_t kFirstContext = 0xc1000000;
constexpr uintptr_t kContextStep = 0x1000;

}  // namespace

const Chip* find_chip(int capability) {
  for (const Chip& chip : kChips) {
    if (chip.capability == capability) return &chip;
  }
  return nullptr;
}

std::string known_capabilities() {
  std::string text;
  for (const Chip& chip : kChips) text += (text.empty() ? "" : ", ") + std::to_string(chip.capability);
  return text;
}

CUcontext handle_of(const Device& device) noexcept {
  return reinterpret_cast<CUcontext>(kFirstContext + kContextStep * static_cast<uintptr_t>(device.index));
}

CUresult result_of(const Context& context) noexcept {
  if (context.is_over) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  // What programs report whose GPU has fallen off the bus (Xid 79): CUDA_ERROR_UNKNOWN, from every call.
  if (context.device->is_lost) return CUDA_ERROR_UNKNOWN;
  return context.result;
}

void end_context(Context& context, CUresult result) {
  if (context.result == CUDA_SUCCESS) context.result = result;
  driver().progress.notify_all();
}

void reset(Lock& lock, Device& device) {
  const std::shared_ptr<Context> context = std::move(device.context);
  device.context = nullptr;
  if (context == nullptr) return;
  context->is_over = true;
  Driver& state = driver();
  const auto is_owned = [&](const auto& object) { return object.context == context; };
  invalidate_captures_of(*context);
  state.streams.remove_if(is_owned);
  state.events.remove_if(is_owned);
  state.functions.remove_if(is_owned);
  state.modules.remove_if(is_owned);
  state.graph_execs.remove_if([&](const GraphExec& exec) { return exec.is_of(*context); });
  const std::vector<std::shared_ptr<Stream>> streams = context->streams;
  for (const auto& stream : streams) close_stream(*stream);
  context->legacy = nullptr;
  context->per_thread.clear();
  state.memory.remove_of(context.get());
  for (const auto& other : state.devices) {
    state.memory.set_peer(device.index, other->index, false);
    state.memory.set_peer(other->index, device.index, false);
  }
  // After its memory is gone: a kernel that would never end fails at its next access.
  drain(lock, streams);
}

void apply(Device& device, const Fault& fault) {
  if (fault.kind == Fault::Kind::kLost) {
    device.is_lost = true;
    driver().progress.notify_all();
  } else if (fault.kind == Fault::Kind::kResult && device.context != nullptr) {
    end_context(*device.context, fault.result);
  }
}

void apply_due_faults(Device& device) {
  if (!device.faults.is_empty()) apply(device, device.faults.take_due());
}

std::shared_ptr<Stream> make_stream(const std::shared_ptr<Context>& context, bool is_blocking, int priority) {
  auto stream = std::make_shared<Stream>();
  stream->context = context;
  stream->is_blocking = is_blocking;
  stream->priority = priority;
  context->streams.push_back(stream);
  return stream;
}

std::shared_ptr<Stream> legacy_stream(const std::shared_ptr<Context>& context) {
  if (context->legacy == nullptr) {
    context->legacy = make_stream(context, true, 0);
    context->legacy->is_legacy = true;
  }
  return context->legacy;
}

std::shared_ptr<Stream> stream_of_this_thread(const std::shared_ptr<Context>& context) {
  std::shared_ptr<Stream>& stream = context->per_thread[std::this_thread::get_id()];
  if (stream == nullptr) stream = make_stream(context, true, 0);
  return stream;
}

}  // namespace unify::simulator
