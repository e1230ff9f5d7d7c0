#include "device.h"

#include <algorithm>

#include "driver.h"
#include "front.h"
#include "graph.h"

namespace unify::simulator {

Result result_of(const Context& context) noexcept {
  if (context.is_over) return kResults.context_is_over;
  if (context.device->is_lost) return kResults.device_is_lost;
  return context.result;
}

void end_context(Context& context, Result result) {
  if (context.result == kSuccess) context.result = result;
  driver().progress.notify_all();
}

void close_context(Lock& lock, const std::shared_ptr<Context>& context) {
  context->is_over = true;
  Driver& state = driver();
  const Device& device = *context->device;
  const auto is_owned = [&](const auto& object) { return object.context == context; };
  invalidate_captures_of(*context);
  state.streams.remove_if(is_owned);
  state.events.remove_if(is_owned);
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
  } else if (fault.kind == Fault::Kind::kResult) {
    fail_device(device, fault.result);
  }
}

void apply_due_faults(Device& device) {
  if (!device.faults.is_empty()) apply(device, device.faults.take_due());
}

std::shared_ptr<Stream> make_stream(const std::shared_ptr<Context>& context, int priority) {
  auto stream = std::make_shared<Stream>();
  stream->context = context;
  stream->priority = priority;
  context->streams.push_back(stream);
  return stream;
}

}  // namespace unify::simulator
