// cuGetProcAddress, and the older forms of functions that take what the newer ones take.
#include <cstring>

#include "calls.h"
#include "libcuda.h"

using namespace unify::simulator;

namespace {

struct Symbol {
  const char* name;
  void* function;
  int since;
};

const Symbol kSymbols[] = {
#define SYMBOL(name, function, since) {#name, reinterpret_cast<void*>(&function), since},
#include "cuda_symbols.inc"
#undef SYMBOL
};

}  // namespace

// An unknown name is CUDA_ERROR_NOT_FOUND and a null pointer. (NVIDIA's text promises CUDA_SUCCESS for it; drivers
// return what this does.)
UNIFY_SIMULATOR_EXPORT CUresult cuGetProcAddress_v2(const char* name, void** out, int version, uint64_t,
                                                    CUdriverProcAddressQueryResult* status) {
  if (name == nullptr || out == nullptr || version > kDriverVersion) return CUDA_ERROR_INVALID_VALUE;
  *out = nullptr;
  CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  for (const Symbol& symbol : kSymbols) {
    if (std::strcmp(symbol.name, name) != 0) continue;
    found = symbol.since <= version ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    if (found == CU_GET_PROC_ADDRESS_SUCCESS) *out = symbol.function;
  }
  if (status != nullptr) *status = found;
  return *out == nullptr ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

UNIFY_SIMULATOR_EXPORT CUresult cuGetProcAddress(const char* name, void** out, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, out, version, flags, nullptr);
}

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return cuDeviceGetUuid_v2(uuid, device);
}

UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  return cuDevicePrimaryCtxRelease_v2(device);
}

UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxReset(CUdevice device) { return cuDevicePrimaryCtxReset_v2(device); }

UNIFY_SIMULATOR_EXPORT CUresult cuStreamDestroy(CUstream stream) { return cuStreamDestroy_v2(stream); }

UNIFY_SIMULATOR_EXPORT CUresult cuEventDestroy(CUevent event) { return cuEventDestroy_v2(event); }

UNIFY_SIMULATOR_EXPORT CUresult cuEventElapsedTime_v2(float* out, CUevent start, CUevent end) {
  return cuEventElapsedTime(out, start, end);
}

UNIFY_SIMULATOR_EXPORT CUresult cuIpcOpenMemHandle(CUdeviceptr* out, CUipcMemHandle handle, unsigned flags) {
  return cuIpcOpenMemHandle_v2(out, handle, flags);
}

UNIFY_SIMULATOR_EXPORT CUresult cuModuleLoadData(CUmodule* out, const void* image) {
  return cuModuleLoadDataEx(out, image, 0, nullptr, nullptr);
}
