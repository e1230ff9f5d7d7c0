#include "calls.h"

#include <atomic>
#include <cstring>

#include "chips.h"
#include "simulator/graph.h"

namespace unify::simulator {
namespace {

constexpr uintptr_t kFirstContext = 0xc1000000;
constexpr uintptr_t kContextStep = 0x1000;

std::atomic<bool> is_initialized{false};
thread_local CUcontext current = nullptr;

}  // namespace

CUresult availability(bool needs_init) noexcept {
  if (is_forked()) return CUDA_ERROR_NOT_INITIALIZED;
  if (is_ending()) return CUDA_ERROR_DEINITIALIZED;
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
  note_start();
  is_initialized.store(true, std::memory_order_release);
  return CUDA_SUCCESS;
}

CUcontext handle_of(const Device& device) noexcept {
  return reinterpret_cast<CUcontext>(kFirstContext + kContextStep * static_cast<uintptr_t>(device.index));
}

Device* find_device(CUcontext context) {
  for (const auto& device : driver().devices) {
    if (handle_of(*device) == context) return device.get();
  }
  return nullptr;
}

CUcontext current_handle() noexcept { return current; }
void set_current_handle(CUcontext context) noexcept { current = context; }

Result current_context(std::shared_ptr<Context>& out) {
  const Device* device = find_device(current);
  if (device == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (device->context == nullptr) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  out = device->context;
  return CUDA_SUCCESS;
}

namespace {

// Whether a result leaves its context unusable (CUDA driver API, CUresult: "the context must be destroyed",
// "terminated and relaunched").
bool is_sticky(Result result) noexcept {
  switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
      return true;
    default:
      return false;
  }
}

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

Result admit(Call& call, const std::shared_ptr<Context>& context) {
  call.context = context;
  Device& device = *context->device;
  apply_due_faults(device);
  if (const Result result = result_of(*context); result != CUDA_SUCCESS) return result;
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

namespace {

std::shared_ptr<Stream> legacy_stream(const std::shared_ptr<Context>& context) {
  if (context->legacy == nullptr) {
    context->legacy = make_stream(context, 0);
    context->legacy->is_blocking = true;
    context->legacy->is_legacy = true;
  }
  return context->legacy;
}

std::shared_ptr<Stream> stream_of_this_thread(const std::shared_ptr<Context>& context) {
  std::shared_ptr<Stream>& stream = context->per_thread[std::this_thread::get_id()];
  if (stream == nullptr) {
    stream = make_stream(context, 0);
    stream->is_blocking = true;
  }
  return stream;
}

}  // namespace

Result find_stream(CUstream handle, std::shared_ptr<Stream>& out) {
  const auto number = reinterpret_cast<uintptr_t>(handle);
  if (number == 0 || number == kStreamLegacy || number == kStreamPerThread) {
    std::shared_ptr<Context> context;
    if (const Result result = current_context(context); result != CUDA_SUCCESS) return result;
    out = number == kStreamPerThread ? stream_of_this_thread(context) : legacy_stream(context);
    return CUDA_SUCCESS;
  }
  out = driver().streams.find(handle);
  return out == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

void reset(Lock& lock, Device& device) {
  const std::shared_ptr<Context> context = std::move(device.context);
  device.context = nullptr;
  if (context == nullptr) return;
  Driver& state = driver();
  const auto is_owned = [&](const auto& object) { return object.context == context; };
  state.functions.remove_if(is_owned);
  state.modules.remove_if(is_owned);
  close_context(lock, context);
}

}  // namespace unify::simulator
