// The driver's functions for itself, devices and contexts.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "calls.h"
#include "chips.h"
#include "libcuda.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

// A call on a device that needs no context: `work(call, device)`.
template <typename Work>
CUresult with_device(const char* name, CUdevice number, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    Device* device = find_device(number);
    return device == nullptr ? CUDA_ERROR_INVALID_DEVICE : work(call, *device);
  });
}

int multiple(int value) { return value; }
int multiple(bool value) { return value ? 1 : 0; }

struct Words {
  CUresult result;
  const char* name;
  const char* text;
};

CUresult words_of(CUresult error, const char* Words::*column, const char** out) {
  static constexpr Words kWords[] = {
#define RESULT(name, value, text) {name, #name, text},
#include "cuda_results.inc"
#undef RESULT
  };
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto* found =
      std::find_if(std::begin(kWords), std::end(kWords), [&](const Words& each) { return each.result == error; });
  *out = found == std::end(kWords) ? nullptr : found->*column;
  return *out == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT CUresult cuInit(unsigned flags) {
  return guarded([&] { return initialize(flags); });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDriverGetVersion(int* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = kDriverVersion;
  return CUDA_SUCCESS;
}

UNIFY_SIMULATOR_EXPORT CUresult cuGetErrorName(CUresult error, const char** out) {
  return words_of(error, &Words::name, out);
}

UNIFY_SIMULATOR_EXPORT CUresult cuGetErrorString(CUresult error, const char** out) {
  return words_of(error, &Words::text, out);
}

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetCount(int* count) {
  return with_driver("cuDeviceGetCount", [&](Call&) {
    if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *count = static_cast<int>(driver().devices.size());
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGet(CUdevice* out, int ordinal) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return with_device("cuDeviceGet", ordinal, [&](Call&, const Device& device) {
    *out = device.index;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetName(char* name, int length, CUdevice number) {
  if (name == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  return with_device("cuDeviceGetName", number, [&](Call&, const Device& device) {
    std::snprintf(name, static_cast<size_t>(length), "%s", device.name.c_str());
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetAttribute(int* out, CUdevice_attribute attribute, CUdevice number) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return with_device("cuDeviceGetAttribute", number, [&](Call&, const Device& device) {
    const Chip& chip = chip_of(device);
    switch (static_cast<int>(attribute)) {
#define ATTRIBUTE(name, number, value) \
  case number:                         \
    *out = multiple(value);            \
    return CUDA_SUCCESS;
#include "cuda_attributes.inc"
#undef ATTRIBUTE
      default:
        break;
    }
    // Numbers that the driver knows too and that mean something that is not simulated: textures, say.
    constexpr int kLastAttribute = 148;
    *out = 0;
    return attribute > 0 && attribute <= kLastAttribute ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice number) {
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return with_device("cuDeviceTotalMem", number, [&](Call&, const Device& device) {
    *bytes = device.arena.total();
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice number) {
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return with_device("cuDeviceGetUuid", number, [&](Call&, const Device& device) {
    *uuid = CUuuid{{'u', 'n', 'i', 'f', 'y', '-', 's', 'i', 'm', 'u', 'l', 'a', 't', 'e', 'd', 0}};
    uuid->bytes[15] = static_cast<char>(device.index);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetPCIBusId(char* id, int length, CUdevice number) {
  if (id == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  return with_device("cuDeviceGetPCIBusId", number, [&](Call&, const Device& device) {
    std::snprintf(id, static_cast<size_t>(length), "0000:%02X:00.0", 0x10U + static_cast<unsigned>(device.index));
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice number) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return with_device("cuDevicePrimaryCtxRetain", number, [&](Call&, Device& device) {
    apply_due_faults(device);
    if (device.is_lost) return CUDA_ERROR_UNKNOWN;
    if (device.context == nullptr) device.context = std::make_shared<Context>(&device);
    ++device.retained;
    *out = handle_of(device);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice number) {
  return with_device("cuDevicePrimaryCtxRelease", number, [&](Call& call, Device& device) {
    if (device.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--device.retained == 0) reset(call.lock, device);
    return CUDA_SUCCESS;
  });
}

// The references of those who retained the context stay; it is active again after the next retain.
UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice number) {
  return with_device("cuDevicePrimaryCtxReset", number, [&](Call& call, Device& device) {
    apply_due_faults(device);
    if (device.is_lost) return CUDA_ERROR_UNKNOWN;
    reset(call.lock, device);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuCtxGetCurrent(CUcontext* out) {
  return with_driver("cuCtxGetCurrent", [&](Call&) {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *out = current_handle();
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  return with_driver("cuCtxSetCurrent", [&](Call&) {
    if (context != nullptr && find_device(context) == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    set_current_handle(context);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuCtxSynchronize() {
  return with_context("cuCtxSynchronize", [&](Call& call) -> Result {
    for (const auto& stream : call.context->streams) {
      if (stream->capture != nullptr) return invalidate(*stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    return wait_for_context(call.lock, *call.context);
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return with_context("cuCtxGetStreamPriorityRange", [&](Call&) {
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = -5;
    return CUDA_SUCCESS;
  });
}
