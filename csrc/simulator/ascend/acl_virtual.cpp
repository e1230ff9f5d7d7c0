// ACL's functions for addresses and memory apart: aclrtReserveMemAddress, aclrtMallocPhysical, aclrtMapMem.
#include <sys/mman.h>
#include <unistd.h>

#include "acl.h"
#include "calls.h"
#include "sharing.h"

using namespace unify::simulator;

namespace {

// Memory of another process, until it is freed here.
struct Foreign {
  ~Foreign() {
    if (file >= 0) close(file);
  }
  int file = -1;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  int device = 0;
};

struct State {
  Registry<Foreign> foreign{0xb9000000};
  std::map<uintptr_t, std::shared_ptr<Shared>> exported;  // by the handle of the memory
};

State& state() {
  static auto* const made = new State;
  return *made;
}

bool is_aligned(uint64_t value) { return value % kGranularity == 0; }

Result check(const aclrtPhysicalMemProp* properties, Device*& out) {
  if (properties == nullptr) return ACL_ERROR_INVALID_PARAM;
  if (properties->allocationType != ACL_MEM_ALLOCATION_TYPE_PINNED ||
      properties->handleType != ACL_MEM_HANDLE_TYPE_NONE) {
    return ACL_ERROR_RT_PARAM_INVALID;
  }
  if (properties->location.type != ACL_MEM_LOCATION_TYPE_DEVICE) {
    return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Physical memory of the host.");
  }
  out = find_device(static_cast<int32_t>(properties->location.id));
  return out == nullptr ? ACL_ERROR_RT_INVALID_DEVICEID : ACL_SUCCESS;
}

std::shared_ptr<Range> mapping_at(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const std::shared_ptr<Range> range = driver().memory.find(address);
  const bool is_meant = range != nullptr && range->kind == RangeKind::kMapped && range->address == address;
  return is_meant ? range : nullptr;
}

// Shows memory of another process at reserved addresses, and for copies at others.
std::shared_ptr<Range> map_foreign(const Foreign& memory, uint64_t address) {
  void* const where = reinterpret_cast<void*>(static_cast<uintptr_t>(address));
  const auto offset = static_cast<off_t>(memory.offset);
  if (mmap(where, memory.bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, memory.file, offset) == MAP_FAILED) {
    return nullptr;
  }
  madvise(where, memory.bytes, MADV_DONTFORK);
  void* alias = mmap(nullptr, memory.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory.file, offset);
  if (alias == MAP_FAILED) return nullptr;
  madvise(alias, memory.bytes, MADV_DONTFORK);
  auto range = std::make_shared<Range>();
  range->alias = static_cast<char*>(alias);
  range->owns_alias = true;
  range->device = memory.device;
  return range;
}

}  // namespace

// Addresses are of no device: torch_npu tries them before it sets one.
UNIFY_SIMULATOR_EXPORT aclError aclrtReserveMemAddress(void** out, size_t bytes, size_t alignment, void* wanted,
                                                       uint64_t) {
  return with_driver("aclrtReserveMemAddress", [&](Call&) -> Result {
    if (out == nullptr || bytes == 0 || alignment != 0) return ACL_ERROR_RT_PARAM_INVALID;
    if (wanted != nullptr) return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Addresses of the program's choice.");
    const uint64_t address = driver().memory.reserve(round_up(bytes, kGranularity), kGranularity);
    if (address == 0) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    *out = reinterpret_cast<void*>(static_cast<uintptr_t>(address));
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtReleaseMemAddress(void* pointer) {
  return with_driver("aclrtReleaseMemAddress", [&](Call&) -> Result {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    Memory& memory = driver().memory;
    const uint64_t bytes = memory.reserved_bytes(address);
    if (bytes == 0 || !memory.unreserve(address, bytes)) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "No addresses are reserved there, or memory is mapped to them.");
    }
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMallocPhysical(aclrtDrvMemHandle* out, size_t bytes,
                                                    const aclrtPhysicalMemProp* properties, uint64_t flags) {
  return with_context("aclrtMallocPhysical", [&](Call&) -> Result {
    Device* device = nullptr;
    if (out == nullptr || bytes == 0 || flags != 0) return ACL_ERROR_RT_PARAM_INVALID;
    if (const Result result = check(properties, device); result != ACL_SUCCESS) return result;
    const uint64_t all = round_up(bytes, kGranularity);
    const uint64_t address = device->arena.take(all, kGranularity);
    if (address == 0) {
      return refuse(ACL_ERROR_RT_MEMORY_ALLOCATION,
                    std::to_string(bytes) + " bytes on device " + std::to_string(device->index) + ".");
    }
    *out = driver().blocks.add<aclrtDrvMemHandle>(std::make_shared<Block>(device->arena, address, all));
    return ACL_SUCCESS;
  });
}

// What is mapped stays until it is unmapped.
UNIFY_SIMULATOR_EXPORT aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  return with_driver("aclrtFreePhysical", [&](Call&) -> Result {
    const bool is_ours = driver().blocks.find(handle) != nullptr;
    if (!is_ours && state().foreign.find(handle) == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    driver().blocks.remove(handle);
    state().foreign.remove(handle);
    state().exported.erase(reinterpret_cast<uintptr_t>(handle));
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMapMem(void* pointer, size_t bytes, size_t offset, aclrtDrvMemHandle handle,
                                            uint64_t flags) {
  return with_context("aclrtMapMem", [&](Call&) -> Result {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    Memory& memory = driver().memory;
    const std::shared_ptr<Block> block = driver().blocks.find(handle);
    const std::shared_ptr<Foreign> foreign = state().foreign.find(handle);
    if (block == nullptr && foreign == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    const uint64_t all = block != nullptr ? block->bytes : foreign->bytes;
    if (offset != 0 || flags != 0 || bytes == 0 || !is_aligned(address) || !is_aligned(bytes) || bytes != all ||
        !memory.is_reserved(address, bytes) || memory.is_mapped(address, bytes)) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID,
                    "The addresses are not reserved, in use, or not as many as the memory.");
    }
    std::shared_ptr<Range> range;
    if (block != nullptr) {
      if (!block->arena.show(block->address, address, bytes)) return ACL_ERROR_RT_DRV_INTERNAL_ERROR;
      range = std::make_shared<Range>();
      range->block = block;
      range->alias = block->arena.alias(block->address);
      range->device = block->arena.device();
    } else {
      range = map_foreign(*foreign, address);
      if (range == nullptr) return ACL_ERROR_RT_DRV_INTERNAL_ERROR;
    }
    range->kind = RangeKind::kMapped;
    range->address = address;
    range->bytes = range->asked_bytes = bytes;
    range->access = 1U << range->device;
    memory.add(range);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtUnmapMem(void* pointer) {
  return with_driver("aclrtUnmapMem", [&](Call&) -> Result {
    const std::shared_ptr<Range> range = mapping_at(pointer);
    if (range == nullptr) return refuse(ACL_ERROR_RT_PARAM_INVALID, "No memory is mapped there.");
    driver().memory.remove(range);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemSetAccess(void* pointer, size_t bytes, aclrtMemAccessDesc* wanted,
                                                  size_t count) {
  return with_context("aclrtMemSetAccess", [&](Call&) -> Result {
    const std::shared_ptr<Range> range = mapping_at(pointer);
    if (range == nullptr || range->bytes != bytes || wanted == nullptr || count == 0) return ACL_ERROR_RT_PARAM_INVALID;
    for (size_t i = 0; i < count; ++i) {
      if (wanted[i].location.type != ACL_MEM_LOCATION_TYPE_DEVICE) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
      if (find_device(static_cast<int32_t>(wanted[i].location.id)) == nullptr) return ACL_ERROR_RT_INVALID_DEVICEID;
    }
    for (size_t i = 0; i < count; ++i) {
      const uint32_t bit = 1U << wanted[i].location.id;
      const bool is_allowed = wanted[i].flags != ACL_RT_MEM_ACCESS_FLAGS_NONE;
      driver().memory.set_access(*range, is_allowed ? range->access | bit : range->access & ~bit);
    }
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemGetAccess(void* pointer, aclrtMemLocation* location, uint64_t* out) {
  return with_context("aclrtMemGetAccess", [&](Call&) -> Result {
    const std::shared_ptr<Range> range = mapping_at(pointer);
    if (range == nullptr || location == nullptr || out == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    const bool is_device = location->type == ACL_MEM_LOCATION_TYPE_DEVICE && location->id < kMaxDevices;
    *out = is_device && (range->access >> location->id & 1U) != 0 ? ACL_RT_MEM_ACCESS_FLAGS_READWRITE
                                                                  : ACL_RT_MEM_ACCESS_FLAGS_NONE;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemGetAllocationGranularity(aclrtPhysicalMemProp* properties,
                                                                 aclrtMemGranularityOptions option, size_t* out) {
  return with_driver("aclrtMemGetAllocationGranularity", [&](Call&) -> Result {
    Device* device = nullptr;
    if (out == nullptr || option > ACL_RT_MEM_ALLOC_GRANULARITY_RECOMMENDED) return ACL_ERROR_RT_PARAM_INVALID;
    if (const Result result = check(properties, device); result != ACL_SUCCESS) return result;
    *out = kGranularity;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemExportToShareableHandle(aclrtDrvMemHandle handle, aclrtMemHandleType type,
                                                                uint64_t flags, uint64_t* out) {
  return with_context("aclrtMemExportToShareableHandle", [&](Call&) -> Result {
    const std::shared_ptr<Block> block = driver().blocks.find(handle);
    if (block == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    if (out == nullptr || type != ACL_MEM_HANDLE_TYPE_NONE || flags > ACL_RT_VMM_EXPORT_FLAG_DISABLE_PID_VALIDATION) {
      return ACL_ERROR_RT_PARAM_INVALID;
    }
    auto& slot = state().exported[reinterpret_cast<uintptr_t>(handle)];
    if (slot != nullptr) return refuse(ACL_ERROR_RT_PARAM_INVALID, "The memory was exported already.");
    const Arena& arena = block->arena;
    slot =
        share_memory({getpid(), arena.file(), arena.device(), arena.offset(block->address), block->bytes}, flags != 0);
    if (slot == nullptr) return ACL_ERROR_RT_RESOURCE_ALLOC_FAIL;
    *out = slot->name;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemSetPidToShareableHandle(uint64_t name, int32_t* processes, size_t count) {
  return with_context("aclrtMemSetPidToShareableHandle", [&](Call&) -> Result {
    if (processes == nullptr || count == 0) return ACL_ERROR_RT_PARAM_INVALID;
    for (const auto& [handle, shared] : state().exported) {
      if (shared->name == name) return allow(*shared, processes, count) ? ACL_SUCCESS : ACL_ERROR_RT_OVER_LIMIT;
    }
    return ACL_ERROR_RT_INVALID_HANDLE;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemImportFromShareableHandle(uint64_t name, int32_t number,
                                                                  aclrtDrvMemHandle* out) {
  return with_context("aclrtMemImportFromShareableHandle", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    if (find_device(number) == nullptr) return ACL_ERROR_RT_INVALID_DEVICEID;
    SharedFile memory;
    const Opened opened = open_name(name, memory);
    if (opened == Opened::kUnknown) return ACL_ERROR_RT_INVALID_HANDLE;
    if (opened == Opened::kNotAllowed) {
      return refuse(ACL_ERROR_RT_NO_PERMISSION, "The memory's owner did not name this process.");
    }
    if (memory.process == getpid()) return refuse(ACL_ERROR_RT_PARAM_INVALID, "The memory is this process's own.");
    auto foreign = std::make_shared<Foreign>();
    foreign->file = open_shared(memory, memory.offset + memory.bytes);
    if (foreign->file < 0) return ACL_ERROR_RT_INVALID_HANDLE;
    foreign->offset = memory.offset;
    foreign->bytes = memory.bytes;
    foreign->device = number;
    *out = state().foreign.add<aclrtDrvMemHandle>(std::move(foreign));
    return ACL_SUCCESS;
  });
}
