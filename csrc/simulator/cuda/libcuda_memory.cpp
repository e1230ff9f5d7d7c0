// The driver's functions that allocate memory.
#include <sys/mman.h>

#include "calls.h"
#include "libcuda.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

// Memory that the host may touch too. Null without memory.
std::shared_ptr<Range> host_range(RangeKind kind, const Call& call, size_t bytes) {
  const size_t all = round_up(bytes, kPage);
  if (all < bytes) return nullptr;
  void* memory = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  auto range = std::make_shared<Range>();
  range->kind = kind;
  range->alias = static_cast<char*>(memory);
  range->address = reinterpret_cast<uintptr_t>(memory);
  range->bytes = all;
  range->asked_bytes = bytes;
  range->owner = call.context.get();
  range->made_on = call.context->device->index;
  range->access = UINT32_MAX;
  return range;
}

// Frees what begins at an address. Work of the context that may use it ends first, as on a chip.
template <typename Predicate>
Result release(Call& call, uint64_t address, Predicate&& is_meant) {
  if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
  std::shared_ptr<Range> range = driver().memory.find(address);
  if (range == nullptr || range->address != address || !is_meant(*range)) return CUDA_ERROR_INVALID_VALUE;
  if (const Result result = wait_for_context(call.lock, *call.context); result != CUDA_SUCCESS) return result;
  // Another thread may have been faster.
  if (driver().memory.find(address) != range) return CUDA_ERROR_INVALID_VALUE;
  driver().memory.remove(range);
  return CUDA_SUCCESS;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
  return with_context("cuMemAlloc", [&](Call& call) -> Result {
    if (out == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    Device& device = *call.context->device;
    const uint64_t all = round_up(bytes, kPage);
    const uint64_t address = all < bytes ? 0 : device.arena.take(all, bytes >= kGranularity ? kGranularity : kPage);
    if (address == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    auto range = std::make_shared<Range>();
    range->block = std::make_shared<Block>(device.arena, address, all);
    range->address = address;
    range->bytes = all;
    range->asked_bytes = bytes;
    range->alias = device.arena.alias(address);
    range->device = device.index;
    range->owner = call.context.get();
    range->access = 1U << device.index;
    driver().memory.add(range);
    *out = address;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
  return with_context("cuMemFree", [&](Call& call) -> Result {
    if (address == 0) return CUDA_SUCCESS;
    return release(call, address, [](const Range& range) {
      return range.kind == RangeKind::kDevice || range.kind == RangeKind::kManaged;
    });
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned flags) {
  return with_context("cuMemHostAlloc", [&](Call& call) -> Result {
    constexpr unsigned kKnown = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
    if (out == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    const auto range = host_range(RangeKind::kPinned, call, bytes);
    if (range == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    driver().memory.add(range);
    *out = range->alias;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemFreeHost(void* memory) {
  return with_context("cuMemFreeHost", [&](Call& call) -> Result {
    if (memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return release(call, reinterpret_cast<uintptr_t>(memory),
                   [](const Range& range) { return range.kind == RangeKind::kPinned && !range.is_borrowed; });
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemHostRegister_v2(void* memory, size_t bytes, unsigned flags) {
  return with_context("cuMemHostRegister", [&](Call& call) -> Result {
    constexpr unsigned kKnown = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
    const auto address = reinterpret_cast<uintptr_t>(memory);
    if (memory == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    if (driver().memory.is_mapped(address, bytes)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    auto range = std::make_shared<Range>();
    range->kind = RangeKind::kPinned;
    range->alias = static_cast<char*>(memory);
    range->address = address;
    range->bytes = range->asked_bytes = bytes;
    range->owner = call.context.get();
    range->made_on = call.context->device->index;
    range->access = UINT32_MAX;
    range->is_borrowed = true;
    driver().memory.add(range);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemHostUnregister(void* memory) {
  return with_context("cuMemHostUnregister", [&](Call& call) -> Result {
    if (memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const Result result =
        release(call, reinterpret_cast<uintptr_t>(memory), [](const Range& range) { return range.is_borrowed; });
    return result == CUDA_ERROR_INVALID_VALUE ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : result;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemAllocManaged(CUdeviceptr* out, size_t bytes, unsigned flags) {
  return with_context("cuMemAllocManaged", [&](Call& call) -> Result {
    if (out == nullptr || bytes == 0 || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    const auto range = host_range(RangeKind::kManaged, call, bytes);
    if (range == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    driver().memory.add(range);
    *out = range->address;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  return with_context("cuMemGetInfo", [&](Call& call) {
    const Arena& arena = call.context->device->arena;
    if (free_bytes != nullptr) *free_bytes = arena.total() - arena.used();
    if (total != nullptr) *total = arena.total();
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  return with_context("cuMemGetAddressRange", [&](Call&) {
    const std::shared_ptr<Range> range = driver().memory.find(address);
    if (range == nullptr) return CUDA_ERROR_NOT_FOUND;
    if (base != nullptr) *base = range->address;
    if (bytes != nullptr) *bytes = range->asked_bytes;
    return CUDA_SUCCESS;
  });
}
