// ACL's functions that allocate memory.
#include <sys/mman.h>

#include "acl.h"
#include "calls.h"
#include "chips.h"

using namespace unify::simulator;

namespace {

// "64 byte aligned", "a multiple of 32 bytes", and on most chips 32 bytes more: aclrtMalloc.
constexpr uint64_t kUnit = 32;

Result allocate(Call& call, void** out, size_t bytes, bool is_padded) {
  if (out == nullptr || bytes == 0) return refuse(ACL_ERROR_INVALID_PARAM, "No place for the address, or 0 bytes.");
  Device& device = *call.context->device;
  if (bytes > device.arena.total()) return refuse(ACL_ERROR_RT_MEMORY_ALLOCATION, std::to_string(bytes) + " bytes.");
  const uint64_t asked = round_up(bytes, kUnit) + (is_padded && chip_of(device).pads_memory ? kUnit : 0);
  const uint64_t all = round_up(asked, kPage);
  const uint64_t address = device.arena.take(all, bytes >= kGranularity ? kGranularity : kPage);
  if (address == 0) {
    return refuse(ACL_ERROR_RT_MEMORY_ALLOCATION,
                  std::to_string(bytes) + " bytes on device " + std::to_string(device.index) + ", of which " +
                      std::to_string(device.arena.total() - device.arena.used()) + " are free.");
  }
  auto range = std::make_shared<Range>();
  range->block = std::make_shared<Block>(device.arena, address, all);
  range->address = address;
  range->bytes = all;
  range->asked_bytes = asked;
  range->alias = device.arena.alias(address);
  range->device = device.index;
  range->owner = &device;
  range->access = 1U << device.index;
  driver().memory.add(range);
  *out = reinterpret_cast<void*>(static_cast<uintptr_t>(address));
  return ACL_SUCCESS;
}

// Memory that the host may touch too. Pinned memory is no device's, and stays when one is reset: the vendor's runtime
// (NpuDriver::HostMemAlloc) names none to its driver. It does for managed memory.
Result allocate_host(Call& call, void** out, uint64_t bytes, RangeKind kind) {
  const uint64_t all = round_up(bytes, kPage);
  if (out == nullptr || bytes == 0 || all < bytes) return ACL_ERROR_INVALID_PARAM;
  void* memory = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return ACL_ERROR_RT_MEMORY_ALLOCATION;
  auto range = std::make_shared<Range>();
  range->kind = kind;
  range->alias = static_cast<char*>(memory);
  range->address = reinterpret_cast<uintptr_t>(memory);
  range->bytes = all;
  range->asked_bytes = bytes;
  range->owner = kind == RangeKind::kManaged ? call.context->device : nullptr;
  range->made_on = call.context->device->index;
  range->access = UINT32_MAX;
  driver().memory.add(range);
  *out = memory;
  return ACL_SUCCESS;
}

// Frees what begins at an address, whether work uses it or not: "no implicit synchronisation".
template <typename Predicate>
Result release(const void* pointer, Predicate&& is_meant) {
  if (pointer == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "A null pointer.");
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const std::shared_ptr<Range> range = driver().memory.find(address);
  if (range == nullptr || range->address != address || !is_meant(*range)) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, "No such memory begins there.");
  }
  driver().memory.remove(range);
  return ACL_SUCCESS;
}

bool is_device_memory(const Range& range) {
  return range.kind == RangeKind::kDevice || range.kind == RangeKind::kManaged;
}
bool is_pinned(const Range& range) { return range.kind == RangeKind::kPinned && !range.is_borrowed; }

Result synchronize(Call& call) {
  for (const auto& stream : std::vector<std::shared_ptr<Stream>>(call.context->streams)) {
    if (const Result result = wait_for_work(call.lock, *stream, stream->tail); result != ACL_SUCCESS) return result;
  }
  return ACL_SUCCESS;
}

Result register_host(Call& call, void* pointer, uint64_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (pointer == nullptr || bytes == 0 || address % kPage != 0) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, "Host memory to register begins at a multiple of 4096.");
  }
  const std::shared_ptr<Range> range = driver().memory.find(address);
  if (range != nullptr && is_pinned(*range)) return ACL_SUCCESS;  // devices use it as it is
  if (driver().memory.is_mapped(address, bytes)) return ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  auto made = std::make_shared<Range>();
  made->kind = RangeKind::kPinned;
  made->alias = static_cast<char*>(pointer);
  made->address = address;
  made->bytes = made->asked_bytes = bytes;
  made->owner = call.context->device;
  made->made_on = call.context->device->index;
  made->access = UINT32_MAX;
  made->is_borrowed = true;
  driver().memory.add(made);
  return ACL_SUCCESS;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtMalloc(void** out, size_t bytes, aclrtMemMallocPolicy policy) {
  const bool is_padded = policy != ACL_MEM_MALLOC_HUGE1G_ONLY && policy != ACL_MEM_MALLOC_HUGE1G_ONLY_P2P;
  return with_context("aclrtMalloc", [&](Call& call) { return allocate(call, out, bytes, is_padded); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMallocAlign32(void** out, size_t bytes, aclrtMemMallocPolicy) {
  return with_context("aclrtMallocAlign32", [&](Call& call) { return allocate(call, out, bytes, false); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMallocCached(void** out, size_t bytes, aclrtMemMallocPolicy) {
  return with_context("aclrtMallocCached", [&](Call& call) { return allocate(call, out, bytes, true); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMallocWithCfg(void** out, size_t bytes, aclrtMemMallocPolicy, aclrtMallocConfig*) {
  return with_context("aclrtMallocWithCfg", [&](Call& call) { return allocate(call, out, bytes, false); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtFree(void* memory) {
  return with_context("aclrtFree", [&](Call&) { return release(memory, is_device_memory); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtFreeWithDevSync(void* memory) {
  return with_context("aclrtFreeWithDevSync", [&](Call& call) -> Result {
    if (const Result result = synchronize(call); result != ACL_SUCCESS) return result;
    return release(memory, is_device_memory);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMallocHost(void** out, size_t bytes) {
  return with_context("aclrtMallocHost",
                      [&](Call& call) { return allocate_host(call, out, bytes, RangeKind::kPinned); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMallocHostWithCfg(void** out, uint64_t bytes, aclrtMallocConfig*) {
  return with_context("aclrtMallocHostWithCfg",
                      [&](Call& call) { return allocate_host(call, out, bytes, RangeKind::kPinned); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtFreeHost(void* memory) {
  return with_driver("aclrtFreeHost", [&](Call&) { return release(memory, is_pinned); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtFreeHostWithDevSync(void* memory) {
  return with_context("aclrtFreeHostWithDevSync", [&](Call& call) -> Result {
    if (const Result result = synchronize(call); result != ACL_SUCCESS) return result;
    return release(memory, is_pinned);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemAllocManaged(void** out, uint64_t bytes, uint32_t flag) {
  return with_context("aclrtMemAllocManaged", [&](Call& call) -> Result {
    constexpr uint32_t kGlobal = 1;  // ACL_RT_MEM_ATTACH_GLOBAL
    if (flag != kGlobal) return ACL_ERROR_RT_PARAM_INVALID;
    return allocate_host(call, out, bytes, RangeKind::kManaged);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtHostRegister(void* memory, uint64_t bytes, aclrtHostRegisterType type,
                                                  void** out) {
  return with_context("aclrtHostRegister", [&](Call& call) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (type != ACL_HOST_REGISTER_MAPPED) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
    if (const Result result = register_host(call, memory, bytes); result != ACL_SUCCESS) return result;
    *out = memory;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtHostRegisterV2(void* memory, uint64_t bytes, uint32_t flags) {
  return with_context("aclrtHostRegisterV2", [&](Call& call) -> Result {
    if (flags == 0 || (flags & ~(ACL_HOST_REG_MAPPED | ACL_HOST_REG_PINNED)) != 0) return ACL_ERROR_RT_PARAM_INVALID;
    return register_host(call, memory, bytes);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtHostGetDevicePointer(void* memory, void** out, uint32_t flag) {
  return with_context("aclrtHostGetDevicePointer", [&](Call&) -> Result {
    if (memory == nullptr || out == nullptr || flag != 0) return ACL_ERROR_INVALID_PARAM;
    const std::shared_ptr<Range> range = driver().memory.find(reinterpret_cast<uintptr_t>(memory));
    if (range == nullptr || range->kind != RangeKind::kPinned) return ACL_ERROR_HOST_MEMORY_NOT_REGISTERED;
    *out = memory;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtHostUnregister(void* memory) {
  return with_context("aclrtHostUnregister", [&](Call&) -> Result {
    const std::shared_ptr<Range> range = driver().memory.find(reinterpret_cast<uintptr_t>(memory));
    if (range != nullptr && is_pinned(*range)) return ACL_SUCCESS;
    if (range == nullptr || !range->is_borrowed) return ACL_ERROR_HOST_MEMORY_NOT_REGISTERED;
    return release(memory, [](const Range& each) { return each.is_borrowed; });
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtPointerGetAttributes(const void* memory, aclrtPtrAttributes* out) {
  return with_context("aclrtPointerGetAttributes", [&](Call&) -> Result {
    if (memory == nullptr || out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = {};
    out->pageSize = kPage;
    const std::shared_ptr<Range> range = driver().memory.find(reinterpret_cast<uintptr_t>(memory));
    if (range == nullptr) {
      out->location.type = ACL_MEM_LOCATION_TYPE_UNREGISTERED;
    } else if (range->device >= 0) {
      out->location = {static_cast<uint32_t>(range->device), ACL_MEM_LOCATION_TYPE_DEVICE};
      if (range->bytes >= kGranularity) out->pageSize = kGranularity;
    } else {
      out->location.type = ACL_MEM_LOCATION_TYPE_HOST;
    }
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemGetAddressRange(void* memory, void** base, size_t* bytes) {
  return with_context("aclrtMemGetAddressRange", [&](Call&) -> Result {
    const std::shared_ptr<Range> range = driver().memory.find(reinterpret_cast<uintptr_t>(memory));
    if (range == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    if (base != nullptr) *base = reinterpret_cast<void*>(static_cast<uintptr_t>(range->address));
    if (bytes != nullptr) *bytes = range->asked_bytes;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetMemInfo(aclrtMemAttr attribute, size_t* free_bytes, size_t* total) {
  return with_context("aclrtGetMemInfo", [&](Call& call) -> Result {
    if (free_bytes == nullptr || total == nullptr) return ACL_ERROR_INVALID_PARAM;
    // The chips have no DDR: "both are 0 then".
    const bool is_hbm = attribute == ACL_HBM_MEM ||
                        (attribute >= ACL_HBM_MEM_HUGE && attribute <= ACL_HBM_MEM_NORMAL) ||
                        (attribute >= ACL_HBM_MEM_P2P_HUGE && attribute <= ACL_HBM_MEM_P2P_HUGE1G);
    const Arena& arena = call.context->device->arena;
    *total = is_hbm ? arena.total() : 0;
    *free_bytes = is_hbm ? arena.total() - arena.used() : 0;
    return ACL_SUCCESS;
  });
}
