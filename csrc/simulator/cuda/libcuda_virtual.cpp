// The driver's functions for addresses and memory apart: cuMemAddressReserve, cuMemCreate, cuMemMap. They need no
// context, and what they make outlives a reset of one.
#include "calls.h"
#include "libcuda.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

CUresult check(const CUmemAllocationProp* properties, Device*& out) {
  if (properties == nullptr || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  if (properties->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE) return CUDA_ERROR_NOT_SUPPORTED;
  out = find_device(properties->location.id);
  return out == nullptr ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

// The ranges that fill [address, address + bytes) without a gap; none if they do not.
std::vector<std::shared_ptr<Range>> mapped(uint64_t address, uint64_t bytes) {
  std::vector<std::shared_ptr<Range>> found;
  const uint64_t end = address + bytes;
  while (address < end) {
    const std::shared_ptr<Range> range = driver().memory.find(address);
    if (range == nullptr || range->kind != RangeKind::kMapped || range->address != address ||
        range->bytes > end - address) {
      return {};
    }
    found.push_back(range);
    address += range->bytes;
  }
  return found;
}

bool is_aligned(uint64_t value) { return value % kGranularity == 0; }

}  // namespace

UNIFY_SIMULATOR_EXPORT CUresult cuMemGetAllocationGranularity(size_t* out, const CUmemAllocationProp* properties,
                                                              CUmemAllocationGranularity_flags) {
  return with_driver("cuMemGetAllocationGranularity", [&](Call&) {
    Device* device = nullptr;
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult result = check(properties, device); result != CUDA_SUCCESS) return result;
    *out = kGranularity;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemAddressReserve(CUdeviceptr* out, size_t bytes, size_t alignment, CUdeviceptr,
                                                    unsigned long long flags) {
  return with_driver("cuMemAddressReserve", [&](Call&) {
    if (out == nullptr || bytes == 0 || bytes % kPage != 0 || (alignment & (alignment - 1)) != 0 || flags != 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const uint64_t address = driver().memory.reserve(bytes, alignment < kGranularity ? kGranularity : alignment);
    if (address == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = address;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  return with_driver("cuMemAddressFree", [&](Call&) {
    return driver().memory.unreserve(address, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* out, size_t bytes,
                                            const CUmemAllocationProp* properties, unsigned long long flags) {
  return with_driver("cuMemCreate", [&](Call& call) -> Result {
    Device* device = nullptr;
    if (out == nullptr || bytes == 0 || !is_aligned(bytes) || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult result = check(properties, device); result != CUDA_SUCCESS) return result;
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    if (const Fault fault = device->faults.take(call.name); fault.kind == Fault::Kind::kResult) return fault.result;
    const uint64_t address = device->arena.take(bytes, kGranularity);
    if (address == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    auto block = std::make_shared<Block>(device->arena, address, bytes);
    *out = reinterpret_cast<uintptr_t>(driver().blocks.add<void*>(std::move(block)));
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  return with_driver("cuMemRelease", [&](Call&) {
    auto* const key = reinterpret_cast<void*>(static_cast<uintptr_t>(handle));
    if (driver().blocks.find(key) == nullptr) return CUDA_ERROR_INVALID_VALUE;
    driver().blocks.remove(key);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset,
                                         CUmemGenericAllocationHandle handle, unsigned long long flags) {
  return with_driver("cuMemMap", [&](Call&) {
    const auto block = driver().blocks.find(reinterpret_cast<void*>(static_cast<uintptr_t>(handle)));
    Memory& memory = driver().memory;
    if (block == nullptr || offset != 0 || flags != 0 || bytes == 0 || !is_aligned(address) || !is_aligned(bytes) ||
        bytes > block->bytes || !memory.is_reserved(address, bytes) || memory.is_mapped(address, bytes)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (!block->arena.show(block->address, address, bytes)) return CUDA_ERROR_MAP_FAILED;
    auto range = std::make_shared<Range>();
    range->kind = RangeKind::kMapped;
    range->block = block;
    range->address = address;
    range->bytes = range->asked_bytes = bytes;
    range->alias = block->arena.alias(block->address);
    range->device = block->arena.device();
    memory.add(range);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  return with_driver("cuMemUnmap", [&](Call&) {
    const auto ranges = mapped(address, bytes);
    if (ranges.empty()) return CUDA_ERROR_INVALID_VALUE;
    for (const auto& range : ranges) driver().memory.remove(range);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* wanted,
                                               size_t count) {
  return with_driver("cuMemSetAccess", [&](Call&) {
    const auto ranges = mapped(address, bytes);
    if (ranges.empty() || wanted == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; ++i) {
      if (wanted[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
      if (find_device(wanted[i].location.id) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
      if (static_cast<unsigned>(wanted[i].flags) > CU_MEM_ACCESS_FLAGS_PROT_READWRITE || wanted[i].flags == 2) {
        return CUDA_ERROR_INVALID_VALUE;
      }
    }
    for (const auto& range : ranges) {
      for (size_t i = 0; i < count; ++i) {
        const uint32_t bit = 1U << wanted[i].location.id;
        const bool is_allowed = wanted[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE;
        driver().memory.set_access(*range, is_allowed ? range->access | bit : range->access & ~bit);
      }
    }
    return CUDA_SUCCESS;
  });
}
