// The driver's functions that copy and fill.
#include <algorithm>

#include "calls.h"
#include "libcuda.h"
#include "simulator/copy.h"

using namespace unify::simulator;

namespace {

CUresult fill(const char* name, CUdeviceptr address, uint32_t value, uint32_t width, size_t count, CUstream handle) {
  return with_stream(name, handle, [&](Call& call, Stream& stream) {
    return submit_fill(call, stream, address, value, width, count);
  });
}

// Whether an address is in what devices can use, as CU_MEMORYTYPE_DEVICE says of it.
bool is_known(uint64_t address) { return driver().memory.find(address) != nullptr; }

// One side of a two-dimensional copy: where it begins. False if its kind of memory is unknown.
bool find_side(CUmemorytype type, const void* host, CUdeviceptr device, size_t x, size_t y, size_t pitch,
               uint64_t& out) {
  if (type == CU_MEMORYTYPE_HOST) {
    out = reinterpret_cast<uintptr_t>(host);
  } else if (type == CU_MEMORYTYPE_DEVICE || type == CU_MEMORYTYPE_UNIFIED) {
    out = device;
  } else {
    return false;
  }
  if (type == CU_MEMORYTYPE_DEVICE && !is_known(device)) return false;
  out += y * pitch + x;
  return true;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream handle) {
  return with_stream("cuMemcpyAsync", handle, [&](Call& call, Stream& stream) {
    return submit_copy(call, stream, {dst, bytes, src, bytes, bytes, 1});
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext dst_context, CUdeviceptr src,
                                                  CUcontext src_context, size_t bytes, CUstream handle) {
  return with_stream("cuMemcpyPeerAsync", handle, [&](Call& call, Stream& stream) -> Result {
    for (const CUcontext context : {dst_context, src_context}) {
      const Device* device = find_device(context);
      if (device == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
      if (device->context == nullptr) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
      if (const Result result = result_of(*device->context); result != CUDA_SUCCESS) return result;
    }
    if (bytes > 0 && (!is_known(dst) || !is_known(src))) return CUDA_ERROR_INVALID_VALUE;
    return submit_copy(call, stream, {dst, bytes, src, bytes, bytes, 1});
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* wanted, CUstream handle) {
  return with_stream("cuMemcpy2DAsync", handle, [&](Call& call, Stream& stream) -> Result {
    if (wanted == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const CUDA_MEMCPY2D& w = *wanted;
    if (w.WidthInBytes == 0 || w.Height == 0) return CUDA_SUCCESS;
    constexpr size_t kMostPitch = 2147483647;  // CU_DEVICE_ATTRIBUTE_MAX_PITCH
    // A pitch of 0 says that rows follow one another.
    Copy copy{0,
              w.dstPitch == 0 ? w.WidthInBytes + w.dstXInBytes : w.dstPitch,
              0,
              w.srcPitch == 0 ? w.WidthInBytes + w.srcXInBytes : w.srcPitch,
              w.WidthInBytes,
              w.Height};
    if (copy.dst_pitch > kMostPitch || copy.src_pitch > kMostPitch || w.Height > kMostPitch ||
        w.WidthInBytes > kMostPitch || w.dstXInBytes > copy.dst_pitch - std::min(copy.dst_pitch, copy.width) ||
        w.srcXInBytes > copy.src_pitch - std::min(copy.src_pitch, copy.width)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (!find_side(w.dstMemoryType, w.dstHost, w.dstDevice, w.dstXInBytes, w.dstY, copy.dst_pitch, copy.dst) ||
        !find_side(w.srcMemoryType, w.srcHost, w.srcDevice, w.srcXInBytes, w.srcY, copy.src_pitch, copy.src)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    return submit_copy(call, stream, copy);
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count,
                                                CUstream handle) {
  return fill("cuMemsetD8Async", address, value, 1, count, handle);
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemsetD16Async(CUdeviceptr address, unsigned short value, size_t count,
                                                 CUstream handle) {
  return fill("cuMemsetD16Async", address, value, 2, count, handle);
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t count, CUstream handle) {
  return fill("cuMemsetD32Async", address, value, 4, count, handle);
}
