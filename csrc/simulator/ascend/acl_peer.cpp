// ACL's functions for memory and events of other devices and other processes.
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "acl.h"
#include "calls.h"
#include "sharing.h"
#include "simulator/shared_event.h"

using namespace unify::simulator;

namespace {

constexpr size_t kKeyBytes = 65;  // "fixed": aclrtIpcMemGetExportKey
constexpr char kKeyFormat[] = "unify-simulated-%016llx";

struct State {
  std::map<std::string, std::shared_ptr<Shared>> exported;
  std::map<std::string, std::shared_ptr<Range>> imported;
};

State& state() {
  static auto* const made = new State;
  return *made;
}

// Another device by its number, and that of the current context.
Result find_peer(const Call& call, int32_t number, const Device*& out) {
  out = find_device(number);
  if (out == nullptr) return ACL_ERROR_RT_INVALID_DEVICEID;
  return out == call.context->device ? refuse(ACL_ERROR_RT_PARAM_INVALID, "A device is no peer of its own.")
                                     : ACL_SUCCESS;
}

Result import(const std::string& key, const Device& device, std::shared_ptr<Range>& out) {
  unsigned long long name = 0;
  if (std::sscanf(key.c_str(), kKeyFormat, &name) != 1)
    return refuse(ACL_ERROR_RT_PARAM_INVALID, "No key of shared memory.");
  SharedFile memory;
  const Opened opened = open_name(name, memory);
  if (opened == Opened::kUnknown) return refuse(ACL_ERROR_RT_INVALID_HANDLE, "The memory is not shared any more.");
  if (opened == Opened::kNotAllowed) {
    return refuse(ACL_ERROR_RT_NO_PERMISSION, "The memory's owner did not name this process.");
  }
  const uint64_t bytes = round_up(memory.bytes, kPage);
  const int file = open_shared(memory, memory.offset + bytes);
  if (file < 0) return ACL_ERROR_RT_INVALID_HANDLE;
  out = show_file(file, memory.offset, bytes);
  close(file);
  if (out == nullptr) return ACL_ERROR_RT_DRV_INTERNAL_ERROR;
  out->asked_bytes = memory.bytes;
  out->device = device.index;
  out->owner = &device;
  out->access = 1U << device.index;
  return ACL_SUCCESS;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceCanAccessPeer(int32_t* out, int32_t number, int32_t peer) {
  return with_device("aclrtDeviceCanAccessPeer", number, [&](Call&, const Device&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (find_device(peer) == nullptr) return ACL_ERROR_RT_INVALID_DEVICEID;
    *out = number == peer ? 0 : 1;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceEnablePeerAccess(int32_t number, uint32_t flags) {
  return with_context("aclrtDeviceEnablePeerAccess", [&](Call& call) -> Result {
    const Device* peer = nullptr;
    if (flags != 0) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
    if (const Result result = find_peer(call, number, peer); result != ACL_SUCCESS) return result;
    driver().memory.set_peer(call.context->device->index, peer->index, true);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceDisablePeerAccess(int32_t number) {
  return with_context("aclrtDeviceDisablePeerAccess", [&](Call& call) -> Result {
    const Device* peer = nullptr;
    if (const Result result = find_peer(call, number, peer); result != ACL_SUCCESS) return result;
    driver().memory.set_peer(call.context->device->index, peer->index, false);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDevicePeerAccessStatus(int32_t number, int32_t peer, int32_t* out) {
  return with_device("aclrtDevicePeerAccessStatus", number, [&](Call&, const Device&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (find_device(peer) == nullptr) return ACL_ERROR_RT_INVALID_DEVICEID;
    *out = number != peer && driver().memory.is_peer(number, peer) ? 1 : 0;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtIpcMemGetExportKey(void* memory, size_t bytes, char* key, size_t length,
                                                        uint64_t flags) {
  return with_context("aclrtIpcMemGetExportKey", [&](Call&) -> Result {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    const std::shared_ptr<Range> range = driver().memory.find(address);
    if (key == nullptr || length < kKeyBytes || flags > ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION) {
      return ACL_ERROR_RT_PARAM_INVALID;
    }
    if (range == nullptr || range->kind != RangeKind::kDevice || range->address != address || bytes == 0 ||
        bytes > range->asked_bytes) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "No memory of aclrtMalloc begins there, or less of it.");
    }
    const Arena& arena = range->block->arena;
    const auto shared = share_memory({getpid(), arena.file(), range->device, arena.offset(address), bytes}, flags != 0);
    if (shared == nullptr) return ACL_ERROR_RT_RESOURCE_ALLOC_FAIL;
    std::snprintf(key, length, kKeyFormat, static_cast<unsigned long long>(shared->name));
    state().exported[key] = shared;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtIpcMemSetImportPid(const char* key, int32_t* processes, size_t count) {
  return with_context("aclrtIpcMemSetImportPid", [&](Call&) -> Result {
    if (key == nullptr || processes == nullptr || count == 0) return ACL_ERROR_RT_PARAM_INVALID;
    const auto found = state().exported.find(key);
    if (found == state().exported.end()) return ACL_ERROR_RT_PARAM_INVALID;
    return allow(*found->second, processes, count) ? ACL_SUCCESS : ACL_ERROR_RT_OVER_LIMIT;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtIpcMemImportByKey(void** out, const char* key, uint64_t flags) {
  return with_context("aclrtIpcMemImportByKey", [&](Call& call) -> Result {
    if (out == nullptr || key == nullptr || flags > ACL_RT_IPC_MEM_IMPORT_FLAG_ENABLE_PEER_ACCESS) {
      return ACL_ERROR_RT_PARAM_INVALID;
    }
    if (state().exported.count(key) > 0) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "The memory is this process's own.");
    }
    std::shared_ptr<Range>& slot = state().imported[key];
    if (slot != nullptr && driver().memory.find(slot->address) == slot) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "The key was imported already.");
    }
    if (const Result result = import(key, *call.context->device, slot); result != ACL_SUCCESS) {
      state().imported.erase(key);
      return result;
    }
    driver().memory.add(slot);
    *out = reinterpret_cast<void*>(static_cast<uintptr_t>(slot->address));
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtIpcMemClose(const char* key) {
  return with_context("aclrtIpcMemClose", [&](Call&) -> Result {
    if (key == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    if (state().exported.erase(key) > 0) return ACL_SUCCESS;
    const auto found = state().imported.find(key);
    if (found == state().imported.end()) return refuse(ACL_ERROR_RT_PARAM_INVALID, "The key is unknown.");
    const std::shared_ptr<Range> range = found->second;
    state().imported.erase(found);
    if (driver().memory.find(range->address) == range) driver().memory.remove(range);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtIpcGetEventHandle(aclrtEvent handle, aclrtIpcEventHandle* out) {
  return with_context("aclrtIpcGetEventHandle", [&](Call&) -> Result {
    const std::shared_ptr<Event> event = driver().events.find(handle);
    if (handle == nullptr || event == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    if (out == nullptr || event->shared == nullptr) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "The event was made without ACL_EVENT_IPC.");
    }
    export_event(*event->shared, out->reserved);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtIpcOpenEventHandle(aclrtIpcEventHandle handle, aclrtEvent* out) {
  return with_context("aclrtIpcOpenEventHandle", [&](Call& call) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    auto event = std::make_shared<AclEvent>();
    event->context = call.context;
    event->flags = ACL_EVENT_IPC;
    event->is_new = true;
    event->id = acl().next_event++;
    event->shared = import_event(handle.reserved);
    if (event->shared == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    *out = driver().events.add<aclrtEvent>(std::move(event));
    return ACL_SUCCESS;
  });
}
