#include "driver.h"

#include <pthread.h>

#include <cstring>

#include "graph.h"
#include "kernel.h"

namespace unify::simulator {
namespace {

std::atomic<bool> is_initialized{false};
std::atomic<bool> is_forked{false};
std::atomic<bool> is_ending{false};
thread_local CUcontext current = nullptr;

void after_fork_in_child() {
  if (is_initialized.load()) is_forked.store(true);
}

__attribute__((destructor)) void on_exit() { is_ending.store(true); }

}  // namespace

Driver& driver() {
  static auto* const state = new Driver;
  return *state;
}

CUresult availability(bool needs_init) noexcept {
  if (is_forked.load(std::memory_order_relaxed)) return CUDA_ERROR_NOT_INITIALIZED;
  if (is_ending.load(std::memory_order_relaxed)) return CUDA_ERROR_DEINITIALIZED;
  if (is_in_host_call()) return CUDA_ERROR_NOT_PERMITTED;
  if (needs_init && !is_initialized.load(std::memory_order_acquire)) return CUDA_ERROR_NOT_INITIALIZED;
  return CUDA_SUCCESS;
}

CUresult initialize(unsigned flags) {
  if (const CUresult result = availability(false); result != CUDA_SUCCESS) return result;
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Driver& state = driver();
  const Lock lock(state.mutex);
  if (state.settings.count == 0) return CUDA_ERROR_NO_DEVICE;
  make_devices();
  static const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);
  (void)registered;
  is_initialized.store(true, std::memory_order_release);
  return CUDA_SUCCESS;
}

void make_devices() {
  Driver& state = driver();
  if (!state.devices.empty()) return;
  const Chip& chip = *find_chip(state.settings.capability);
  const std::string name = (state.settings.name.empty() ? chip.name : state.settings.name) + " (simulated)";
  for (int i = 0; i < state.settings.count; ++i) {
    state.devices.push_back(std::make_unique<Device>(i, chip, name, state.settings.memory_bytes));
    state.memory.add_arena(&state.devices.back()->arena);
  }
}

void retire_devices() {
  Driver& state = driver();
  state.memory.forget_arenas();
  for (auto& device : state.devices) state.retired.push_back(std::move(device));
  state.devices.clear();
}

Device* find_device(CUdevice device) {
  const auto& devices = driver().devices;
  if (device < 0 || static_cast<size_t>(device) >= devices.size()) return nullptr;
  return devices[static_cast<size_t>(device)].get();
}

Device* find_device(CUcontext context) {
  for (const auto& device : driver().devices) {
    if (handle_of(*device) == context) return device.get();
  }
  return nullptr;
}

CUcontext current_handle() noexcept { return current; }
void set_current_handle(CUcontext context) noexcept { current = context; }

CUresult current_context(std::shared_ptr<Context>& out) {
  const Device* device = find_device(current);
  if (device == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (device->context == nullptr) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  out = device->context;
  return CUDA_SUCCESS;
}

namespace {

// Whether the call only enqueues: what goes wrong in the work shows at a later call.
bool is_enqueued(const char* name) {
  const size_t length = std::strlen(name);
  if (length > 5 && std::strcmp(name + length - 5, "Async") == 0) return true;
  for (const char* other : {"cuLaunchKernelEx", "cuGraphLaunch", "cuLaunchHostFunc", "cuEventRecord"}) {
    if (std::strcmp(name, other) == 0) return true;
  }
  return false;
}

}  // namespace

CUresult admit(Call& call, const std::shared_ptr<Context>& context) {
  call.context = context;
  Device& device = *context->device;
  apply_due_faults(device);
  if (const CUresult result = result_of(*context); result != CUDA_SUCCESS) return result;
  if (device.faults.is_empty()) return CUDA_SUCCESS;
  const Fault fault = device.faults.take(call.name);
  switch (fault.kind) {
    case Fault::Kind::kNone:
      break;
    case Fault::Kind::kHang:
    case Fault::Kind::kCorrupt:
      call.fault = fault;
      break;
    case Fault::Kind::kLost:
      apply(device, fault);
      break;
    case Fault::Kind::kResult:
      if (!is_sticky(fault.result)) return fault.result;
      if (is_enqueued(call.name)) {
        call.fault = fault;
      } else {
        apply(device, fault);
      }
      break;
  }
  return result_of(*context);
}

CUresult find_stream(CUstream handle, std::shared_ptr<Stream>& out) {
  const auto number = reinterpret_cast<uintptr_t>(handle);
  if (number == 0 || number == kStreamLegacy || number == kStreamPerThread) {
    std::shared_ptr<Context> context;
    if (const CUresult result = current_context(context); result != CUDA_SUCCESS) return result;
    out = number == kStreamPerThread ? stream_of_this_thread(context) : legacy_stream(context);
    return CUDA_SUCCESS;
  }
  out = driver().streams.find(handle);
  return out == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

namespace {

// Work that stops until it is released, or until its context is over.
std::function<CUresult()> hang(std::shared_ptr<Context> context, std::function<CUresult()> then) {
  // Counted from the call: a release may come before the stream's thread is here.
  const uint64_t before = context->device->faults.releases;
  return [before, context = std::move(context), then = std::move(then)]() -> CUresult {
    {
      Lock lock(driver().mutex);
      while (context->device->faults.releases == before && result_of(*context) == CUDA_SUCCESS) {
        driver().progress.wait_until(lock, Clock::now() + std::chrono::milliseconds(50));
        apply_due_faults(*context->device);
      }
      if (result_of(*context) != CUDA_SUCCESS) return CUDA_SUCCESS;
    }
    return then == nullptr ? CUDA_SUCCESS : then();
  };
}

}  // namespace

CUresult submit(Call& call, Stream& stream, Operation operation, std::vector<MarkPtr> after) {
  operation.context = stream.context;
  if (call.fault.kind == Fault::Kind::kHang) {
    operation.run = hang(stream.context, std::move(operation.run));
  } else if (call.fault.kind == Fault::Kind::kResult) {
    operation.run = [result = call.fault.result] { return result; };
  }
  if (stream.capture != nullptr) return capture(stream, std::move(operation));
  if (const CUresult result = check_implicit_order(stream); result != CUDA_SUCCESS) return result;
  return enqueue(stream, std::move(operation), std::move(after)) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

}  // namespace unify::simulator
