// What every call of the driver does before its own work.
#pragma once

#include <memory>
#include <new>

#include "cuda_types.h"
#include "simulator/driver.h"

namespace unify::simulator {

constexpr int kDriverVersion = 13000;

// CUDA_SUCCESS, or what every call returns: in the child of a fork, while the process ends, in a host function, before
// cuInit.
CUresult availability(bool needs_init) noexcept;
CUresult initialize(unsigned flags);

// The handle of a device's primary context: the same before and after a reset, as the driver's.
CUcontext handle_of(const Device& device) noexcept;
Device* find_device(CUcontext context);

// The current context of this thread, or why there is none.
Result current_context(std::shared_ptr<Context>& out);
CUcontext current_handle() noexcept;
void set_current_handle(CUcontext context) noexcept;

// The checks of a call: of its context's health, and the faults planned for it.
Result admit(Call& call, const std::shared_ptr<Context>& context);
Result find_stream(CUstream handle, std::shared_ptr<Stream>& out);

// Destroys all that belongs to the device's context, if it is active, and returns once nothing of it runs any more.
void reset(Lock& lock, Device& device);

// Whether work on the stream would tie the legacy default stream to a stream that captures.
Result check_implicit_order(const Stream& stream);
// The same as a question, which leaves the capture as it is.
bool is_tied_to_capture(const Stream& stream);

// Runs `work()`, whose std::bad_alloc becomes a result: no exception leaves a C function.
template <typename Work>
CUresult guarded(Work&& work) {
  try {
    return static_cast<CUresult>(work());
  } catch (const std::bad_alloc&) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception&) {
    return CUDA_ERROR_UNKNOWN;
  }
}

// A call that needs the driver alone. `work(call)` is its own part.
template <typename Work>
CUresult with_driver(const char* name, Work&& work) {
  if (const CUresult result = availability(true); result != CUDA_SUCCESS) return result;
  return guarded([&] {
    Call call{name, Lock(driver().mutex), nullptr, {}};
    return work(call);
  });
}

// A call that needs a current context.
template <typename Work>
CUresult with_context(const char* name, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    std::shared_ptr<Context> context;
    if (const Result result = current_context(context); result != CUDA_SUCCESS) return result;
    if (const Result result = admit(call, context); result != CUDA_SUCCESS) return result;
    return work(call);
  });
}

// A call on a stream: `work(call, stream)`. The current context matters for the default streams only.
template <typename Work>
CUresult with_stream(const char* name, CUstream handle, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    std::shared_ptr<Stream> stream;
    if (const Result result = find_stream(handle, stream); result != CUDA_SUCCESS) return result;
    if (const Result result = admit(call, stream->context); result != CUDA_SUCCESS) return result;
    return work(call, *stream);
  });
}

}  // namespace unify::simulator
